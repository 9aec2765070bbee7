"""A trained model as one file that runs without this package: ONNX, or a program of `torch.export`.

    exported = export_onnx(model, processor, Path("hub/model.onnx"))  # model, processor: from_pretrained of one folder

Input `films`: uint8 (B, 1, S, S), any B ≥ 1: gray films as `CXRImageProcessor.prepare` gives them. Normalisation is
inside: whoever reads a film elsewhere has to bring it to 8 bits and S × S pixels only, and cannot normalise it wrongly.
A film without contrast, which the processor refuses, goes through and means nothing.

Outputs: `probabilities` float32 (B, L), calibrated, columns in the order of `labels`; of a two-stage model also
`finding_model_ran` bool (B,). There is no dropout in it.

The file also holds, as one JSON object under the name `hf_cxr` (ONNX: of the custom metadata map; a program: of the
extra files), what is needed to use them:

    labels, parents, node_kinds, gate, taxonomy    as in the config, labels in the order of the columns
    thresholds              {label: least positive probability}, of the labels that have one; the gate by its own
    thresholds_from         split and criteria by which they were chosen; null where there are none
    finding_model_from      two stages: the gate's probability from which the second looks at a film; else null
    image_size, fit         S, and how a film becomes square (`models.processing.fit_to_square`)
    input, decision         in words
    architecture, backbone, calibrated, model (`verification.identity`), hf_cxr (version), notice

Shapes: B films, L labels, S × S pixels.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cxr.decisions import stored_thresholds
from hf_cxr.errors import UserError
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel, CXRTwoStageForImageClassification
from hf_cxr.models.heads import chain
from hf_cxr.models.processing import normalise
from hf_cxr.verification import Verification, identity, verify_with

FILMS, PROBABILITIES, RAN = "films", "probabilities", "finding_model_ran"
METADATA = "hf_cxr"
TOLERANCE = 1e-4
"""Largest difference of a probability between a file and its model."""
ONNX_BYTES = 2**31 - 2**26
"""Most bytes of weights: an ONNX file is one protobuf message of less than 2 GiB, of which the graph gets 64 MiB."""
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_FITS = {
    "pad": "the longer side is scaled to the size, and the other is padded with black on both sides",
    "crop": "the shorter side is scaled to the size, and the other is cropped on both sides",
    "stretch": "both sides are scaled to the size",
}


class ExportError(UserError, ValueError):
    """A model that cannot be exported, or a file that does not say what the model says."""


@dataclass(frozen=True)
class Exported:
    """A file, and the largest difference of its probabilities to the model's, on phantom films."""

    path: Path
    largest_difference: float


def export_onnx(model: CXRPreTrainedModel, processor: CXRImageProcessor, path: Path) -> Exported:
    """Write a model as one ONNX file, without files beside it; one that is there is replaced.

    The file is then read by onnxruntime and run on batches of one and three phantom films. The model stays as it was.

    Raises:
        ExportError: a package is missing; `path` does not end in `.onnx`; the model is not in float32, is too large for
            one file, or belongs to another processor; a probability is off by more than `TOLERANCE`. Nothing is written
            then.
        TypeError: no model of the project.
    """
    _check_packages()
    _check_name(path, ".onnx")
    network = _Films(_ready(model, processor))
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > ONNX_BYTES:
        raise ExportError(f"weights of {size} bytes; one ONNX file holds {ONNX_BYTES} at most: use export_program")
    onnx_program = torch.onnx.export(
        _traced(network),
        dynamo=True,
        input_names=[FILMS],
        output_names=[PROBABILITIES, RAN] if network.two_stages else [PROBABILITIES],
        dynamic_shapes=({0: "batch"},),
        custom_translation_table=_translations(),
        verbose=False,
    )
    assert onnx_program is not None  # with dynamo
    # The exporter notes on every node where in whose folders its source line lies.
    import_module("onnx_ir.passes.common").ClearMetadataAndDocStringPass()(onnx_program.model)
    onnx_program.model.metadata_props[METADATA] = _metadata(network.model, processor)
    with _appearing(path) as partial:
        import_module("onnx_ir").save(onnx_program.model, partial)  # onnx_program.save splits files from 1.5 GiB on
        session = import_module("onnxruntime").InferenceSession(partial, providers=["CPUExecutionProvider"])
        expected = verify_with(network.model, processor)
        difference = _compare(
            path, expected, lambda films: torch.from_numpy(session.run([PROBABILITIES], {FILMS: films.numpy()})[0])
        )
    return Exported(path, difference)


def export_program(model: CXRPreTrainedModel, processor: CXRImageProcessor, path: Path) -> Exported:
    """Write a model as a program, `torch.export.load(path).module()`, that needs torch alone and runs on the CPU.

    Checked as in `export_onnx`, read by `torch.export.load`. Raises the same (`path` ends in `.pt2`), but needs no
    further package and knows no limit to the size.
    """
    _check_name(path, ".pt2")
    network = _Films(_ready(model, processor))
    program = _traced(network)
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # where in whose folders the source lies
    with _appearing(path) as partial:
        torch.export.save(program, partial, extra_files={METADATA: _metadata(network.model, processor)})
        loaded = torch.export.load(partial).module()
        difference = _compare(path, verify_with(network.model, processor), lambda films: loaded(films)[0])
    return Exported(path, difference)


class _Films(nn.Module):
    """uint8 films (B, 1, S, S) → what the file gives for them."""

    def __init__(self, model: CXRPreTrainedModel) -> None:
        super().__init__()
        self.model: Any = model
        self.two_stages = isinstance(model, CXRTwoStageForImageClassification)

    def forward(self, films: Tensor) -> tuple[Tensor, ...]:
        # In float64: onnxruntime adds pixels up one by one, and the mean of a large film would be off in float32.
        pixels = normalise(films.double() / 255, self.model.config.image_mean, self.model.config.image_std).float()
        if self.two_stages:
            logits_BL, ran_B = self._both_stages(pixels)
            return _probabilities(logits_BL), ran_B
        return (_probabilities(self.model(pixels).logits),)

    def _both_stages(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The model's `forward` with a fixed graph: both stages see every film, and cleared ones are then replaced."""
        model = self.model
        gate_B1 = model.gate(pixels).logits
        passed_B = model.passed(gate_B1)
        scores_BL = torch.where(passed_B[:, None], model.findings(pixels).logits, model.skipped_scores.float())
        log_p, log_q = chain(F.logsigmoid(gate_B1), F.logsigmoid(-gate_B1), scores_BL)
        return model.calibrate(torch.cat([gate_B1, log_p - log_q], dim=1)[:, model.order]), passed_B


def _probabilities(logits_BL: Tensor) -> Tensor:
    """Through float64: onnxruntime's float32 sigmoid is not monotone, and children would rise above their parents."""
    return logits_BL.double().sigmoid().float()


def _ready(model: CXRPreTrainedModel, processor: CXRImageProcessor) -> CXRPreTrainedModel:
    """A copy to export: on the CPU, evaluating, without gradient checkpointing."""
    if not isinstance(model, CXRPreTrainedModel):
        raise TypeError(
            f"got {type(model).__name__}; expected a model of hf_cxr.models (of a PEFT model: its merge_and_unload())"
        )
    if model.dtype != torch.float32:
        raise ExportError(f"a model in {model.dtype}; load it with from_pretrained(..., dtype=torch.float32)")
    wanted, given = (
        {key: p.to_dict()[key] for key in ("size", "image_mean", "image_std")}
        for p in (CXRImageProcessor.for_model(model.config), processor)
    )
    if wanted != given:
        raise ExportError(f"the image processor has {given}, the model needs {wanted}; load both from the same folder")
    copied: Any = copy.deepcopy(model).cpu().eval()
    copied.gradient_checkpointing_disable()
    return copied


def _traced(network: _Films) -> torch.export.ExportedProgram:
    size = network.model.config.image_size
    films = torch.zeros(2, 1, size, size, dtype=torch.uint8)  # of one film the batch would be taken for fixed
    with torch.no_grad():
        return torch.export.export(network, (films,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the link's operators are said in ONNX, so that what `models.heads.chain` promises holds there too.

    The exporter's own log(σ(x)) and log(eᵃ + eᵇ) give −∞ for sure films, and logaddexp(a, b) < a by rounding.
    """
    op = import_module("onnxscript").opset18

    def log_sigmoid(x: Any) -> Any:
        return op.Neg(op.Softplus(op.Neg(x)))

    def logaddexp(a: Any, b: Any) -> Any:
        return op.Add(op.Max(a, b), op.Softplus(op.Neg(op.Abs(op.Sub(a, b)))))

    return {torch.ops.aten.log_sigmoid.default: log_sigmoid, torch.ops.aten.logaddexp.default: logaddexp}


def _metadata(model: CXRPreTrainedModel, processor: CXRImageProcessor) -> str:
    """The module's docstring has the keys."""
    config, points = model.config, model.config.operating_points
    hierarchy = Hierarchy.from_config(config)
    two_stages = isinstance(model, CXRTwoStageForImageClassification)
    size = config.image_size
    about = {
        "notice": "A research result, not for clinical use.",
        "labels": config.label_names,
        "parents": config.parents,
        "node_kinds": config.node_kinds,
        "gate": config.gate,
        "taxonomy": config.taxonomy,
        "thresholds": stored_thresholds(points, hierarchy),
        "thresholds_from": points and {key: points[key] for key in ("split", "criterion", "gate_criterion")},
        "finding_model_from": config.gate_threshold if two_stages else None,
        "image_size": size,
        "fit": processor.fit,
        "input": (
            f"{FILMS}: uint8 (B, 1, {size}, {size}), gray films, bone bright, 0 to 255, not normalised. 16 bits become "
            f"round(v * 255 / 65535). Resized by antialiased bilinear interpolation; of a film that is not square "
            f"{_FITS[processor.fit]}"
        ),
        "decision": (
            "a label is positive where its probability is at least its threshold"
            + (f"; where {RAN} is false, the gate alone can be positive" if two_stages else "")
        ),
        "architecture": config.model_type,
        "backbone": config.backbone,
        "calibrated": config.calibration is not None,
        "model": identity(model),
        "hf_cxr": version("hf_cxr"),
    }
    return json.dumps(about)


def _compare(path: Path, expected: Verification, run: Callable[[Tensor], Tensor]) -> float:
    """The largest difference over batches of one and three films.

    Raises:
        ExportError: it is above `TOLERANCE`, or no number.
    """
    films, size = expected.films, len(expected.films)
    got = torch.cat([run(films[:1]), run(films[1:])])
    difference = (got - expected.probability).abs().max().item()
    if not difference <= TOLERANCE:
        raise ExportError(
            f"{path.name}: its probabilities are off by up to {difference:.2g} on {size} phantom films (at most "
            f"{TOLERANCE} is taken), so it was not kept; try other versions of torch and onnxruntime"
        )
    return difference


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """Where to write a file that comes to stand at `path` as a whole, or not at all if an error comes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.partial-", dir=path.parent) as folder:
        yield Path(folder) / path.name
        os.replace(Path(folder) / path.name, path)


def _check_name(path: Path, suffix: str) -> None:
    if path.suffix != suffix:
        raise ExportError(f"{path}: expected a file name ending in {suffix}, by which programs know what to read")


def _check_packages() -> None:
    for name in _PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise ExportError(f'exporting to ONNX needs the package {name}: pip install "hf_cxr[onnx]"') from error
