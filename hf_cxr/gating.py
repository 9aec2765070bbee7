"""The gate: its figures, and what it loses. numpy in, numbers out.

Two ways to use a gate, always reported side by side with not using it ("flat"):
- composed: P(finding) = P(gate) · P(finding | abnormal), a probability like any other, fit for AUROC;
- hard: films below the threshold are cleared, every finding on them is decided negative. Only decisions come
  out of it; R2's zeros are never fed into a ranking figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_cxr import metrics
from hf_cxr.errors import UserError

Array = NDArray[np.floating[Any]]


class SingleClassGateError(UserError, ValueError):
    """The gate's truth has one class: its AUROC, threshold and specificity do not exist (R2's first defect)."""


def check_two_classes(truth_N: Array, gate: str, split: str) -> None:
    """Raise unless both normal and abnormal films stand in the split.

    Raises:
        SingleClassGateError: names gate, split and counts.
    """
    reason = metrics.why_undefined(truth_N)
    if reason:
        values = np.asarray(truth_N, float)
        raise SingleClassGateError(
            f"gate '{gate}', split '{split}': {reason} ({int((values == 1).sum())} positive, "
            f"{int((values == 0).sum())} negative, {int(np.isnan(values).sum())} unknown of {len(values)} films). "
            "Check the gate's definition and the split."
        )


def gate_figures(truth_N: Array, probability_N: Array, threshold: float) -> dict[str, Any]:
    """AUROC of the gate, and its confusion and share of cleared films at a threshold."""
    flagged = np.asarray(probability_N) >= threshold
    return {
        "auroc": metrics.auroc(truth_N, probability_N),
        "threshold": threshold,
        **metrics.confusion(truth_N, flagged),
        "n_cleared": int((~flagged).sum()),
        "skip_rate": float((~flagged).mean()),
    }


def findings_lost(
    truth_N: Array, flagged_N: NDArray[np.bool_], decided_N: NDArray[np.bool_] | None
) -> dict[str, int | float | None]:
    """What the hard gate costs one finding.

    Args:
        truth_N: truth of the finding. flagged_N: films that passed the gate.
        decided_N: the finding's flat decisions, or None without a threshold.

    Returns:
        `n_true`, `n_true_cleared` (true cases on cleared films), `sensitivity_flat`, `sensitivity_gated` and
        `specificity_flat`, `specificity_gated`; rates are None where undefined.
    """
    truth = np.asarray(truth_N, float)
    row: dict[str, int | float | None] = {
        "n_true": int((truth == 1).sum()),
        "n_true_cleared": int(((truth == 1) & ~flagged_N).sum()),
    }
    for name, decided in (("flat", decided_N), ("gated", None if decided_N is None else decided_N & flagged_N)):
        rates = {} if decided is None else metrics.confusion(truth, decided)
        row[f"sensitivity_{name}"] = rates.get("sensitivity")
        row[f"specificity_{name}"] = rates.get("specificity")
    return row


def compose(gate_N: Array, probability_NL: Array, below_gate_L: NDArray[np.bool_]) -> Array:
    """Composed probabilities of a model with independent outputs: P(gate) · P(label) for labels below the gate.

    A model whose outputs are already unconditional under the gate (conditional link, two stages) needs none.
    """
    return np.where(below_gate_L, np.asarray(gate_N)[:, None] * probability_NL, probability_NL)
