"""Whether a model's doubt tells its errors: risk–coverage per measure, and the abstain rule. JSON out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from hf_cxr.evaluation import EvalReport
from hf_cxr.inspection import Inspection
from hf_cxr.predictions import PredictionTable
from hf_cxr.risk import AbstainRule, LabelRisk, selective_risk

PLAIN = "plain_entropy"
"""Entropy of the probability without dropout: what any other measure has to beat, since it costs nothing."""
ABSTAIN_BY = "entropy"


def doubts(table: PredictionTable, inspection: Inspection) -> dict[str, NDArray[np.float64]]:
    """Every measure of doubt, (N, L) in the table's order of labels; more is less sure."""
    assert inspection.doubt is not None
    order = [inspection.names.index(name) for name in table.names]
    p = table.probability
    return {PLAIN: entr(p) + entr(1 - p)} | {k: v[:, order].astype(np.float64) for k, v in inspection.doubt.items()}


def decisions(table: PredictionTable, report: EvalReport) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
    """Labels that have a threshold, and whether each film (row) is called positive for each of them."""
    decided = tuple(name for name in table.names if report.labels[name]["threshold"] is not None)
    thresholds = [report.labels[name]["threshold"] for name in decided]
    return decided, table.in_order(decided).probability >= np.array(thresholds)


def doubt_section(
    table: PredictionTable,
    report: EvalReport,
    inspection: Inspection,
    validation: Inspection | None = None,
    coverage: float | None = None,
) -> dict[str, Any]:
    """Figures of `risk`, per label and measure.

    Args:
        table, inspection: the reported films. report: its thresholds decide; without any there is nothing to err.
        validation, coverage: on which, and for what share of its films kept, the abstain rule of each label is chosen.

    Returns:
        `{n_passes, seed, measures, labels: {label: {n, n_errors, risk, best_aurc, undefined, measures: {measure:
        {aurc, excess_aurc, error_auroc}}, abstain}}}`, or `{undefined: why}`.
    """
    decided, positive = decisions(table, report)
    if not decided:
        return {"undefined": "no operating points: nothing is decided, so nothing can be wrong"}
    own = table.in_order(decided)
    by_measure = doubts(own, inspection)
    rows = {key: selective_risk(own.truth, positive, doubt, decided) for key, doubt in by_measure.items()}
    labels: dict[str, Any] = {}
    for i, name in enumerate(decided):
        plain = rows[PLAIN][i]
        labels[name] = {
            "n": plain.n,
            "n_errors": plain.n_errors,
            "risk": plain.risk,
            "best_aurc": plain.best_aurc,
            "undefined": {"error_auroc": plain.undefined} if plain.undefined else {},
            "measures": {key: _measure(of_label[i]) for key, of_label in rows.items()},
        }
        if validation is not None and coverage is not None:
            assert validation.doubt is not None
            doubt = validation.doubt[ABSTAIN_BY][:, validation.names.index(name)]
            rule = AbstainRule.choose(doubt, coverage, "validation")
            kept = rule.evaluate(own.truth[:, i], positive[:, i], by_measure[ABSTAIN_BY][:, i])
            labels[name]["abstain"] = {"threshold": rule.threshold, "split": rule.split} | kept
    abstain = {"abstain_by": ABSTAIN_BY, "coverage_wished": coverage} if validation is not None else {}
    return {
        "n_passes": inspection.n_passes,
        "seed": inspection.seed,
        "measures": list(by_measure),
        **abstain,
        "labels": labels,
    }


def _measure(row: LabelRisk) -> dict[str, Any]:
    return {"aurc": row.aurc, "excess_aurc": row.excess_aurc, "error_auroc": row.error_auroc}
