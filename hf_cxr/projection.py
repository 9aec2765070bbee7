"""Any model's probabilities, put in order afterwards: P(child) ≤ P(parent) on every edge, so at every threshold.

`project(probability_NL, hierarchy)` for a table; shapes: N films, L labels in the order of `hierarchy.names`, E edges.
The graph may be any DAG, several parents included. Films already in order come back bit for bit.

Methods: `up` raises a parent to its largest descendant; `down` lowers a child to its smallest ancestor; `midpoint` is
the mean of the two; `least_squares` is the nearest table in order, isotonic regression on a partial order (Barlow &
Brunk 1972).

Why `up` is the default. On R1's published outputs (325 films; figures in `tests/test_projection.py`) it changes AUROC
by +0.0005 macro, -0.0005 weighted, +0.0026 over the five competition labels: the best macro and five of all methods,
spaces and weights tried. Equal `least_squares` gives -0.0006, -0.0002, +0.0012; `down` loses 0.0015 macro. Each output
is calibrated by itself: Consolidation (12 positive films) stands below its child Pneumonia on 117 films, and there the
child's value ranks the parent better (+0.013) while the parent's spoils the child (`down`: -0.044); means do half of
both. And `up` never touches a label without children, so where all parents are groups, as in `nih`, every finding
keeps its figures exactly.

What that is worth: every patient-bootstrap interval of these differences on R1's films contains 0. What `up` costs: it
only raises, the gate's AUROC falls by 0.004 (`least_squares` 0.002), and Brier score and log loss gain less than with
`midpoint`, the better choice where probabilities are read as such. Choose thresholds after projecting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_cxr.errors import UserError
from hf_cxr.hierarchy import Hierarchy

METHODS = ("up", "down", "midpoint", "least_squares")
SPACES = ("probability", "logit")

LOGIT_EDGE = 1e-7
"""In logit space probabilities are held this far from 0 and 1; R1's table has both, rounded to six digits."""

TOLERANCE = 1e-12
"""Gap between two blocks that least squares leaves to the final repair."""

WEIGHT_SPAN = 1e12
"""Largest ratio of two weights; float64 cannot solve for more."""

FILMS_AT_ONCE = 4096
"""Films per batch of least squares: E × E floats each."""

Scores = NDArray[np.float64]


class ProjectionError(UserError, ValueError):
    """A table or weights that cannot be projected; the message says where and why."""


def project(
    probability_NL: NDArray[np.floating[Any]],
    hierarchy: Hierarchy,
    method: str = "up",
    *,
    space: str = "probability",
    weights: Mapping[str, float] | None = None,
) -> Scores:
    """The table in order; `project` of its own result is that result, bit for bit.

    Args:
        probability_NL: (N, L) in [0, 1], columns in the order of `hierarchy.names`.
        hierarchy: its edges are enforced.
        method: one of `METHODS`.
        space: where means and squares are taken, one of `SPACES`; no difference to `up` and `down`.
        weights: for `least_squares`, label (or alias) -> weight > 0, every label; the heavier moves less.

    Returns:
        (N, L) float64 in [0, 1], child ≤ parent on every edge without tolerance; a new array.

    Raises:
        ProjectionError: wrong shape, a value that is NaN or outside [0, 1], an unknown method or space, bad weights.
    """
    result_NL: Scores = np.array(probability_NL, dtype=np.float64)
    if result_NL.ndim != 2 or result_NL.shape[1] != len(hierarchy.names):
        raise ProjectionError(
            f"table has shape {result_NL.shape}; expected (films, {len(hierarchy.names)}), one column for each of "
            f"{', '.join(hierarchy.names)}"
        )
    off = ~((result_NL >= 0) & (result_NL <= 1))
    if off.any():
        row, column = (int(i[0]) for i in np.nonzero(off))
        raise ProjectionError(
            f"row {row}, label '{hierarchy.names[column]}': probability {result_NL[row, column]}, "
            f"expected [0, 1] ({int(off.sum())} such cells)"
        )
    for what, value, known in (("method", method, METHODS), ("space", space, SPACES)):
        if value not in known:
            raise ProjectionError(f"{what} is '{value}', expected one of {', '.join(known)}")
    if weights is not None and method != "least_squares":
        raise ProjectionError(f"weights are for method 'least_squares', got method '{method}'; leave them out")
    weight_L = _weights(weights, hierarchy)

    parents, children = (list(side) for side in hierarchy.edge_indices)
    rows = np.flatnonzero((result_NL[:, children] > result_NL[:, parents]).any(axis=1))
    before = result_NL[rows]
    if method in ("up", "down"):
        after = (up if method == "up" else down)(before, hierarchy)
    else:
        scores = _logit(before) if space == "logit" else before
        if method == "midpoint":
            moved = (up(scores, hierarchy) + down(scores, hierarchy)) / 2
        else:
            moved = least_squares(scores, hierarchy, weight_L)
        after = moved if space == "probability" else np.where(moved == scores, before, 1 / (1 + np.exp(-moved)))
    # The last digit: block means and sigmoids are rounded, so an edge may still be broken by some 1e-16.
    result_NL[rows] = up(np.clip(after, 0, 1), hierarchy)
    return result_NL


def up(score_NL: Scores, hierarchy: Hierarchy) -> Scores:
    """(N, L) finite scores; each label becomes the largest of itself and its descendants."""
    return _spread(score_NL, _edges(hierarchy)[::-1], np.maximum)


def down(score_NL: Scores, hierarchy: Hierarchy) -> Scores:
    """(N, L) finite scores; each label becomes the smallest of itself and its ancestors."""
    return _spread(score_NL, [(child, parent) for parent, child in _edges(hierarchy)], np.minimum)


def least_squares(score_NL: Scores, hierarchy: Hierarchy, weight_L: Scores | None = None) -> Scores:
    """argmin_x Σ_l w_l (x_l - y_l)² with x_child ≤ x_parent on every edge, exact for any DAG.

    Non-negative least squares on the dual, one multiplier an edge (Lawson & Hanson 1974, ch. 23), for all films at
    once. Edges with a multiplier tie their labels into blocks, and x is each block's weighted mean: the edge most out
    of order is tied; where a multiplier turns negative, its edge is untied. Means are equal bit for bit within a
    block, so that a tied edge never closes a cycle and the system below is never singular. Not `scipy.optimize.nnls`,
    which on such graphs is silently wrong on some films (1.17.1; scipy issue 25389).

    Args:
        score_NL: (N, L) finite scores of the size of probabilities or logits.
        hierarchy: columns in the order of its names.
        weight_L: (L,) weights > 0, their ratios `WEIGHT_SPAN` at most; None for equal ones.

    Returns:
        (N, L); an edge may be out of order by `TOLERANCE`, which `project` repairs. A label in no block keeps its bits.

    Raises:
        ProjectionError: a film did not finish; seen only with weights further apart.
    """
    weight_L = np.ones(score_NL.shape[1]) if weight_L is None else weight_L
    result_NL = score_NL.copy()
    if hierarchy.edges:
        for start in range(0, len(score_NL), FILMS_AT_ONCE):
            batch = slice(start, start + FILMS_AT_ONCE)
            result_NL[batch] = _least_squares(score_NL[batch], hierarchy, weight_L)
    return result_NL


def _least_squares(score_NL: Scores, hierarchy: Hierarchy, weight_L: Scores) -> Scores:
    parents, children = (list(side) for side in hierarchy.edge_indices)
    n_edges = len(parents)
    incidence_EL = np.zeros((n_edges, score_NL.shape[1]))
    incidence_EL[range(n_edges), children] = 1
    incidence_EL[range(n_edges), parents] = -1
    incidence_EL /= np.sqrt((incidence_EL**2 / weight_L).sum(axis=1, keepdims=True))  # unit diagonal of the Gram matrix
    gram_EE = (incidence_EL / weight_L) @ incidence_EL.T

    result_NL = score_NL.copy()
    rows: NDArray[np.intp] = np.arange(len(score_NL))
    y_NL, x_NL = score_NL, score_NL
    tied_NE: NDArray[np.bool_] = np.zeros((len(rows), n_edges), bool)
    multiplier_NE: Scores = np.zeros(tied_NE.shape)
    feasible_N: NDArray[np.bool_] = np.ones(len(rows), bool)
    for _ in range(20 * n_edges + 1):
        gap_NE = x_NL[:, children] - x_NL[:, parents]
        worst_N = gap_NE.argmax(axis=1)
        out_of_order_N = (gap_NE > TOLERANCE).any(axis=1)
        tie = np.flatnonzero(feasible_N & out_of_order_N)
        tied_NE[tie, worst_N[tie]] = True
        done_N = feasible_N & ~out_of_order_N
        result_NL[rows[done_N]] = x_NL[done_N]
        rows, y_NL = rows[~done_N], y_NL[~done_N]
        tied_NE, multiplier_NE = tied_NE[~done_N], multiplier_NE[~done_N]
        if not len(rows):
            return result_NL
        system_NEE = np.where(tied_NE[:, :, None] & tied_NE[:, None, :], gram_EE, np.eye(n_edges))
        wanted_NE = np.linalg.solve(system_NEE, np.where(tied_NE, y_NL @ incidence_EL.T, 0)[:, :, None])[:, :, 0]
        negative_NE = tied_NE & (wanted_NE <= 0)
        # As far towards the wanted multipliers as none turns negative; those that reach 0 are untied.
        share_NE = np.where(negative_NE, 0, np.inf)
        np.divide(multiplier_NE, multiplier_NE - wanted_NE, out=share_NE, where=negative_NE & (multiplier_NE > 0))
        share_N1 = np.minimum(share_NE.min(axis=1, keepdims=True), 1)
        tied_NE &= ~(negative_NE & (share_NE <= share_N1))
        multiplier_NE = np.where(tied_NE, multiplier_NE + share_N1 * (wanted_NE - multiplier_NE), 0)
        feasible_N = np.logical_not(negative_NE.any(axis=1))
        x_NL = _block_means(y_NL, weight_L, tied_NE, parents, children)
    raise ProjectionError(f"least squares did not finish on {len(rows)} films, weights {weight_L.tolist()}")


def _block_means(
    y_NL: Scores, weight_L: Scores, tied_NE: NDArray[np.bool_], parents: list[int], children: list[int]
) -> Scores:
    """Weighted means over the labels that tied edges join; the same bits all over a block, a lone label's own."""
    n_films, n_labels = y_NL.shape
    block_LN = np.repeat(np.arange(n_labels)[:, None], n_films, axis=1)  # smallest label of the block
    before = np.full_like(block_LN, -1)
    while (before != block_LN).any():
        before[:] = block_LN
        for tied_N, parent, child in zip(tied_NE.T, parents, children, strict=True):
            least = np.minimum(block_LN[parent], block_LN[child])
            np.copyto(block_LN[parent], least, where=tied_N)
            np.copyto(block_LN[child], least, where=tied_N)
    cell_NL = block_LN.T + n_labels * np.arange(n_films)[:, None]
    flat, weight_NL = cell_NL.ravel(), np.broadcast_to(weight_L, y_NL.shape)
    total = np.bincount(flat, (weight_NL * y_NL).ravel(), y_NL.size)[cell_NL]
    mass = np.bincount(flat, weight_NL.ravel(), y_NL.size)[cell_NL]
    return np.where(np.bincount(flat, minlength=y_NL.size)[cell_NL] == 1, y_NL, total / mass)


def _edges(hierarchy: Hierarchy) -> list[tuple[int, int]]:
    """Positions (parent, child), every edge into a label before every edge out of it."""
    position = {name: i for i, name in enumerate(hierarchy.names)}
    return [(position[p], position[name]) for name in hierarchy.topological_order for p in hierarchy.parents[name]]


def _spread(score_NL: Scores, pairs: list[tuple[int, int]], extreme: np.ufunc) -> Scores:
    """Copy of the scores in which each pair's first label took the extreme of both, in turn."""
    result_NL = score_NL.copy()
    for taker, giver in pairs:
        result_NL[:, taker] = extreme(result_NL[:, taker], result_NL[:, giver])
    return result_NL


def _logit(probability_NL: Scores) -> Scores:
    inside = np.clip(probability_NL, LOGIT_EDGE, 1 - LOGIT_EDGE)
    return np.log(inside) - np.log1p(-inside)


def _weights(weights: Mapping[str, float] | None, hierarchy: Hierarchy) -> Scores | None:
    if weights is None:
        return None
    of = {hierarchy.resolve(label): float(weight) for label, weight in weights.items()}
    if missing := [name for name in hierarchy.names if name not in of]:
        raise ProjectionError(f"no weight for {', '.join(missing)}; every label needs one")
    for name, weight in of.items():
        if not (np.isfinite(weight) and weight > 0):
            raise ProjectionError(f"weight of '{name}' is {weight}, expected a finite number > 0")
    lightest, heaviest = min(of, key=lambda name: of[name]), max(of, key=lambda name: of[name])
    if of[heaviest] > WEIGHT_SPAN * of[lightest]:
        raise ProjectionError(
            f"weights of '{lightest}' ({of[lightest]}) and '{heaviest}' ({of[heaviest]}) are too far apart; "
            f"expected a ratio of {WEIGHT_SPAN:g} at most"
        )
    return np.array([of[name] for name in hierarchy.names])
