"""A model's backbone in int8, by onnxruntime, for CPUs: static quantisation on films of the user's (extra `onnx`).

    quantise(model, processor, inputs, Path("precision/int8"))   # model, processor: of one folder; inputs: films
    install(model, processor, Path("precision/int8"))            # the model now runs on it

Convolutions and products with weights run in int8, weights with a scale a channel, activations with one scale that
covers what the films gave (min and max). All that follows the backbone, the head, the link and the calibration, stays
in float32 and in torch, so that P(child) ≤ P(parent) holds as before, and dropout and heatmaps of convolutional models
work. A film's figures depend on the film alone: no scale is taken at inference.

The folder holds an ONNX file a stage and `int8.json`: of which weights they are, their hashes, and what the model said
with them of a few phantom films. Without instructions for int8 products (VNNI) a processor may overflow in them
silently, so each `install` asks again and compares.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_cxr.errors import UserError
from hf_cxr.models import CXRComposedModel, CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.verification import identity, verify_with

ABOUT = "int8.json"
OPERATORS = ["Conv", "MatMul", "Gemm"]
TOLERANCE = 0.02
"""Largest difference of a probability on phantom films between the machine that quantised and this one."""
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


class QuantisationError(UserError, ValueError):
    """Files in int8 that are not there, not of this model, or not right on this machine; or they cannot be made."""


def stages(model: CXRPreTrainedModel) -> dict[str, Any]:
    """The models with a backbone: the model itself, or those that make it up."""
    return model.parts() if isinstance(model, CXRComposedModel) else {"model": model}


def quantise(
    model: CXRPreTrainedModel,
    processor: CXRImageProcessor,
    inputs: Sequence[Tensor],
    folder: Path,
    about_films: str = "",
) -> dict[str, str]:
    """Write a model's backbone in int8. The model stays as it was.

    Args:
        model, processor: in float32 and on the CPU, both of the same folder.
        inputs: batches (B, 1, S, S) as the model reads them, of films like those to come: some hundreds.
        folder: gets the files; those of an earlier call are replaced.
        about_films: whose they are, for `int8.json`.

    Returns:
        `{stage: sha256 of its file}`.

    Raises:
        QuantisationError: a package is missing, no films, or the model is not in float32.
    """
    _check_packages()
    if not inputs or model.dtype != torch.float32:
        raise QuantisationError(f"{len(inputs)} batches of films and a model in {model.dtype}; expected some, float32")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).unlink(missing_ok=True)  # without it the folder counts for nothing, should this one be stopped
    own: Any = copy.deepcopy(model).eval()
    files = {}
    for name, stage in stages(own).items():
        _write(stage.backbone, inputs, folder / f"{name}.onnx")
        files[name] = _sha256(folder / f"{name}.onnx")
    _replace(own, folder)
    about = {
        "weights": identity(model)["weights"],
        "sha256": files,
        "films": about_films,
        "n_films": sum(map(len, inputs)),
        "phantom_probability": verify_with(own, processor).probability.tolist(),
        "versions": {package: version(package) for package in ("onnxruntime", "torch")},
    }
    partial = folder / f"{ABOUT}.partial"
    partial.write_text(json.dumps(about, indent=1), encoding="utf-8")
    os.replace(partial, folder / ABOUT)
    return files


def install(model: CXRPreTrainedModel, processor: CXRImageProcessor, folder: Path) -> dict[str, str]:
    """Let a model's backbone run from the files that `quantise` made of it; on the CPU only.

    Returns:
        `{stage: sha256 of its file}`.

    Raises:
        QuantisationError: the files are missing, broken, of other weights, or give other figures on this machine.
    """
    _check_packages()
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        files: dict[str, str] = about["sha256"]
        same = {name: _sha256(folder / f"{name}.onnx") for name in stages(model)} == files
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise QuantisationError(
            f"{folder}: no model in int8 ({type(error).__name__}: {error}); make it, and measure what it changes, with "
            "recipes/compare_precision.py"
        ) from error
    if not same:
        raise QuantisationError(f"{folder}: its files are not those that {ABOUT} speaks of; make them again")
    if (weights := identity(model)["weights"]) != about["weights"]:
        raise QuantisationError(
            f"{folder} is of a model with weights {about['weights']}, this one has {weights}: it was trained again "
            "since, or is another; make it again with recipes/compare_precision.py"
        )
    _replace(model, folder)
    phantom = verify_with(model, processor).probability
    difference = (phantom - torch.tensor(about["phantom_probability"])).abs().max().item()
    if not difference <= TOLERANCE:
        for stage in stages(model).values():
            del stage.backbone.forward_features
        raise QuantisationError(
            f"{folder}: probabilities on phantom films differ by up to {difference:.2g} from the machine where it was "
            f"made (at most {TOLERANCE} is taken): this processor computes int8 otherwise. Make it here, with "
            "recipes/compare_precision.py, or take another precision"
        )
    return files


class _Features(nn.Module):
    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.backbone.forward_features(pixels)
        return features


def _write(backbone: Any, inputs: Sequence[Tensor], path: Path) -> None:
    quantization = import_module("onnxruntime.quantization")
    example = inputs[0][:1].repeat(2, 1, 1, 1).contiguous()  # of one film the batch would be taken for fixed
    with torch.no_grad():
        program: Any = torch.onnx.export(
            _Features(backbone).eval(), (example,), dynamo=True, input_names=["pixels"], output_names=["features"],
            dynamic_shapes=({0: "batch"},), verbose=False,
        )  # fmt: skip
    # The exporter notes on every node where in whose folders its source line lies.
    import_module("onnx_ir.passes.common").ClearMetadataAndDocStringPass()(program.model)

    class Films(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(inputs)

        def get_next(self) -> Any:
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch.contiguous().numpy()}

    with tempfile.TemporaryDirectory(prefix=f".{path.name}.partial-", dir=path.parent) as work:
        whole, prepared, done = (str(Path(work) / name) for name in ("whole.onnx", "prepared.onnx", path.name))
        program.save(whole)
        # Folds batch norms into the convolutions before them, where there are such.
        quantization.quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            done,
            Films(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Attention's products of two activations stay in float: they are few, and their scales vary by film.
            extra_options={"MatMulConstBOnly": True},
        )
        os.replace(done, path)


def _replace(model: CXRPreTrainedModel, folder: Path) -> None:
    for name, stage in stages(model).items():
        stage.backbone.forward_features = _session(folder / f"{name}.onnx")


def _session(path: Path) -> Callable[[Tensor], Tensor]:
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def features(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"pixels": pixels.float().contiguous().numpy()})[0])

    return features


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _check_packages() -> None:
    for name in _PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise QuantisationError(f'int8 needs the package {name}: pip install "hf_cxr[onnx]"') from error
