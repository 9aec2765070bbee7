"""A model before adaptation against the model after it, on the same films: plain data.

Every interval and difference of a comparison comes from the same resamples of patients; a difference is after − before.
NaN truth is unknown and left out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import numpy as np

from hf_cxr import metrics, reliability
from hf_cxr.bootstrap import Bootstrap, Figure, Resamples, bootstrap_ratios, decision_parts
from hf_cxr.change.errors import ChangeError
from hf_cxr.change.gate import gate_change, gate_parts
from hf_cxr.change.pairs import SIDES, Pair
from hf_cxr.change.siblings import sibling_changes
from hf_cxr.change.side import Side, check_alike
from hf_cxr.intervals import bootstrap_table

LEVEL = 0.95


def compare_models(
    name: str,
    before: Side,
    after: Side,
    *,
    annotated: Collection[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Both models on a split.

    Args:
        name: of the films, for readers, e.g. `"test films of guangzhou"`.
        before, after: the models on the same films in the same order, with the same truth of the labels that both have.
        annotated: labels that the adaptation had truth for; the others have a mean of their own, for they are what
            adaptation may have left behind. `annotated_labels` reads them from the hospital's comparison.
        n_resamples, seed: of the bootstrap over patients (over images, and said so, where patients are unknown).

    Returns:
        `{name, n_images, n_patients, labels, macro_auroc, siblings, gate, operating_points, intervals}`. A *row* is
        `pairs.Pair.row`.
        `labels`: `{label: {outputs: both | before | after, finding, n_positive, n_negative, n_unknown, few_positives,
        threshold: {before, after}, auroc, brier, sensitivity, specificity: rows, ece: {before, after,
        before_if_perfect, after_if_perfect, undefined}}}`; decisions are at each model's own thresholds.
        `macro_auroc`: `{shared | annotated | others: row and {labels, left_out: {label: why}}}`, `shared` being the
        findings and devices of both models.
        `siblings`: see `siblings.sibling_changes`. `gate`: see `gate.gate_change`; None if neither model has one.

    Raises:
        ChangeError: a table and its hierarchy have other labels; other films, order, patients or truth; a label of
            `annotated` that neither model has.
    """
    check_alike(name, before, after)
    names = (*before.table.names, *(n for n in after.table.names if n not in before.table.names))
    if strange := sorted(set(annotated or ()) - set(names)):
        raise ChangeError(f"{name}: annotated labels {strange} are of neither model; they have {list(names)}")
    truths = {n: (before if n in before.table.names else after).table.column(n)[0] for n in names}
    findings = {n for n in names if n in before.hierarchy.findings or n in after.hierarchy.findings}
    shared = tuple(n for n in before.hierarchy.findings if n in after.hierarchy.findings)
    subsets = {"shared": shared}
    if annotated is not None:
        # A group that the hospital annotates itself is a finding of the new model alone, and counts here.
        both = (n for n in before.hierarchy.names if n in after.hierarchy.names and n in findings)
        subsets["annotated"] = tuple(n for n in both if n in annotated)
        subsets["others"] = tuple(n for n in shared if n not in annotated)
    resamples = Resamples.of(after.table.patients, n_resamples, seed, after.table.unit)
    pair = Pair.of(_drawn(before, truths, subsets, resamples), _drawn(after, truths, subsets, resamples), LEVEL)
    return {
        "name": name,
        "n_images": len(after.table),
        "n_patients": after.table.n_patients,
        "labels": {n: _label(n, before, after, truths[n], n in findings, pair) for n in names},
        "macro_auroc": {key: _macro(key, members, truths, pair) for key, members in subsets.items()},
        "siblings": sibling_changes(after.table, after.hierarchy, before.hierarchy.names, resamples, LEVEL),
        "gate": gate_change(before, after, truths, [n for n in names if n in findings], pair),
        "operating_points": {
            side: asdict(model.operating_points) if model.operating_points else None
            for side, model in zip(SIDES, (before, after), strict=True)
        },
        "intervals": {
            "method": f"percentile bootstrap clustered by {resamples.unit}",
            "level": LEVEL,
            "n_resamples": n_resamples,
            "seed": seed,
            "unit": resamples.unit,
            "n_units": len(resamples.patients_P),
        },
    }


def annotated_labels(hospital: dict[str, Any]) -> tuple[str, ...]:
    """Findings whose truth a comparison's films know in both classes, whichever model has them."""
    rows = hospital["labels"].items()
    return tuple(n for n, row in rows if row["finding"] and row["n_positive"] and row["n_negative"])


def _drawn(side: Side, truths: dict[str, Any], subsets: dict[str, tuple[str, ...]], resamples: Resamples) -> Bootstrap:
    table, points = side.table, side.operating_points
    figures = ("auroc", "brier", "macro_auroc")
    drawn = bootstrap_table(table.names, table.truth, table.probability, resamples, subsets, figures)
    parts: dict[Figure, Any] = {}
    for name, threshold in (points.thresholds if points else {}).items():
        if threshold is not None and name in table.names:
            truth, probability = table.column(name)
            rates = decision_parts(name, truth, probability >= threshold)
            parts |= {key: part for key, part in rates.items() if key[0] in ("sensitivity", "specificity")}
    parts |= gate_parts(side, truths)
    return drawn.with_figures(bootstrap_ratios(parts, resamples)) if parts else drawn


def _label(name: str, before: Side, after: Side, truth: Any, finding: bool, pair: Pair) -> dict[str, Any]:
    sides = {side: model for side, model in zip(SIDES, (before, after), strict=True) if name in model.table.names}
    points = {side: model.operating_points for side, model in sides.items()}
    thresholds = {side: own.thresholds.get(name) if own else None for side, own in points.items()}
    no_output = {side: f"the model {side} has no output for it" for side in SIDES if side not in sides}
    no_threshold = {side: f"the model {side} has no stored threshold for it" for side in SIDES} | no_output
    n_positive = int((truth == 1).sum())
    return {
        "outputs": "both" if len(sides) == 2 else next(iter(sides)),
        "finding": finding,
        "n_positive": n_positive,
        "n_negative": int((truth == 0).sum()),
        "n_unknown": int(np.isnan(truth).sum()),
        "few_positives": n_positive < metrics.FEW_POSITIVES,
        "threshold": {side: thresholds.get(side) for side in SIDES},
        "auroc": pair.row(("auroc", name), no_output),
        "brier": pair.row(("brier", name), no_output),
        "sensitivity": pair.row(("sensitivity", name), no_threshold),
        "specificity": pair.row(("specificity", name), no_threshold),
        "ece": _ece(name, truth, sides, no_output),
    }


def _ece(name: str, truth: Any, sides: dict[str, Side], no_output: dict[str, str]) -> dict[str, Any]:
    """No interval: the ECE of a resample is biased upwards, so that its percentiles would not cover it."""
    row: dict[str, Any] = {}
    undefined = dict(no_output)
    for side in SIDES:
        ece = perfect = None
        if side in sides:
            probability = sides[side].table.column(name)[1]
            ece = reliability.ece(truth, probability)
            perfect = reliability.ece_if_perfect(truth, probability)
            if ece is None:
                undefined[side] = "no film with known truth"
        row |= {side: ece, f"{side}_if_perfect": perfect}
    return row | {"undefined": undefined}


def _macro(key: str, members: tuple[str, ...], truths: dict[str, Any], pair: Pair) -> dict[str, Any]:
    left_out = {n: why for n in members if (why := metrics.why_undefined(truths[n]))}
    labels = [n for n in members if n not in left_out]
    return pair.row(("macro_auroc", key), {}) | {"labels": labels, "left_out": left_out}
