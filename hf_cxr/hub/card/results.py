"""The tables of figures in a card. Every number is one of the report's, rounded; nothing is computed here."""

from __future__ import annotations

from typing import Any

from hf_cxr.evaluation import EvalReport
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.report.layout import NONE, Table, number, with_interval

FEW = "†"
"""Behind the name of a label with few positive films."""
_TOTALS = {
    "macro_auroc": "macro AUROC over the findings",
    "weighted_auroc": "AUROC weighted by positive films",
    "micro_auroc": "micro AUROC",
    "macro_average_precision": "macro average precision",
}


def share(value: float | None, digits: int = 1) -> str:
    """A share for readers: `6.0 %`."""
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def marked(name: str, row: dict[str, Any]) -> str:
    """A label's name, marked where it has few positive films."""
    return f"{name} {FEW}" if row["few_positives"] else name


def glance(report: EvalReport) -> Table:
    """The figures to read first."""
    aggregate, order = report.aggregate, report.hierarchy["flat"]
    rows = [[text, with_interval(aggregate, name)] for name, text in _TOTALS.items()]
    rows += [
        [f"macro AUROC, “{name.removeprefix('macro_auroc_')}”", with_interval(aggregate, name)]
        for name in aggregate
        if name.startswith("macro_auroc_") and not name.endswith(("_ci", "_all"))
    ]
    if gate := report.gate:
        rows.append([f"gate “{gate['node']}”: AUROC", with_interval(gate, "auroc")])
        if "threshold" in gate:
            rows.append(["gate: sensitivity at its threshold", with_interval(gate, "sensitivity")])
            rows.append(["gate: specificity at its threshold", with_interval(gate, "specificity")])
    calibration = report.calibration
    rows.append(["mean calibration error (ECE) of the findings", number(calibration["mean_ece"], 4)])
    rows.append(["the same by chance, if all were exact", number(calibration["mean_ece_if_perfect"], 4)])
    rows.append(["films with a finding above its group", f"{order['images_out_of_order']:,} of {report.n_images:,}"])
    return Table(["", f"{report.split} split"], rows)


def of_labels(report: EvalReport, hierarchy: Hierarchy) -> list[Table]:
    """Rankings of the findings, and of the other nodes."""
    unknown = any(row["n_unknown"] for row in report.labels.values())
    head = ["positive / negative" + (" / unknown" if unknown else ""), "AUROC", "average precision", "prevalence"]

    def cells(row: dict[str, Any]) -> list[str]:
        counts = [row["n_positive"], row["n_negative"], *([row["n_unknown"]] if unknown else [])]
        rankings = [with_interval(row, name) for name in ("auroc", "average_precision")]
        return [" / ".join(f"{n:,}" for n in counts), *rankings, number(row["prevalence"])]

    return _by_kind(report, hierarchy, head, cells)


def decisions(report: EvalReport, hierarchy: Hierarchy) -> list[Table]:
    """What the stored thresholds decide; empty without any."""
    if report.operating_points is None:
        return []
    head = ["threshold", "sensitivity", "specificity", "PPV", "NPV"]

    def cells(row: dict[str, Any]) -> list[str]:
        rates = [with_interval(row, name) for name in ("sensitivity", "specificity")]
        return [number(row["threshold"]), *rates, number(row.get("ppv")), number(row.get("npv"))]

    return _by_kind(report, hierarchy, head, cells)


def calibration_of_labels(report: EvalReport, hierarchy: Hierarchy) -> list[Table]:
    """Calibration error beside what chance gives, slope and intercept."""
    head = ["ECE", "by chance, if exact", "slope", "intercept"]

    def cells(row: dict[str, Any]) -> list[str]:
        errors = [number(row[name], 4) for name in ("ece", "ece_if_perfect")]
        return [*errors, number(row["calibration_slope"], 2), number(row["calibration_intercept"], 2)]

    return _by_kind(report, hierarchy, head, cells)[:1]


def _by_kind(report: EvalReport, hierarchy: Hierarchy, head: list[str], cells: Any) -> list[Table]:
    tables = []
    for title, names in (("finding", hierarchy.findings), ("group, gate and others", hierarchy.unscored)):
        rows = [[marked(name, report.labels[name]), *cells(report.labels[name])] for name in names]
        tables += [Table([title, *head], rows)] if rows else []
    return tables


def calibration_totals(report: EvalReport) -> Table:
    """Mean calibration error before and after."""
    part = report.calibration
    keys = ("mean_ece", "mean_ece_mass", "mean_ece_if_perfect")
    rows = [["as published", *(number(part[key], 4) for key in keys)]]
    if "before" in part:
        rows.insert(0, ["before calibration", *(number(part["before"][key], 4) for key in keys)])
    return Table(["mean over the findings", "ECE, equal width", "ECE, equal mass", "by chance, if exact"], rows)


def gate_sides(gate: dict[str, Any]) -> Table:
    """Ranking with and without the gate."""
    rows = [[text, *(number(gate[way][name], 4) for way in ("flat", "gated"))] for name, text in _TOTALS.items()]
    return Table(["", "as published", "times P(gate)"], rows)


def lost_at_gate(gate: dict[str, Any]) -> Table:
    """How many true cases of each finding the gate clears."""
    rows = [
        [
            name,
            f"{row['n_true_cleared']:,} of {row['n_true']:,}",
            with_interval(row, "share_lost"),
            with_interval(row, "sensitivity_flat"),
            with_interval(row, "sensitivity_gated"),
        ]
        for name, row in gate["lost"].items()
    ]
    return Table(["finding", "true cases cleared", "share lost", "sensitivity, no gate", "end to end"], rows)


def order(report: EvalReport) -> Table:
    """Films and edges out of the hierarchy's order."""
    names = {"flat": "as published", "composed": "times P(gate)", "projected": "projected onto the order"}
    rows = [
        [
            text,
            f"{part['images_out_of_order']:,} ({share(part['share_out_of_order'])})",
            f"{part['images_violated']:,}",
            f"{part['edges_violated']:,}",
        ]
        for key, text in names.items()
        if (part := report.hierarchy.get(key))
    ]
    return Table(["probabilities", "films out of order", "films with a violated edge", "edges violated"], rows)


def doubt(report: EvalReport) -> Table | None:
    """Whether doubt tells errors; None where the report does not say."""
    part = report.uncertainty
    if "labels" not in part:
        return None
    rows = []
    for name, row in part["labels"].items():
        dropout, plain = row["measures"]["entropy"], row["measures"]["plain_entropy"]
        rows.append(
            [
                name,
                f"{row['n_errors']:,} of {row['n']:,}",
                *(number(of[key]) for key in ("error_auroc", "aurc") for of in (dropout, plain)),
                number(row["best_aurc"]),
            ]
        )
    head = ["label", "wrong", "tells errors: dropout", "plain", "AURC: dropout", "plain", "best"]
    return Table(head, rows)


def abstain(report: EvalReport) -> Table | None:
    """What a rule leaves to a reader; None where the report has none."""
    part = report.uncertainty
    if part.get("coverage_wished") is None:
        return None
    rows = []
    for name, row in part["labels"].items():
        kept = row["abstain"]
        shares = (number(kept[key]) for key in ("coverage", "risk", "risk_kept", "risk_abstained"))
        rows.append([name, number(kept["threshold"]), *shares])
    head = ["label", "entropy at most", "share decided", "wrong: all", "decided", "left to a reader"]
    return Table(head, rows)


def subgroups(part: dict[str, Any]) -> Table:
    """Groups of one metadata column, and their gaps to the largest."""
    rows = []
    for value, group in part["groups"].items():
        patients = number(group["n_patients"])
        cells = [str(value), f"{group['n_images']:,} / {patients}"]
        for name in ("macro_auroc", "false_no_finding_rate"):
            figure, gap = (group.get(key, {}).get(name) for key in ("figures", "gaps"))
            cells += [_plain(figure), signed(gap, 2)]
        rows.append(cells)
    return Table(["group", "films / patients", "macro AUROC", "gap", "abnormal, cleared", "gap"], rows)


def _plain(figure: dict[str, Any] | None) -> str:
    return with_interval({"of": figure["value"], "of_ci": figure["ci"]}, "of", 2) if figure else NONE


def signed(gap: dict[str, Any] | None, digits: int = 3) -> str:
    """A difference with its interval: `−0.059 (−0.096 to −0.029)`."""
    if gap is None or gap["value"] is None:
        return NONE
    low, high = (f"{end:+.{digits}f}" for end in gap["ci"] or (0, 0))
    interval = f" ({low} to {high})" if gap["ci"] else ""
    return f"{gap['value']:+.{digits}f}{interval}".replace("-", "−")
