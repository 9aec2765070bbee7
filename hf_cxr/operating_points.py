"""Operating points: which threshold decides each label, by which criterion, from which split.

They are chosen on validation and stored with their origin; the split that is reported never chooses its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hf_cxr import gating, thresholds
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.metrics import Array
from hf_cxr.predictions import PredictionTable

CRITERIA = ("f1", "youden", "sensitivity:S", "specificity:S", "miss_rate:A@C")


@dataclass(frozen=True)
class Criterion:
    """How a threshold is chosen; written as text, e.g. `"sensitivity:0.95"` or `"miss_rate:0.05@0.9"`.

    Attributes:
        kind: `f1` or `youden` (the highest), `sensitivity` or `specificity` (at least `value` on the films given),
            `miss_rate` (at most `value` on new films, with `confidence`; `thresholds.at_miss_rate`).
        value, confidence: shares, None where the kind takes none.
    """

    kind: str
    value: float | None = None
    confidence: float | None = None

    @classmethod
    def parse(cls, text: str) -> Criterion:
        """Read a criterion.

        Raises:
            ThresholdError: not one of `CRITERIA`.
        """
        number = r"(\d*\.?\d+)"
        match = re.fullmatch(rf"f1|youden|(?:sensitivity|specificity):{number}|miss_rate:{number}@{number}", text)
        if not match:
            raise thresholds.ThresholdError(
                f"operating point {text!r}: expected one of {', '.join(CRITERIA)}, shares between 0 and 1"
            )
        one, two, confidence = (None if group is None else float(group) for group in match.groups())
        return cls(text.split(":")[0], one if one is not None else two, confidence)

    def __str__(self) -> str:
        """For readers, e.g. `sensitivity >= 0.95`."""
        if self.kind == "miss_rate":
            return f"miss rate <= {self.value} with confidence {self.confidence}"
        return (
            f"{self.kind} >= {self.value}"
            if self.value
            else {"f1": "highest F1", "youden": "highest Youden"}[self.kind]
        )

    def threshold(self, truth_N: Array, probability_N: Array) -> float | None:
        """The threshold on these films, or None where they lack a class.

        Raises:
            ThresholdError: the films cannot meet the criterion.
        """
        if self.kind == "f1":
            return thresholds.highest_f1(truth_N, probability_N)
        if self.kind == "youden":
            return thresholds.highest_youden(truth_N, probability_N)
        assert self.value is not None
        if self.kind == "sensitivity":
            return thresholds.at_sensitivity(truth_N, probability_N, self.value)
        if self.kind == "specificity":
            return thresholds.at_specificity(truth_N, probability_N, self.value)
        assert self.confidence is not None
        return thresholds.at_miss_rate(truth_N, probability_N, self.value, self.confidence)


@dataclass(frozen=True)
class OperatingPoints:
    """Decision thresholds and where they come from.

    Attributes:
        split: split on which they were chosen; never the reported one.
        gate_threshold: probability from which a film is flagged, None without a gate.
        gate_criterion: how the gate's was chosen, e.g. `"sensitivity >= 0.95"`. criterion: the labels'.
        thresholds: `{label: probability}`, None where the split could not give one.
    """

    split: str
    gate_threshold: float | None
    gate_criterion: str
    criterion: str
    thresholds: dict[str, float | None]


def choose_operating_points(
    table: PredictionTable,
    hierarchy: Hierarchy,
    split: str,
    *,
    criterion: str = "f1",
    gate_criterion: str = "sensitivity:0.95",
) -> OperatingPoints:
    """Thresholds from a split, for each label and for the gate.

    Args:
        table: predictions on the split.
        hierarchy: names the gate.
        split: the split's name; goes into the result.
        criterion, gate_criterion: see `Criterion`.

    Raises:
        SingleClassGateError: the gate's truth has one class.
        ThresholdError: a criterion that cannot be read or met.
    """
    for_labels, for_gate = Criterion.parse(criterion), Criterion.parse(gate_criterion)
    gate_threshold = None
    if hierarchy.gate:
        gate_threshold = choose_gate_threshold(*table.column(hierarchy.gate), hierarchy.gate, split, for_gate)
    chosen = {name: for_labels.threshold(*table.column(name)) for name in table.names}
    return OperatingPoints(split, gate_threshold, str(for_gate), str(for_labels), chosen)


def choose_gate_threshold(truth_N: Array, probability_N: Array, gate: str, split: str, criterion: Criterion) -> float:
    """The gate's threshold on a split.

    Raises:
        SingleClassGateError: its truth has one class. ThresholdError: the criterion cannot be met.
    """
    gating.check_two_classes(truth_N, gate, split)
    threshold = criterion.threshold(truth_N, probability_N)
    assert threshold is not None  # both classes are there
    return threshold
