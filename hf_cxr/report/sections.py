"""What a report says: sections of sentences, tables and figures, rendered by the templates."""

from __future__ import annotations

from typing import Any

from hf_cxr.evaluation import EvalReport
from hf_cxr.metrics import FEW_POSITIVES
from hf_cxr.report.groups import comparison, subgroup
from hf_cxr.report.layout import NONE, Section, Table, number, with_interval
from hf_cxr.report.looks import doubt, heatmaps


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
        doubt(report),
        heatmaps(report, figures),
        *(subgroup(column, part) for column, part in report.subgroups.items()),
        comparison(report),
        _hospital(report),
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
    decided = report.hierarchy["decided"]
    if decided["n_edges"]:
        text.append(
            f"At the operating points {decided['edges_violated']:,} times, on {decided['images_violated']:,} films, a "
            f"finding is called and its group is not ({decided['n_edges']} edges have both thresholds)."
        )
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


def _hospital(report: EvalReport) -> Section | None:
    """What of a hospital's own findings is scored, and what is not and why."""
    met = report.provenance.get("hospital") or report.provenance.get("data", {}).get("hospital")
    if not met:
        return None
    text = [f"Findings of {met['hospital']} on taxonomy {met['taxonomy']}."]
    if met["unannotated"]:
        text.append(f"Not annotated there, unknown on every film and not scored: {', '.join(met['unannotated'])}.")
    if met["gate"]:
        text.append(f"The gate's truth: {met['gate']}.")
    rows = [[each["finding"], each["node"] or NONE, each["use"], each["why"]] for each in met["findings"]]
    return Section("Where two vocabularies meet", text, [Table(["finding", "node", "use", "why"], rows)])


def _origin(report: EvalReport) -> Section | None:
    rows = [[key, str(value)] for key, value in report.provenance.items() if isinstance(value, (str, int, float))]
    return Section("Origin", [], [Table(["", ""], rows)]) if rows else None
