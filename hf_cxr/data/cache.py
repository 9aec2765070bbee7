"""Every film decoded once, at training size, into memory-mapped Arrow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from datasets.fingerprint import Hasher

from hf_cxr.data.problems import UNREADABLE_IMAGE, DataProblems, Problem

CACHE_VERSION = "2"  # raise it whenever the same inputs would give other bytes
WRITE_BYTES = 32 * 2**20  # held in memory by each process before they go to disk
FAULT = "decode_fault"

Read = Callable[[str | bytes], tuple[npt.NDArray[np.uint8], str | None]]


def decode(
    dataset: datasets.Dataset,
    read: Read,
    *,
    image_size: int,
    fingerprint_of_read: str,
    num_proc: int | None = None,
    skip_unreadable: bool = False,
) -> tuple[datasets.Dataset, int]:
    """Decode every image once and keep its pixels.

    The result lies in `datasets`' own cache beside the data set's, under a name made of the data set's
    fingerprint, the size and `fingerprint_of_read`; a second call reads it.

    Args:
        dataset: with the columns `image` (undecoded or not) and `id`.
        read: from the file's path, or its bytes, to (S, S) uint8 and the view that the file itself states (PA, AP,
            LATERAL or None); a ValueError or OSError means that this is no film, or none that can be read.
        image_size: S, in pixels.
        fingerprint_of_read: stands for what `read` does; two that differ must not share one.
        num_proc: processes; `read` must then be picklable.
        skip_unreadable: leave out films whose pixels cannot be decoded.

    Returns:
        The data set with `pixels` (S * S bytes, row by row) in place of `image`, and `view` as the file states it
        where the data set does not say; and the number of films left out.

    Raises:
        DataProblems: pixels of some films cannot be decoded; raised after the whole pass, with all of them
            counted, unless `skip_unreadable`.
        ValueError: there are no films, or `read` returned something else than (S, S) uint8.
    """
    if not len(dataset):
        raise ValueError("received no films to decode, expected at least one")
    name = Hasher.hash((CACHE_VERSION, dataset._fingerprint, image_size, fingerprint_of_read))
    undecoded = dataset.cast_column("image", datasets.Image(decode=False))
    kept = {key: value for key, value in undecoded.features.items() if key != "image"}
    text = datasets.Value("string")
    decoded = undecoded.map(
        _decode_film,
        fn_kwargs={"read": read, "size": image_size},
        remove_columns=["image"],
        features=datasets.Features({**kept, "pixels": datasets.Value("binary"), FAULT: text}),
        num_proc=num_proc,
        writer_batch_size=min(max(WRITE_BYTES // image_size**2, 16), 1000),
        new_fingerprint=name,
        desc=f"Decoding at {image_size}×{image_size}",
    )
    faults = decoded.select_columns([FAULT]).with_format("arrow")[:][FAULT]
    bad = np.flatnonzero(pc.is_valid(faults).to_numpy())
    if not len(bad):
        return decoded.remove_columns(FAULT), 0
    if not skip_unreadable:
        problems = [_problem(undecoded[int(i)], faults[int(i)].as_py()) for i in bad[:10]]
        # what could not be read may be mended, or have been a disk away for a moment: no such result is kept
        for file in decoded.cache_files:
            with suppress(FileNotFoundError):
                Path(file["filename"]).unlink()
        remedy = (
            "Fetch these files again, or leave the films out, and count them, with skip_unreadable=True (in recipes: "
            "--skip_missing true)."
        )
        raise DataProblems(problems, {UNREADABLE_IMAGE: len(bad)}, remedy)
    good = np.setdiff1d(np.arange(len(decoded)), bad)
    return decoded.remove_columns(FAULT).select(good), len(bad)


def _decode_film(film: dict[str, Any], read: Read, size: int) -> dict[str, Any]:
    source = film["image"]
    try:
        pixels, view = read(source["path"] if source["bytes"] is None else source["bytes"])
    except (ValueError, OSError) as error:
        return {"pixels": None, FAULT: f"{type(error).__name__}: {error}"}
    pixels = np.ascontiguousarray(pixels)
    if pixels.dtype != np.uint8 or pixels.shape != (size, size):
        received = f"{pixels.dtype} {pixels.shape}"
        raise ValueError(f"read gave {received} for {film['id']}, expected uint8 ({size}, {size})")
    stated = {"view": film["view"] or view} if "view" in film else {}
    return {"pixels": pixels.tobytes(), FAULT: None, **stated}


def _problem(film: dict[str, Any], fault: str) -> Problem:
    return Problem(UNREADABLE_IMAGE, str(film["id"]), None, fault, film["image"]["path"])


class FilmDataset(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Decoded films and their labels, read from memory-mapped Arrow row by row.

    Args:
        decoded: of `decode`; N films of S * S bytes each.
        labels: (N, L) float32 in [0, 1], NaN where unknown; row i belongs to film i.

    Items are dicts of `pixel_values` uint8 (1, S, S), `labels` float32 (L,), and `index` int64 (), the row.

    Raises:
        ValueError: the labels are not (N, L) float32, or the films are not square and of one size.
    """

    def __init__(self, decoded: datasets.Dataset, labels: npt.NDArray[np.float32]) -> None:
        if labels.ndim != 2 or labels.shape[0] != len(decoded) or labels.dtype != np.float32:
            received = f"{labels.dtype} {labels.shape}"
            raise ValueError(f"labels are {received} for {len(decoded):,} films, expected float32 (N, L)")
        self.films = decoded.select_columns(["pixels"]).with_format("arrow")
        self.labels = torch.from_numpy(np.array(labels))
        count = len(self.films[0]["pixels"][0].as_py()) if len(decoded) else 0
        self.size = math.isqrt(count)
        if self.size**2 != count:
            raise ValueError(f"films have {count} bytes, expected a square number, as `decode` writes")

    def __len__(self) -> int:
        return len(self.films)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        rows = torch.as_tensor(indices, dtype=torch.int64)
        pixels = self._pixels(rows)
        return [
            {"pixel_values": film, "labels": said, "index": row}
            for film, said, row in zip(pixels, self.labels[rows], rows, strict=True)
        ]

    def _pixels(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) uint8, a copy of these rows only."""
        column = self.films[rows.tolist()]["pixels"].combine_chunks()
        _, ends, data = column.buffers()
        ends_B1 = np.frombuffer(ends, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
        if (np.diff(ends_B1) != self.size**2).any():
            raise ValueError(f"rows {rows.tolist()}: expected {self.size**2} bytes in each, as in row 0")
        pixels = np.frombuffer(data, dtype=np.uint8)[ends_B1[0] : ends_B1[-1]]
        return torch.from_numpy(pixels.reshape(-1, 1, self.size, self.size).copy())
