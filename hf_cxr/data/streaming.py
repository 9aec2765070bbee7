"""Training films read and decoded as they are needed, from Parquet shards in a folder or on the Hub."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from hf_cxr.data.decoding import Read
from hf_cxr.data.shards import ShardError, film_bytes
from hf_cxr.data.stream_order import StreamOrder


class FilmStream(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Films of Parquet shards with their labels; what `FilmDataset` is for decoded ones, with the same items.

    Any film can be asked for, but each reading is of a whole row group, so that the order should be that of `order`.
    In memory are the films' labels and places, a few bytes each, and for each process or worker the undecoded films of
    about a window and three row groups.

    Args:
        rows: of `Shards` with `streaming`: N rows in the order of the shards, with `id`, `shard`, `group` and `at`.
        labels: (N, L) float32 in [0, 1], NaN where unknown.
        data_dir: folder of the shards, or its address on the Hub.
        read: as for `decode`; it gives (S, S) uint8. image_size: S.
        window: films that are shuffled together.
        skip_unreadable: leave films that cannot be decoded out of their batch, see `unreadable`.
        chosen: (n,) rising rows, a subset; `index` then counts from 0 among them.

    Raises:
        ValueError: the labels are not (N, L) float32, or `chosen` does not rise.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        labels: npt.NDArray[np.float32],
        data_dir: str,
        read: Read,
        image_size: int,
        *,
        window: int = 1024,
        skip_unreadable: bool = False,
        chosen: npt.NDArray[np.intp] | None = None,
    ) -> None:
        if labels.ndim != 2 or labels.shape[0] != len(rows) or labels.dtype != np.float32:
            raise ValueError(
                f"labels are {labels.dtype} {labels.shape} for {len(rows):,} films, expected float32 (N, L)"
            )
        places = rows.select_columns(["shard", "group", "at"]).with_format("arrow")[:]
        shard = places["shard"].combine_chunks().dictionary_encode()
        code, group, at = (np.asarray(column) for column in (shard.indices, places["group"], places["at"]))
        self._chosen = None if chosen is None else np.asarray(chosen)
        if self._chosen is not None:
            if (np.diff(self._chosen) <= 0).any():
                raise ValueError("chosen rows do not rise; expected each once, in the order of the shards")
            code, group, at, labels = (each[self._chosen] for each in (code, group, at, labels))
        new = np.flatnonzero((np.diff(code) != 0) | (np.diff(group) != 0)) + 1
        self.starts = np.array([0, *new, len(code)] if len(code) else [0], np.int64)
        self._groups = [(shard.dictionary[int(code[i])].as_py(), int(group[i])) for i in self.starts[:-1]]
        self._at = at.astype(np.int32)
        self.labels = torch.from_numpy(np.array(labels))
        self.data_dir, self.read, self.size, self.window = data_dir, read, image_size, window
        self.skip_unreadable = skip_unreadable
        self.n_parts = 0
        self._n_processes = 1
        self._rows = rows.select_columns(["id"])
        self._unreadable = torch.zeros(len(self), dtype=torch.uint8).share_memory_()  # workers write into it
        self._held: OrderedDict[int, pa.Array] = OrderedDict()

    def __len__(self) -> int:
        return len(self._at)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict()}  # workers read their own

    @property
    def unreadable(self) -> torch.Tensor:
        """(N,) bool: films that this process and its workers found unreadable so far."""
        return self._unreadable.bool()

    def order(
        self, seed: int, epoch: Callable[[], int], batch_size: int, n_processes: int = 1, n_workers: int = 0
    ) -> StreamOrder:
        """The sampler of training, for this many processes with this many workers each.

        The order depends on `n_parts`, which is processes × workers unless it has been set before: to what it was
        when a run is resumed, so that another number of workers changes nothing but how much is read.
        """
        self.n_parts = self.n_parts or n_processes * max(n_workers, 1)
        self._n_processes = n_processes
        self._held.clear()  # what was read outside training
        return StreamOrder(self.starts, seed, epoch, batch_size, self.window, lambda: self.n_parts)

    def spread(self, n_films: int) -> list[int]:
        """About `n_films` films in runs, from as few evenly spaced row groups as have them."""
        mean = max(len(self) / max(len(self._groups), 1), 1)
        wanted = min(math.ceil(n_films / mean), len(self._groups))
        groups = np.linspace(0, len(self._groups) - 1, wanted).astype(int)
        films = np.concatenate([np.arange(self.starts[g], self.starts[g + 1]) for g in groups])
        return films[np.linspace(0, len(films) - 1, min(n_films, len(films))).astype(int)].tolist()

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Films as of `FilmDataset`; fewer than asked for where some are unreadable and left out.

        Raises:
            ShardError: a film cannot be decoded, or with `skip_unreadable` none of these can.
        """
        films = [film for index in indices if (film := self._film(int(index))) is not None]
        if not films and len(indices):
            raise ShardError(
                f"{self.data_dir}: none of the {len(indices)} films of a batch can be read; mend the shards"
            )
        return films

    def _film(self, index: int) -> dict[str, torch.Tensor] | None:
        if not 0 <= index < len(self):
            raise IndexError(f"film {index} of {len(self)}")
        group = int(np.searchsorted(self.starts, index, side="right")) - 1
        data = self._films_of(group)[index - int(self.starts[group])].as_py()
        try:
            if data is None:
                raise ShardError("the shard has no bytes of it; write films into the shards (hf_cxr.data.write_shards)")
            pixels, _ = self.read(data)
        except (ValueError, OSError) as error:
            self._unreadable[index] = 1
            if self.skip_unreadable:
                return None
            row = index if self._chosen is None else int(self._chosen[index])
            raise ShardError(
                f"{self.data_dir}: {self._groups[group][0]}, film '{self._rows[row]['id']}' cannot be read "
                f"({type(error).__name__}: {error}). Mend it, or leave such films out, and count them, with "
                "--skip_missing true."
            ) from None
        film = torch.from_numpy(np.array(pixels))[None]
        if film.shape != (1, self.size, self.size) or film.dtype != torch.uint8:
            raise ValueError(
                f"read gave {film.dtype} {tuple(film.shape)}, expected uint8 (1, {self.size}, {self.size})"
            )
        return {"pixel_values": film, "labels": self.labels[index], "index": torch.tensor(index)}

    def _films_of(self, group: int) -> pa.Array:
        """Undecoded films of a row group, kept until those of later windows take their place."""
        if group in self._held:
            self._held.move_to_end(group)
            return self._held[group]
        start, stop = self.starts[group : group + 2]
        name, number = self._groups[group]
        self._held[group] = film_bytes(self.data_dir, name, number, self._at[start:stop])
        limit = self._n_windows() * (self.window + 3 * int(np.diff(self.starts).max()))
        while sum(map(len, self._held.values())) > limit and len(self._held) > 1:
            self._held.popitem(last=False)
        return self._held[group]

    def _n_windows(self) -> int:
        """Windows that this process or worker meets in turn, see `StreamOrder`."""
        worker = torch.utils.data.get_worker_info()
        n_parts = max(self.n_parts, 1)
        return n_parts // math.gcd(n_parts, self._n_processes * (worker.num_workers if worker else 1))
