"""Raw findings (1, 0, -1, null) -> label vectors over a hierarchy, with NaN for unknown.

All of it is numpy on the whole table at once, and acts after the data are read: changing a policy never
meets a stale cache. Shapes: N films, F raw columns, L nodes of the hierarchy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_cxr.errors import UserError
from hf_cxr.hierarchy import OBSERVED_KINDS, Hierarchy

FloatArray = NDArray[np.float32]

UNCERTAIN_POLICIES = ("ignore", "ones", "zeros", "smooth_ones", "smooth_zeros")
SMOOTHING_RANGES = {"smooth_ones": (0.55, 0.85), "smooth_zeros": (0.0, 0.3)}
"""Uniform ranges of Pham et al. 2019 (arXiv 1911.06475), Sec. 3.2."""
BLANK_POLICIES = ("ignore", "zeros")
CONFLICT_POLICIES = ("child_wins", "parent_wins", "unknown", "error")
_POLICY = re.compile(r"(\w+)(?:\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\))?")


class LabelError(UserError, ValueError):
    """Labels that cannot be encoded; the message names label, policy and remedy."""


@dataclass(frozen=True)
class LabelPolicy:
    """How raw cells become targets.

    Args:
        uncertain: what a -1 becomes: one policy for all labels or `{label: policy, "default": policy}`.
            `ignore` NaN; `ones`, `zeros`; `smooth_ones`, `smooth_zeros` a seeded uniform draw a cell from
            (0.55, 0.85) or (0, 0.3), or from the range given as `"smooth_ones(0.6, 0.8)"`.
            R1's treatment is `zeros` with a taxonomy that has a node of kind `uncertain`: a film in which
            no observation is positive is then positive there.
        blank: what a null becomes: `ignore` NaN, `zeros` 0 (the CheXpert convention "not mentioned = absent").
        conflict: a positive child under an explicitly negative parent: `child_wins` makes the parent positive,
            `parent_wins` makes the child negative, `unknown` both NaN, `error` raises.
        seed: of the smoothing draws.
    """

    uncertain: str | Mapping[str, str] = "ignore"
    blank: str = "ignore"
    conflict: str = "child_wins"
    seed: int = 0

    def __post_init__(self) -> None:
        policies = [self.uncertain] if isinstance(self.uncertain, str) else list(self.uncertain.values())
        for policy in policies:
            _parse_uncertain(policy)
        _expect("blank", self.blank, BLANK_POLICIES)
        _expect("conflict", self.conflict, CONFLICT_POLICIES)

    def for_evaluation(self) -> LabelPolicy:
        """The same policy with uncertain cells unknown: a film is never scored against a guess."""
        return LabelPolicy("ignore", self.blank, self.conflict, self.seed)


@dataclass(frozen=True)
class EncodedLabels:
    """Targets of N films and what was done to get them.

    Attributes:
        names: the L nodes, in label order.
        values: (N, L) float32 in [0, 1], NaN = unknown.
        n_uncertain: -1 cells a label. n_closed: films in which closure made a label positive.
        n_conflicts: conflicts an edge, as `"parent > child"`.
        unannotated: observed nodes without a raw column: unknown on every film.
    """

    names: tuple[str, ...]
    values: FloatArray
    n_uncertain: dict[str, int] = field(default_factory=dict)
    n_closed: dict[str, int] = field(default_factory=dict)
    n_conflicts: dict[str, int] = field(default_factory=dict)
    unannotated: tuple[str, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """Positive (> 0.5), negative and unknown films of every label."""
        known = ~np.isnan(self.values)
        positive = np.nan_to_num(self.values, nan=0.0) > 0.5
        return {
            name: {
                "positive": int(positive[:, i].sum()),
                "negative": int((known[:, i] & ~positive[:, i]).sum()),
                "unknown": int((~known[:, i]).sum()),
            }
            for i, name in enumerate(self.names)
        }

    def summary(self) -> dict[str, Any]:
        """Everything but the values, as plain data for `run.yaml` and the report."""
        return {
            "counts": self.counts(),
            "n_uncertain": self.n_uncertain,
            "n_closed": self.n_closed,
            "n_conflicts": self.n_conflicts,
            "unannotated": list(self.unannotated),
        }


def encode(
    columns: Sequence[str],
    raw_NF: NDArray[np.floating[Any]],
    hierarchy: Hierarchy,
    policy: LabelPolicy,
    *,
    close: bool = True,
) -> EncodedLabels:
    """Encode a table of raw findings.

    Args:
        columns: F raw column names or aliases; a `No Finding` column may be absent from the hierarchy.
        raw_NF: (N, F) of 1, 0, -1 and NaN (null).
        hierarchy: the nodes to encode, whose order is that of the result.
        policy: see `LabelPolicy`.
        close: close positives upward. Off only to count how often the raw labels break the hierarchy
            (data-driven edge weights): groups and gate are then still derived.

    Returns:
        `EncodedLabels`; without smoothing its values are 0, 1 or NaN.

    Raises:
        LabelError: a column that is no node, a value outside {1, 0, -1, NaN}, the gate definition needs a
            column that is not there, or a conflict under the policy `error`.
    """
    raw_NF = np.asarray(raw_NF, np.float32)
    if raw_NF.ndim != 2 or raw_NF.shape[1] != len(columns):
        raise LabelError(f"raw findings have shape {raw_NF.shape}, expected (films, {len(columns)} columns)")
    strange = ~(np.isnan(raw_NF) | np.isin(raw_NF, (-1, 0, 1)))
    if strange.any():
        row, column = (int(i[0]) for i in np.nonzero(strange))
        raise LabelError(f"row {row}, '{columns[column]}': got {raw_NF[row, column]}, expected 1, 0, -1 or null")

    values, denied, n_uncertain = _observed(columns, raw_NF, hierarchy, policy)
    no_finding = values.get("No Finding")
    if "No Finding" not in hierarchy.names:
        values.pop("No Finding", None)
    unannotated = tuple(n for n in hierarchy.of_kind(*OBSERVED_KINDS) if n not in values)
    for name in unannotated:
        values[name] = np.full(len(raw_NF), np.nan, np.float32)
    for name in hierarchy.of_kind("uncertain"):
        values[name] = 1 - _union([values[n] for n in hierarchy.of_kind(*OBSERVED_KINDS)])
    if hierarchy.gate:
        values[hierarchy.gate] = _gate_truth(hierarchy, values, no_finding, set(unannotated))
        if hierarchy.gate_definition == "not_no_finding":
            denied[hierarchy.gate] = values[hierarchy.gate] == 0

    n_conflicts, n_closed = {}, {}
    if close:
        n_conflicts = _settle_conflicts(hierarchy, values, denied, policy.conflict)
    n_closed = _close_upward(hierarchy, values, groups_only=not close)
    stacked = np.stack([values[n] for n in hierarchy.names], axis=1).astype(np.float32)
    return EncodedLabels(hierarchy.names, stacked, n_uncertain, n_closed, n_conflicts, unannotated)


def _observed(
    columns: Sequence[str], raw_NF: FloatArray, hierarchy: Hierarchy, policy: LabelPolicy
) -> tuple[dict[str, FloatArray], dict[str, NDArray[np.bool_]], dict[str, int]]:
    """Apply the cell policies column by column: values, films in which the source itself says 0, uncertain cells.

    `No Finding` is kept also where it is no node, since the gate may need it.
    """
    known_words = {word: node.name for node in hierarchy.nodes for word in (node.name, *node.aliases)}
    draws = np.random.default_rng(policy.seed).random(raw_NF.shape, dtype=np.float32)
    values: dict[str, FloatArray] = {}
    denied = {}
    n_uncertain = {}
    for i, column in enumerate(columns):
        name = known_words.get(column)
        if name is None and column != "No Finding":
            raise LabelError(
                f"column '{column}' is no node of taxonomy '{hierarchy.name}' ({hierarchy.where}); "
                f"its nodes are {', '.join(hierarchy.names)}. Add it there, or an alias."
            )
        cells = raw_NF[:, i].copy()
        uncertain = cells == -1
        cells[uncertain] = _uncertain_value(policy, column, draws[uncertain, i])
        if policy.blank == "zeros":
            cells[np.isnan(raw_NF[:, i])] = 0.0
        values[name or column] = cells
        denied[name or column] = raw_NF[:, i] == 0
        if name is not None:
            n_uncertain[name] = int(uncertain.sum())
    return values, denied, n_uncertain


def _uncertain_value(policy: LabelPolicy, label: str, draws: FloatArray) -> FloatArray | float:
    chosen = policy.uncertain
    if not isinstance(chosen, str):
        chosen = chosen.get(label, chosen.get("default", "ignore"))
    kind, (low, high) = _parse_uncertain(chosen)
    if kind in SMOOTHING_RANGES:
        return (low + (high - low) * draws).astype(np.float32)
    return {"ignore": np.nan, "ones": 1.0, "zeros": 0.0}[kind]


def _parse_uncertain(policy: str) -> tuple[str, tuple[float, float]]:
    match = _POLICY.fullmatch(policy.strip())
    kind = match[1] if match else policy
    _expect("uncertain", kind, UNCERTAIN_POLICIES)
    low, high = SMOOTHING_RANGES.get(kind, (0.0, 0.0))
    if match and match[2] is not None:
        low, high = float(match[2]), float(match[3])
        if kind not in SMOOTHING_RANGES or not 0 <= low <= high <= 1:
            raise LabelError(f"uncertain policy '{policy}': a range in [0, 1] belongs to smooth_ones or smooth_zeros")
    return kind, (low, high)


def _union(columns: list[FloatArray]) -> FloatArray:
    """Three-valued OR, soft where labels are soft: the largest value if it is positive, else the largest if
    all are known, else NaN. (N,) each."""
    stacked = np.stack(columns)
    highest = np.where(np.isnan(stacked), -np.inf, stacked).max(axis=0)
    decided = (highest > 0.5) | ~np.isnan(stacked).any(axis=0)
    return np.where(decided, highest, np.nan).astype(np.float32)


def _gate_truth(
    hierarchy: Hierarchy, values: dict[str, FloatArray], no_finding: FloatArray | None, unannotated: set[str]
) -> FloatArray:
    if hierarchy.gate_definition == "any_finding":
        findings = set(hierarchy.of_kind("finding"))
        # What the source never says is absent where something above it is: a hospital's finer distinctions.
        implied = {n for n in findings & unannotated if hierarchy.ancestors(n) & findings - unannotated}
        return _union([values[n] for n in hierarchy.of_kind("finding") if n not in implied])
    if no_finding is None:
        raise LabelError(
            "gate definition 'not_no_finding' needs a column 'No Finding', which this table does not have; "
            "use 'any_finding'"
        )
    return (1 - no_finding).astype(np.float32)


def _settle_conflicts(
    hierarchy: Hierarchy, values: dict[str, FloatArray], denied: dict[str, NDArray[np.bool_]], policy: str
) -> dict[str, int]:
    """Find positive children under parents that the source itself denies, and settle them.

    A blank or uncertain parent is no conflict, whatever the policies make of it; nor are groups and a gate derived
    from the findings. Runs from the roots down, so that a child made negative is seen so by its own children.
    """
    found: dict[str, int] = {}
    positive = {name: _positive_below(hierarchy, values, name) for name in hierarchy.names}
    for parent in (n for n in hierarchy.topological_order if n in denied):
        for child in hierarchy.children[parent]:
            clash = denied[parent] & positive[child]
            if not clash.any():
                continue
            found[f"{parent} > {child}"] = int(clash.sum())
            if policy == "error":
                raise LabelError(
                    f"{int(clash.sum())} films (first: row {int(clash.argmax())}) have '{child}' or a node below it "
                    f"positive and its parent '{parent}' explicitly negative; choose another conflict policy"
                )
            if policy == "child_wins":
                continue  # closure makes the parent positive
            below = [n for n in (child, *hierarchy.descendants(child)) if n in values]
            for name in below:
                hit = clash & (values[name] > 0.5)
                values[name] = np.where(hit, 0.0 if policy == "parent_wins" else np.nan, values[name])
            if policy == "unknown":
                values[parent] = np.where(clash, np.nan, values[parent])
            positive = {name: _positive_below(hierarchy, values, name) for name in hierarchy.names}
    return found


def _positive_below(hierarchy: Hierarchy, values: dict[str, FloatArray], name: str) -> NDArray[np.bool_]:
    columns = [values[n] > 0.5 for n in (name, *hierarchy.descendants(name)) if n in values]
    n_films = len(next(iter(values.values())))
    return np.any(columns, axis=0) if columns else np.zeros(n_films, bool)


def _close_upward(hierarchy: Hierarchy, values: dict[str, FloatArray], *, groups_only: bool) -> dict[str, int]:
    """From the leaves up: a group is the union of its children, any other parent at least its children."""
    n_closed: dict[str, int] = {}
    groups = set(hierarchy.of_kind("group"))
    for name in reversed(hierarchy.topological_order):
        below = [values[child] for child in hierarchy.children[name]]
        if name in groups:
            values[name] = _union(below)
        elif below and not groups_only:
            before = values[name]
            highest = np.fmax.reduce(below)
            raised = np.fmax(before, highest)
            # An unknown parent is decided by a positive child only: a negative child says nothing of it.
            after = np.where(np.isnan(before) & ~(raised > 0.5), np.nan, raised)
            n_closed[name] = int(((after > 0.5) & ~(before > 0.5)).sum())
            values[name] = after.astype(np.float32)
    return n_closed


def _expect(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise LabelError(f"{what} policy: got {value!r}, expected one of {', '.join(allowed)}")


def labels_without_positives(encoded: EncodedLabels) -> list[str]:
    """Labels of which no film is positive: nothing can be learned or measured of them."""
    return [name for name, count in encoded.counts().items() if count["positive"] == 0]
