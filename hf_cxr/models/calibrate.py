"""The calibration that a checkpoint carries, applied as the last step of its forward pass."""

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration import CXRConfig


class Calibrate(nn.Module):
    """Logits → logits of calibrated probabilities, by `config.calibration`; unchanged where that is None or identity.

        logit P' = a · ln P − b · ln(1 − P) + c   (see `hf_cxr.calibration`, which fits a, b, c for each label)

    Nothing that was in order is put out of order: where a child was not above a parent, it is lowered to that
    parent's calibrated logit. Computed in float32 under any autocast. The config is read at each call, so that a
    calibration takes effect when it is set.

    Args:
        config: of the model. Its parents must be acyclic.
    """

    def __init__(self, config: CXRConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, logits_BL: Tensor) -> Tensor:
        """Logits (B, L), columns in the config's order of labels."""
        names = self.config.label_names
        numbers = [self.config.calibration["coefficients"][name] for name in names] if self.config.calibration else []
        if all(tuple(each) == (1.0, 1.0, 0.0) for each in numbers):  # to the last bit as they are
            return logits_BL
        with torch.autocast(logits_BL.device.type, enabled=False):
            z = logits_BL.float()
            a, b, c = z.new_tensor(numbers).T
            both = torch.minimum(a, b)
            # −ln(1 − P) = softplus(z) and ln P = z − softplus(z): a sum of rising terms, so that rounding cannot
            # turn two films round; at a = b it is a·z + c to the last bit.
            calibrated = both * z + (a - both) * F.logsigmoid(z) + (b - both) * F.softplus(z) + c
            return keep_order([z], calibrated, names, self.config.parents)


def keep_order(before: list[Tensor], after_BL: Tensor, names: list[str], parents: dict[str, list[str]]) -> Tensor:
    """Lower each child to its parent where it was not above it in any of the logits (B, L) that `after_BL` is made of.

    Args:
        names: labels of the columns. parents: as in the config; acyclic.
    """
    columns = list(after_BL.unbind(1))
    settled: set[str] = set()

    def settle(name: str) -> None:  # parents first
        if name in settled:
            return
        child = names.index(name)
        for above in parents.get(name, []):
            settle(above)
            parent = names.index(above)
            lowered = torch.minimum(columns[child], columns[parent])
            held = reduce(torch.logical_and, [each_BL[:, child] <= each_BL[:, parent] for each_BL in before])
            columns[child] = torch.where(held, lowered, columns[child])
        settled.add(name)

    for name in names:
        settle(name)
    return torch.stack(columns, 1)


def moved_threshold(threshold: float, old: list[float] | None, new: list[float] | None) -> float:
    """The threshold under another calibration at which the same films are positive.

    Args:
        threshold: in [0, 1], of probabilities under `old`. old, new: (a, b, c) of the label, None: not calibrated.
    """
    target = torch.tensor(threshold, dtype=torch.float64).logit()
    if not target.isfinite():  # everything or nothing is positive, however calibrated
        return threshold
    low, high = torch.tensor(-800.0, dtype=torch.float64), torch.tensor(800.0, dtype=torch.float64)
    for _ in range(200):  # each calibration rises, so that halving finds the logit it came from
        middle = (low + high) / 2
        low, high = (middle, high) if _calibrated(middle, old) < target else (low, middle)
    return float(_calibrated(high, new).sigmoid())


def _calibrated(logit: Tensor, numbers: list[float] | None) -> Tensor:
    a, b, c = numbers or (1.0, 1.0, 0.0)
    return a * F.logsigmoid(logit) - b * F.logsigmoid(-logit) + c


def moved_points(
    points: dict[str, Any], old: dict[str, Any] | None, new: dict[str, Any] | None, gate: str | None
) -> Any:
    """A config's operating points under another calibration: the same films are decided as before."""

    def move(name: str, threshold: float | None) -> float | None:
        sides = (calibration["coefficients"][name] if calibration else None for calibration in (old, new))
        return None if threshold is None else moved_threshold(threshold, *sides)

    thresholds = {name: move(name, threshold) for name, threshold in points["thresholds"].items()}
    gate_threshold = move(gate, points["gate_threshold"]) if gate else None
    return points | {"thresholds": thresholds, "gate_threshold": gate_threshold}
