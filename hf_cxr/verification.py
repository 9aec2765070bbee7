"""Which model a report is of, and what the model said of a few phantom films, so that any copy of it can be checked.

A run's folder holds `verification.safetensors`: films that show nobody, and the probabilities that the model as saved
gave them. A copy that was changed on its way, or that another version of a library reads differently, gives others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_cxr.data.phantom import NIH_FINDINGS, Patient, render_film
from hf_cxr.errors import UserError
from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel

FILE = "verification.safetensors"
_SIGNS: tuple[tuple[str, ...], ...] = ((), ("Cardiomegaly",), ("Effusion", "Mass"), NIH_FINDINGS[:5])
_DRAWN_AT = 256
# What loading and saving change of a config without changing the model.
_NO_IDENTITY = (
    "transformers_version", "_name_or_path", "architectures", "dtype", "auto_map", "custom_pipelines", "adapted_from",
    "backbone_from",
)  # fmt: skip


class VerificationError(UserError, ValueError):
    """No verification file, or not one of this project."""


@dataclass(frozen=True)
class Verification:
    """Films uint8 (B, 1, S, S), what the model gave them (B, L) float32 in [0, 1], and of which model it is."""

    films: Tensor
    probability: Tensor
    labels: tuple[str, ...]
    identity: dict[str, str]

    def save(self, folder: Path) -> None:
        """Write the file; it appears whole or not at all."""
        partial = folder / f"{FILE}.partial"
        tensors = {"films": self.films, "probability": self.probability}
        save_file(tensors, partial, {"labels": json.dumps(self.labels), "identity": json.dumps(self.identity)})
        os.replace(partial, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Verification:
        """Read a folder's file.

        Raises:
            VerificationError: there is none, or it is broken.
        """
        path = folder / FILE
        if not path.is_file():
            raise VerificationError(f"{folder} has no {FILE}, which recipes/train.py of this version writes")
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata()
                films, probability = file.get_tensor("films"), file.get_tensor("probability")
            return cls(films, probability, tuple(json.loads(about["labels"])), json.loads(about["identity"]))
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise VerificationError(f"{path} is not the file that training wrote: {error}") from error


def verify_with(model: CXRPreTrainedModel, processor: CXRImageProcessor) -> Verification:
    """What a model in float32 says of the phantom films."""
    drawn = [
        render_film(Patient(number, "F" if number % 2 else "M", 60), 0, "PA", signs, image_size=_DRAWN_AT).image
        for number, signs in enumerate(_SIGNS, start=1)
    ]
    films = torch.stack([torch.from_numpy(processor.prepare(film).copy()) for film in drawn])[:, None]
    model = model.eval()
    with torch.no_grad():
        probability = model(**processor(list(films), return_tensors="pt")).logits.sigmoid()
    return Verification(films, probability, tuple(model.config.label_names), identity(model))


def identity(model: CXRPreTrainedModel) -> dict[str, str]:
    """Hashes of a model's config and weights: the same for every copy, on whatever disk and in however many files."""
    plain = json.loads(json.dumps(model.config.to_dict()))
    weights = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        weights.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        weights.update(flat.view(torch.uint8).numpy().tobytes())
    return {"config": _hash(_plain(plain)), "weights": weights.hexdigest()[:16]}


def _plain(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _plain(value) for key, value in config.items() if key not in _NO_IDENTITY}
    return config


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
