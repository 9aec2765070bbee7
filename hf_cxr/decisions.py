"""The thresholds that a model stores, and what is called positive by them: one rule for whatever reads films."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_cxr.hierarchy import Hierarchy


def stored_thresholds(points: Mapping[str, Any] | None, hierarchy: Hierarchy) -> dict[str, float]:
    """`{label: threshold}` of the labels that have one, in their order; the gate has its own criterion's."""
    if points is None:
        return {}
    every = {**points["thresholds"], **({hierarchy.gate: points["gate_threshold"]} if hierarchy.gate else {})}
    return {name: every[name] for name in hierarchy.names if every.get(name) is not None}


def decide(
    probability: Mapping[str, float], thresholds: Mapping[str, float], gate: str | None, ran: bool | None
) -> dict[str, bool]:
    """Which labels are called positive, of those that have a threshold; each decides by its own.

    Args:
        ran: whether a two-stage model's finding model looked. If not, all but the gate are negative (`gating`, "hard").
    """
    return {n: (ran is not False or n == gate) and probability[n] >= limit for n, limit in thresholds.items()}
