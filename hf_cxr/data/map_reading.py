"""Maps from their YAML files, every mistake in them told at once, with its line."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from hf_cxr.data.hospital_map import (
    FILM_KEYS,
    NO_FINDING,
    AgeColumns,
    Choices,
    Columns,
    HospitalMap,
    Images,
    Labels,
    NewNode,
    Scope,
    SplitSource,
)
from hf_cxr.data.map_file import MapFile, Section
from hf_cxr.data.map_labels import read_join, read_labels, read_source
from hf_cxr.data.near import folded, near

KEYS = (
    "hospital", "taxonomy", "new_nodes", "table", "images", "columns", "labels", "unmentioned", "split",
)  # fmt: skip
VIEW_MEANINGS = ("PA", "AP", "LATERAL", "unknown", "leave_out")
SEX_MEANINGS = ("M", "F", "unknown")
SPLITS = ("train", "validation", "test")
KINDS = ("finding", "device")


def packaged_maps() -> tuple[str, ...]:
    """Names of the maps that come with the package."""
    folder = resources.files("hf_cxr.data") / "hospitals"
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_map(name_or_path: str | Path) -> HospitalMap:
    """A map of the package by name (`padchest`, …), or of a YAML file.

    Raises:
        FileNotFoundError: neither. DataProblems: the file has mistakes; all of them.
    """
    packaged = str(name_or_path) in packaged_maps()
    path = Path(name_or_path).expanduser()
    if packaged:
        path = Path(str(resources.files("hf_cxr.data") / "hospitals" / f"{name_or_path}.yaml"))
    elif not path.is_file():
        names = ", ".join(packaged_maps())
        raise FileNotFoundError(f"no map {name_or_path}; expected a YAML file, or the name of a ready map: {names}")
    file = MapFile(path)
    found = _read(file, packaged)
    file.problems.raise_any()
    return found


def _read(file: MapFile, packaged: bool) -> HospitalMap:
    top = file.content
    file.known(top, "the map", KEYS, ("table", "columns", "labels"))
    new_nodes = _new_nodes(file, file.section(top, "new_nodes"))
    labels = read_labels(file, file.section(top, "labels"))
    findings = _findings(file, top, labels, new_nodes)
    unmentioned = file.section(top, "unmentioned")
    file.known(unmentioned, "unmentioned", ("absent", "absent_if_normal"))
    scopes = [_scope(file, unmentioned, key, findings) for key in ("absent", "absent_if_normal")]
    if scopes[1] != Scope() and NO_FINDING not in findings:
        file.fail(unmentioned.line, f"absent_if_normal needs a word or column that says {NO_FINDING!r}")
    columns, split = _columns(file, file.section(top, "columns")), _split(file, top)
    joins = [("labels", labels.by), ("split", split.by if split else None)]
    joins += [("split", (split.of, ""))] if split and split.lists else []
    for section, by in joins:
        if by is not None and by[0] != "image" and getattr(columns, by[0]) is None:
            file.fail(top.lines[section], f"{section} go by {by[0]}, but `columns` names no column {by[0]!r}")
    return HospitalMap(
        path=file.path,
        sha256=file.sha256,
        name=file.text(top, "hospital") or file.path.stem,
        packaged=packaged,
        taxonomies=file.names(top, "taxonomy"),
        new_nodes=new_nodes,
        findings=findings,
        table=read_source(file, top, "table"),
        images=_images(file, top),
        columns=columns,
        labels=labels,
        absent=scopes[0],
        absent_if_normal=scopes[1],
        split=split,
    )


def _new_nodes(file: MapFile, section: Section) -> tuple[NewNode, ...]:
    nodes = []
    for name, line in section.lines.items():
        entry = file.section(section, name)
        file.known(entry, f"new node {name!r}", ("parent", "kind"), ("parent",))
        parents, kind = file.names(entry, "parent"), file.text(entry, "kind", "finding")
        if "parent" in entry and not parents:
            file.fail(line, f"new node {name!r} has no parent; expected a node of the taxonomy")
        if kind not in KINDS:
            file.fail(line, f"new node {name!r} has kind {kind!r}; expected {' or '.join(KINDS)}")
        if NO_FINDING in (name, *parents):
            file.fail(line, f"{NO_FINDING!r} can be neither a new node nor a parent")
        nodes.append(NewNode(name, parents, str(kind)))
    # parents first, so that a film's truth can be passed up and down in one pass
    ordered: list[NewNode] = []
    while nodes:
        waiting = {node.name for node in nodes}
        ready = [node for node in nodes if waiting.isdisjoint(node.parents)]
        if not ready:
            file.fail(section.line, f"new nodes are each other's parents: {', '.join(sorted(waiting))}")
            break
        ordered += ready
        nodes = [node for node in nodes if node not in ready]
    return tuple(ordered)


def _findings(file: MapFile, top: Section, labels: Labels, new_nodes: Iterable[NewNode]) -> tuple[str, ...]:
    said = [finding for word in labels.words.values() for finding in word.findings]
    said += [column.finding for column in labels.coded]
    nodes = file.section(top, "new_nodes")
    for node in new_nodes:
        if node.name not in said:
            file.fail(nodes.lines[node.name], f"no word or column says new node {node.name!r}{near(node.name, said)}")
    said += [parent for node in new_nodes for parent in node.parents]
    ordered = tuple(dict.fromkeys(finding for finding in said if finding != NO_FINDING))
    if not ordered:
        file.fail(top.lines.get("labels", 1), "labels name no finding; expected words or columns with their findings")
    return ordered + ((NO_FINDING,) if NO_FINDING in said else ())


def _scope(file: MapFile, section: Section, key: str, findings: tuple[str, ...]) -> Scope:
    value, line = section.get(key), section.lines.get(key)
    if value is None:
        return Scope()
    if value == "all":
        return Scope(all_but=True)
    all_but = isinstance(value, Section)
    if all_but:
        file.known(value, key, ("all_but",), ("all_but",))
        value = value.get("all_but", [])
    named = file.list_of(value, line, key)
    for name in named:
        if name not in findings:
            file.fail(line, f"{key} names {name!r}, which no word or column says{near(name, findings)}")
    return Scope(named, all_but)


def _images(file: MapFile, top: Section) -> Images:
    value = top.get("images")
    if not isinstance(value, Section):
        return Images(file.text(top, "images") or ".", ())
    file.known(value, "images", ("folder", "path"))
    template = file.text(value, "path") or ""
    parts: list[tuple[str, str | None, int | None]] = []
    try:
        for literal, column, spec, conversion in string.Formatter().parse(template):
            if conversion or (spec and not re.fullmatch(r"\.\d+", spec)) or column == "":
                raise ValueError("braces hold a column's name, and on wish how many letters of it")
            parts.append((literal, column, int(spec[1:]) if spec else None))
    except ValueError as error:
        expected = "p{patient:.2}/{image}.png"
        file.fail(value.lines["path"], f"path is {template!r} ({error}); expected such as {expected}")
    return Images(file.text(value, "folder") or ".", tuple(parts))


def _columns(file: MapFile, section: Section) -> Columns:
    file.known(section, "columns", ("image", "patient", "study", "view", "sex", "age"), ("image", "patient"))
    age = section.get("age")
    ages = None
    if isinstance(age, Section):
        file.known(age, "age", ("column", "born", "on", "date_format"))
        ages = AgeColumns(*(file.text(age, key) for key in ("column", "born", "on", "date_format")))
        if (ages.column is None) == (ages.born is None) or (ages.born is None) != (ages.on is None):
            file.fail(age.line, "age needs either `column`, or `born` and `on`")
    elif file.text(section, "age"):
        ages = AgeColumns(file.text(section, "age"))
    return Columns(
        image=file.text(section, "image") or "",
        patient=file.text(section, "patient"),
        study=file.text(section, "study"),
        view=_choices(file, section, "view", VIEW_MEANINGS),
        sex=_choices(file, section, "sex", SEX_MEANINGS),
        age=ages,
    )


def _choices(file: MapFile, section: Section, key: str, meanings: tuple[str, ...]) -> Choices | None:
    value = section.get(key)
    if not isinstance(value, Section):
        column = file.text(section, key)
        return Choices(column) if column else None
    file.known(value, key, ("column", "values", "otherwise"), ("column",))
    values, otherwise = _meanings(file, value, key, meanings), file.text(value, "otherwise")
    if otherwise is not None and otherwise not in meanings:
        file.fail(value.lines["otherwise"], f"otherwise is {otherwise!r}; expected one of {', '.join(meanings)}")
    return Choices(file.text(value, "column") or "", values, otherwise)


def _meanings(file: MapFile, section: Section, key: str, meanings: Iterable[str]) -> dict[str, str]:
    values = file.section(section, "values")
    for word, meaning in values.items():
        if meaning not in meanings:
            file.fail(values.lines[word], f"{key} {word!r} means {meaning!r}; expected one of {', '.join(meanings)}")
    return {folded(word): str(meaning) for word, meaning in values.items()}


def _split(file: MapFile, top: Section) -> SplitSource | None:
    if "split" not in top:
        return None
    section = file.section(top, "split")
    file.known(section, "split", ("column", "values", "table", "by", "lists", "of"))
    column, lists = file.text(section, "column"), file.section(section, "lists")
    if bool(column) == bool(lists):
        file.fail(section.line, "split needs either `column` or `lists`; without `split` it is cut and saved")
    file.known(lists, "lists", SPLITS, ("train",) if lists else ())
    table, of = read_source(file, section, "table") if "table" in section else None, file.text(section, "of", "image")
    if of not in FILM_KEYS:
        file.fail(section.lines["of"], f"of is {of!r}; expected one of {', '.join(FILM_KEYS)}")
    return SplitSource(
        column=column,
        values=_meanings(file, section, "split", SPLITS),
        table=table,
        by=read_join(file, section, table is not None),
        lists={split: file.text(lists, split) or "" for split in lists},
        of=str(of),
    )
