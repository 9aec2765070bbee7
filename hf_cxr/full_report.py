"""The whole evaluation of a prediction table: point figures with intervals, calibration and subgroups.

`evaluation` gives the point figures that training needs each epoch; here everything that a reader needs is added to
them. All intervals of a report come from the same resamples of patients.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import permutations
from typing import Any

import numpy as np

from hf_cxr import metrics, reliability
from hf_cxr.bootstrap import Bootstrap, Figure, Resamples, bootstrap_ratios, decision_parts
from hf_cxr.calibration import Calibration
from hf_cxr.consistency import consistency
from hf_cxr.curves import Reader, readers_covered
from hf_cxr.delong import delong
from hf_cxr.evaluation import EvalReport, EvaluationError, aggregate_figures, evaluate_table
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.intervals import bootstrap_table, compare
from hf_cxr.operating_points import OperatingPoints
from hf_cxr.predictions import PredictionTable
from hf_cxr.projection import project
from hf_cxr.subgroups import subgroup_section

LEVEL = 0.95
_RANKINGS = ("auroc", "average_precision", "brier")
_DECISIONS = ("sensitivity", "specificity", "ppv", "npv", "f1")


def full_report(
    table: PredictionTable,
    hierarchy: Hierarchy,
    split: str,
    *,
    operating_points: OperatingPoints | None = None,
    composed_by_model: bool = False,
    provenance: dict[str, Any] | None = None,
    one_class_gate: bool = False,
    n_resamples: int = 1000,
    seed: int = 0,
    calibration: Calibration | None = None,
    uncalibrated: PredictionTable | None = None,
    second: PredictionTable | None = None,
    group_by: tuple[str, ...] = (),
    projection: str = "up",
    readers: tuple[Reader, ...] = (),
) -> EvalReport:
    """Every figure of a table, with 95 % intervals.

    Args:
        table, hierarchy, split, operating_points, composed_by_model, provenance, one_class_gate: as `evaluate_table`.
        n_resamples, seed: of the bootstrap over patients (over images, and said so, where patients are unknown).
        calibration: what the table was calibrated by; uncalibrated: the same films before it, shown beside.
        second: another system's predictions on the same films, compared in pairs.
        projection: method of `projection.project`, whose figures are shown beside.
        readers: operating points of humans; how many the ROC curve covers is counted for each label.
        group_by: columns of the metadata whose groups are compared; `age` is cut into bands.

    Raises:
        EvaluationError: `second` has other films, or other truth. Otherwise as `evaluate_table`, `subgroup_section`.
    """
    report = evaluate_table(
        table,
        hierarchy,
        split,
        operating_points=operating_points,
        composed_by_model=composed_by_model,
        provenance=provenance,
        one_class_gate=one_class_gate,
    )
    table = table.in_order(hierarchy.names)
    resamples = Resamples.of(table.patients, n_resamples, seed, table.unit)
    drawn = bootstrap_table(table.names, table.truth, table.probability, resamples, _subsets(hierarchy))
    parts = _decisions(table, report)
    if parts:
        drawn = drawn.with_figures(bootstrap_ratios(parts, resamples))
    labels = {name: row | _label(name, row, table, drawn, readers) for name, row in report.labels.items()}
    return replace(
        report,
        labels=labels,
        aggregate=_aggregate(report, drawn),
        gate=_gate(report, drawn),
        hierarchy=report.hierarchy | {"projected": _projected(table, hierarchy, projection)},
        calibration=_calibration(table, labels, hierarchy, calibration, uncalibrated),
        subgroups=subgroup_section(table, hierarchy, report, resamples, group_by),
        intervals={
            "method": f"percentile bootstrap clustered by {resamples.unit}",
            "level": LEVEL,
            "n_resamples": n_resamples,
            "seed": seed,
            "unit": resamples.unit,
            "n_units": len(resamples.patients_P),
        },
        comparison=_compare(table, second, hierarchy, resamples) if second else {},
    )


def with_ci(row: dict[str, Any], drawn: Bootstrap, figures: dict[str, Figure]) -> dict[str, Any]:
    """`{name}_ci: [low, high]` for each figure, or null with the reason under `undefined`."""
    out: dict[str, Any] = {}
    reasons: dict[str, str] = dict(row.get("undefined", {}))
    for name, figure in figures.items():
        if figure not in drawn.point:
            continue
        interval = drawn.interval(figure, LEVEL)
        out[f"{name}_ci"] = None if interval.undefined else [interval.low, interval.high]
        if interval.undefined:
            reasons[f"{name}_ci"] = interval.undefined
    return out | {"undefined": reasons}


def _decisions(table: PredictionTable, report: EvalReport) -> dict[Figure, Any]:
    """Parts of the rates of every label at its threshold, of the gate, and of each finding behind the gate."""
    parts: dict[Figure, Any] = {}
    decided = {n: row["threshold"] for n, row in report.labels.items() if row["threshold"] is not None}
    for name, threshold in decided.items():
        truth, probability = table.column(name)
        parts |= decision_parts(name, truth, probability >= threshold)
    if not report.gate or "threshold" not in report.gate:
        return parts
    truth, probability = table.column(report.gate["node"])
    flagged = probability >= report.gate["threshold"]
    parts |= decision_parts("gate", truth, flagged)
    parts["skip_rate", "gate"] = (~flagged).astype(float), np.ones(len(table))
    for name in report.gate["lost"]:
        truth, probability = table.column(name)
        true = (truth == 1).astype(float)
        parts["lost_at_gate", name] = true * ~flagged, true
        if name in decided:
            parts |= {
                (f"{rate}_gated", label): part
                for (rate, label), part in decision_parts(name, truth, (probability >= decided[name]) & flagged).items()
            }
    return parts


def _subsets(hierarchy: Hierarchy) -> dict[str, tuple[str, ...]]:
    """Labels of each aggregate figure, by what follows `macro_auroc` in its name."""
    own = {"": hierarchy.findings, "_all": hierarchy.names}
    return own | {f"_{key}": names for key, names in hierarchy.subsets.items()}


def _projected(table: PredictionTable, hierarchy: Hierarchy, method: str) -> dict[str, Any]:
    probability = project(table.probability, hierarchy, method)
    return {
        "method": method,
        **consistency(probability, hierarchy),
        "aggregate": aggregate_figures(hierarchy, table.truth, probability),
    }


def _compare(
    table: PredictionTable, second: PredictionTable, hierarchy: Hierarchy, resamples: Resamples
) -> dict[str, Any]:
    if set(second.ids) != set(table.ids):
        one, other = (sorted(map(str, a - b)) for a, b in permutations((set(table.ids), set(second.ids))))
        raise EvaluationError(
            f"the two tables have different films: {len(one)} only in the first, e.g. {one[:2]}, {len(other)} "
            f"only in the second, e.g. {other[:2]}; compare on the films of both"
        )
    names = tuple(name for name in table.names if name in second.names)
    second = second.in_order(names)
    place = {film: row for row, film in enumerate(second.ids)}
    rows = [place[film] for film in table.ids]
    first = table.in_order(names)
    if not np.array_equal(first.truth, second.truth[rows], equal_nan=True):
        raise EvaluationError("the two tables disagree on the truth of the same films; give both the same labels")
    subsets = {key: members for key, members in _subsets(hierarchy).items() if set(members) <= set(names)}
    compared = compare(names, first.truth, first.probability, second.probability[rows], resamples, subsets)
    shown = {k: v for k, v in compared.items() if k[0] in ("auroc", "macro_auroc", "weighted_auroc", "brier")}
    return {"labels": list(names), "figures": {"/".join(filter(None, k)): asdict(v) for k, v in shown.items()}}


def _label(
    name: str, plain: dict[str, Any], table: PredictionTable, drawn: Bootstrap, readers: tuple[Reader, ...]
) -> dict[str, Any]:
    truth, probability = table.column(name)
    slope, intercept = reliability.slope_and_intercept(truth, probability)
    row: dict[str, Any] = _ece(truth, probability) | {"calibration_slope": slope, "calibration_intercept": intercept}
    alone = delong(truth, probability, LEVEL)
    row["auroc_ci_delong"] = None if alone.low is None else [alone.low, alone.high]
    missing = metrics.why_undefined(truth)
    own = [reader for reader in readers if reader.label == name]
    if own and not missing:
        row["readers"] = {"n": len(own), "covered": readers_covered(truth, probability, own)}
    # With both classes there, only two can be undefined.
    reasons = {"auroc_ci_delong": alone.undefined, "calibration_slope": "all probabilities are equal"}
    reasons = {key: missing or reasons[key] for key, value in row.items() if value is None}
    row["undefined"] = plain["undefined"] | reasons
    return row | with_ci(row, drawn, {figure: (figure, name) for figure in (*_RANKINGS, *_DECISIONS)})


def _ece(truth: Any, probability: Any) -> dict[str, Any]:
    return {
        "ece": reliability.ece(truth, probability),
        "ece_mass": reliability.ece(truth, probability, "mass"),
        "ece_if_perfect": reliability.ece_if_perfect(truth, probability),
    }


def _aggregate(report: EvalReport, drawn: Bootstrap) -> dict[str, Any]:
    figures = {}
    for key in report.aggregate:
        for figure in ("macro_auroc", "weighted_auroc", "micro_auroc", "macro_average_precision"):
            if key.startswith(figure):
                figures[key] = (figure, key.removeprefix(figure))
    return report.aggregate | with_ci({}, drawn, figures)


def _gate(report: EvalReport, drawn: Bootstrap) -> dict[str, Any] | None:
    gate = report.gate
    if gate is None:
        return None
    figures: dict[str, Figure] = {rate: (rate, "gate") for rate in (*_DECISIONS, "skip_rate")}
    gate = gate | with_ci(gate, drawn, figures | {"auroc": ("auroc", gate["node"])})
    if "lost" in gate:
        gate["lost"] = {name: row | _lost(name, row, drawn) for name, row in gate["lost"].items()}
    return gate


def _lost(name: str, row: dict[str, Any], drawn: Bootstrap) -> dict[str, Any]:
    figures: dict[str, Figure] = {"share_lost": ("lost_at_gate", name)}
    for rate in ("sensitivity", "specificity"):
        figures |= {f"{rate}_flat": (rate, name), f"{rate}_gated": (f"{rate}_gated", name)}
    share = metrics.ratio(row["n_true_cleared"], row["n_true"])
    return {"share_lost": share} | with_ci({}, drawn, figures)


def _calibration(
    table: PredictionTable,
    labels: dict[str, Any],
    hierarchy: Hierarchy,
    calibration: Calibration | None,
    uncalibrated: PredictionTable | None,
) -> dict[str, Any]:
    section: dict[str, Any] = {"n_bins": reliability.N_BINS, **_reliability(table, labels, hierarchy)}
    if calibration is not None:
        section |= {"method": calibration.method, "split": calibration.split, "pooled": list(calibration.pooled)}
    if uncalibrated is not None and calibration is not None and calibration.changes_anything:
        before = {name: _ece(*uncalibrated.column(name)) for name in hierarchy.names}
        section["before"] = _reliability(uncalibrated, before, hierarchy)
    return section


def _reliability(table: PredictionTable, ece: dict[str, Any], hierarchy: Hierarchy) -> dict[str, Any]:
    kinds = ("ece", "ece_mass", "ece_if_perfect")
    means = {f"mean_{kind}": metrics.macro([ece[n][kind] for n in hierarchy.findings]) for kind in kinds}
    return means | {"bins": {n: reliability.reliability_bins(*table.column(n)) for n in hierarchy.names}}
