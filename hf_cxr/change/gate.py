"""What the gate does before and after, at each model's own stored threshold, and which findings it misses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_cxr import metrics
from hf_cxr.bootstrap import Figure, decision_parts
from hf_cxr.change.pairs import SIDES, Pair
from hf_cxr.change.side import Side

RATES = ("sensitivity", "specificity", "skip_rate")


def gate_parts(side: Side, truths: Mapping[str, Any]) -> dict[Figure, Any]:
    """Parts for `bootstrap_ratios` of the gate's rates and of the true cases of every label that it clears.

    Args:
        truths: `{label: truth_N}` of both models' labels: a gate also loses findings that its model does not know.
    """
    flagged = _flagged(side)
    if flagged is None:
        return {}
    # Under names of their own: the gate's node may have a threshold as a label, too.
    rates = decision_parts("gate", truths[side.hierarchy.gate or ""], flagged)
    parts: dict[Figure, Any] = {("gate", rate): part for (rate, _), part in rates.items() if rate in RATES}
    parts["gate", "skip_rate"] = (~flagged).astype(float), np.ones(len(flagged))
    for name, truth in truths.items():
        true = (truth == 1).astype(float)
        parts["lost_at_gate", name] = true * ~flagged, true
    return parts


def gate_change(
    before: Side, after: Side, truths: Mapping[str, Any], findings: Sequence[str], pair: Pair
) -> dict[str, Any] | None:
    """The gates of both models.

    Args:
        findings: whose losses are listed. pair: of figures that hold `gate_parts` of both.

    Returns:
        `{node, threshold, counts: {before, after}, auroc, sensitivity, specificity, skip_rate: rows, missed}`; counts
        are tp, fn, fp, tn and n_cleared, None without a threshold; `missed` is `{finding: {n_true, before, after:
        n_true_cleared or None, share: row}}`. Of two models with other gates `{nodes, undefined}`; None without any.
    """
    models = dict(zip(SIDES, (before, after), strict=True))
    gates = {side: model.hierarchy.gate for side, model in models.items()}
    nodes = {node for node in gates.values() if node is not None}
    if not nodes:
        return None
    if len(nodes) == 2:
        why = f"the models have other gates, {gates['before']} before and {gates['after']} after: nothing to compare"
        return {"nodes": gates, "undefined": why}
    node = nodes.pop()
    flagged = {side: _flagged(model) for side, model in models.items()}
    none = {side: "no gate" if gates[side] is None else "no stored threshold for the gate" for side in SIDES}
    none = {side: f"the model {side} has {why}" for side, why in none.items()}
    counts = {side: _counts(truths[node], flagged[side]) for side in SIDES}
    missed: dict[str, Any] = {}
    for name in findings:
        true = truths[name] == 1
        cleared = {side: None if (up := flagged[side]) is None else int((true & ~up).sum()) for side in SIDES}
        missed[name] = {"n_true": int(true.sum()), **cleared, "share": pair.row(("lost_at_gate", name), none)}
    return {
        "node": node,
        "threshold": {side: _threshold(model) for side, model in models.items()},
        "counts": counts,
        "auroc": pair.row(("auroc", node), {side: f"the model {side} has no output for it" for side in SIDES}),
        **{rate: pair.row(("gate", rate), none) for rate in RATES},
        "missed": missed,
    }


def _threshold(side: Side) -> float | None:
    return side.operating_points.gate_threshold if side.operating_points and side.hierarchy.gate else None


def _flagged(side: Side) -> Any:
    threshold = _threshold(side)
    return None if threshold is None else side.table.column(side.hierarchy.gate or "")[1] >= threshold


def _counts(truth: Any, flagged: Any) -> dict[str, Any] | None:
    if flagged is None:
        return None
    confusion = metrics.confusion(truth, flagged)
    return {key: confusion[key] for key in ("tp", "fn", "fp", "tn")} | {"n_cleared": int((~flagged).sum())}
