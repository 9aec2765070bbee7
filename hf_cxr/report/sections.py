"""What a report says, as plain data: sections of sentences, tables and figures, rendered by the templates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_cxr.evaluation import EvalReport
from hf_cxr.metrics import FEW_POSITIVES

NONE = "–"


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first column is text, the others are numbers."""

    head: list[str]
    rows: list[list[str]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A title, sentences, tables and figures (`{file name: caption}`), in this order on the page."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)


def number(value: Any, digits: int = 3) -> str:
    """A figure for readers; `–` where undefined."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def with_interval(row: dict[str, Any], name: str, digits: int = 3) -> str:
    """`0.712 (0.680–0.741)`, without the bracket where there is no interval."""
    interval = row.get(f"{name}_ci")
    text = number(row.get(name), digits)
    return f"{text} ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})" if interval else text


def sections(report: EvalReport, figures: dict[str, str]) -> list[Section]:
    """All sections of a full report for which it has figures.

    Args:
        figures: `{file stem: caption}` of the pictures that were drawn.
    """
    made = [
        _summary(report),
        _labels(report),
        _gate(report),
        _consistency(report),
        _calibration(report),
        _doubt(report),
        _heatmaps(report, figures),
        *(_subgroup(column, part) for column, part in report.subgroups.items()),
        _comparison(report),
        _undefined(report),
        _origin(report),
    ]
    shown = {
        "Summary": ("auroc", "tree"),
        "Labels": ("roc", "pr", "co_occurrence"),
        "Gate": ("gate",),
        "Calibration": ("reliability",),
        "Doubt": ("risk_coverage",),
        "Heatmaps": ("heatmaps",),
    }
    return [
        Section(s.title, s.text, s.tables, {n: figures[n] for n in shown.get(s.title, ()) if n in figures})
        for s in made
        if s is not None
    ]


def _summary(report: EvalReport) -> Section:
    aggregate, order = report.aggregate, report.hierarchy["flat"]
    how = report.intervals
    rows = [
        [f"macro AUROC over {aggregate['n_labels_averaged']} findings", with_interval(aggregate, "macro_auroc")],
        ["support-weighted AUROC", with_interval(aggregate, "weighted_auroc")],
        ["micro AUROC", with_interval(aggregate, "micro_auroc")],
        *(
            [f"macro AUROC, {key.removeprefix('macro_auroc_')}", with_interval(aggregate, key)]
            for key in _subsets(aggregate)
        ),
        ["macro average precision", with_interval(aggregate, "macro_average_precision")],
    ]
    if report.gate:
        rows.append([f"gate AUROC ({report.gate['node']})", with_interval(report.gate, "auroc")])
    rows.append(["mean ECE of the findings", number(report.calibration["mean_ece"], 4)])
    rows.append(["films with a finding above its group", f"{order['images_out_of_order']:,} of {report.n_images:,}"])
    text = [
        f"Split “{report.split}”: {report.size}.",
        f"Brackets: {how['level']:.0%} intervals, {how['method']}, {how['n_resamples']:,} resamples.",
    ]
    if how["unit"] == "image":
        text.append(
            "The table has no patients: films of one patient count as independent, so the intervals are too narrow."
        )
    return Section("Summary", text, [Table(["figure", "value"], rows)])


def _subsets(aggregate: dict[str, Any]) -> list[str]:
    own = ("macro_auroc", "macro_auroc_all")
    return [k for k in aggregate if k.startswith("macro_auroc") and k not in own and not k.endswith("_ci")]


def _labels(report: EvalReport) -> Section:
    ranked, decided = [], []
    for name, row in report.labels.items():
        shown = name + (" *" if row["few_positives"] else "")
        ranked.append(
            [
                shown,
                f"{row['n_positive']:,} / {row['n_negative']:,}",
                with_interval(row, "auroc"),
                with_interval(row, "average_precision"),
                number(row["brier"], 4),
                number(row["ece"], 4),
                number(row["calibration_slope"], 2),
            ]
        )
        if row["threshold"] is not None:
            rates = [with_interval(row, rate, 2) for rate in ("sensitivity", "specificity", "ppv", "npv")]
            decided.append([shown, number(row["threshold"]), *rates])
    tables = [
        Table(
            ["label", "positive / negative", "AUROC", "average precision", "Brier", "ECE", "slope"], ranked, "Ranking"
        )
    ]
    read = {name: row["readers"] for name, row in report.labels.items() if "readers" in row}
    if read:
        rows = [[name, number(row["n"]), number(row["covered"])] for name, row in read.items()]
        tables.append(Table(["label", "readers", "covered by the curve"], rows, "Against readers"))
    points = report.operating_points
    text = (
        [f"* fewer than {FEW_POSITIVES} positive films."]
        if any(r["few_positives"] for r in report.labels.values())
        else []
    )
    if points:
        caption = f"Decisions at thresholds chosen on “{points['split']}” ({points['criterion']})"
        tables.append(Table(["label", "threshold", "sensitivity", "specificity", "PPV", "NPV"], decided, caption))
    else:
        text.append("No decisions: no operating points from another split were given (--validation).")
    return Section("Labels", text, tables)


def _gate(report: EvalReport) -> Section | None:
    gate = report.gate
    if gate is None:
        return None
    names = ("macro_auroc", "weighted_auroc", "micro_auroc", "macro_average_precision")
    side = Table(
        ["", "flat", "gated (P(gate) · P(finding))"],
        [[name.replace("_", " "), *(number(gate[way][name], 4) for way in ("flat", "gated"))] for name in names],
        "Ranking with and without the gate",
    )
    if "threshold" not in gate:
        text = [f"AUROC {with_interval(gate, 'auroc')}. No threshold was given, so nothing is cleared."]
        return Section("Gate", text, [side])
    text = [
        f"“{gate['node']}” ({gate['definition'].replace('_', ' ')}): AUROC {with_interval(gate, 'auroc')}.",
        f"At the threshold {gate['threshold']:.4f} ({gate['threshold_criterion']}, chosen on "
        f"“{gate['threshold_split']}”): sensitivity {with_interval(gate, 'sensitivity')}, "
        f"specificity {with_interval(gate, 'specificity')}, NPV {with_interval(gate, 'npv')}.",
        f"It clears {gate['n_cleared']:,} films, {with_interval(gate, 'skip_rate')} of all; for these a second stage "
        "need not run. Every finding on a cleared film is lost:",
    ]
    if compute := gate.get("compute"):
        text.insert(-1, _compute(compute))
    rows = []
    for name, row in gate["lost"].items():
        rows.append(
            [
                name,
                f"{row['n_true_cleared']:,} of {row['n_true']:,}",
                with_interval(row, "share_lost"),
                with_interval(row, "sensitivity_flat"),
                with_interval(row, "sensitivity_gated"),
            ]
        )
    head = ["finding", "true cases cleared", "share lost", "sensitivity, flat", "sensitivity, end to end"]
    return Section("Gate", text, [side, Table(head, rows, "What the gate loses")])


def _compute(compute: dict[str, Any]) -> str:
    if compute["flops_gate"] == compute["flops"]:
        return f"One model gives all labels ({compute['flops'] / 1e9:.2f} GFLOP a film): gating saves no compute."
    return (
        f"A cleared film takes {compute['flops_gate'] / 1e9:.2f} GFLOP, any other {compute['flops'] / 1e9:.2f}: "
        f"gating saves {compute['share_saved']:.1%} of the compute."
    )


def _consistency(report: EvalReport) -> Section:
    head = ["", "films out of order", "edges violated", "films with a violated edge"]
    rows = []
    for name, part in report.hierarchy.items():
        if "images_out_of_order" in part:
            rows.append([name, *(f"{part[k]:,}" for k in ("images_out_of_order", "edges_violated", "images_violated"))])
    text = [f"{report.hierarchy['flat']['n_edges']} edges; violated: parent under 0.5 under child."]
    projected = report.hierarchy.get("projected")
    if projected:
        before, after = report.aggregate, projected["aggregate"]
        text.append(
            f"Projected onto the order (“{projected['method']}”): macro AUROC {number(before['macro_auroc'], 4)} → "
            f"{number(after['macro_auroc'], 4)}, support-weighted {number(before['weighted_auroc'], 4)} → "
            f"{number(after['weighted_auroc'], 4)}."
        )
    return Section("Consistency", text, [Table(head, rows)])


def _calibration(report: EvalReport) -> Section:
    part = report.calibration
    keys = ("mean_ece", "mean_ece_mass", "mean_ece_if_perfect")
    rows = [["as evaluated", *(number(part[k], 4) for k in keys)]]
    if "before" in part:
        rows.insert(0, ["before calibration", *(number(part["before"][k], 4) for k in keys)])
    fitted = f"Calibrated by {part['method']}, fitted on {part['split']}. " if part.get("split") else ""
    if part.get("split") == report.split:
        fitted += "These are the films it was fitted on, so that its figures after calibration flatter it. "
    if part.get("pooled"):
        fitted += f"Too few films of both classes there for numbers of their own: {', '.join(part['pooled'])}. "
    head = ["mean over findings", "ECE, equal width", "ECE, equal mass", "of exact probabilities"]
    text = [
        f"{fitted}{part['n_bins']} bins. The last column is what chance alone gives on this many films if every "
        "probability were exact: an ECE near it cannot be told from perfect calibration."
    ]
    return Section("Calibration", text, [Table(head, rows)])


def _doubt(report: EvalReport) -> Section | None:
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


def _heatmaps(report: EvalReport, figures: dict[str, str]) -> Section | None:
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


def _subgroup(column: str, part: dict[str, Any]) -> Section:
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


def _comparison(report: EvalReport) -> Section | None:
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


def _undefined(report: EvalReport) -> Section | None:
    rows = [[name, figure, why] for name, row in report.labels.items() for figure, why in row["undefined"].items()]
    rows += [["aggregate", figure, why] for figure, why in report.aggregate.get("undefined", {}).items()]
    gate = report.gate or {}
    rows += [["gate", figure, why] for figure, why in gate.get("undefined", {}).items()]
    for name, row in gate.get("lost", {}).items():
        rows += [[f"{name} at the gate", figure, why] for figure, why in row.get("undefined", {}).items()]
    for name, row in report.uncertainty.get("labels", {}).items():
        rows += [[f"{name}, its errors", figure, why] for figure, why in row["undefined"].items()]
    for name, row in report.localisation.get("trained", {}).items():
        rows += [[f"heatmaps of {name}", "all", row["undefined"]]] if row["undefined"] else []
    return Section("Undefined figures", [], [Table(["of", "figure", "why"], rows)]) if rows else None


def _origin(report: EvalReport) -> Section | None:
    rows = [[key, str(value)] for key, value in report.provenance.items() if isinstance(value, (str, int, float))]
    return Section("Origin", [], [Table(["", ""], rows)]) if rows else None
