"""The output folder: parts as they come, joined into one table at the end; nothing is ever half there.

A part is a Parquet file of a fixed range of the source's rows, whoever computed it. So the joined table is the same
whether a run was stopped and went on, and on however many processes.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from hf_cxr.errors import UserError
from hf_cxr.predict.arguments import FORMATS
from hf_cxr.predict.sources import ID, IdsDigest
from hf_cxr.predict.table import CLEARED, ERROR, NUMBER

SETTINGS_FILE = "predict.yaml"
ERRORS_FILE = "errors.csv"
HEATMAPS = "heatmaps"
_PARTS = "parts"
_TABLES = tuple(f"predictions.{each}" for each in FORMATS)
_OURS = (*_TABLES, ERRORS_FILE, HEATMAPS, _PARTS)
_GROUP = 16_384
"""Rows of a row group of the Parquet table."""

_HELD = ("settings", "source", "model")
"""Parts of `predict.yaml` that a continuation must share."""

_Write = Callable[[pa.Table], None]


class OutputFolderError(UserError, RuntimeError):
    """The output folder cannot be used; the message says what to do."""


class LostFilmsError(UserError, RuntimeError):
    """The parts do not hold every film once. Nothing was joined; the parts are left as they are."""


@dataclass(frozen=True)
class Counts:
    """Of the whole table: films, those with an error, those that the gate cleared."""

    films: int
    errors: int
    cleared: int


class OutputFolder:
    """Where predictions go. `predict.yaml` marks it as ours, a `predictions.*` as finished.

    Args:
        path: the folder. overwrite: replace the predictions in it. resume: go on with them.

    Raises:
        OutputFolderError: it holds a finished table, unfinished parts, or something else.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path, self.overwrite, self.resume = path, overwrite, resume

    def check(self) -> None:
        """Raise unless the run may begin; changes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputFolderError(f"{self.path} is a file; choose another output_dir")
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if not (self.path / SETTINGS_FILE).exists():
            raise OutputFolderError(f"{self.path} is not empty and holds no predictions; choose another output_dir")
        finished = [name for name in _TABLES if (self.path / name).exists()]
        if finished and self.resume:
            raise OutputFolderError(f"{self.path} holds a finished table ({finished[0]}): nothing to resume")
        if not self.overwrite and not self.resume:
            state = f"a finished table ({finished[0]})" if finished else "unfinished predictions"
            choices = "--overwrite true replaces it" if finished else "--resume true goes on, --overwrite true begins"
            raise OutputFolderError(f"{self.path} holds {state}: {choices}; or choose another output_dir")

    def claim(self, run: dict[str, Any], ranges: Sequence[range]) -> list[int]:
        """Make the folder ready and write `predict.yaml`; on the main process only.

        Args:
            run: plain data with `settings`, `source` and `model`, which a continuation must share.

        Returns:
            Which parts are still to be made.

        Raises:
            OutputFolderError: resuming something else; lists both sides of each difference.
        """
        self.check()
        if self.overwrite:
            self._clear()
        file = self.path / SETTINGS_FILE
        if file.exists():
            self._check_same(yaml.safe_load(file.read_text(encoding="utf-8")), run)
        (self.path / _PARTS).mkdir(parents=True, exist_ok=True)
        self.describe(run)
        # An unfinished part has another name, so that each that is there is whole.
        return [i for i in range(len(ranges)) if not self.part(i).exists()]

    def _clear(self) -> None:
        for name in (
            *_OURS,
            *(f"{each}.partial" for each in _OURS),
        ):  # predict.yaml stays until it is replaced: a folder half cleared is still ours
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        (self.path / SETTINGS_FILE).unlink(missing_ok=True)

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        then, today = (
            {f"{group}.{key}": value for group in _HELD for key, value in (run or {}).get(group, {}).items()}
            for run in (before, now)
        )
        named = ("model.name", "source.name")  # the same thing may lie elsewhere
        different = [
            f"{key}: was {then.get(key)!r}, is {today.get(key)!r}"
            for key in sorted(then.keys() | today.keys())
            if then.get(key) != today.get(key) and key not in named
        ]
        if different:
            raise OutputFolderError(
                f"{self.path}: resuming needs the settings, model and films it was started with; different are "
                + "; ".join(different[:10])
            )

    def describe(self, run: dict[str, Any]) -> None:
        """Write `predict.yaml`."""
        with _appearing(self.path / SETTINGS_FILE) as file:
            yaml.safe_dump(run, file, sort_keys=False, allow_unicode=True)

    def part(self, number: int) -> Path:
        """File of a part."""
        return self.path / _PARTS / f"{number:06d}.parquet"

    def write_part(self, number: int, table: pa.Table) -> None:
        """Write a part; it appears whole or not at all."""
        final = self.part(number)
        partial = final.with_name(f"{final.name}.partial")
        pq.write_table(table, partial)
        os.replace(partial, final)

    def join(self, ranges: Sequence[range], ids_sha256: str, schema: pa.Schema, form: str) -> Counts:
        """Join the parts into the table and `errors.csv`, one part in memory at a time.

        The table appears last but for `finish`.

        Raises:
            LostFilmsError: a part is missing, or holds other rows than it should, or the films are others than those
                of the survey.
        """
        (self.path / ERRORS_FILE).unlink(missing_ok=True)
        films = errors = cleared = 0
        digest = IdsDigest()
        with _table(self.path / f"predictions.{form}.partial", schema.remove(schema.get_field_index(NUMBER))) as write:
            for part in self._parts(ranges):
                bad = part.filter(pc.is_valid(part[ERROR]))
                films, errors = films + len(part), errors + len(bad)
                cleared += pc.sum(part[CLEARED]).as_py() or 0
                self._note_errors(bad, first=errors == len(bad))
                for name in part[ID].to_pylist():
                    digest.update(name)
                write(part.drop_columns([NUMBER]))
        if digest.hexdigest() != ids_sha256:
            raise LostFilmsError(
                f"{self.path}: the source's films changed while they were read; --overwrite true begins"
            )
        if errors:
            os.replace(self.path / f"{ERRORS_FILE}.partial", self.path / ERRORS_FILE)
        return Counts(films, errors, cleared)

    def _parts(self, ranges: Sequence[range]) -> Iterator[pa.Table]:
        for number, expected in enumerate(ranges):
            path = self.part(number)
            if not path.exists():
                raise LostFilmsError(f"{path.name}: missing, it should hold the rows {expected}; start with --resume")
            part = pq.read_table(path)
            if part[NUMBER].to_pylist() != list(expected):
                found = part[NUMBER].to_pylist()
                raise LostFilmsError(f"{path.name}: {len(found)} rows from {found[:1]}, expected exactly {expected}")
            yield part

    def _note_errors(self, bad: pa.Table, first: bool) -> None:
        if not len(bad):
            return
        with (self.path / f"{ERRORS_FILE}.partial").open("w" if first else "a", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if first:
                writer.writerow([ID, ERROR])
            writer.writerows(zip(bad[ID].to_pylist(), bad[ERROR].to_pylist(), strict=True))

    def finish(self, run: dict[str, Any], form: str) -> Path:
        """Put the table in place, with `predict.yaml` before it and the parts removed after; returns its path."""
        self.describe(run)
        final = self.path / f"predictions.{form}"
        os.replace(final.with_name(f"{final.name}.partial"), final)
        shutil.rmtree(self.path / _PARTS)
        return final


@contextmanager
def _appearing(path: Path) -> Iterator[IO[str]]:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        yield file
    os.replace(partial, path)


@contextmanager
def _table(path: Path, schema: pa.Schema) -> Iterator[_Write]:
    """A writer of tables, one after the other, in the format of the path's suffix but one."""
    form = path.name.split(".")[1]
    if form == "parquet":
        with pq.ParquetWriter(path, schema) as writer:
            held: list[pa.Table] = []

            def write(part: pa.Table | None) -> None:
                held.extend([] if part is None else [part])
                if held and (part is None or sum(map(len, held)) >= _GROUP):
                    writer.write_table(pa.concat_tables(held).combine_chunks(), row_group_size=2 * _GROUP)
                    held.clear()

            yield write
            write(None)
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if form == "csv":
            # Floats are written with all the digits that tell them from their neighbours.
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(schema.names)
            yield lambda part: rows.writerows(zip(*(map(_known, c.to_pylist()) for c in part.columns), strict=True))
        else:
            yield lambda part: file.writelines(
                json.dumps({key: _known(value) for key, value in row.items()}, ensure_ascii=False, default=str) + "\n"
                for row in part.to_pylist()
            )


def _known(value: Any) -> Any:
    """NaN, of carried columns, is unknown like any null."""
    return None if isinstance(value, float) and value != value else value
