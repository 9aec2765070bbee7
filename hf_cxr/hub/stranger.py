"""Load a folder as a stranger would and say what its model makes of the verification films.

Run by its path in a process of its own, `python stranger.py FOLDER OUT installed|remote`: with the package, or without
it, by the code that travels with the weights. For that reason it imports nothing of the project before it knows.
"""

from __future__ import annotations

import sys
from pathlib import Path

FILE = "verification.safetensors"


def main(folder: Path, out: Path, way: str) -> None:
    """Write `probability` (B, L) and how many weights are not finite."""
    import torch
    from safetensors.torch import load_file, save_file

    if way == "remote":
        sys.modules["hf_cxr"] = None  # type: ignore[assignment]  # from here on importing it fails
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32, trust_remote_code=True)
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    else:
        from hf_cxr.loading import load_model, load_processor

        model, processor = load_model(folder), load_processor(folder)
    films = load_file(folder / FILE)["films"]
    with torch.no_grad():
        probability = model.eval()(**processor(list(films), return_tensors="pt")).logits.sigmoid()
    broken = sum(int((~tensor.isfinite()).sum()) for tensor in model.state_dict().values())
    save_file({"probability": probability.contiguous(), "not_finite": torch.tensor(broken)}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
