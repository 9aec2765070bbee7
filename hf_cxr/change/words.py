"""The verdict in plain words. Better or worse is said only where an interval does not hold 0."""

from __future__ import annotations

from typing import Any

from hf_cxr.change.pairs import EQUAL, HIGHER, LOWER, OPEN, SIDES
from hf_cxr.change.report import ChangeReport, Cost
from hf_cxr.report.layout import number, with_interval


def verdict(report: ChangeReport) -> list[str]:
    """Sentences on the hospital's films, on what was forgotten, and on the cost; the first two are the answer."""
    lines = [
        f"On the hospital's films: {_labels(report.hospital)}",
        _forgotten(report),
        *_macro_of(report.hospital),
        *_new(report.hospital),
        _probabilities(report.hospital, "the hospital's films"),
        _probabilities(report.base, "the base's own films"),
        *_gate(report.hospital),
        cost(report.cost),
    ]
    return [line for line in lines if line]


def signed(row: dict[str, Any], digits: int = 3) -> str:
    """`+0.012 (+0.001 to +0.023)`, the paired difference with its interval; `–` where undefined."""
    if row["difference"] is None:
        return number(None)
    text, ends = f"{row['difference']:+z.{digits}f}", row["difference_ci"]
    return f"{text} ({ends[0]:+z.{digits}f} to {ends[1]:+z.{digits}f})" if ends else text


def meaning(row: dict[str, Any], higher_is_better: bool = True) -> str:
    """What a row's difference says, for a table's last column."""
    better, worse = (HIGHER, LOWER) if higher_is_better else (LOWER, HIGHER)
    words = {better: "better", worse: "worse", OPEN: "cannot be told apart", EQUAL: "the same", None: number(None)}
    return words[row["outcome"]]


def cost(spent: Cost) -> str:
    """What the adaptation took, in one sentence."""
    memory = spent.peak_memory_bytes
    peak = f", {memory / 1e9:.2f} GB of memory at the most" if memory is not None else ", memory not measured"
    rehearsed = f" and {spent.rehearsed_films:,} of the base's own" if spent.rehearsed_films else ""
    return (
        f"Cost, by method “{spent.method}”: {spent.films:,} labelled films{rehearsed}, {spent.epochs:g} epochs, "
        f"{_time(spent.seconds)}{peak}; {spent.trained_parameters:,} of {spent.all_parameters:,} parameters trained "
        f"({spent.share:.2%})."
    )


def _labels(part: dict[str, Any]) -> str:
    names = part["macro_auroc"].get("annotated", part["macro_auroc"]["shared"])["labels"]
    rows = {name: part["labels"][name]["auroc"] for name in names}
    groups = {kind: [n for n in names if rows[n]["outcome"] == kind] for kind in (HIGHER, LOWER, OPEN, EQUAL, None)}
    n_told = sum(len(groups[kind]) for kind in (HIGHER, LOWER, OPEN))
    if n_told:
        parts = [_on(groups[HIGHER], part, "better"), _on(groups[LOWER], part, "worse")]
        text = f"of {n_told} {_plural('finding', n_told)} that both models have, AUROC is {' and '.join(parts)}."
    else:
        text = "better or worse cannot be said, for no finding that both models have has an interval of its difference."
    if groups[OPEN]:
        text += f" Not to be told apart, since the interval of the difference holds 0: {', '.join(groups[OPEN])}."
    if groups[EQUAL]:
        text += f" The same in every resample: {', '.join(groups[EQUAL])}."
    if groups[None]:
        text += f" Too few films to say: {', '.join(groups[None])}."
    return text


def _on(names: list[str], part: dict[str, Any], word: str) -> str:
    return f"{word} on {len(names)} ({_listing(names, part)})" if names else f"measurably {word} on none"


def _listing(names: list[str], part: dict[str, Any], figure: str = "auroc", digits: int = 3) -> str:
    """Labels with their differences, and with their films where an interval rests on few."""
    said = []
    for name in names:
        row = part["labels"][name]
        few = f", {row['n_positive']} positive films only" if row["few_positives"] else ""
        said.append(f"{name} {signed(row[figure], digits)}{few}")
    return "; ".join(said)


def _forgotten(report: ChangeReport) -> str:
    found, where = report.forgetting, "macro AUROC on the base's own films"
    if report.base is None:
        return f"What it forgot was not measured: {found['undefined']}."
    macro, worse = found["macro_auroc"], found["worse"]
    low, high = macro["difference_ci"] or (0.0, 0.0)
    nothing = f"It forgot nothing measurable{' on the mean' if worse else ''}:"
    if macro["outcome"] == LOWER:
        text = f"It lost {-macro['difference']:.3f} ({-high:.3f} to {-low:.3f}) {where}."
    elif macro["outcome"] == HIGHER:
        text = f"{nothing} it gained {macro['difference']:.3f} ({low:.3f} to {high:.3f}) {where}."
    elif macro["outcome"] == EQUAL:
        text = f"It forgot nothing measurable: {where} is the same in every resample ({number(macro['after'])})."
    elif macro["outcome"] == OPEN:
        text = f"{nothing} {where} changed by {signed(macro)}"
        text += f"; a loss of {-low:.3f} is not excluded." if low <= -0.0005 else "."
    else:
        text = f"Whether it lost {where} cannot be said: {_why(macro)}."
    if worse:
        of = f"{len(found['told'])} {_plural('finding', len(found['told']))}"
        text += f" Worse there on {len(worse)} of {of}: {_listing(worse, report.base)}."
    return text


def _macro_of(part: dict[str, Any]) -> list[str]:
    row = part["macro_auroc"]["shared"]
    if row["difference"] is None or len(row["labels"]) < 2:
        return []  # of one finding it says nothing new
    return [
        f"Macro AUROC on the hospital's films over {len(row['labels'])} findings: {number(row['before'])} before, "
        f"{number(row['after'])} after, {signed(row)}."
    ]


def _new(part: dict[str, Any]) -> list[str]:
    lines = []
    new = {n: row["auroc"] for n, row in part["labels"].items() if row["outputs"] == "after"}
    if new:
        listed = ", ".join(
            f"{n} {with_interval(row, 'after')}" if row["after"] is not None else f"{n} undefined ({_why(row)})"
            for n, row in new.items()
        )
        lines.append(f"New, which the model before cannot say: {listed} (AUROC).")
    for pair in part["siblings"]:
        row, names = pair["auroc"], f"{pair['first']} from {pair['second']}"
        if row["after"] is None:
            lines.append(f"How well it tells {names} cannot be said: {row['undefined']['after']}.")
            continue
        ends = row["after_ci"]
        chance = " – chance (0.5) is not excluded" if ends and ends[0] <= 0.5 <= ends[1] else ""
        lines.append(
            f"Telling {names}, where {pair['parent']} is present: AUROC {with_interval(row, 'after')}{chance}."
        )
    return lines


def _probabilities(part: dict[str, Any] | None, where: str) -> str:
    rows = (part or {"labels": {}})["labels"].items()
    # Of films of one class the Brier score is the level of the probabilities, no more.
    both = {n: row for n, row in rows if row["finding"] and row["outputs"] == "both"}
    scored = {n: row["brier"] for n, row in both.items() if row["n_positive"] and row["n_negative"]}
    said = []
    for kind, word in ((LOWER, "better"), (HIGHER, "worse")):
        if names := [n for n, row in scored.items() if row["outcome"] == kind]:
            said.append(f"{word} for {len(names)} ({_listing(names, part or {}, 'brier', 5)})")
    of = f"{len(scored)} {_plural('finding', len(scored))}"
    return f"Its probabilities on {where} are, by Brier score and of {of}, {' and '.join(said)}." if said else ""


def _gate(part: dict[str, Any]) -> list[str]:
    gate = part["gate"]
    if gate is None or "undefined" in gate or not all(gate["counts"].values()):
        return []
    before, after = (gate["counts"][side] for side in SIDES)
    abnormal, films = after["tp"] + after["fn"], part["n_images"]
    if not abnormal:
        return []
    missed = {
        HIGHER: "fewer than before",
        LOWER: "more than before",
        EQUAL: "as before",
        OPEN: "no difference that can be told from chance",
        None: "with no interval of the difference",
    }[gate["sensitivity"]["outcome"]]
    return [
        f"The gate, each at its own threshold, misses {after['fn']:,} of {abnormal:,} abnormal films "
        f"(before: {before['fn']:,}; {missed}) and clears {after['n_cleared']:,} of all {films:,} "
        f"(before: {before['n_cleared']:,})."
    ]


def _why(row: dict[str, Any]) -> str:
    undefined = row["undefined"]
    return undefined.get("difference") or undefined.get("difference_ci") or undefined.get("after") or "undefined"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _plural(word: str, n: int) -> str:
    return word if n == 1 else f"{word}s"
