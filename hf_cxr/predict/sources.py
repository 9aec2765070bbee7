"""Where the films come from: a folder, a list in a CSV, or Parquet files. Nothing is held but what is being read.

A source knows its rows by number, in an order that is the same each time. `survey` goes through it once, for their
number and for what would be wrong with the whole table; `rows` gives any ascending ranges of them.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from hf_cxr.errors import UserError
from hf_cxr.models.dicom import SUFFIXES, is_dicom

PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".webp", ".pgm", ".jp2")
FILMS = (*PICTURES, *SUFFIXES)
SHARD, LIST = ".parquet", ".csv"
ID = "id"

T = TypeVar("T")


class SourceError(UserError, ValueError):
    """A source that cannot be read as a whole; the message says which file, row or column, and what to do."""


@dataclass(frozen=True, eq=False)
class Row:
    """One film before it is read.

    Attributes:
        number: its place in the source, from 0.
        id: names the film in every output; never an absolute path.
        image: a file, or a file's content; None where the row has neither.
        metadata: carried into the output.
    """

    number: int
    id: str
    image: Path | bytes | None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey:
    """What one pass over a source says of it.

    Attributes:
        n_films: rows.
        ids_sha256: of the ids, in their order.
        stamp: of the list's content, or the Parquet files' names and sizes; the films' own content is not in it.
        left_out: columns that are not carried.
    """

    n_films: int
    ids_sha256: str
    stamp: str
    left_out: tuple[str, ...] = ()


class IdsDigest:
    """SHA-256 over ids, one after the other."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, name: str) -> None:
        """Add an id."""
        self._digest.update(name.encode() + b"\0")

    def hexdigest(self) -> str:
        """Of the ids so far."""
        return self._digest.hexdigest()


class Source(ABC):
    """Films in a fixed order.

    Attributes:
        kind: files, folder, csv or parquet. path: what the user gave, of files the folder above all of them.
        columns: Arrow schema of what is carried into the output.
        left_out: columns that are not carried.
    """

    kind: str
    path: Path
    columns: pa.Schema = pa.schema([])
    left_out: tuple[str, ...] = ()

    @abstractmethod
    def ids(self) -> Iterator[str]:
        """The id of every row, without reading any film."""

    @abstractmethod
    def rows(self, ranges: Sequence[range]) -> Iterator[Row]:
        """The rows of these ranges, which rise and do not overlap."""

    def stamp(self) -> str:
        """What else of the source must not change while it is being read."""
        return ""

    def survey(self) -> Survey:
        """Count the films, and make sure that each has an id of its own.

        8 bytes a film are held, the hashes of the ids.

        Raises:
            SourceError: no film, a blank id, an id that comes twice or is an absolute path.
        """
        stamp, digest, hashes = self.stamp(), IdsDigest(), array("Q")
        for number, name in enumerate(self.ids()):
            if not name.strip():
                raise SourceError(f"{self.path}: data row {number + 1} has no id; fill it, or choose another id_column")
            if os.path.isabs(name):
                raise SourceError(
                    f"{self.path}: data row {number + 1} would be called by an absolute path, which tells of the "
                    "folders of this machine; give --id_column, or paths relative to the list"
                )
            try:
                digest.update(name)
            except UnicodeEncodeError:
                raise SourceError(f"{self.path}: the name {name!r} is not UTF-8; rename the file") from None
            hashes.append(_hash(name))
        if not hashes:
            raise SourceError(f"{self.path}: no film in it; expected {self._expected()}")
        self._check_once(hashes)
        return Survey(len(hashes), digest.hexdigest(), hashlib.sha256(stamp.encode()).hexdigest(), self.left_out)

    def _check_once(self, hashes: array[int]) -> None:
        ordered = np.sort(np.frombuffer(hashes, np.uint64))
        twice = set(ordered[1:][ordered[1:] == ordered[:-1]][:1000].tolist())
        if not twice:
            return
        seen: dict[str, int] = {}
        for number, name in enumerate(self.ids()):
            if _hash(name) not in twice:
                continue
            if name in seen:
                raise SourceError(
                    f"{self.path}: id '{name}' in data rows {seen[name] + 1} and {number + 1}; expected each film "
                    "once, under an id of its own: give --id_column"
                )
            seen[name] = number

    def _expected(self) -> str:
        return "at least one row below the header"


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def within(items: Iterable[T], ranges: Sequence[range]) -> Iterator[tuple[int, T]]:
    """The items whose positions are in the ranges, with their positions."""
    rest, position = iter(items), 0
    for each in ranges:
        next(islice(rest, each.start - position, each.start - position), None)
        yield from zip(each, rest, strict=False)
        position = each.stop


def walk(folder: Path, wanted: Callable[[Path], bool]) -> Iterator[str]:
    """Paths of the files that are wanted below a folder, relative to it, sorted folder by folder.

    The names of one folder at a time are held. Links to folders are followed, but not in circles; hidden files and
    folders are passed over.

    Raises:
        SourceError: a folder cannot be listed.
    """
    yield from _walk(folder, PurePath(), wanted, frozenset())


def _walk(
    root: Path, below: PurePath, wanted: Callable[[Path], bool], above: frozenset[tuple[int, int]]
) -> Iterator[str]:
    here = root / below
    try:
        info = here.stat()
        with os.scandir(here) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise SourceError(f"{here}: cannot be listed ({error.strerror})") from None
    if (info.st_dev, info.st_ino) in above:
        return
    for name, is_folder in found:
        if is_folder:
            yield from _walk(root, below / name, wanted, above | {(info.st_dev, info.st_ino)})
        elif wanted(here / name):
            yield (below / name).as_posix()


def films_below(folder: Path) -> Iterator[str]:
    """Pictures and DICOM files; the latter are mostly exported without a suffix, and known by their first bytes."""
    return walk(folder, is_film)


def is_shard(path: Path) -> bool:
    """Whether a file is Parquet, by its name."""
    return path.name.lower().endswith(SHARD)


def is_film(path: Path) -> bool:
    """Whether a file is a film by its name, or DICOM by its first bytes."""
    name = path.name.lower()
    if name.endswith(FILMS):
        return True
    if name.endswith((SHARD, LIST)) or not path.is_file():  # opening a pipe would wait
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(file)
    except OSError:
        return False


class FolderSource(Source):
    """Every film below a folder, called by its path relative to it."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> str:
        """See `Source`."""
        if shard := next(walk(self.path, is_shard), None):
            raise SourceError(f"{self.path}: holds films and Parquet files besides, first {shard}; give one of the two")
        return ""

    def ids(self) -> Iterator[str]:
        """See `Source`."""
        return films_below(self.path)

    def rows(self, ranges: Sequence[range]) -> Iterator[Row]:
        """See `Source`."""
        for number, name in within(self.ids(), ranges):
            yield Row(number, name, self.path / name)

    def _expected(self) -> str:
        return f"files that end in {', '.join(FILMS)}, DICOM files by any name, or files that end in {SHARD}"


class FilesSource(Source):
    """Films named one by one, called by their paths below the last folder that they share."""

    kind = "files"

    def __init__(self, paths: Sequence[Path]) -> None:
        absolute = [os.path.abspath(path) for path in paths]
        self.path = Path(os.path.commonpath([os.path.dirname(path) for path in absolute]))
        self._ids = [Path(os.path.relpath(path, self.path)).as_posix() for path in absolute]

    def ids(self) -> Iterator[str]:
        """See `Source`."""
        return iter(self._ids)

    def rows(self, ranges: Sequence[range]) -> Iterator[Row]:
        """See `Source`."""
        for number, name in within(self._ids, ranges):
            yield Row(number, name, self.path / name)


def id_of(path: Path, columns: Sequence[str], wanted: str | None) -> str | None:
    """The column of ids: the one asked for, else `id` where there is one."""
    if wanted and wanted not in columns:
        raise SourceError(f"{path}: no column '{wanted}' (--id_column); it has {list(columns)}")
    return wanted or (ID if ID in columns else None)
