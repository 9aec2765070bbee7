"""How far a table of probabilities respects the hierarchy: P(child) ≤ P(parent) on every edge."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_cxr.hierarchy import Hierarchy


def consistency(
    probability_NL: NDArray[np.floating[Any]], hierarchy: Hierarchy, threshold: float = 0.5
) -> dict[str, Any]:
    """Count what is out of order.

    Args:
        probability_NL: (N, L), columns in the order of `hierarchy.names`.
        hierarchy: its edges are checked.
        threshold: decision threshold of the violated edges, R1's 0.5.

    Returns:
        `n_edges`; `images_out_of_order` (P(child) > P(parent) on some edge) and its share;
        `edges_violated` (P(parent) < threshold < P(child), over all films) and `images_violated`.
    """
    parents, children = (list(side) for side in hierarchy.edge_indices)
    parent_NE, child_NE = probability_NL[:, parents], probability_NL[:, children]
    out_of_order = (child_NE > parent_NE).any(axis=1)
    violated = (parent_NE < threshold) & (child_NE > threshold)
    n_films = len(probability_NL)
    return {
        "n_edges": len(parents),
        "images_out_of_order": int(out_of_order.sum()),
        "share_out_of_order": float(out_of_order.mean()) if n_films else None,
        "threshold": threshold,
        "edges_violated": int(violated.sum()),
        "images_violated": int(violated.any(axis=1).sum()),
    }


def decided_out_of_order(
    probability_NL: NDArray[np.floating[Any]], thresholds: Mapping[str, float | None], hierarchy: Hierarchy
) -> dict[str, Any]:
    """Count decisions that contradict the hierarchy: a child called positive under a parent called negative.

    Labels have thresholds of their own, so that probabilities in order can be decided out of order.

    Args:
        probability_NL: (N, L), columns in the order of `hierarchy.names`.
        thresholds: `{label: threshold}`; an edge with a label that has none is not counted.

    Returns:
        `n_edges` with both thresholds, `edges_violated` over all films and `images_violated`; the last two None
        without such an edge.
    """
    decided: dict[str, NDArray[np.bool_]] = {}
    for name, column in zip(hierarchy.names, probability_NL.T, strict=True):
        threshold = thresholds.get(name)
        if threshold is not None:
            decided[name] = column >= threshold
    edges = [(parent, child) for parent, child in hierarchy.edges if parent in decided and child in decided]
    if not edges:
        return {"n_edges": 0, "edges_violated": None, "images_violated": None}
    violated_NE = np.stack([decided[child] & ~decided[parent] for parent, child in edges], axis=1)
    return {
        "n_edges": len(edges),
        "edges_violated": int(violated_NE.sum()),
        "images_violated": int(violated_NE.any(axis=1).sum()),
    }
