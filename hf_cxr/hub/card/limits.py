"""What a model cannot do, as its own report says it: sentences for the top of the card."""

from __future__ import annotations

from hf_cxr.hub.card.results import share, signed
from hf_cxr.hub.card.source import CardSource
from hf_cxr.hub.card.statements import DATA_SETS
from hf_cxr.metrics import FEW_POSITIVES
from hf_cxr.report.layout import with_interval

_GAPS = {
    "macro_auroc": "macro AUROC",
    "false_no_finding_rate": "share of abnormal films that the gate clears",
}


def limits(source: CardSource) -> list[str]:
    """One sentence or two each, the gravest first."""
    found = [_origin(source), *_same_films(source), *_gate(source), *_guessing(source), *_few(source)]
    return [
        *found, *_unlearned(source), *_order(source), _groups(source), _size(source), *_not_official(source),
        *_unmeasured(source),
    ]  # fmt: skip


def _origin(source: CardSource) -> str:
    title, labels = source.statement.about.title, source.statement.about.labels
    if source.toy:
        return "**It knows drawings.** Its films were drawn by a program, and so were those that it was tested on."
    if source.reported != source.statement.name:
        return (
            f"**Trained on one source.** The training films are {title}'s; the figures are of “{source.reported}”. "
            f"Of other hospitals, machines and patients nothing is known. {labels}"
        )
    return (
        f"**One source.** It was trained and tested on films of {title}. How it does at other hospitals, on other "
        f"machines and other patients was not measured. {labels}"
    )


def _same_films(source: CardSource) -> list[str]:
    points, split = source.report.operating_points, source.report.split
    if not points or points["split"] != split:
        return []
    return [
        f"**Chosen and reported on the same films.** There is no test split: thresholds, calibration and the best "
        f"checkpoint were chosen on the {split} split, whose figures are therefore too good."
    ]


def _not_official(source: CardSource) -> list[str]:
    about, films = DATA_SETS.get(source.reported), source.data["splits"].get("test", {}).get("films")
    if source.toy or about is None or about.official_test in (None, films):
        return []
    return [
        f"**Not the official test list.** The test films are not {about.title}'s own: no figure here can be compared "
        "with published ones."
    ]


def _gate(source: CardSource) -> list[str]:
    gate = source.report.gate
    if not gate or "threshold" not in gate:
        return []
    node = source.report.labels[gate["node"]]
    lost = {name: row for name, row in gate["lost"].items() if row["n_true_cleared"]}
    worst = sorted(lost, key=lambda name: -lost[name]["share_lost"])[:3]
    cases = ", ".join(f"{n} ({lost[n]['n_true_cleared']:,} of {lost[n]['n_true']:,})" for n in worst)
    return [
        f"**The gate misses.** It calls {gate['fn']:,} of {node['n_positive']:,} abnormal films normal, and "
        f"{gate['fp']:,} of {node['n_negative']:,} normal films abnormal."
        + (f" Of the findings it loses most of {cases}." if cases else "")
    ]


def _guessing(source: CardSource) -> list[str]:
    rows = {n: row for n, row in source.report.labels.items() if row["auroc"] is not None}
    unsure = [n for n, row in rows.items() if (ci := row.get("auroc_ci")) and ci[0] <= 0.5 <= ci[1]]
    if not unsure:
        return []
    named = ", ".join(f"{name} {with_interval(rows[name], 'auroc')}" for name in unsure)
    return [f"**Near guessing.** The interval of these AUROCs contains 0.5: {named}."]


def _few(source: CardSource) -> list[str]:
    few = {name: row["n_positive"] for name, row in source.report.labels.items() if row["few_positives"]}
    if not few:
        return []
    named = ", ".join(f"{name} ({n})" for name, n in few.items())
    return [
        f"**Few films.** Fewer than {FEW_POSITIVES} positive films on the {source.report.split} split: {named}. Their "
        "figures are rough, and averages over the findings hang on them."
    ]


def _unlearned(source: CardSource) -> list[str]:
    without = source.run["labels"].get("without_positives", [])
    return [f"**Never seen.** No training film was positive for {', '.join(without)}."] if without else []


def _order(source: CardSource) -> list[str]:
    flat, decided = source.report.hierarchy["flat"], source.report.hierarchy["decided"]
    found = []
    if flat["images_out_of_order"]:
        found.append(
            f"**Out of order.** On {flat['images_out_of_order']:,} of {source.report.n_images:,} films "
            f"({share(flat['share_out_of_order'])}) some finding is more probable than the group it belongs to."
        )
    if decided["images_violated"]:
        found.append(
            f"**Decisions can contradict.** Each label has a threshold of its own. On {decided['images_violated']:,} "
            "films a finding is called and its group is not."
        )
    return found


def _groups(source: CardSource) -> str:
    found = []
    for column, part in source.report.subgroups.items():
        for value, group in part["groups"].items():
            for name, text in _GAPS.items():
                gap = group.get("gaps", {}).get(name)
                if gap and gap["ci"] and not gap["ci"][0] <= 0 <= gap["ci"][1]:
                    found.append(f"{text}, {column} {value} less {part['reference']}: {signed(gap)}")
    if found:
        return f"**Unequal.** Between groups of patients the interval of these gaps excludes 0: {'; '.join(found)}."
    if any("gaps" in group for part in source.report.subgroups.values() for group in part["groups"].values()):
        return "**Groups of patients.** No gap was shown; on this many films that does not mean there is none."
    return "**Groups of patients.** Not compared: the films of this split have no sex, age or view to go by."


def _size(source: CardSource) -> str:
    size, view = source.config.image_size, source.run["data"]["options"]["view"]
    films = {"frontal": "frontal films", "all": "films of all views", "lateral": "lateral films"}.get(
        view, f"{view} films"
    )
    return (
        f"**Small films.** It was trained on {films} and sees {size} × {size} pixels: fine detail is lost, such as "
        "a small nodule or a thin pleural line. It knows no earlier film and no clinical question, and has no word for "
        "what is not in its tree."
    )


def _unmeasured(source: CardSource) -> list[str]:
    report = source.report
    missing = [] if "labels" in report.uncertainty else ["whether its doubt tells its errors"]
    missing += [] if "trained" in report.localisation else ["whether its heatmaps point at findings"]
    if not any("readers" in row for row in report.labels.values()):
        missing.append("how it compares with human readers")
    return [f"**Not measured:** {'; '.join(missing)}."] if missing else []
