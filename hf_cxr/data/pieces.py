"""The files that a decoded split lies in: which films each holds, under what name, behind which lock, on what disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow as pa
from datasets.arrow_reader import ArrowReader
from datasets.table import Table
from filelock import FileLock

from hf_cxr.errors import UserError

PIECE_BYTES = 64 * 2**20
PIECE_FILMS = 4096
SMALL_PIECE = 64  # films below which a file is not worth its lock
PIECES_TO_SHARE = 64  # small data sets are cut finer, so that all cores have work
MOST_PIECES = 16_384  # each is a memory map, of which Linux allows a process 65,530
FAULT = "decode_fault"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CacheError(UserError):
    """Decoded films cannot be kept; what is whole of them stays."""


def films_a_piece(n_films: int, image_size: int) -> int:
    """How many films each file holds but the last: the same in every run, as the files are shared by runs.

    At most 4,096 films or 64 MiB of pixels, but never more than 16,384 files; small data sets make about 64.
    """
    by_size = min(PIECE_FILMS, max(1, PIECE_BYTES // image_size**2))
    shared_out = max(SMALL_PIECE, -(-n_films // PIECES_TO_SHARE))
    return max(min(by_size, shared_out), -(-n_films // MOST_PIECES))


class Pieces:
    """The Arrow files of one decoded split.

    A file appears under its name when it is whole; while it is written it has the suffix `.partial`. Whoever writes
    it holds its lock, which the operating system takes from a process that dies.

    Args:
        folder: of the files. n_films: in the split. image_size: in pixels. features: of the rows.
    """

    def __init__(self, folder: Path, n_films: int, image_size: int, features: datasets.Features) -> None:
        self.folder = folder
        self.n_films = n_films
        self.features = features
        self.films_each = films_a_piece(n_films, image_size)

    def __len__(self) -> int:
        return -(-self.n_films // self.films_each)

    def rows(self, piece: int) -> range:
        """The films of a piece, as rows of the split."""
        return range(piece * self.films_each, min((piece + 1) * self.films_each, self.n_films))

    def films(self, pieces: Iterable[int]) -> int:
        """How many films these pieces hold."""
        return sum(len(self.rows(piece)) for piece in pieces)

    def path(self, piece: int) -> Path:
        """The file of a piece once it is whole."""
        return self.folder / f"{piece:05d}-of-{len(self):05d}.arrow"

    def lock(self, piece: int) -> FileLock:
        """To be held by whoever writes this piece."""
        return FileLock(self.path(piece).with_suffix(".lock"))

    def open(self, piece: int) -> Table | None:
        """A piece's memory-mapped rows; None if it is not there, or not what `decode` writes."""
        path = self.path(piece)
        try:
            table = ArrowReader.read_table(str(path), in_memory=False)
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        except OSError as error:
            if error.errno is None:  # Arrow's own: the file ends too early
                return None
            raise CacheError(f"cannot read {path}: {error.strerror}") from None
        usable = len(table) == len(self.rows(piece)) and table.column_names == list(self.features)
        return table if usable else None

    def n_bytes(self, pieces: Iterable[int]) -> int:
        """What these pieces take on the disk."""
        return sum(self.path(piece).stat().st_size for piece in pieces)


def n_faults(table: Table) -> int:
    """How many films of a piece could not be decoded; reads none of their rows."""
    return len(table) - table.column(FAULT).null_count


def check_space(folder: Path, needed: int) -> None:
    """Refuse to begin what cannot end.

    Raises:
        CacheError: the disk of `folder` has less than `needed` bytes free. A quota only shows in writing.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CacheError(f"decoded films need {_gigabytes(needed)} in {folder}; {_gigabytes(free)} are free. {ROOM}")


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Say of an error of writing where it happened and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise CacheError(f"cannot write decoded films to {folder}: {error.strerror or error}") from error
        free = _gigabytes(shutil.disk_usage(folder).free)
        raise CacheError(
            f"no room for decoded films in {folder}: {error.strerror}; {free} are free on the disk. What is decoded is "
            f"kept. {ROOM}"
        ) from error


ROOM = "Make room there and run again, or choose another disk with cache_dir (in recipes: --cache_dir)."


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 5e6 else f"{count / 1e3:,.0f} kB"
