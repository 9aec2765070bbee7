"""How exactly a model's backbone computes: float32, bfloat16, or int8 on a CPU. For inference only.

The head, the link and the calibration stay in float32 whatever the backbone computes in: a last layer in bfloat16
would give the same score to films that differ, and a table's ranking would have ties. What a precision changes is
measured by `recipes/compare_precision.py`, on the user's own model and films.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_cxr.errors import UserError
from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel, CXRViTForImageClassification
from hf_cxr.quantisation import install, stages

PRECISIONS = ("float32", "bfloat16", "int8")


class PrecisionError(UserError, ValueError):
    """A precision that this model or device cannot have; the message says what to take instead."""


def set_precision(
    model: CXRPreTrainedModel, processor: CXRImageProcessor, precision: str, int8: Path | None = None
) -> dict[str, str]:
    """Let a model compute in a precision from now on, in place; its weights stay as they are, in float32.

    float32 changes figures by rounding alone: on a CPU images are laid out channel by channel last, in which
    convolutions and pooling are faster.

    Args:
        model: in float32, on its device.
        precision: one of `PRECISIONS`.
        int8: folder of `quantisation.quantise`, for that precision.

    Returns:
        `{stage: sha256}` of the files in int8; empty of the other precisions.

    Raises:
        PrecisionError: an unknown precision, a model that is not in float32 or has been set before, int8 on a GPU or
            without its folder.
        QuantisationError: see `quantisation.install`.
    """
    if precision not in PRECISIONS:
        raise PrecisionError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if model.dtype != torch.float32 or any("forward_features" in vars(s.backbone) for s in stages(model).values()):
        raise PrecisionError(f"a model in {model.dtype}, or of a set precision; expected one in float32, as loaded")
    if precision == "int8":
        if model.device.type != "cpu":
            raise PrecisionError(f"int8 runs on a CPU, the model is on {model.device}: take bfloat16, or --use_cpu")
        if int8 is None:
            raise PrecisionError("int8 needs the folder that recipes/compare_precision.py writes it to (--int8 FOLDER)")
        return install(model, processor, int8)
    if precision == "bfloat16":
        for stage in stages(model).values():
            stage.backbone.forward_features = _in_bfloat16(stage.backbone)
    elif model.device.type == "cpu":
        model.to(memory_format=torch.channels_last)
    return {}


def check_heatmaps(model: CXRPreTrainedModel, precision: str) -> None:
    """Raise where heatmaps would be computed in another precision than asked for.

    Raises:
        PrecisionError: of a ViT, whose last block `explain` runs by its parts, from the weights in float32.
    """
    if precision != "float32" and any(isinstance(s, CXRViTForImageClassification) for s in stages(model).values()):
        raise PrecisionError(f"heatmaps of a ViT are computed in float32, not {precision}; leave one of the two out")


def _in_bfloat16(backbone: Any) -> Callable[[Tensor], Tensor]:
    # A copy, not the backbone itself: what follows its features (pooling, sometimes a norm) stays in float32.
    rounded = copy.deepcopy(backbone).to(torch.bfloat16, memory_format=torch.channels_last)

    def features(pixels: Tensor) -> Tensor:
        given: Tensor = rounded.forward_features(pixels.to(torch.bfloat16))
        return given.float()

    return features
