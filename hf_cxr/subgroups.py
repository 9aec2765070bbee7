"""Subgroups: whether a model serves one group of patients worse than another.

For each group of a metadata column: size, rankings, sensitivities, and how often a film with findings is called
normal ("underdiagnosis": Seyyed-Kalantari et al. 2021, Nature Medicine 27, 2176–2182); and the gaps to the largest
group, with intervals over the same resamples of patients.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from hf_cxr.bootstrap import Bootstrap, Figure, Resamples, bootstrap_ratios
from hf_cxr.errors import UserError
from hf_cxr.evaluation import EvalReport
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.intervals import bootstrap_table
from hf_cxr.predictions import PredictionTable

AGE_BANDS = (0, 18, 40, 60, 80, 200)
FEW_FILMS = 20
"""A group with fewer films is counted but not scored."""


class SubgroupError(UserError, ValueError):
    """A column by which films cannot be grouped."""


def groups_of(metadata: pd.DataFrame, column: str) -> pd.Series:
    """Each film's group as text, missing where unknown; the column `age` (years) is cut into `AGE_BANDS`.

    Raises:
        SubgroupError: no such column, or more than 20 different values.
    """
    if column not in metadata:
        raise SubgroupError(f"no column '{column}' to group by; the table has {list(metadata.columns)}")
    values = metadata[column].reset_index(drop=True)
    if column == "age":
        names = [f"{low}–{high - 1}" if high < AGE_BANDS[-1] else f"{low}+" for low, high in pairwise(AGE_BANDS)]
        return pd.cut(pd.to_numeric(values, errors="coerce"), AGE_BANDS, right=False, labels=names).astype(object)
    text = values.astype(str).astype(object)
    values = text.where(values.notna() & (text != ""), None)
    if values.nunique() > 20:
        raise SubgroupError(f"column '{column}' has {values.nunique()} values; group it into at most 20 first")
    return values


def subgroup_section(
    table: PredictionTable,
    hierarchy: Hierarchy,
    report: EvalReport,
    resamples: Resamples,
    group_by: tuple[str, ...],
) -> dict[str, Any]:
    """Figures of every group of every column.

    Args:
        table: labels in the order of the hierarchy. report: its thresholds decide.
        resamples: of the table's patients.

    Returns:
        `{column: {n_unknown, reference, groups: {value: {n_images, n_patients, figures: {name: {value, ci}}, gaps:
        {name: {value, ci, p}}}}}}`; figures are `macro_auroc`, `false_no_finding_rate` (where the gate has
        a threshold), `auroc/<label>` of each label, the gate's included, and `sensitivity/<label>` of each finding.
    """
    section = {}
    for column in group_by:
        groups = groups_of(table.metadata, column)
        counts = {str(value): n for value, n in groups.value_counts().items()}  # largest first
        scored = [value for value, n in counts.items() if n >= FEW_FILMS]
        drawn = {value: _figures(table, hierarchy, report, resamples, (groups == value).to_numpy()) for value in scored}
        rows: dict[str, Any] = {}
        for value, n in counts.items():
            inside = (groups == value).to_numpy()
            patients = len(set(table.patients[inside])) if table.unit == "patient" else None
            row: dict[str, Any] = {"n_images": int(n), "n_patients": patients}
            if value in drawn:
                row["figures"] = {_key(f): _value(drawn[value], f) for f in drawn[value].point}
            else:
                row["undefined"] = f"fewer than {FEW_FILMS} films"
            if value in drawn and value != scored[0]:
                gap = drawn[value].minus(drawn[scored[0]])
                row["gaps"] = {_key(f): _value(gap, f) | {"p": gap.p_value(f)} for f in gap.point}
            rows[value] = row
        reference = scored[0] if scored else None
        section[column] = {"n_unknown": int(groups.isna().sum()), "reference": reference, "groups": rows}
    return section


def _figures(
    table: PredictionTable, hierarchy: Hierarchy, report: EvalReport, resamples: Resamples, inside: Any
) -> Bootstrap:
    """Figures of one group over resamples of all patients, so that those of two groups can be paired."""
    truth = np.where(inside[:, None], table.truth, np.nan)
    subsets = {"": hierarchy.findings}
    drawn = bootstrap_table(table.names, truth, table.probability, resamples, subsets, ("auroc", "macro_auroc"))
    parts: dict[Figure, Any] = {}
    for name in hierarchy.findings:
        threshold = report.labels[name]["threshold"]
        if threshold is not None:
            column, probability = truth[:, table.names.index(name)], table.column(name)[1]
            parts["sensitivity", name] = (column == 1) & (probability >= threshold), column == 1
    if report.gate and "threshold" in report.gate:
        gate = report.gate["node"]
        column, probability = truth[:, table.names.index(gate)], table.column(gate)[1]
        parts["false_no_finding_rate", ""] = (column == 1) & (probability < report.gate["threshold"]), column == 1
    parts = {key: (np.asarray(a, float), np.asarray(b, float)) for key, (a, b) in parts.items()}
    return drawn.with_figures(bootstrap_ratios(parts, resamples)) if parts else drawn


def _key(figure: Figure) -> str:
    return f"{figure[0]}/{figure[1]}" if figure[1] else figure[0]


def _value(drawn: Bootstrap, figure: Figure) -> dict[str, Any]:
    interval = drawn.interval(figure)
    ci = None if interval.undefined else [interval.low, interval.high]
    return {"value": drawn.point[figure], "ci": ci} | ({"undefined": interval.undefined} if interval.undefined else {})
