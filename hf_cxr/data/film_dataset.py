"""Decoded films as a model's training reads them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch


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
        self.films = decoded.select_columns(["pixels"])
        # Not copied once more: of many films the labels are what a process holds most of.
        self.labels = torch.from_numpy(np.require(labels, requirements=["C", "W"]))
        count = len(self.films[0]["pixels"]) if len(decoded) else 0
        self.size = math.isqrt(count)
        if self.size**2 != count:
            raise ValueError(f"films have {count} bytes, expected a square number, as `decode` writes")
        self._map()

    def _map(self) -> None:
        """Where each film's bytes are: `datasets` would slice the table once a row and copy twice."""
        self._chunks = self.films.data.column("pixels").chunks
        self._starts = np.cumsum([0, *map(len, self._chunks)])
        chosen = self.films._indices
        self._rows = None if chosen is None else chosen.column(0).to_numpy()
        self._seen: dict[int, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # films are pickled by the names of their files, arrays of their bytes would be by value
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

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
        wanted = rows.numpy()
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"rows {wanted.min()} to {wanted.max()} of {len(self):,} films")
        stored = wanted if self._rows is None else self._rows[wanted].astype(np.int64)
        chunks = np.searchsorted(self._starts, stored, side="right") - 1
        inside = stored - self._starts[chunks]
        pixels = np.empty((len(stored), self.size**2), np.uint8)
        for i, (chunk, at) in enumerate(zip(chunks.tolist(), inside.tolist(), strict=True)):
            data, ends = self._buffers(chunk)
            start, end = ends[at], ends[at + 1]
            if end - start != self.size**2:
                raise ValueError(f"film {wanted[i]} has {end - start} bytes; expected {self.size**2} bytes in each")
            pixels[i] = data[start:end]
        return torch.from_numpy(pixels).view(-1, 1, self.size, self.size)

    def _buffers(self, chunk: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """All bytes of a chunk where they lie in the file, and where each of its films begins and ends."""
        if (found := self._seen.get(chunk)) is None:
            column = self._chunks[chunk]
            _, ends, data = column.buffers()
            found = np.frombuffer(data, dtype=np.uint8), np.frombuffer(ends, dtype=np.int32)[column.offset :]
            self._seen[chunk] = found
        return found
