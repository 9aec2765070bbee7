"""Which of a card's figures are null, by the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_cxr.evaluation import EvalReport

_LABEL = (
    "auroc", "average_precision", "sensitivity", "specificity", "ppv", "npv", "calibration_slope",
    "calibration_intercept",
)  # fmt: skip
_WITHOUT_INTERVAL = ("ppv", "npv", "calibration_slope", "calibration_intercept")  # as the card shows them
_GATE = ("auroc", "sensitivity", "specificity", "npv", "skip_rate")
_LOST = ("share_lost", "sensitivity_flat", "sensitivity_gated")
_GROUP = ("macro_auroc", "false_no_finding_rate")
_NOTHING = "no film in the denominator"


def undefined(report: EvalReport) -> dict[str, list[str]]:
    """`{reason: [figure of what, …]}`; empty if every figure of the card is there."""
    of: dict[str, dict[str, list[str]]] = {}
    for what, figure, why in _all(report):
        of.setdefault(why, {}).setdefault(what, []).append(_readable(figure))
    return {why: [f"{what} ({', '.join(named)})" for what, named in by.items()] for why, by in of.items()}


def _readable(figure: str) -> str:
    capitals = ("auroc", "ppv", "npv")
    return " ".join(word.upper() if word in capitals else word for word in figure.replace("_", " ").split())


def _all(report: EvalReport) -> Iterator[tuple[str, str, str]]:
    """(of what, figure, reason)"""
    for name, row in report.labels.items():
        if report.operating_points and row["threshold"] is None:
            yield name, "threshold", f"one class is missing on “{report.operating_points['split']}”"
        yield from _of(name, row, _LABEL, _WITHOUT_INTERVAL)
    totals = [name for name in report.aggregate if not name.endswith("_ci")]
    yield from _of("all findings", report.aggregate, [n for n in totals if n not in ("undefined", "n_labels_averaged")])
    gate = report.gate or {}
    yield from _of("gate", gate, _GATE)
    for name, row in gate.get("lost", {}).items():
        yield from _of(f"{name} at the gate", row, _LOST)
    for name, row in report.uncertainty.get("labels", {}).items():
        yield from ((f"errors of {name}", figure, why) for figure, why in row["undefined"].items())
    for name, row in report.localisation.get("trained", {}).items():
        if row["undefined"]:
            yield f"heatmaps of {name}", "all", row["undefined"]
    for column, part in report.subgroups.items():
        for value, group in part["groups"].items():
            if "undefined" in group:
                yield f"{column} {value}", "all", group["undefined"]
            for figure in _GROUP:
                cell = group.get("figures", {}).get(figure, {})
                if "undefined" in cell:
                    shown = figure if cell["value"] is None else f"interval of {figure}"
                    yield f"{column} {value}", shown, cell["undefined"]


def _of(
    what: str, row: Mapping[str, Any], figures: tuple[str, ...] | list[str], bare: tuple[str, ...] = ()
) -> Iterator[tuple[str, str, str]]:
    reasons = row.get("undefined", {})
    for figure in figures:
        if figure in row and row[figure] is None:
            yield what, figure, reasons.get(figure, _NOTHING)
        elif f"{figure}_ci" in reasons and figure not in bare:
            yield what, f"interval of {figure}", reasons[f"{figure}_ci"]
