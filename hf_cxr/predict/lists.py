"""Films listed in a CSV, read row by row."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa

from hf_cxr.predict.sources import Row, Source, SourceError, id_of, within


class CsvSource(Source):
    """A list with a header: a column of paths, relative to the list, and any others, which are carried.

    Args:
        path: the list, UTF-8.
        labels: columns of these names hold truth: 1, 0, −1 (uncertain) or blank. All others are carried as text.
        path_column, id_column: see `PredictArguments`.

    Raises:
        SourceError: a column is missing or named twice.
    """

    kind = "csv"

    def __init__(self, path: Path, labels: Sequence[str], path_column: str, id_column: str | None) -> None:
        self.path, self.path_column = path, path_column
        self.header = next(self._lines(), [])
        if twice := sorted({name for name in self.header if self.header.count(name) > 1}):
            raise SourceError(f"{path}: several columns are called {twice}")
        self.id_column = id_of(path, self.header, id_column)
        if path_column not in self.header:
            raise SourceError(f"{path}: no column '{path_column}' with the films' files (--path_column); {self._has()}")
        self.truth = [name for name in self.header if name in labels]
        carried = [name for name in self.header if name not in (path_column, self.id_column)]
        self.left_out = (path_column,) if path_column != self.id_column else ()
        self.columns = pa.schema([(name, pa.int8() if name in self.truth else pa.string()) for name in carried])

    def _has(self) -> str:
        return f"it has {self.header}"

    def _lines(self) -> Iterator[list[str]]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                yield from (line for line in csv.reader(file, strict=True) if line)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"{self.path}: cannot be read as CSV in UTF-8 ({reason})") from None

    def stamp(self) -> str:
        """See `Source`."""
        with self.path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    def ids(self) -> Iterator[str]:
        """See `Source`; every value of a label's column is looked at besides."""
        return (self._row(number, line).id for number, line in enumerate(self._data()))

    def rows(self, ranges: Sequence[range]) -> Iterator[Row]:
        """See `Source`."""
        return (self._row(number, line) for number, line in within(self._data(), ranges))

    def _data(self) -> Iterator[list[str]]:
        lines = self._lines()
        next(lines, None)
        return lines

    def _row(self, number: int, line: list[str]) -> Row:
        if len(line) != len(self.header):
            raise SourceError(
                f"{self.path}: data row {number + 1} has {len(line)} cells, the header {len(self.header)}"
            )
        cells = dict(zip(self.header, line, strict=True))
        path = cells[self.path_column].strip()
        metadata: dict[str, Any] = {name: cells[name] or None for name in self.columns.names}
        for name in self.truth:
            metadata[name] = self._truth(number, name, cells[name].strip())
        name = cells[self.id_column].strip() if self.id_column else relative(path, self.path.parent)
        return Row(number, name, self.path.parent / path if path else None, metadata)

    def _truth(self, number: int, name: str, text: str) -> int | None:
        if text.lower() in ("", "nan"):
            return None
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if value not in (-1, 0, 1):
            raise SourceError(
                f"{self.path}: data row {number + 1}, label '{name}': {text!r}; expected 1, 0, -1 or blank"
            )
        return int(value)


def relative(path: str, folder: Path) -> str:
    """A path as an id: relative to the folder where it lies below it."""
    inside = os.path.isabs(path) and Path(path).is_relative_to(folder.absolute())
    return (Path(path).relative_to(folder.absolute()) if inside else PurePath(path)).as_posix() if path else ""
