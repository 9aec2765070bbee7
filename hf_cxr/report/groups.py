"""The sections that set figures against each other: groups of patients, and a second system."""

from __future__ import annotations

from typing import Any

from hf_cxr.evaluation import EvalReport
from hf_cxr.report.layout import NONE, Section, Table, number, with_interval


def subgroup(column: str, part: dict[str, Any]) -> Section:
    """The groups of one metadata column."""
    rows = []
    for value, group in part["groups"].items():
        cells = [str(value), f"{group['n_images']:,} / {number(group['n_patients'])}"]
        for name in ("macro_auroc", "false_no_finding_rate"):
            figure = group.get("figures", {}).get(name, {})
            cells.append(with_interval({name: figure.get("value"), f"{name}_ci": figure.get("ci")}, name))
        gap = group.get("gaps", {}).get("false_no_finding_rate")
        gap_text = with_interval({"gap": gap["value"], "gap_ci": gap["ci"]}, "gap") if gap else NONE
        rows.append([*cells, gap_text, number(gap["p"]) if gap else NONE])
    head = ["group", "films / patients", "macro AUROC", "false “no finding” rate", "gap to the reference", "p"]
    text = [
        f"Reference: {part['reference']} (the largest group). {part['n_unknown']:,} films without this information. "
        "False “no finding”: abnormal films that the gate clears. Further figures are in eval_report.json."
    ]
    return Section(f"Subgroups by {column}", text, [Table(head, rows)])


def comparison(report: EvalReport) -> Section | None:
    """Paired differences to a second table, if there was one."""
    part = report.comparison
    if not part:
        return None
    rows = []
    for name, row in part["figures"].items():
        interval = row["interval"]
        ci = None if interval["undefined"] else (interval["low"], interval["high"])
        shown = with_interval({"d": row["difference"], "d_ci": ci}, "d", 4)
        rows.append(
            [
                name,
                number(row["first"], 4),
                number(row["second"], 4),
                shown,
                number(row["p"], 4),
                number(row["p_delong"], 4),
            ]
        )
    text = [
        f"The same {report.n_images:,} films, paired resamples. First: this report. p: bootstrap "
        "over patients, not corrected for the number of rows; DeLong's takes films as independent."
    ]
    head = ["figure", "first", "second", "difference", "p", "p, DeLong"]
    return Section("Comparison", text, [Table(head, rows)])
