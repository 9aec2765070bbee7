"""Tables as hospitals export them: CSV of any dialect, Parquet, Excel; only the columns asked for are kept.

What other columns hold (names, dates of birth, reports) never gets past this module.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from hf_cxr.data.hospital_map import TableSource
from hf_cxr.data.near import folded, near
from hf_cxr.data.problems import MISSING_COLUMN, RAGGED_ROW, ProblemLog
from hf_cxr.data.tables import Table, find_file
from hf_cxr.data.workbook import read_sheet
from hf_cxr.errors import UserError

DELIMITERS = ",;\t|"
TEXT_SUFFIXES = (".csv", ".tsv", ".txt")
_STATED = re.compile(r"sep=(.)\r?\n")  # the first line of some of Excel's exports
NOT_UTF8 = "tables not in UTF-8, read as Windows-1252"

Rows = list[tuple[int, list[str]]]  # line numbers, from 1, and cells


class TableError(UserError, ValueError):
    """A table that cannot be read at all; the message says which, why and what to do."""


def read_hospital_table(
    source: TableSource, folder: Path, columns: Iterable[str], problems: ProblemLog, notes: dict[str, int]
) -> Table:
    """Read some columns of a table, every cell as text without spaces around it.

    Headers match whatever their case and spaces. Text tables: the encoding is UTF-8 or UTF-16 by its mark, UTF-8
    where that fits, else Windows-1252 (noted); the delimiter is the one of `, ; tab |` that gives the most of the
    columns asked for. Rows without any content are passed over.

    Args:
        columns: names as the map writes them; the table's columns are called so afterwards.
        problems: gets missing columns and rows with a wrong number of cells.
        notes: gets what was noteworthy.

    Returns:
        The table; `lines` are those of a text editor or of the spreadsheet, the header being the first; in Parquet,
        which has no lines, rows from 1. Missing columns are missing.

    Raises:
        FileNotFoundError: no such table. TableError: it cannot be read, or names a column asked for twice.
    """
    path = find_file([folder], source.names)
    if path is None:
        names = " or ".join(source.names)
        raise FileNotFoundError(f"no table {names} in {folder}; expected it there, or its whole path in the map")
    asked = list(dict.fromkeys(columns))
    if path.suffix.lower() == ".parquet":
        return _parquet(path, asked, problems)
    raw = path.read_bytes()
    if path.suffix.lower() in (".xlsx", ".xlsm"):
        rows = read_sheet(path, source.sheet)
    else:
        rows = _text_rows(path, raw, source, asked, problems, notes)
    if not rows:
        raise TableError(f"{path} is empty; expected a row of column names and a row a film")
    header = [name.strip() for name in rows[0][1]]
    at = _places(path, header, asked, rows[0][0], problems)
    body = [(line, cells) for line, cells in rows[1:] if any(cell and not cell.isspace() for cell in cells)]
    frame = pd.DataFrame(
        {name: pd.Series([cells[i].strip() if i < len(cells) else "" for _, cells in body], dtype="str")
         for name, i in at.items()}, index=range(len(body))
    )  # fmt: skip
    lines = np.asarray([line for line, _ in body], dtype=np.int64)
    return Table(path, frame, lines, hashlib.sha256(raw).hexdigest())


def _places(path: Path, header: list[str], asked: list[str], line: int, problems: ProblemLog) -> dict[str, int]:
    """Where each column asked for stands; logs those that are missing."""
    places: dict[str, int] = {}
    by_fold: dict[str, list[int]] = {}
    for i, name in enumerate(header):
        by_fold.setdefault(folded(name), []).append(i)
    for name in asked:
        exact = [i for i, other in enumerate(header) if other == name]
        found = exact or by_fold.get(folded(name), [])
        if len(found) > 1:
            raise TableError(f"{path}, row {line}: {len(found)} columns are called {name!r}; rename all but one")
        if found:
            places[name] = found[0]
    absent = [name for name in asked if name not in places]
    shown = ", ".join(map(repr, filter(None, header)))
    details = [f"no column {name!r}{near(name, header)}; found {shown}" for name in absent]
    problems.add(MISSING_COLUMN, path, [line] * len(absent), details)
    return places


def _text_rows(
    path: Path, raw: bytes, source: TableSource, asked: list[str], problems: ProblemLog, notes: dict[str, int]
) -> Rows:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if not any(suffix in TEXT_SUFFIXES for suffix in suffixes[-2:]):
        kinds = ", ".join((*TEXT_SUFFIXES, ".parquet", ".xlsx"))
        raise TableError(f"{path} is no table that can be read; expected {kinds}. Save it as one of these.")
    try:
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        text, sure = _decoded(raw, source.encoding)
    except (OSError, EOFError, UnicodeError, LookupError) as error:
        raise TableError(f"{path} cannot be read as text ({error}). Name its encoding in the map.") from error
    if not sure:
        notes[NOT_UTF8] = notes.get(NOT_UTF8, 0) + 1
    stated = _STATED.match(text)
    delimiter = source.delimiter or (stated[1] if stated else _delimiter(text, asked))
    # newline="" leaves line breaks inside quoted cells to the csv module, which counts them
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows: Rows = []
    start = 1
    try:
        for cells in reader:
            if cells:
                rows.append((start, cells))
            start = reader.line_num + 1
    except csv.Error as error:
        raise TableError(
            f"{path}, row {start}: {error}. A quotation mark that is opened there and never closed does this; "
            "close or remove it."
        ) from error
    rows = rows[1:] if stated else rows
    width = len(rows[0][1]) if rows else 0
    ragged = [(line, cells) for line, cells in rows if len(cells) < width or any(c.strip() for c in cells[width:])]
    hint = f"a cell that holds {delimiter!r} needs quotes"
    details = [f"received {len(cells)} cells, expected {width} as in the header; {hint}" for _, cells in ragged]
    problems.add(RAGGED_ROW, path, [line for line, _ in ragged], details)
    return rows


def _decoded(raw: bytes, encoding: str | None) -> tuple[str, bool]:
    """The text, and whether its encoding was known rather than assumed."""
    if encoding is not None:
        return raw.decode(encoding).removeprefix("\ufeff"), True
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16"), True
    try:
        return raw.decode("utf-8-sig"), True
    except UnicodeDecodeError:
        try:
            return raw.decode("cp1252"), False
        except UnicodeDecodeError:
            return raw.decode("latin-1"), False


def _delimiter(text: str, asked: list[str]) -> str:
    head = text[: 2**16]
    wanted = {folded(name) for name in asked}

    def found(delimiter: str) -> tuple[int, int]:
        header = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), [])
        return len(wanted & {folded(name) for name in header}), len(header)

    return max(DELIMITERS, key=found)


def _parquet(path: Path, asked: list[str], problems: ProblemLog) -> Table:
    try:
        header = pa.parquet.read_schema(path).names
        at = _places(path, header, asked, 1, problems)
        table = pa.parquet.read_table(path, columns=[header[i] for i in at.values()])
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{path} cannot be read as Parquet ({error}). Export it again.") from error
    columns = {
        name: pd.Series([_cell(value) for value in table[header[i]].to_pylist()], dtype="str") for name, i in at.items()
    }
    frame = pd.DataFrame(columns, index=range(table.num_rows))
    lines = np.arange(1, table.num_rows + 1, dtype=np.int64)
    return Table(path, frame, lines, hashlib.sha256(path.read_bytes()).hexdigest())


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, list):
        return str([_cell(item) for item in value])
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def without_repeats(table: Table, notes: dict[str, int]) -> Table:
    """The table without rows that say what an earlier row says, in every column that was read; noted."""
    again = table.frame.duplicated().to_numpy()
    if again.any():
        notes["repeated rows left out"] = notes.get("repeated rows left out", 0) + int(again.sum())
    return replace(table, frame=table.frame[~again].reset_index(drop=True), lines=table.lines[~again])
