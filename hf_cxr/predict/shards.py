"""Films in Parquet files, as `datasets` writes them: a column of structs {bytes, path}, read a few rows at a time."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_cxr.predict.sources import Row, Source, SourceError, id_of, is_shard, walk

_ROWS = 16
"""Films whose bytes are in memory before they are handed on."""
_BUFFER = 2**20
"""Bytes read from a column at a time; without it Arrow reads a row group's whole column."""
_CARRIED = (
    pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_string,
    pa.types.is_large_string, pa.types.is_temporal,
)  # fmt: skip


class ParquetSource(Source):
    """A Parquet file, or all below a folder, sorted by name; all of one schema.

    A film is called by its id column; without one by the path that stands beside its bytes, where that is relative,
    else by `<file>:<row>`. Bytes that are null are read from that path, relative to the Parquet file's folder.
    Columns of numbers, text, truth values and times are carried, others are not.

    Args:
        path: the file or folder.
        image_column, id_column: see `PredictArguments`.

    Raises:
        SourceError: a file is no Parquet file, columns are missing, or files differ in their columns.
    """

    kind = "parquet"

    def __init__(self, path: Path, image_column: str, id_column: str | None) -> None:
        self.path, self.image_column = path, image_column
        self.folder = path if path.is_dir() else path.parent
        self.shards = list(walk(path, is_shard)) if path.is_dir() else [path.name]
        with self._opened(self.shards[0]) as first:
            self.schema = first.schema_arrow
        self.id_column = id_of(path, self.schema.names, id_column)
        self.has_path = self._check_image()
        other = [each for each in self.schema if each.name not in (image_column, self.id_column)]
        plain = {each.name: _plain(each.type) for each in other}
        self.columns = pa.schema([(name, kind) for name, kind in plain.items() if _is_carried(kind)])
        self.left_out = tuple(name for name, kind in plain.items() if not _is_carried(kind))

    def _check_image(self) -> bool:
        """Whether the column of films has paths beside the bytes."""
        if self.image_column not in self.schema.names:
            raise SourceError(
                f"{self.path}: no column '{self.image_column}' with films (--image_column); it has {self.schema.names}"
            )
        kind = self.schema.field(self.image_column).type
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return False
        if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
            raise SourceError(f"{self.path}: column '{self.image_column}' is {kind}; expected struct<bytes, path>")
        return bool(kind.get_field_index("path") >= 0)

    @contextmanager
    def _opened(self, shard: str) -> Iterator[pq.ParquetFile]:
        try:
            with pq.ParquetFile(self.folder / shard, buffer_size=_BUFFER) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{self.path}: {shard} cannot be read as Parquet ({type(error).__name__})") from None

    def stamp(self) -> str:
        """See `Source`; also compares the files' columns, as it opens each."""
        stamps = []
        for shard in self.shards:
            with self._opened(shard) as file:
                # without metadata, which holds the writer's notes
                ours, theirs = ({each.name: str(each.type) for each in s} for s in (self.schema, file.schema_arrow))
                if ours != theirs:
                    raise SourceError(
                        f"{self.path}: {shard} has other columns than {self.shards[0]}: "
                        f"{sorted(theirs.items() - ours.items())} against {sorted(ours.items() - theirs.items())}"
                    )
                stamps.append(f"{shard} {file.metadata.num_rows} {(self.folder / shard).stat().st_size}")
        return "\n".join(stamps)

    def ids(self) -> Iterator[str]:
        """See `Source`; of the films' column only the paths are read."""
        wanted = self.id_column or (f"{self.image_column}.path" if self.has_path else None)
        for shard in self.shards:
            with self._opened(shard) as file:
                if wanted is None:
                    yield from (f"{shard}:{at}" for at in range(file.metadata.num_rows))
                    continue
                at = 0
                for batch in file.iter_batches(batch_size=4096, columns=[wanted]):
                    for cells in batch.to_pylist():
                        yield self._id(shard, at, cells)
                        at += 1

    def rows(self, ranges: Sequence[range]) -> Iterator[Row]:
        """See `Source`; row groups without any of these rows are not read."""
        names = [*filter(None, (self.image_column, self.id_column)), *self.columns.names]
        first = 0
        for shard in self.shards:
            with self._opened(shard) as file:
                at = 0
                for group in range(file.num_row_groups):
                    n_rows = file.metadata.row_group(group).num_rows
                    if here := _overlaps(ranges, range(first + at, first + at + n_rows)):
                        yield from self._group(file, shard, group, names, first, at, here)
                    at += n_rows
                first += at

    def _group(
        self, file: pq.ParquetFile, shard: str, group: int, names: list[str], first: int, at: int, wanted: list[range]
    ) -> Iterator[Row]:
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=names):
            numbers = range(first + at, first + at + len(batch))
            for number in (n for each in _overlaps(wanted, numbers) for n in each):
                cells = batch.slice(number - numbers.start, 1).to_pylist()[0]
                yield self._row(number, shard, number - first, cells)
            at += len(batch)

    def _id(self, shard: str, at: int, cells: dict[str, Any]) -> str:
        if self.id_column:
            return "" if cells[self.id_column] is None else str(cells[self.id_column])
        path = (cells[self.image_column] or {}).get("path") if self.has_path else None
        return path if path and not os.path.isabs(path) else f"{shard}:{at}"

    def _row(self, number: int, shard: str, at: int, cells: dict[str, Any]) -> Row:
        film = cells[self.image_column]
        image: Path | bytes | None
        if isinstance(film, dict):
            path = film.get("path")
            image = film["bytes"] or ((self.folder / shard).parent / path if path else None)
        else:
            image = film or None
        return Row(number, self._id(shard, at, cells), image, {name: cells[name] for name in self.columns.names})

    def _expected(self) -> str:
        return "rows in its Parquet files"


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type without its encoding: pandas writes categories as dictionaries."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_carried(kind: pa.DataType) -> bool:
    return any(accepts(kind) for accepts in _CARRIED)


def _overlaps(ranges: Sequence[range], span: range) -> list[range]:
    """The parts of rising ranges that lie in a span; none is empty."""
    first = bisect_right(ranges, span.start, key=lambda each: each.stop)
    inside = takewhile(lambda each: each.start < span.stop, islice(ranges, first, None))
    return [range(max(each.start, span.start), min(each.stop, span.stop)) for each in inside]
