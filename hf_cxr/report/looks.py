"""The sections on what a model shows of itself: its doubt and its heatmaps."""

from __future__ import annotations

from typing import Any

from hf_cxr.evaluation import EvalReport
from hf_cxr.report.layout import Section, Table, number


def doubt(report: EvalReport) -> Section | None:
    """Risk–coverage, error detection and the abstain rule; None of a table."""
    part = report.uncertainty
    if not part:
        return None
    if "undefined" in part:
        return Section("Doubt", [f"Not measured: {part['undefined']}."])
    names = {
        "entropy": "entropy with dropout",
        "mutual_information": "mutual information",
        "deviation": "deviation",
        "plain_entropy": "plain entropy",
    }
    rows, better = [], 0
    scored = [name for name, row in part["labels"].items() if not row["undefined"]]
    for name, row in part["labels"].items():
        of = row["measures"]
        cells = [number(of[key]["error_auroc"]) for key in names]
        better += name in scored and of["entropy"]["aurc"] < of["plain_entropy"]["aurc"]
        areas = [number(value, 4) for value in (of["entropy"]["aurc"], of["plain_entropy"]["aurc"], row["best_aurc"])]
        rows.append([name, f"{row['n_errors']:,} / {row['n']:,}", *areas, *cells])
    ranked_by = [f"errors: {name}" for name in names.values()]
    head = ["label", "wrong / films", "AURC, dropout", "AURC, plain", "AURC, best", *ranked_by]
    text = [
        f"Monte Carlo dropout, {part['n_passes']} passes. AURC: mean share of wrong decisions over all shares of films "
        "decided, the surest first; less is better. “Errors”: AUROC of the doubt for “this decision is wrong”; 0.5 "
        "knows nothing, below 0.5 points the wrong way.",
        f"The entropy with dropout has the lower AURC on {better} of {len(scored)} labels than that of the plain "
        "probability, which costs nothing.",
    ]
    tables = [Table(head, rows)]
    if part.get("coverage_wished") is not None:
        tables.append(_abstain(part))
    return Section("Doubt", text, tables)


def _abstain(part: dict[str, Any]) -> Table:
    rows = []
    for name, row in part["labels"].items():
        kept = row["abstain"]
        shares = [number(kept[key]) for key in ("coverage", "risk", "risk_kept", "risk_abstained")]
        rows.append([name, number(kept["threshold"], 4), *shares])
    return Table(
        ["label", "threshold", "share decided", "wrong, all films", "wrong, decided", "wrong, left to a reader"],
        rows,
        f"A rule for each label that leaves films of more {part['abstain_by']} to a reader, chosen to decide "
        f"{part['coverage_wished']:.0%} of validation's films.",
    )


def heatmaps(report: EvalReport, figures: dict[str, str]) -> Section | None:
    """Localisation scores and panels, where there are any."""
    part = report.localisation
    if not part:
        return Section("Heatmaps", []) if "heatmaps" in figures else None
    rows = []
    for name, score in part["trained"].items():
        other = part["untrained"][name]
        pairs = [f"{number(score[key])} / {number(other[key])}" for key in ("pointing", "iou", "inside")]
        rows.append([name, number(score["n"]), *pairs, number(score["area"])])
    head = ["finding", "films", "pointing game", "IoU at half", "mass inside", "its area"]
    text = [
        f"Grad-CAM against {part['source']}: trained / the same network with random weights, several of them. A map "
        "that knows nothing has about the finding's area inside. A trained figure that is no better than the untrained "
        "one shows the method and the films, not what was learned."
    ]
    return Section("Heatmaps", text, [Table(head, rows)])
