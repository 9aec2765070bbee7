"""What is told of a film, as plain data: a tree of findings with their decisions, the gate, the doubt, the heatmaps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_cxr.decisions import decide, stored_thresholds
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.models import CXRConfig
from hf_cxr.predictions import probabilities

LN2 = math.log(2)
DOUBT = {"mean": 1.0, "deviation": 0.5, "entropy": LN2, "mutual_information": LN2}
"""Figures of `Uncertainty`, with the greatest value of each: float32 rounds ln 2 up."""


def describe(
    outputs: Mapping[str, Tensor],
    config: CXRConfig,
    hierarchy: Hierarchy,
    heatmaps: Sequence[str] | None = None,
    max_entropy: float | None = None,
) -> dict[str, Any]:
    """One film's dict, as `ChestXRayClassificationPipeline` gives it; its keys are described there.

    Args:
        outputs: tensors whose first axis is the film's, of length 1: `logits`, and as far as they were asked for or
            made `heatmaps` (of the labels `heatmaps`), the figures of `DOUBT`, and `finding_model_ran`.
        config, hierarchy: of the model that looked, or of its adapter.
        max_entropy: in nats; see the pipeline.
    """
    points, logits = config.operating_points, outputs["logits"][0]
    probability = dict(zip(hierarchy.names, probabilities(logits.numpy()).tolist(), strict=True))
    doubt = {name: outputs[name][0].double().clamp(max=most) for name, most in DOUBT.items() if name in outputs}
    ran = bool(outputs["finding_model_ran"][0]) if "finding_model_ran" in outputs else None
    nodes = _nodes(config, hierarchy, probability, doubt, ran)
    roots = [name for name in hierarchy.names if not hierarchy.parents[name]]
    abstained = None
    if max_entropy is not None:
        entropy = dict(zip(hierarchy.names, doubt.get("entropy", _entropy(logits)).tolist(), strict=True))
        abstained = any(entropy[name] > max_entropy for name in ([hierarchy.gate] if hierarchy.gate else roots))
    return {
        "findings": [_tree(name, nodes, hierarchy) for name in roots],
        "probabilities": probability,
        "gate": _gate(nodes[hierarchy.gate], points, ran) if hierarchy.gate else None,
        "operating_points_from": points["split"] if points else None,
        "abstained": abstained,
        "heatmaps": _maps(outputs["heatmaps"][0], heatmaps) if heatmaps else None,
    }


def _nodes(
    config: CXRConfig,
    hierarchy: Hierarchy,
    probability: Mapping[str, float],
    doubt: Mapping[str, Tensor],
    ran: bool | None,
) -> dict[str, dict[str, Any]]:
    """By label, what stands in the tree, children aside."""
    thresholds = stored_thresholds(config.operating_points, hierarchy)
    decided = decide(probability, thresholds, hierarchy.gate, ran)
    return {
        name: {
            "label": name,
            "kind": config.node_kinds[name],
            "probability": p,
            "threshold": thresholds.get(name),
            "decision": decided.get(name),
            **{figure: values[i].item() for figure, values in doubt.items()},
        }
        for i, (name, p) in enumerate(probability.items())
    }


def _entropy(logits_L: Tensor) -> Tensor:
    """H(p) in nats; both probabilities from the logit, as 1 − p would lose the rare side's."""
    z = logits_L.double()
    return (torch.special.entr(z.sigmoid()) + torch.special.entr((-z).sigmoid())).clamp(max=LN2)


def _tree(name: str, nodes: Mapping[str, dict[str, Any]], hierarchy: Hierarchy) -> dict[str, Any]:
    return nodes[name] | {"children": [_tree(child, nodes, hierarchy) for child in hierarchy.children[name]]}


def _gate(node: Mapping[str, Any], points: Mapping[str, Any] | None, ran: bool | None) -> dict[str, Any]:
    decision = node["decision"]
    return {
        **{key: node[key] for key in ("label", "probability", "threshold")},
        "criterion": None if decision is None or points is None else points["gate_criterion"],
        "cleared": None if decision is None else not decision,
        "finding_model_ran": ran,
    }


def _maps(maps_MSS: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Copies: a view would keep the maps of the whole batch in memory. NaN: nobody looked."""
    pairs = zip(names, maps_MSS, strict=True)
    return {name: None if map_SS.isnan().any() else map_SS.numpy().copy() for name, map_SS in pairs}
