"""The part of a map that says where findings stand, and what the hospital's words and codes mean."""

from __future__ import annotations

import re

from hf_cxr.data.hospital_map import (
    CODINGS,
    FILM_KEYS,
    LIST_TEXT,
    STATES,
    CodedColumn,
    Labels,
    Said,
    TableSource,
)
from hf_cxr.data.map_file import MapFile, Section
from hf_cxr.data.near import folded

_WHOLE = re.compile(r"([+-]?\d+)[.,]0*")


def read_source(file: MapFile, section: Section, key: str) -> TableSource:
    """A table: a file name, several of which the first that is there counts, or a section that says how to read it."""
    value = section.get(key)
    if not isinstance(value, Section):
        return TableSource(file.names(section, key))
    file.known(value, key, ("file", "sheet", "encoding", "delimiter"), ("file",))
    delimiter = file.text(value, "delimiter")
    delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
    if delimiter is not None and len(delimiter) != 1:
        file.fail(value.line, f"delimiter is {delimiter!r}; expected one letter, or tab")
    return TableSource(file.names(value, "file"), file.text(value, "sheet"), file.text(value, "encoding"), delimiter)


def code(cell: str) -> str:
    """A cell as codings know it: folded, whole numbers without decimals (`1,0` and `1.00` are `1`)."""
    text = folded(cell)
    match = _WHOLE.fullmatch(text)
    return match[1] if match else text


def read_labels(file: MapFile, section: Section) -> Labels:
    """The section `labels`."""
    keys = (
        "table", "by", "unmatched", "rows", "reader", "agreement", "column", "separator", "words", "ignore",
        "incomplete", "columns", "coding",
    )  # fmt: skip
    file.known(section, "labels", keys)
    words, coded = file.section(section, "words"), file.section(section, "columns")
    if bool(words) == bool(coded):
        file.fail(section.line, "labels need either `column` and `words`, or `columns`, one a finding")
    column = file.text(section, "column")
    if bool(words) != bool(column):
        file.fail(section.line, "`words` belong to `column`, the column that holds them; one of the two is missing")
    rows, unmatched = file.text(section, "rows", "film"), file.text(section, "unmatched", "error")
    for key, value, known in (("rows", rows, ("film", "finding")), ("unmatched", unmatched, ("error", "keep"))):
        if value not in known:
            file.fail(section.lines[key], f"{key} is {value!r}; expected {' or '.join(known)}")
    agreement, reader = file.text(section, "agreement", "1") or "", file.text(section, "reader")
    if not re.fullmatch(r"[1-9]\d*", agreement):
        file.fail(section.lines["agreement"], f"agreement is {agreement!r}; expected how many readers, from 1")
        agreement = "1"
    if reader and rows != "finding":
        file.fail(section.lines["reader"], "a reader belongs to `rows: finding`, where a film has several rows")
    if int(agreement) > 1 and not reader:
        file.fail(section.lines["agreement"], "agreement needs `reader`, the column that names the readers")
    table = read_source(file, section, "table") if "table" in section else None
    separator = section.get("separator", "|")  # not `text`: "~" may be one
    if not isinstance(separator, str) or not separator:
        file.fail(section.lines["separator"], f"separator is empty; expected such as | or ;, or {LIST_TEXT}")
        separator = "|"
    listed = {key: _words(file, section, key) for key in ("ignore", "incomplete")}
    return Labels(
        table=table,
        by=read_join(file, section, table is not None),
        keep_unmatched=unmatched == "keep",
        per_finding=rows == "finding",
        reader=reader,
        agreement=int(agreement),
        column=column,
        separator=separator,
        words=_vocabulary(file, words, listed),
        **listed,
        coded=_coded(file, section, coded),
    )


def _words(file: MapFile, section: Section, key: str) -> frozenset[str]:
    return frozenset(folded(word) for word in file.names(section, key))


def _vocabulary(file: MapFile, words: Section, listed: dict[str, frozenset[str]]) -> dict[str, Said]:
    vocabulary: dict[str, Said] = {}
    for word, value in words.items():
        line = words.lines[word]
        if isinstance(value, Section):
            file.known(value, f"word {word!r}", ("present", "absent", "uncertain"))
            said = Said(*(file.names(value, state) for state in ("present", "absent", "uncertain")))
        else:
            said = Said(present=file.list_of(value, line, f"word {word!r}"))
        if not said.findings:
            file.fail(line, f"word {word!r} says nothing; name its finding, or put it under `ignore`")
        if len(set(said.findings)) < len(said.findings):
            file.fail(line, f"word {word!r} names a finding twice")
        if folded(word) in vocabulary:
            file.fail(line, f"word {word!r} stands twice, spelled in two ways")
        for key, others in listed.items():
            if folded(word) in others:
                file.fail(line, f"word {word!r} is under `{key}` too")
        vocabulary.setdefault(folded(word), said)
    return vocabulary


def _coded(file: MapFile, section: Section, columns: Section) -> tuple[CodedColumn, ...]:
    coded: list[CodedColumn] = []
    for column, value in columns.items():
        line, own = columns.lines[column], section
        finding = value
        if isinstance(value, Section):
            file.known(value, f"column {column!r}", ("finding", "coding"), ("finding",))
            finding, own = file.text(value, "finding") or "", value if "coding" in value else section
        elif not isinstance(value, str):
            file.fail(line, f"column {column!r} needs the name of its finding")
            continue
        if any(other.finding == finding for other in coded):
            file.fail(line, f"two columns say {finding!r}; keep one, or give one of them another finding")
        if "coding" not in own:
            file.fail(line, f"column {column!r} has no coding; expected {' or '.join(CODINGS)}, or cells with meanings")
            continue
        coded.append(CodedColumn(column, str(finding), _coding(file, own)))
    return tuple(coded)


def _coding(file: MapFile, section: Section) -> dict[str, int]:
    value, line = section["coding"], section.lines["coding"]
    if not isinstance(value, Section):
        if value not in CODINGS:
            file.fail(line, f"coding is {value!r}; expected {' or '.join(CODINGS)}, or cells with their meanings")
        return CODINGS.get(str(value), {})
    for cell, meaning in value.items():
        if meaning not in STATES:
            file.fail(value.lines[cell], f"cell {cell!r} means {meaning!r}; expected one of {', '.join(STATES)}")
    return {"": STATES["unknown"], **{code(cell): STATES.get(meaning, 0) for cell, meaning in value.items()}}


def read_join(file: MapFile, section: Section, needed: bool) -> tuple[str, str] | None:
    """The key `by` of a table of its own: what of a film, and the table's column with it."""
    by = file.section(section, "by")
    if needed == (len(by) == 1) and set(by) <= set(FILM_KEYS):
        return next(iter(by.items())) if needed else None
    keys = ", ".join(FILM_KEYS)
    file.fail(by.line, f"`table` and `by` belong together; `by` has one of {keys} and the other table's column with it")
    return None
