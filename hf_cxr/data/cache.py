"""Every film decoded once, at training size, into memory-mapped Arrow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets.fingerprint import Hasher
from datasets.table import Table, concat_tables
from datasets.utils import tqdm

from hf_cxr.data.decoding import Read, Work, default_processes, finish
from hf_cxr.data.pieces import FAULT, Pieces, check_space, n_faults, writing_to
from hf_cxr.data.problems import LISTED, UNREADABLE_IMAGE, DataProblems, Problem

CACHE_VERSION = "3"  # raise it whenever the same inputs would give other bytes, or other pieces
REMEDY = (
    "Fetch these files again, or leave the films out, and count them, with skip_unreadable=True (in recipes: "
    "--skip_missing true)."
)


def decode(
    dataset: datasets.Dataset,
    read: Read,
    *,
    image_size: int,
    fingerprint_of_read: str,
    num_proc: int | None = None,
    skip_unreadable: bool = False,
    progress: bool = True,
) -> tuple[datasets.Dataset, int]:
    """Decode every image once and keep its pixels.

    The result lies in a folder of `datasets`' own cache beside the data set's, under a name made of the data set's
    fingerprint, the size and `fingerprint_of_read`, in pieces of at most 64 MiB (`pieces.films_a_piece`). A second
    call reads them. After one that was killed, whole pieces are used and the others decoded. Several runs at once, on
    machines with this folder in common, decode each piece once in all: each takes those that are free, then waits for
    the others'.

    Args:
        dataset: with the columns `image` (undecoded or not) and `id`.
        read: from the file's path, or its bytes, to (S, S) uint8 and the view that the file itself states (PA, AP,
            LATERAL or None); a ValueError or OSError means that this is no film, or none that can be read.
        image_size: S, in pixels.
        fingerprint_of_read: stands for what `read` does; two that differ must not share one.
        num_proc: processes on this machine, which the ranks of a distributed run share evenly; default: one a core.
            `read` must be picklable where processes are not forked.
        skip_unreadable: leave out films whose pixels cannot be decoded.
        progress: show how many films are decoded.

    Returns:
        The data set with `pixels` (S * S bytes, row by row) in place of `image`, and `view` as the file states it
        where the data set does not say; and the number of films left out.

    Raises:
        DataProblems: pixels of some films cannot be decoded; raised after the whole pass, with all of them
            counted, unless `skip_unreadable`. The pieces that they are in are decoded again next time.
        CacheError: the disk has not the room, or cannot be written to; whole pieces stay.
        ValueError: there are no films, or `read` returned something else than (S, S) uint8.
    """
    cache = _Cache(dataset, read, image_size, fingerprint_of_read)
    everything = range(len(cache.pieces))
    tables, _ = cache.complete(everything, num_proc, skip_unreadable, progress)
    info = dataset.info.copy()
    info.features = cache.pieces.features
    table = concat_tables([tables[piece] for piece in everything])  # memory maps side by side, no copy
    decoded = datasets.Dataset(table, info, dataset.split, fingerprint=cache.name).remove_columns(FAULT)
    bad = [row for piece in everything for row in cache.faulty(piece, tables[piece])]
    return (decoded.select(np.setdiff1d(np.arange(len(decoded)), bad)) if bad else decoded), len(bad)


@dataclass(frozen=True)
class PartDone:
    """A part of a split, decoded.

    Attributes:
        films: in this part. decoded: how many of them this call decoded. n_bytes: what the part takes on the disk.
        folder: where it lies. left_out: films that could not be read.
    """

    films: int
    decoded: int
    n_bytes: int
    folder: Path
    left_out: int


def decode_part(
    dataset: datasets.Dataset,
    read: Read,
    *,
    image_size: int,
    fingerprint_of_read: str,
    part: int,
    parts: int,
    num_proc: int | None = None,
    skip_unreadable: bool = False,
) -> PartDone:
    """Decode one of several parts of a data set; when all are done `decode` finds everything, wherever it runs.

    Args:
        part: from 0. parts: in all. Others: as of `decode`, and the same for all parts.

    Raises:
        As `decode`, of this part's films.
    """
    if not 0 <= part < parts:
        raise ValueError(f"part {part} of {parts}, expected 0 to {parts - 1}")
    cache = _Cache(dataset, read, image_size, fingerprint_of_read)
    share = range(part, len(cache.pieces), parts)
    tables, decoded = cache.complete(share, num_proc, skip_unreadable, progress=True)
    left_out = sum(n_faults(table) for table in tables.values())
    return PartDone(cache.pieces.films(share), decoded, cache.pieces.n_bytes(share), cache.pieces.folder, left_out)


class _Cache:
    """The decoded pieces of one data set under one key."""

    def __init__(self, dataset: datasets.Dataset, read: Read, image_size: int, fingerprint_of_read: str) -> None:
        if not len(dataset):
            raise ValueError("received no films to decode, expected at least one")
        self.name = Hasher.hash((CACHE_VERSION, dataset._fingerprint, image_size, fingerprint_of_read))
        self.films = dataset.cast_column("image", datasets.Image(decode=False))
        kept = {key: value for key, value in self.films.features.items() if key != "image"}
        features = {**kept, "pixels": datasets.Value("binary"), FAULT: datasets.Value("string")}
        folder = Path(dataset._get_cache_file_path(self.name)).with_suffix("")
        self.pieces = Pieces(folder, len(dataset), image_size, datasets.Features(features))
        self.work = Work(self.films.with_format("arrow"), read, image_size, self.pieces)
        bare = self.films.remove_columns("image").data
        self.film_bytes = image_size**2 + -(-bare.nbytes // len(bare))

    def complete(
        self, share: Sequence[int], num_proc: int | None, skip_unreadable: bool, progress: bool
    ) -> tuple[dict[int, Table], int]:
        """All these pieces, whole, and how many films were decoded for it."""
        with writing_to(self.pieces.folder):
            self.pieces.folder.mkdir(parents=True, exist_ok=True)
        tables = {}
        for piece in share:
            table = self.pieces.open(piece)
            if table is not None and n_faults(table) and not skip_unreadable:
                self.pieces.path(piece).unlink(missing_ok=True)  # what could not be read may be mended
            elif table is not None:
                tables[piece] = table
        missing = [piece for piece in share if piece not in tables]
        decoded_here = 0
        if missing:
            check_space(self.pieces.folder, self.pieces.films(missing) * self.film_bytes)
            with tqdm(
                desc=f"Decoding at {self.work.size}×{self.work.size}",
                total=self.pieces.films(share),
                initial=self.pieces.films(tables),
                unit=" films",
                disable=not progress,
            ) as bar:
                while missing:
                    for piece, decoded in finish(self.work, missing, _processes(num_proc), bar.update):
                        decoded_here += decoded
                        if not decoded:
                            bar.update(len(self.pieces.rows(piece)))
                        if (table := self.pieces.open(piece)) is not None:
                            tables[piece] = table
                    # another run may have taken away what it could not read, before it was seen here
                    missing = [piece for piece in missing if piece not in tables]
        if not skip_unreadable:
            self._raise_faults(tables)
        return tables, decoded_here

    def faulty(self, piece: int, table: Table) -> list[int]:
        """Rows of the data set whose films could not be read."""
        if not n_faults(table):
            return []
        first = self.pieces.rows(piece).start
        return [first + i for i, fault in enumerate(table.column(FAULT).to_pylist()) if fault is not None]

    def _raise_faults(self, tables: dict[int, Table]) -> None:
        bad = [(piece, row) for piece in sorted(tables) for row in self.faulty(piece, tables[piece])]
        if not bad:
            return
        problems = []
        for piece, row in bad[:LISTED]:
            film, first = self.films[row], self.pieces.rows(piece).start
            fault = tables[piece].column(FAULT)[row - first].as_py()
            problems.append(Problem(UNREADABLE_IMAGE, str(film["id"]), None, fault, film["image"]["path"]))
        # these may be mended, or have been a disk away for a moment: no such result is kept
        for piece in {piece for piece, _ in bad}:
            self.pieces.path(piece).unlink(missing_ok=True)
        raise DataProblems(problems, {UNREADABLE_IMAGE: len(bad)}, REMEDY)


def _processes(num_proc: int | None) -> int:
    """Processes for this rank: all ranks of a machine decode at once."""
    return max(1, (num_proc or default_processes()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
