"""The order of streamed films: a pure function of (seed, epoch), in which neighbours lie in the same row groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


class StreamOrder(Sampler[int]):
    """The order of an epoch, made so that every reader meets only its own row groups, one window at a time.

    The row groups of all shards are permuted, and the films of that sequence cut into `n_parts` parts of equal numbers
    of batches; films are shuffled within windows of a part. Batches are taken from the parts in turn: batch b from
    part b mod `n_parts`. accelerate deals batches to processes in turn, and a process to its workers, so that with as
    many parts as workers in all, each reads one part, and no row group is read twice but those where two parts meet.
    Nothing is read or decoded to find a position: skipping batches skips numbers.

    Args:
        starts: (G + 1,) first film of each row group, and the number of films N.
        seed: of the run. epoch: gives the epoch when an iteration starts.
        batch_size: films of a batch on one process.
        window: films that are shuffled together, at least; whole row groups are taken until there are as many.
        n_parts: gives the number of parts, see above, when an iteration starts.
    """

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        seed: int,
        epoch: Callable[[], int],
        batch_size: int,
        window: int,
        n_parts: Callable[[], int],
    ) -> None:
        if min(batch_size, window) < 1:
            raise ValueError(f"batch_size {batch_size}, window {window}: expected 1 or more each")
        self.starts, self.seed, self.epoch = starts, seed, epoch
        self.batch_size, self.window, self.n_parts = batch_size, window, n_parts

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __iter__(self) -> Iterator[int]:
        n_batches = math.ceil(len(self) / self.batch_size)
        epoch, n_parts = self.epoch(), self.n_parts()
        groups = np.random.default_rng((self.seed, epoch)).permutation(len(self.starts) - 1)
        ends = np.cumsum(np.diff(self.starts)[groups])
        parts, start = [], 0
        for part in range(n_parts):
            n_own = n_batches // n_parts + (part < n_batches % n_parts)
            has_last = part == (n_batches - 1) % n_parts  # the one that may be incomplete
            stop = start + n_own * self.batch_size - (n_batches * self.batch_size - len(self) if has_last else 0)
            parts.append(self._batches(groups, ends, start, stop, epoch))
            start = stop
        for batch in range(n_batches):
            yield from next(parts[batch % n_parts])

    def _batches(
        self, groups: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], start: int, stop: int, epoch: int
    ) -> Iterator[list[int]]:
        """Batches of the films at these places of the sequence of row groups."""
        waiting: list[int] = []
        for films in self._windows(groups, ends, start, stop, epoch):
            waiting += films.tolist()
            whole = len(waiting) - len(waiting) % self.batch_size
            yield from (waiting[at : at + self.batch_size] for at in range(0, whole, self.batch_size))
            del waiting[:whole]
        if waiting:
            yield waiting

    def _windows(
        self, groups: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], start: int, stop: int, epoch: int
    ) -> Iterator[npt.NDArray[np.int64]]:
        at = int(np.searchsorted(ends, start, side="right"))
        first = start
        while start < stop:
            collected: list[npt.NDArray[np.int64]] = []
            while start < stop and start - first < self.window:
                group, until = groups[at], min(int(ends[at]), stop)
                offset = self.starts[group + 1] - ends[at]  # of a film's number against its place
                collected.append(np.arange(start, until) + offset)
                start, at = until, at + (until == ends[at])
            random = np.random.default_rng((self.seed, epoch, first))
            yield random.permutation(np.concatenate(collected))
            first = start
