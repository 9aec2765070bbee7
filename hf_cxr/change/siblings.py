"""Telling new findings under one parent apart, e.g. bacterial from viral pneumonia."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations
from typing import Any

import numpy as np

from hf_cxr import metrics
from hf_cxr.bootstrap import Resamples, share
from hf_cxr.change.pairs import Pair
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.intervals import bootstrap_table
from hf_cxr.predictions import PredictionTable


def sibling_changes(
    table: PredictionTable, hierarchy: Hierarchy, old: Collection[str], resamples: Resamples, level: float
) -> list[dict[str, Any]]:
    """AUROC of one new finding against its sibling, for each two under a parent.

    Over the films that show the parent and exactly one of the two, by P(first) / (P(first) + P(second)): how probable
    the parent is cancels out, so that finding the parent is not counted again.

    Args:
        table, hierarchy: of the model after. old: labels of the model before, which has no output for the new ones.
        resamples: of the table's patients.

    Returns:
        `[{parent, first, second, n_first, n_second, few_positives, auroc: row}]`, the rows as `Pair.row`.
    """
    rows = []
    for parent in hierarchy.names:
        new = [child for child in hierarchy.children[parent] if child not in old]
        for first, second in combinations(new, 2):
            (one, p_one), (other, p_other) = table.column(first), table.column(second)
            inside = (table.column(parent)[0] == 1) & (one + other == 1)
            truth = np.where(inside, one, np.nan)
            total = p_one + p_other
            score = np.where(total > 0, share(p_one, total), 0.5)
            name = f"{first} against {second}"
            drawn = bootstrap_table([name], truth[:, None], score[:, None], resamples, figures=("auroc",))
            nothing = bootstrap_table([], truth[:, None][:, :0], score[:, None][:, :0], resamples, figures=("auroc",))
            why = {"before": f"the model before has no output for {first} and {second}"}
            counts = [int((truth == value).sum()) for value in (1, 0)]
            rows.append(
                {
                    "parent": parent,
                    "first": first,
                    "second": second,
                    "n_first": counts[0],
                    "n_second": counts[1],
                    "few_positives": min(counts) < metrics.FEW_POSITIVES,
                    "auroc": Pair.of(nothing, drawn, level).row(("auroc", name), why),
                }
            )
    return rows
