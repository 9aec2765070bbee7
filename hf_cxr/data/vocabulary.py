"""A hospital's words and codes as findings: what they say, what follows from it, and which are not known yet."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pandas as pd

from hf_cxr.data.hospital_map import LIST_TEXT, NO_FINDING, CodedColumn, HospitalMap
from hf_cxr.data.index import BLANK
from hf_cxr.data.map_labels import code
from hf_cxr.data.near import folded, near
from hf_cxr.data.problems import MALFORMED_CELL, UNKNOWN_FINDING, ProblemLog
from hf_cxr.data.tables import Table

Int8 = npt.NDArray[np.int8]
Bool = npt.NDArray[np.bool_]

UNKNOWN, ABSENT, UNCERTAIN, PRESENT = range(4)
"""How strong a statement is. Where several are made of one finding, the strongest holds: a report that says
"pneumonia" and "no pneumonia" speaks of two places."""
_STRENGTH = {BLANK: UNKNOWN, 0: ABSENT, -1: UNCERTAIN, 1: PRESENT}
_CELLS = np.array([BLANK, 0, -1, 1], dtype=np.int8)
_QUOTED = re.compile(r"'((?:[^'\\]|\\.)*)'|\"((?:[^\"\\]|\\.)*)\"")
_NO_CELL = frozenset(("", "nan", "none", "null", "na", "n/a"))


def split_words(cell: str, separator: str) -> list[str]:
    """The folded words of a cell, none of them empty; `separator` may be `list`, for `['a', 'b']`."""
    if separator == LIST_TEXT:
        if folded(cell) in _NO_CELL:
            return []
        parts: Iterable[str] = (single or double for single, double in _QUOTED.findall(cell))
        if not cell.startswith("["):
            parts = [cell]
    else:
        parts = cell.split(separator)
    return [word for word in map(folded, parts) if word]


def read_readings(table: Table, mapped: HospitalMap, problems: ProblemLog) -> tuple[Int8, Bool, Bool]:
    """What each row of a table says, before anything follows from it.

    Args:
        table: with the map's label columns.
        problems: gets the words that the map does not know, in one problem with their counts, and cells that a
            coding does not know.

    Returns:
        (N, F) strengths (`UNKNOWN` to `PRESENT`) in the order of `mapped.findings`; (N,) whether the row says
        anything at all; (N,) whether what it says is complete.
    """
    if mapped.labels.coded:
        return _read_codes(table, mapped.findings, mapped.labels.coded, problems)
    return _read_words(table, mapped, problems)


def _read_words(table: Table, mapped: HospitalMap, problems: ProblemLog) -> tuple[Int8, Bool, Bool]:
    labels, column = mapped.labels, str(mapped.labels.column)
    n_rows, at = len(table.lines), {name: i for i, name in enumerate(mapped.findings)}
    if column not in table.frame:
        return np.zeros((n_rows, len(at)), np.int8), np.zeros(n_rows, bool), np.ones(n_rows, bool)
    codes, distinct = pd.factorize(table.frame[column])
    strengths = np.zeros((len(distinct), len(at)), np.int8)
    says, complete = np.zeros(len(distinct), bool), np.ones(len(distinct), bool)
    unmapped: dict[str, list[int]] = {}
    for i, cell in enumerate(distinct):
        words = split_words(str(cell), labels.separator)
        if not words and "" in labels.words:
            words = [""]
        says[i] = bool(words)
        for word in words:
            if word in labels.words:
                said = labels.words[word]
                for names, strength in ((said.present, PRESENT), (said.uncertain, UNCERTAIN), (said.absent, ABSENT)):
                    for name in names:
                        strengths[i, at[name]] = max(strengths[i, at[name]], strength)
            elif word in labels.incomplete:
                complete[i] = False
            elif word not in labels.ignore:
                unmapped.setdefault(word, []).append(i)
    if unmapped:
        counts = np.bincount(codes, minlength=len(distinct))
        rows = {word: int(counts[cells].sum()) for word, cells in unmapped.items()}
        first = table.lines[np.isin(codes, [cell for cells in unmapped.values() for cell in cells])][0]
        problems.add(UNKNOWN_FINDING, table.path, [int(first)], [_unmapped(column, rows, mapped)])
    return strengths[codes], says[codes], complete[codes]


def _unmapped(column: str, rows: dict[str, int], mapped: HospitalMap) -> str:
    known = [word for word in (*mapped.labels.words, *mapped.labels.ignore, *mapped.labels.incomplete) if word]
    lines = [
        f"    {word!r}: {count:,} rows{near(word, known)}"
        for word, count in sorted(rows.items(), key=lambda item: (-item[1], item[0]))
    ]
    return (
        f"{len(rows)} words of column {column!r} are neither mapped nor ignored; put each under `words` with its "
        f"finding, or under `ignore`, in {mapped.path.name}:\n" + "\n".join(lines)
    )


def _read_codes(
    table: Table, findings: tuple[str, ...], coded: tuple[CodedColumn, ...], problems: ProblemLog
) -> tuple[Int8, Bool, Bool]:
    n_rows = len(table.lines)
    strengths, says = np.zeros((n_rows, len(findings)), np.int8), np.zeros(n_rows, bool)
    for column in coded:
        if column.column not in table.frame:
            continue
        codes, distinct = pd.factorize(table.frame[column.column])
        values = np.zeros(len(distinct), np.int8)
        blank, wrong = np.zeros(len(distinct), bool), np.zeros(len(distinct), bool)
        for i, cell in enumerate(distinct):
            said = code(str(cell))
            blank[i] = said in _NO_CELL
            value = column.coding.get(said, column.coding[""] if blank[i] else None)
            wrong[i] = value is None
            values[i] = _STRENGTH[BLANK if value is None else value]
        bad = wrong[codes]
        expected = " or ".join(repr(cell) if cell else "blank" for cell in column.coding)
        details = [f"{column.column} is {cell!r}, expected {expected}" for cell in table.frame[column.column][bad]]
        problems.add(MALFORMED_CELL, table.path, table.lines[bad], details)
        strengths[:, findings.index(column.finding)] = values[codes]
        says |= ~blank[codes]
    return strengths, says, np.ones(n_rows, bool)


def join_rows(
    keys: npt.NDArray[np.int64], readers: npt.NDArray[np.int64] | None, agreement: int, strengths: Int8, n_keys: int
) -> Int8:
    """One reading of all rows of a film.

    Args:
        keys: (N,) film of each row, from 0. readers: (N,) reader of each row, from 0; None: no readers are named.
        agreement: readers that must say present; what fewer say is uncertain.

    Returns:
        (n_keys, F) strengths: the strongest statement; with readers, present by enough of them.
    """
    joined = np.zeros((n_keys, strengths.shape[1]), np.int8)
    np.maximum.at(joined, keys, strengths)
    if readers is not None:
        pairs, distinct = pd.factorize(keys * (int(readers.max(initial=0)) + 1) + readers)
        by_reader = np.zeros((len(distinct), strengths.shape[1]), np.int8)
        np.maximum.at(by_reader, pairs, strengths)
        votes = np.zeros((n_keys, strengths.shape[1]), np.int64)
        np.add.at(votes, distinct // (int(readers.max(initial=0)) + 1), by_reader == PRESENT)
        joined[(joined == PRESENT) & (votes < agreement)] = UNCERTAIN
    return joined


def follow(strengths: Int8, says: Bool, complete: Bool, mapped: HospitalMap, notes: dict[str, int]) -> Int8:
    """Findings from readings: what the map says of the findings that a film does not mention.

    A new node that is present makes its parents present; absent parents make it absent. What `absent_if_normal`
    covers and is present makes `No Finding` absent, and where `No Finding` is present, the others absent.

    Args:
        strengths, says, complete: of `read_readings`, a row a film (`join_rows`).
        notes: gets the number of films without a reading, with an incomplete one, and with contradictions.

    Returns:
        (N, F) 1, 0, -1 and -128.
    """
    strengths, names = strengths.copy(), mapped.findings
    at = {name: i for i, name in enumerate(names)}
    n_denied = np.zeros(len(strengths), bool)
    for node in reversed(mapped.new_nodes):
        child = strengths[:, at[node.name]]
        for parent in node.parents:
            n_denied |= (child == PRESENT) & (strengths[:, at[parent]] == ABSENT)
            strengths[child == PRESENT, at[parent]] = PRESENT
    settled = complete & says
    normal_scope = mapped.absent_if_normal.of(names)
    n_contradicted = np.zeros(len(strengths), bool)
    if NO_FINDING in at:
        covered = [at[name] for name in normal_scope]
        shown = (strengths[:, covered] == PRESENT).any(axis=1)
        normal = strengths[:, at[NO_FINDING]]
        n_contradicted = shown & (normal == PRESENT)
        strengths[shown & (normal == UNKNOWN), at[NO_FINDING]] = ABSENT
        _make_absent(strengths, (strengths[:, at[NO_FINDING]] == PRESENT) & settled, covered)
    _make_absent(strengths, settled, [at[name] for name in mapped.absent.of(names)])
    for node in mapped.new_nodes:
        for parent in node.parents:
            _make_absent(strengths, strengths[:, at[parent]] == ABSENT, [at[node.name]])
    for what, films in (
        ("films without a reading", ~says),
        ("films with an incomplete reading", says & ~complete),
        ("films with No Finding and a finding", n_contradicted),
        ("films with a new finding whose parent is denied", n_denied),
    ):
        if films.any():
            notes[what] = int(films.sum())
    return _CELLS[strengths]


def _make_absent(strengths: Int8, films: Bool, columns: list[int]) -> None:
    """Absent where nothing is said, in these films and columns."""
    for column in columns:
        strengths[films & (strengths[:, column] == UNKNOWN), column] = ABSENT
