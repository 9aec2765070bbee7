"""What a change's page says: the verdict first, then tables, then how it was measured."""

from __future__ import annotations

from typing import Any

from hf_cxr.change.figures import scored
from hf_cxr.change.gate import RATES
from hf_cxr.change.pairs import SIDES
from hf_cxr.change.report import ChangeReport
from hf_cxr.change.words import meaning, signed, verdict
from hf_cxr.metrics import FEW_POSITIVES
from hf_cxr.reliability import N_BINS
from hf_cxr.report.layout import Section, Table, number, with_interval

WHERE = {"hospital": "The hospital's films", "base": "The base's own films"}
_FIGURES = {"auroc": "AUROC", "brier": "Brier", "sensitivity": "sensitivity", "specificity": "specificity"}
_FEW = f"* fewer than {FEW_POSITIVES} positive"
MEANS = {"shared": "findings of both models", "annotated": "annotated by the hospital", "others": "the others"}


def sections(report: ChangeReport, figures: dict[str, str]) -> list[Section]:
    """All sections.

    Args:
        figures: `{file stem: caption}` of the pictures that were drawn, `change_<hospital | base>_<what>`.
    """
    made = [
        Section("Verdict", [*verdict(report), "Not for clinical use: figures of research, on the films named here."])
    ]
    for key, title in WHERE.items():
        part = getattr(report, key)
        if part is None:
            made.append(Section(title, [f"Not measured: {report.base_undefined}."]))
            continue
        own = {name: caption for name, caption in figures.items() if name.startswith(f"change_{key}_")}
        made.append(Section(title, _size(part), [_macro(part), *_ranking(part)], _of(own, "auroc")))
        made.append(Section(f"{title}: probabilities", [], [_probabilities(part)], _of(own, "probabilities")))
        made += [section for section in (_gate(title, part), _decisions(title, part)) if section is not None]
    return [*made, _method(report), *_undefined(report), *_origin(report)]


def _of(figures: dict[str, str], what: str) -> dict[str, str]:
    return {name: caption for name, caption in figures.items() if name.endswith(f"_{what}")}


def _size(part: dict[str, Any]) -> list[str]:
    films = f"{part['name']}: {part['n_images']:,} films"
    known = f" of {part['n_patients']:,} patients." if part["n_patients"] is not None else ", patients unknown."
    lines = [films + known]
    if part["n_patients"] is None:
        lines.append("Films of one patient count as independent, so the intervals are too narrow.")
    if without := sum(not scored(row) for row in part["labels"].values()):
        lines.append(
            f"{without} labels lack positive or negative films of known truth here; they are listed at the end."
        )
    return lines


def _macro(part: dict[str, Any]) -> Table:
    rows = [
        [f"{MEANS[key]} ({len(row['labels'])})", *_paired(row), meaning(row)]
        for key, row in part["macro_auroc"].items()
    ]
    return Table(["mean over", "before", "after", "difference", "p", ""], rows, "Macro AUROC")


def _paired(row: dict[str, Any], digits: int = 3) -> list[str]:
    return [*(with_interval(row, side, digits) for side in SIDES), signed(row, digits), number(row["p"])]


def _ranking(part: dict[str, Any]) -> list[Table]:
    labels = {n: row for n, row in part["labels"].items() if scored(row)}
    rows = [
        [_shown(n, row), _count(row), *_paired(row["auroc"]), meaning(row["auroc"])]
        for n, row in labels.items()
        if row["outputs"] != "after"
    ]
    note = f"; {_FEW}" if any(row["few_positives"] for row in labels.values()) else ""
    head = ["label", "positive / negative", "before", "after", "difference", "p", ""]
    tables = [Table(head, rows, f"AUROC{note}")]
    new = [
        [_shown(n, row), _count(row), with_interval(row["auroc"], "after")]
        for n, row in labels.items()
        if row["outputs"] == "after"
    ]
    if new:
        caption = "AUROC of the findings that only the model after knows"
        tables.append(Table(["label", "positive / negative", "after"], new, caption))
    told = [pair for pair in part["siblings"] if pair["auroc"]["after"] is not None]
    if told:
        pairs = [
            [
                _siblings(pair) + (" *" if pair["few_positives"] else ""),
                f"{pair['n_first']:,} / {pair['n_second']:,}",
                with_interval(pair["auroc"], "after"),
            ]
            for pair in told
        ]
        tables.append(Table(["siblings", "films of each", "AUROC after"], pairs, "Telling siblings apart"))
    return tables


def _probabilities(part: dict[str, Any]) -> Table:
    rows = []
    for name, row in part["labels"].items():
        if not scored(row):
            continue
        ece, brier = row["ece"], row["brier"]
        shown = [
            number(ece[side], 4) + (f" ({number(ece[f'{side}_if_perfect'], 4)})" if ece[side] is not None else "")
            for side in SIDES
        ]
        briers = [number(brier[side], 4) for side in SIDES]
        rows.append([_shown(name, row), *shown, *briers, signed(brier, 5), number(brier["p"]), meaning(brier, False)])
    head = ["label", "ECE before", "ECE after", "Brier before", "Brier after", "difference", "p", "Brier"]
    return Table(head, rows, "Calibration error (in brackets: what chance gives exact probabilities) and Brier score")


def _gate(title: str, part: dict[str, Any]) -> Section | None:
    gate = part["gate"]
    if gate is None:
        return None
    if "undefined" in gate:
        return Section(f"{title}: gate", [f"{gate['undefined']}."])
    names = {"auroc": "AUROC", "sensitivity": "sensitivity", "specificity": "specificity", "skip_rate": "films cleared"}
    # Clearing more films is neither good nor bad in itself.
    rows = [[n, *_paired(gate[key]), meaning(gate[key]) if key != "skip_rate" else ""] for key, n in names.items()]
    text = [f"“{gate['node']}”, {_thresholds(part, gate)}. Every finding on a cleared film is missed."]
    lost = [
        [
            name,
            number(row["n_true"]),
            *(number(row[side]) for side in SIDES),
            signed(row["share"]),
            number(row["share"]["p"]),
            meaning(row["share"], False),
        ]
        for name, row in gate["missed"].items()
        if row["n_true"]
    ]
    tables = [Table([gate["node"], *SIDES, "difference", "p", ""], rows)]
    if lost and any(count is not None for count in gate["counts"].values()):
        head = ["finding", "true cases", "missed before", "missed after", "difference of shares", "p", ""]
        tables.append(Table(head, lost, "True cases on films that the gate clears"))
    return Section(f"{title}: gate", text, tables)


def _thresholds(part: dict[str, Any], gate: dict[str, Any]) -> str:
    words = []
    for side in SIDES:
        points = part["operating_points"][side]
        if gate["threshold"][side] is None:
            words.append(f"{side} without a stored threshold")
        else:
            words.append(f"{side} at {gate['threshold'][side]:.4f} ({points['gate_criterion']}, “{points['split']}”)")
    return ", ".join(words)


def _decisions(title: str, part: dict[str, Any]) -> Section | None:
    rows = []
    for name, row in part["labels"].items():
        rates = [row["sensitivity"], row["specificity"]]
        if any(rate[side] is not None for rate in rates for side in SIDES):
            cells = [[*(number(rate[side], 2) for side in SIDES), signed(rate, 2)] for rate in rates]
            rows.append([_shown(name, row), *cells[0], *cells[1]])
    if not rows:
        return None
    points = part["operating_points"].items()
    text = [f"{side}: {own['criterion']} on “{own['split']}”" for side, own in points if own]
    head = ["label", *(f"{rate} {what}" for rate in ("sens.", "spec.") for what in (*SIDES, "difference"))]
    said = f"At each model's own stored thresholds ({'; '.join(text)}): one rate may rise as the other falls."
    return Section(
        f"{title}: decisions", [said], [Table(head, rows, _FEW if any(row[0].endswith(" *") for row in rows) else "")]
    )


def _method(report: ChangeReport) -> Section:
    how = report.hospital["intervals"]
    text = [
        "Both models on the same films with the same truth; differences are after − before. Brackets: "
        f"{how['level']:.0%} intervals, {how['method']}, {how['n_resamples']:,} resamples (seed {how['seed']}), the "
        "same for both models.",
        "Better or worse is said only where the interval of the difference does not hold 0; that it holds 0 does not "
        "prove that nothing changed. p is not corrected for the number of labels: of 20 that did not "
        "change, one interval is expected beside 0 by chance.",
        f"ECE: {N_BINS} bins of equal width, without an interval, since resampling raises it. Brier: mean squared "
        "difference of probability and truth. Of both, lower is better.",
        "Labels without both classes among the films of known truth are left out of the means, and listed below.",
    ]
    if any(getattr(report, key) and getattr(report, key)["siblings"] for key in WHERE):
        text.append(
            "Siblings are told apart among the films that show their parent and exactly one of the two, by P(first) / "
            "(P(first) + P(second))."
        )
    return Section("How it was measured", text)


def _undefined(report: ChangeReport) -> list[Section]:
    """A line for each figure and reason, with all labels that it holds for."""
    names: dict[tuple[str, str, str], list[str]] = {}
    for key, title in WHERE.items():
        part = getattr(report, key) or {}
        rows = [(n, what, row[f]) for n, row in part.get("labels", {}).items() for f, what in _FIGURES.items()]
        rows += [(MEANS[mean], "macro AUROC", row) for mean, row in part.get("macro_auroc", {}).items()]
        rows += [(_siblings(pair), "AUROC", pair["auroc"]) for pair in part.get("siblings", ())]
        gate = part.get("gate") or {}
        rows += [("gate", f.replace("_", " "), gate[f]) for f in ("auroc", *RATES) if f in gate]
        for name, figure, row in rows:
            places: dict[str, list[str]] = {}
            for place, why in row["undefined"].items():
                if place != "difference":  # it lacks what one of its sides lacks, which is said of that side
                    places.setdefault(why, []).append(place.replace("_ci", " (interval)"))
            for why, own in places.items():
                names.setdefault((title, f"{figure} {', '.join(own)}", why), []).append(name)
    text = [f"{title}, {figure} ({why}): {', '.join(own)}." for (title, figure, why), own in names.items()]
    return [Section("Undefined figures", text)] if text else []


def _origin(report: ChangeReport) -> list[Section]:
    rows = [[key, str(value)] for key, value in report.provenance.items() if isinstance(value, (str, int, float))]
    return [Section("Origin", [], [Table(["", ""], rows)])] if rows else []


def _siblings(pair: dict[str, Any]) -> str:
    return f"{pair['first']} against {pair['second']}"


def _shown(name: str, row: dict[str, Any]) -> str:
    return name + (" *" if row["few_positives"] else "")


def _count(row: dict[str, Any]) -> str:
    return f"{row['n_positive']:,} / {row['n_negative']:,}"
