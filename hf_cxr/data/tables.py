"""Label tables and split lists as they come: plain or gzipped, every cell a string, every line numbered."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from hf_cxr.data.problems import MALFORMED_CELL, MISSING_COLUMN, RAGGED_ROW, ProblemLog

OLDEST = 120  # years; beyond it an age is a slip of the pen (NIH has 414)


@dataclass(frozen=True)
class Table:
    """A text table.

    Attributes:
        path: the file read.
        frame: (N, C) strings, the header's names as columns.
        lines: (N,) int64, the line each row starts on, from 1, the header being line 1.
        sha256: of the file's uncompressed contents.
    """

    path: Path
    frame: pd.DataFrame
    lines: np.ndarray
    sha256: str


def find_file(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first of `names`, plain or with `.gz`, that stands in one of `folders`, in the order given."""
    names = list(names)
    for folder in folders:
        for name in names:
            for path in (folder / name, folder / f"{name}.gz"):
                if path.is_file():
                    return path
    return None


def _read_text(path: Path) -> tuple[str, str]:
    raw = path.read_bytes()
    try:
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        return raw.decode("utf-8-sig"), hashlib.sha256(raw).hexdigest()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a readable text table ({error}). Fetch the file again.") from error


def read_table(path: Path, problems: ProblemLog) -> Table:
    """Read a CSV file with every cell as text.

    Blank lines are passed over but counted, so that line numbers are a text editor's. Columns without a name
    (NIH's header ends in a comma in one release; pandas writes its row numbers so) are left out.

    Raises:
        ValueError: the file is no text, is empty, or names a column twice.
    """
    text, sha256 = _read_text(path)
    try:
        header, columns, lines = _plain_cells(text) or _quoted_cells(text, path, problems)
    except (csv.Error, pa.ArrowInvalid) as error:
        raise ValueError(f"{path} is not a CSV table ({error}). Fetch the file again.") from error
    named = [name for name in header if name]
    if not named or len(set(named)) < len(named):
        raise ValueError(f"{path}: the header is {header!r}; expected a line of distinct column names.")
    frame = pd.DataFrame({name: c for name, c in zip(header, columns, strict=True) if name})
    return Table(path, frame, lines, sha256)


def _plain_cells(text: str) -> tuple[list[str], list[pd.Series], np.ndarray] | None:
    """Header, columns and line numbers of a table without quotes and with as many cells in every row.

    Ten times as fast as the csv module, which takes seconds for CheXpert; None for any other table.
    """
    if '"' in text:
        return None
    physical = text.replace("\r\n", "\n").split("\n")
    filled = np.flatnonzero([bool(line) for line in physical])
    commas = {physical[i].count(",") for i in filled}
    if len(filled) < 2 or filled[0] != 0 or len(commas) > 1 or "\r" in physical[0]:
        return None
    header = [name.strip() for name in physical[0].split(",")]
    types = {str(i): pa.string() for i in range(len(header))}
    table = pyarrow.csv.read_csv(
        pa.BufferReader(text.encode()),
        read_options=pyarrow.csv.ReadOptions(skip_rows=1, column_names=list(types)),
        parse_options=pyarrow.csv.ParseOptions(quote_char=False),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=False),
    )
    if table.num_rows != len(filled) - 1:
        return None
    return header, [table[name].to_pandas().astype("str") for name in types], filled[1:] + 1


def _quoted_cells(text: str, path: Path, problems: ProblemLog) -> tuple[list[str], list[pd.Series], np.ndarray]:
    """As `_plain_cells` for any table; logs rows with too few cells, or with more that are not blank."""
    # newline="" leaves line ends inside quoted cells to the csv module, which counts them
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip() for name in next(reader, [])]
    rows: list[list[str]] = []
    lines: list[int] = []
    start = reader.line_num + 1
    for row in reader:
        if row:
            excess = any(cell.strip() for cell in row[len(header) :])
            if len(row) < len(header) or excess:
                detail = f"received {len(row)} cells, expected {len(header)} as in the header"
                problems.add(RAGGED_ROW, path, [start], [detail])
            rows.append((row + [""] * len(header))[: len(header)])
            lines.append(start)
        start = reader.line_num + 1
    columns = [pd.Series([row[i] for row in rows], dtype="str") for i in range(len(header))]
    return header, columns, np.asarray(lines, dtype=np.int64)


def read_list(path: Path) -> Table:
    """Read a list of file names, one a line, into a table with the single column `name`."""
    text, sha256 = _read_text(path)
    names = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    frame = pd.DataFrame({"name": pd.array([name for _, name in names], dtype="str")})
    return Table(path, frame, np.asarray([number for number, _ in names], dtype=np.int64), sha256)


def require_columns(table: Table, names: Iterable[str], problems: ProblemLog) -> None:
    """Log each of `names` that the table lacks."""
    absent = [name for name in names if name not in table.frame]
    details = [f"no column {name!r}; found {', '.join(map(str, table.frame))}" for name in absent]
    problems.add(MISSING_COLUMN, table.path, [1] * len(absent), details)


def parse_column(
    table: Table, column: str, parse: Callable[[str], Any], expected: str, problems: ProblemLog
) -> np.ndarray:
    """Parse the cells of a column, each distinct one once; log those where `parse` raises ValueError.

    Returns:
        (N,) objects, None where the cell is malformed or there is no such column
        (`require_columns` logs that).
    """
    if column not in table.frame:
        return np.full(len(table.frame), None, dtype=object)
    codes, distinct = pd.factorize(table.frame[column])
    values = np.full(len(distinct), None, dtype=object)
    wrong = np.zeros(len(distinct), dtype=bool)
    for i, cell in enumerate(distinct):
        try:
            values[i] = parse(str(cell).strip())
        except ValueError:
            wrong[i] = True
    bad = wrong[codes]
    details = [f"{column} is {cell!r}, expected {expected}" for cell in table.frame[column][bad]]
    problems.add(MALFORMED_CELL, table.path, table.lines[bad], details)
    return values[codes]


def choice(values: Mapping[str, Any]) -> Callable[[str], Any]:
    """A parser for cells that hold one of a few words, whatever their case; others raise ValueError."""
    folded = {word.lower(): value for word, value in values.items()}

    def parse(cell: str) -> Any:
        if cell.lower() not in folded:
            raise ValueError(f"{cell!r} is none of {', '.join(map(repr, values))}")
        return folded[cell.lower()]

    return parse


def clip_ages(ages: npt.ArrayLike | pd.Series) -> tuple[pd.Series, int]:
    """Ages in years as nullable int32, those over 120 made unknown, and how many there were."""
    years = pd.Series(ages, dtype="Int64")
    impossible = (years > OLDEST).fillna(False)
    return years.mask(impossible).astype("Int32"), int(impossible.sum())
