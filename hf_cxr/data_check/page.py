"""The check as sections of a page, for readers."""

from __future__ import annotations

from typing import Any

from hf_cxr.data_check import alike, looks, pictures
from hf_cxr.data_check.result import SHOWN, Check, Finding
from hf_cxr.report.layout import Section, Table, number

LONG = 200  # letters of an example: a film may have thousands of copies
REPEATS = {"same": "the same, pixel by pixel", "nearly_same": "nearly the same"}


def sections(check: Check, captions: dict[str, str] | None = None) -> list[Section]:
    """All of the page. `captions`: of the figures that were drawn."""
    drawn = captions or {}
    made = [_verdict(check)]
    if check.counts:
        made += [_films(check), _people(check, drawn), _labels(check, drawn)]
    return [*made, _looks(check, drawn), _how()]


def _verdict(check: Check) -> Section:
    text = [f"Verdict: {check.verdict}."]
    if not check.findings:
        text.append("Nothing was found wrong.")
    return Section("Is this data usable?", text + [_sentence(finding) for finding in check.findings])


def _sentence(finding: Finding) -> str:
    unit, *rest = finding.of.split(" ")
    of = " ".join([unit.removesuffix("s") if finding.count == 1 else unit, *rest])
    first = f" {_first(finding, unit)}" if finding.examples else ""
    do = f" What to do: {finding.remedy}." if finding.remedy else ""
    return f"{finding.level.capitalize()}, {finding.count:,} {of}: {finding.what}.{first}{do}"


def _first(finding: Finding, unit: str) -> str:
    examples = finding.examples
    shown = "; ".join(example if len(example) < LONG else f"{example[:LONG]} …" for example in examples[:SHOWN])
    which = "Where" if unit in ("films", "groups", "patients", "rows") else "Which"
    if len(examples) <= SHOWN:
        return f"{which}: {shown}."
    # Of the problems of tables only the first few of a kind are known by their places.
    known = f"the first {len(examples)}" if len(examples) < finding.count else "all"
    return f"First: {shown}; … ({known} are in check.json)."


def _films(check: Check) -> Section:
    tables, films, repeats = (check.counts[key] for key in ("tables", "films", "repeats"))
    rows = [["rows of the tables", number(tables["rows"])]]
    rows += [["left out by their view", number(tables["left_out_by_view"])]]
    rows += [["films", number(films["films"])]]
    rows += [[key, number(films.get(key))] for key in ("missing", "unreadable")]
    rows += [[f"groups that are {words}", number(repeats[key]["groups"])] for key, words in REPEATS.items()]
    rows += [[note, number(n)] for note, n in tables["notes"].items()]
    made = [Table(["films", "n"], rows)]
    for key, head in (("sizes", "pixels (the most frequent)"), ("bits", "bits stored")):
        if films.get(key):
            made.append(_table(head, films[key]))
    return Section("Films", [], made)


def _people(check: Check, drawn: dict[str, str]) -> Section:
    patients, splits, described = (check.counts[key] for key in ("patients", "splits", "description"))
    spread = patients["films_per_patient"]
    rows = [["patients", number(patients["n"])]]
    if spread:
        rows += [["films per patient, median", number(spread["median"], 1)], ["most", number(spread["most"])]]
        rows += [["patients with one film", number(spread["with_one"])]]
    made = [Table(["patients", "n"], rows)]
    text = []
    if splits:
        text.append(f"Splits: {check.counts['splits_are']}.")
        made.append(Table(["split", "films", "patients"], [[s, *map(number, n.values())] for s, n in splits.items()]))
    else:
        text.append(f"Splits: {check.undefined['splits']}.")
    made += [_table(name, described[name]) for name in ("view", "sex", "age")]
    return Section("Patients", text, made, _only(drawn, "ages"))


def _labels(check: Check, drawn: dict[str, str]) -> Section:
    labels, text, made = check.counts["labels"], [], []
    if labels["words"] is not None:
        made.append(_table("words of the map, in rows", labels["words"]))
    head = ["findings, in films", "present", "absent", "uncertain", "unknown"]
    made.append(Table(head, [[name, *map(number, n.values())] for name, n in labels["findings"].items()]))
    if labels["nodes"] is not None:
        made.append(_nodes(check))
        source = check.undefined.get("base_prevalence") or check.counts["base_prevalence_of"]
        text.append(f"Nodes are those of {check.counts['taxonomy']}. Prevalence of the base: {source}.")
    if labels["joined"] is not None and labels["joined"]["unannotated"]:
        text.append(f"Not annotated here: {', '.join(labels['joined']['unannotated'])}.")
    return Section("Findings", text, made, _only(drawn, "prevalence"))


def _nodes(check: Check) -> Table:
    nodes: dict[str, Any] = check.counts["labels"]["nodes"]
    by_split = next(iter(nodes.values()))["positive_by_split"] or {}
    head = ["nodes, in films", "positive", *by_split, "negative", "unknown", "prevalence", "base"]
    rows = [
        [name, number(n["positive"]), *map(number, (n["positive_by_split"] or {}).values()), number(n["negative"]),
         number(n["unknown"]), number(n["prevalence"]), number(n["base_prevalence"])]
        for name, n in nodes.items()
    ]  # fmt: skip
    return Table(head, rows)


def _looks(check: Check, drawn: dict[str, str]) -> Section:
    found = check.counts.get("looks")
    if found is None:
        return Section("Looks", [f"Not looked at: {check.undefined.get('looks', 'there are no films')}."])
    text = [
        f"Compared with: {check.counts['looks_reference']}. {found['beyond']:,} of {found['films']:,} films are beyond "
        "the distance that 1 % of the base's own exceed."
    ]
    if found["features"]:
        share, median = found["features"]["share_beyond"], found["features"]["median_distance"]
        text.append(
            f"In the base's own features {share:.1%} of the films are beyond, and the median distance is {median:.2f} "
            "of that distance."
        )
    return Section("Looks", text, [], _only(drawn, "looks"))


def _how() -> Section:
    return Section(
        "How this was found out",
        [
            "Films are named by table and row; no id, file name or other cell is on this page.",
            f"Missing and unreadable films are an error above {pictures.MANY:.0%} of the films, else a warning.",
            f"Nearly the same: 256-bit perceptual hashes at most {alike.NEAR} bits apart. No two real films of "
            "different patients were, among 37 million pairs; copies in another format, size or contrast are. Copies "
            "that were cut by more than a hair are not found.",
            "Inverted: corners and lungs brighter than the middle column. Of 9,498 real films 2 were called so, of "
            "their inversions 99.8 %.",
            f"Looks are a warning above {looks.MANY:.0%} of the films, or from one film {looks.FAR:g} times as far "
            "as the threshold. Of real films of two hospitals 3.7 % and 2.6 % are beyond it; of upside-down, turned "
            "and inverted films, photographs, noise and slices 86 % to 100 %. Mirrored films are not told apart.",
        ],
    )


def _table(head: str, counts: dict[str, int]) -> Table:
    return Table([head, "n"], [[name, number(n)] for name, n in counts.items()])


def _only(drawn: dict[str, str], name: str) -> dict[str, str]:
    return {name: drawn[name]} if name in drawn else {}
