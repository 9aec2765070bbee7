"""Calibration and operating points of a model on a validation split, where an earlier model may have some already.

A hospital labels a few of the findings that a model knows. For the others, which its validation films say nothing
about, the model that was adapted had both, and they stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hf_cxr.calibration import Calibration, fit_table
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.metrics import Array
from hf_cxr.operating_points import Criterion, OperatingPoints, choose_operating_points
from hf_cxr.predictions import PredictionTable

_BEFORE = " (before adaptation)"
_NONE = OperatingPoints("", None, "none", "none", {})


def refit_calibration(table: PredictionTable, method: str, split: str, earlier: Any | None = None) -> Calibration:
    """A calibration fitted on the labels that have films of both classes here; others keep the earlier one.

    Args:
        table: uncalibrated predictions on the split. method, split: as of `calibration.fit_table`.
        earlier: config of the model that was adapted; None: all labels are fitted.

    Raises:
        CalibrationError: see `calibration.fit_table`.
    """
    if earlier is None:
        return fit_table(table, method, split)
    here = tuple(name for name in table.names if _two_classes(table.column(name)[0]))
    fitted = fit_table(table.in_order(here), method if here else "none", split)
    before = Calibration(**earlier.calibration) if earlier.calibration else None
    coefficients = dict.fromkeys(table.names, (1.0, 1.0, 0.0))
    if before is not None:
        coefficients |= {name: before.coefficients[name] for name in table.names if name in before.coefficients}
    kept = [name for name in table.names if name not in here]
    how = f"{fitted.method}; as before the adaptation: {', '.join(kept)}" if kept else fitted.method
    prevalence = {name: fitted.prevalence.get(name) for name in table.names}
    return replace(fitted, method=how, coefficients=coefficients | fitted.coefficients, prevalence=prevalence)


def refit_points(
    table: PredictionTable, hierarchy: Hierarchy, split: str, gate_criterion: str, earlier: Any | None = None
) -> OperatingPoints:
    """Thresholds chosen on the split; a label, or the gate, without films of both classes here keeps the earlier one.

    Args:
        table: calibrated predictions on the split. hierarchy: names the gate. gate_criterion: see `Criterion`.
        earlier: config of the model that was adapted; None: all are chosen here.

    Raises:
        SingleClassGateError: the gate's truth has one class, and there is no earlier model. One that had no threshold
            either leaves the gate without.
        ThresholdError: a criterion that cannot be read or met.
    """
    if earlier is None:
        return choose_operating_points(table, hierarchy, split, gate_criterion=gate_criterion)
    before = OperatingPoints(**earlier.operating_points) if earlier.operating_points else _NONE
    for_labels, for_gate = Criterion.parse("f1"), Criterion.parse(gate_criterion)
    chosen = {name: for_labels.threshold(*table.column(name)) for name in table.names}
    kept = [name for name, threshold in chosen.items() if threshold is None and before.thresholds.get(name) is not None]
    gate, gate_threshold = hierarchy.gate, before.gate_threshold
    how = f"{before.gate_criterion.removesuffix(_BEFORE)}{_BEFORE}"
    if gate and _two_classes(table.column(gate)[0]):
        gate_threshold, how = for_gate.threshold(*table.column(gate)), str(for_gate)
    return OperatingPoints(
        split=split,
        gate_threshold=gate_threshold,
        gate_criterion=how,
        criterion=f"{for_labels}; as before the adaptation: {', '.join(kept)}" if kept else str(for_labels),
        thresholds=chosen | {name: before.thresholds[name] for name in kept},
    )


def _two_classes(truth_N: Array) -> bool:
    return len(np.unique(truth_N[~np.isnan(truth_N)])) == 2
