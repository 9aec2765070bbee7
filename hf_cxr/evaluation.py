"""EvalReport: every figure of a model on a split, from a prediction table; what cards and tables quote.

`evaluate_table` works on any system's predictions. Decision thresholds come from another split than the one that
is reported (`operating_points`) and are stored with their origin.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_cxr import gating, metrics
from hf_cxr.consistency import consistency, decided_out_of_order
from hf_cxr.errors import UserError
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.operating_points import OperatingPoints
from hf_cxr.predictions import PredictionTable

SCHEMA_VERSION = 3


class EvaluationError(UserError, ValueError):
    """A table and a taxonomy that do not belong together."""


@dataclass(frozen=True)
class EvalReport:
    """All figures of one split; `to_json` writes them, `from_json` reads them back equal.

    Attributes:
        split: name of the split. n_images, n_patients: its size; n_patients is None where patients are unknown.
        labels: `{label: {n_positive, n_negative, n_unknown, prevalence, auroc, average_precision, brier, threshold,
            tp, fn, fp, tn, sensitivity, specificity, ppv, npv, f1, few_positives, undefined}}`; `undefined` is
            `{figure: why it is null}`. A full report adds ece, ece_mass, ece_if_perfect (`reliability`),
            calibration_slope, calibration_intercept, auroc_ci_delong (films as independent), `<figure>_ci` =
            [low, high] and, where there are human readers, readers = {n, covered}.
        aggregate: `macro_auroc` (findings and devices), `macro_auroc_all` (every node), `weighted_auroc` and
            `weighted_auroc_all` (by positive films), `micro_auroc`, `macro_average_precision`, `n_labels_averaged`,
            and `macro_auroc_<subset>`; with `_ci` in a full report, as in `gate`.
        gate: `gating.gate_figures`, definition, origin of the threshold, `gated` (macro AUROC of the composed
            probabilities) and `lost`, per finding; of a report on a model `compute` (`compute.gate_savings`).
        hierarchy: `consistency.consistency`, of the flat and of the composed probabilities; `decided`, at the labels'
            operating points (`consistency.decided_out_of_order`); in a full report also `projected`, with its method
            and aggregate figures.
        operating_points: see `OperatingPoints`.
        calibration, subgroups, intervals, comparison: of a full report (`full_report`), else empty: mean ECE and
            reliability bins, before and after; `subgroups.subgroup_section`; how the intervals were made; paired
            differences to a second table.
        uncertainty, localisation: of a report on a model (`report.doubt`, `inspection.localise`), else empty.
        provenance: seed, versions, data fingerprint, settings hash.
        schema_version: of this layout.
    """

    split: str
    n_images: int
    n_patients: int | None
    labels: dict[str, dict[str, Any]]
    aggregate: dict[str, Any]
    gate: dict[str, Any] | None
    hierarchy: dict[str, Any]
    operating_points: dict[str, Any] | None
    provenance: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    subgroups: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, Any] = field(default_factory=dict)
    comparison: dict[str, Any] = field(default_factory=dict)
    uncertainty: dict[str, Any] = field(default_factory=dict)
    localisation: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def size(self) -> str:
        """For readers, e.g. `1,424 films of 374 patients`."""
        films = f"{self.n_images:,} films"
        return f"{films}, patients unknown" if self.n_patients is None else f"{films} of {self.n_patients:,} patients"

    def to_json(self, path: Path) -> None:
        """Write the report; it appears whole or not at all. A NaN is an error here, not `NaN` in the file."""
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(asdict(self), indent=2, allow_nan=False, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def from_json(cls, path: Path) -> EvalReport:
        """Read a report.

        Raises:
            EvaluationError: written by another schema version.
        """
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("schema_version") != SCHEMA_VERSION:
            raise EvaluationError(
                f"{path}: schema version {content.get('schema_version')}, this program reads {SCHEMA_VERSION}"
            )
        return cls(**content)


def evaluate_table(
    table: PredictionTable,
    hierarchy: Hierarchy,
    split: str,
    *,
    operating_points: OperatingPoints | None = None,
    composed_by_model: bool = False,
    provenance: dict[str, Any] | None = None,
    one_class_gate: bool = False,
) -> EvalReport:
    """Every figure of a table.

    Args:
        table: its labels must be exactly the hierarchy's nodes, in any column order.
        hierarchy: gate, edges, subsets.
        split: name of the table's split.
        operating_points: thresholds from another split; without them there are no decisions, only rankings.
        composed_by_model: the probabilities are unconditional under the gate already (`is_composed`), so that
            composing them again would count the gate twice.
        provenance: stored as given.
        one_class_gate: report a split whose films lack a class of the gate, too: what needs both is null, with the
            reason. For hospitals that label one finding, say, and never that a film is normal.

    Raises:
        EvaluationError: the label sets differ; lists both sides.
        SingleClassGateError: the gate's truth has one class in this split, and `one_class_gate` is not set.
    """
    if set(table.names) != set(hierarchy.names):
        raise EvaluationError(
            f"the table lacks {sorted(set(hierarchy.names) - set(table.names))} and has beyond the taxonomy "
            f"'{hierarchy.name}' {sorted(set(table.names) - set(hierarchy.names))}"
        )
    order = [table.names.index(name) for name in hierarchy.names]
    truth, probability = table.truth[:, order], table.probability[:, order]
    points = operating_points
    labels = {
        name: _label_figures(truth[:, i], probability[:, i], points.thresholds.get(name) if points else None)
        for i, name in enumerate(hierarchy.names)
    }
    aggregate = aggregate_figures(hierarchy, truth, probability)
    gate: dict[str, Any] | None = None
    composed: Any = probability
    if hierarchy.gate:
        at = hierarchy.names.index(hierarchy.gate)
        if not one_class_gate:
            gating.check_two_classes(truth[:, at], hierarchy.gate, split)
        if not composed_by_model:
            composed = gating.compose(probability[:, at], probability, _below_gate(hierarchy))
        gate = _gate_section(hierarchy, truth, probability, points) | {
            "flat": aggregate,
            "gated": aggregate if composed is probability else aggregate_figures(hierarchy, truth, composed),
        }
    return EvalReport(
        split=split,
        n_images=len(table),
        n_patients=table.n_patients,
        labels=labels,
        aggregate=aggregate,
        gate=gate,
        hierarchy={
            "flat": consistency(probability, hierarchy),
            "composed": consistency(composed, hierarchy),
            "decided": decided_out_of_order(probability, {n: row["threshold"] for n, row in labels.items()}, hierarchy),
        },
        operating_points=asdict(points) if points else None,
        provenance=provenance or {},
    )


def is_composed(hierarchy: Hierarchy, link: str) -> bool:
    """Whether a model's outputs contain the gate already: conditional link, and every finding below the gate."""
    if not hierarchy.gate or link != "conditional":
        return False
    return set(hierarchy.of_kind("finding")) <= hierarchy.descendants(hierarchy.gate)


def _below_gate(hierarchy: Hierarchy) -> Any:
    """Labels that a cleared film cannot have: the gate's descendants, and every finding that defines it."""
    assert hierarchy.gate is not None
    below = hierarchy.descendants(hierarchy.gate) | set(hierarchy.of_kind("finding"))
    return np.array([name in below for name in hierarchy.names])


def _label_figures(truth: Any, probability: Any, threshold: float | None) -> dict[str, Any]:
    n_positive = int((truth == 1).sum())
    n_negative = int((truth == 0).sum())
    undefined = metrics.why_undefined(truth)
    figures: dict[str, Any] = {
        "n_positive": n_positive,
        "n_negative": n_negative,
        "n_unknown": int(np.isnan(truth).sum()),
        "prevalence": metrics.ratio(n_positive, n_positive + n_negative),
        "auroc": metrics.auroc(truth, probability),
        "average_precision": metrics.average_precision(truth, probability),
        "brier": metrics.brier(truth, probability),
        "few_positives": n_positive < metrics.FEW_POSITIVES,
        "undefined": dict.fromkeys(("auroc", "average_precision"), undefined) if undefined else {},
        "threshold": threshold,
    }
    if threshold is not None:
        figures |= metrics.confusion(truth, probability >= threshold)
    return figures


def aggregate_figures(hierarchy: Hierarchy, truth: Any, probability: Any) -> dict[str, Any]:
    """Figures over labels, of (N, L) truth and probability in the order of the hierarchy's names."""
    positions = {name: i for i, name in enumerate(hierarchy.names)}
    aurocs = {name: metrics.auroc(truth[:, i], probability[:, i]) for name, i in positions.items()}

    def over(names: tuple[str, ...], figure: Callable[..., float | None]) -> float | None:
        columns = [positions[n] for n in names]
        return figure(truth[:, columns], probability[:, columns])

    findings = hierarchy.findings
    support = [int((truth[:, positions[n]] == 1).sum()) for n in findings]
    precisions = [metrics.average_precision(truth[:, positions[n]], probability[:, positions[n]]) for n in findings]
    return {
        "macro_auroc": metrics.macro([aurocs[n] for n in findings]),
        "n_labels_averaged": sum(aurocs[n] is not None for n in findings),
        "macro_auroc_all": metrics.macro(list(aurocs.values())),
        "weighted_auroc": metrics.support_weighted([aurocs[n] for n in findings], support),
        "weighted_auroc_all": metrics.support_weighted(list(aurocs.values()), (truth == 1).sum(axis=0).tolist()),
        "micro_auroc": over(findings, metrics.micro_auroc),
        "macro_average_precision": metrics.macro(precisions),
        **{f"macro_auroc_{key}": metrics.macro([aurocs[n] for n in ns]) for key, ns in hierarchy.subsets.items()},
    }


def _gate_section(hierarchy: Hierarchy, truth: Any, flat: Any, points: OperatingPoints | None) -> dict[str, Any]:
    assert hierarchy.gate is not None
    at = hierarchy.names.index(hierarchy.gate)
    section: dict[str, Any] = {
        "node": hierarchy.gate,
        "definition": hierarchy.gate_definition,
        "auroc": metrics.auroc(truth[:, at], flat[:, at]),
    }
    if why := metrics.why_undefined(truth[:, at]):
        section["undefined"] = {"auroc": why}
    if points is None or points.gate_threshold is None:
        return section
    section |= gating.gate_figures(truth[:, at], flat[:, at], points.gate_threshold)
    section |= {"threshold_split": points.split, "threshold_criterion": points.gate_criterion}
    flagged = flat[:, at] >= points.gate_threshold
    section["lost"] = {}
    for name in hierarchy.findings:
        column, threshold = hierarchy.names.index(name), points.thresholds.get(name)
        decided = None if threshold is None else flat[:, column] >= threshold
        section["lost"][name] = gating.findings_lost(truth[:, column], flagged, decided)
    return section
