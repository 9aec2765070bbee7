"""What the tables say is on the films: counts of words and findings, positives of each node, and what cannot be."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_cxr.data import finding_counts
from hf_cxr.data.hospital_map import NO_FINDING
from hf_cxr.data.hospital_table import read_hospital_table
from hf_cxr.data.index import BLANK, FilmIndex
from hf_cxr.data.problems import ProblemLog
from hf_cxr.data.vocabulary import split_words
from hf_cxr.data_check.result import ERROR, NOTE, WARNING, Finding, places
from hf_cxr.data_check.tables import Tables
from hf_cxr.hierarchy import Hierarchy, HierarchyError
from hf_cxr.hospital_taxonomy import JoinedTaxonomy, join_taxonomy
from hf_cxr.labels import LabelError, LabelPolicy, encode

FAR = 2.0
"""Times that a node may be more, or less, common than where the base was trained, before it is told."""
FEW = 20  # positives and expected positives: with fewer, a ratio is chance
NEW_DENIED = "films with a new finding whose parent is denied"
CHECK_LABEL = "look at these rows' labels; one of the two is wrong"


def said(
    tables: Tables, index: FilmIndex, base: Hierarchy, prevalence: dict[str, float]
) -> tuple[list[Finding], dict[str, Any]]:
    """Findings about labels, and their counts.

    Args:
        base: the taxonomy to count in. prevalence: of its nodes where the base was trained; those that are known.
    """
    counts: dict[str, Any] = {"findings": finding_counts(index), "words": words(tables)}
    found = _with_no_finding(tables, index, base)
    if counts["words"] is not None and (never := [word for word, n in counts["words"].items() if not n]):
        what = "words of the map that no row has"
        found.append(Finding(NOTE, "unused_words", what, len(never), "words", tuple(never), "look at their spelling"))
    raw = np.where(index.findings == BLANK, np.nan, index.findings).astype(np.float32)
    joined, names, hierarchy = None, index.names, base
    try:
        if tables.mapped is not None:
            joined = join_taxonomy(tables.mapped, base)
            names, raw = joined.columns(index.names, raw)
            hierarchy = joined.hierarchy
        encoded = encode(names, raw, hierarchy, LabelPolicy())
    except (HierarchyError, LabelError) as error:
        # they quote the map and the taxonomy, no cell; of several lines, the first says where the map is
        lines = str(error).replace(f" ({hierarchy.where})", "").splitlines()
        mistakes = tuple(line.strip() for line in lines[len(lines) > 1 :])
        what = f"the findings do not fit taxonomy {base.name}"
        remedy = "mend the map, or choose another taxonomy or base"
        found.append(Finding(ERROR, "taxonomy", what, len(mistakes), "mistakes", mistakes, remedy))
        return found, counts | {"nodes": None, "joined": None}
    found += _denied_parents(index, hierarchy, tuple(hierarchy.resolve(n) if n in _words(hierarchy) else n
                                                     for n in names), raw)  # fmt: skip
    if index.notes.get(NEW_DENIED):
        what = "films with a new finding under a parent that the row denies"
        found.append(Finding(WARNING, "new_under_denied", what, index.notes[NEW_DENIED], "films", remedy=CHECK_LABEL))
    counts |= {"nodes": _nodes(encoded.values, hierarchy, index, tables.has_splits, prevalence)}
    counts |= {"joined": None if joined is None else joined.summary()}
    if tables.has_splits and (encoded.values == 1).any():
        found += _gate(encoded.values, hierarchy, index)
    return found + _about_nodes(counts["nodes"], hierarchy, joined), counts


def words(tables: Tables) -> dict[str, int] | None:
    """Rows in which each word of the map stands; None where findings are not given in words."""
    mapped, folder = tables.mapped, tables.folder
    if mapped is None or folder is None or mapped.labels.column is None:
        return None
    labels, column = mapped.labels, str(mapped.labels.column)
    table = read_hospital_table(labels.table or mapped.table, folder, [column], ProblemLog(), {})
    counts = dict.fromkeys([word for word in labels.words if word], 0)
    if column not in table.frame:
        return counts
    for cell, n in table.frame[column].value_counts().items():
        for word in set(split_words(str(cell), labels.separator)) & counts.keys():
            counts[word] += int(n)
    return counts


def _with_no_finding(tables: Tables, index: FilmIndex, base: Hierarchy) -> list[Finding]:
    """Films that are normal and are not; a device is no finding."""
    if NO_FINDING not in index.names:
        return []
    devices = {word for node in base.nodes if node.kind == "device" for word in (node.name, *node.aliases)}
    devices |= {node.name for node in tables.mapped.new_nodes if node.kind == "device"} if tables.mapped else set()
    shown = [i for i, name in enumerate(index.names) if name != NO_FINDING and name not in devices]
    normal = index.findings[:, index.names.index(NO_FINDING)] == 1
    rows = np.flatnonzero(normal & (index.findings[:, shown] == 1).any(1))
    if not len(rows):
        return []
    what = f"films with {NO_FINDING} and a finding"
    return [Finding(WARNING, "no_finding_and_a_finding", what, len(rows), "films", places(index, rows), CHECK_LABEL)]


def _words(hierarchy: Hierarchy) -> set[str]:
    return {word for node in hierarchy.nodes for word in (node.name, *node.aliases)}


def _denied_parents(index: FilmIndex, hierarchy: Hierarchy, names: tuple[str, ...], raw: np.ndarray) -> list[Finding]:
    """Films with a node present whose parent the source itself denies."""
    at = {name: i for i, name in enumerate(names)}
    found = []
    for parent in hierarchy.topological_order:
        if parent not in at:
            continue
        for child in sorted(hierarchy.descendants(parent) & at.keys()):
            rows = np.flatnonzero((raw[:, at[parent]] == 0) & (raw[:, at[child]] == 1))
            if len(rows):
                what = f"films with {child} whose parent {parent} is denied"
                found.append(
                    Finding(WARNING, "denied_parent", what, len(rows), "films", places(index, rows), CHECK_LABEL)
                )
    return found


def _nodes(
    values: np.ndarray, hierarchy: Hierarchy, index: FilmIndex, by_split: bool, prevalence: dict[str, float]
) -> dict[str, dict[str, Any]]:
    """Positives, negatives, unknown, positives of each split, prevalence here and where the base was trained."""
    of_split = index.films["split"].to_numpy()
    nodes = {}
    for i, name in enumerate(hierarchy.names):
        positive, known = values[:, i] > 0.5, ~np.isnan(values[:, i])
        splits = {s: int(positive[of_split == s].sum()) for s in ("train", "validation", "test")} if by_split else None
        nodes[name] = {
            "positive": int(positive.sum()),
            "negative": int((known & ~positive).sum()),
            "unknown": int((~known).sum()),
            "positive_by_split": splits,
            "prevalence": float(positive.sum() / known.sum()) if known.any() else None,
            "base_prevalence": prevalence.get(name),
        }
    return nodes


def _gate(values: np.ndarray, hierarchy: Hierarchy, index: FilmIndex) -> list[Finding]:
    """Splits that thresholds or figures come from, and that lack a class of the gate."""
    if hierarchy.gate is None:
        return []
    truth, of_split = values[:, hierarchy.names.index(hierarchy.gate)], index.films["split"].to_numpy()
    lacking = [
        split
        for split in ("validation", "test")
        if (of_split == split).any() and not {0.0, 1.0} <= set(truth[of_split == split])
    ]
    if not lacking:
        return []
    what = (
        f"splits without both classes of the gate ({hierarchy.gate}): an adapted model keeps its base's threshold, and "
        "figures of the gate are undefined; training without a base stops"
    )
    remedy = "say which films are normal (No Finding), or have more of both kinds"
    return [Finding(WARNING, "one_class_gate", what, len(lacking), "splits", tuple(lacking), remedy)]


def _about_nodes(
    nodes: dict[str, dict[str, Any]], hierarchy: Hierarchy, joined: JoinedTaxonomy | None
) -> list[Finding]:
    annotated = hierarchy.findings if joined is None else joined.scored
    none = [name for name in annotated if not nodes[name]["positive"]]
    if not any(node["positive"] for node in nodes.values()):
        remedy = "look at the words and codes of the map"
        return [Finding(ERROR, "no_positives", "no film is positive for anything", 1, "table", remedy=remedy)]
    found = []
    if none:
        what = "findings that are annotated, and that no film shows: nothing can be learned or measured of them"
        found.append(Finding(NOTE, "findings_without_films", what, len(none), "findings", tuple(none)))
    if not_trained := [n for n in annotated if nodes[n]["positive"] and _lacks(nodes[n], "train")]:
        what = "findings that no training film shows"
        found.append(Finding(NOTE, "findings_not_in_train", what, len(not_trained), "findings", tuple(not_trained)))
    far = [name for name in annotated if _is_far(nodes[name])]
    if far:
        found.append(
            Finding(
                NOTE, "prevalence", f"findings more than {FAR:g} times as common, or as rare, as where the base was "
                "trained: its probabilities are too low, or too high, here", len(far), "findings", tuple(far),
                "recalibrate (hf_cxr.prior_shift), or adapt the model",
            )
        )  # fmt: skip
    return found


def _lacks(node: dict[str, Any], split: str) -> bool:
    return node["positive_by_split"] is not None and not node["positive_by_split"][split]


def _is_far(node: dict[str, Any]) -> bool:
    here, there = node["prevalence"], node["base_prevalence"]
    if here is None or there is None:
        return False
    expected = there * (node["positive"] + node["negative"])
    ratio = np.inf if not min(here, there) else max(here / there, there / here)
    return bool(ratio > FAR and max(node["positive"], expected) >= FEW)
