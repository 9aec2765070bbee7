"""The order of training films: a pure function of (seed, epoch), balanced if wished, leaving no class out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

SAMPLING = ("uniform", "label_balanced")


class EpochSampler(Sampler[int]):
    """A permutation of the films, or a balanced draw, for each epoch.

    Args:
        films: the data set, for its length.
        seed: of the run.
        epoch: gives the current epoch when an iteration starts. (accelerate does not pass `set_epoch` on to a
            sampler behind a sharded, skipped batch sampler, so a resumed distributed run would repeat epoch 0.)
        weight_N: expected relative frequency of each film, or None for a permutation. Draws are systematic
            (one random offset, equal steps): a film of expected count m comes ⌊m⌋ or ⌈m⌉ times, so that
            nothing with an expected count of at least 1 is ever left out of an epoch.
    """

    def __init__(
        self, films: Sized, seed: int, epoch: Callable[[], int], weight_N: NDArray[np.float64] | None = None
    ) -> None:
        self.n_films, self.seed, self.epoch, self.weight_N = len(films), seed, epoch, weight_N
        if weight_N is not None and (len(weight_N) != self.n_films or not (weight_N > 0).all()):
            raise ValueError(f"{len(weight_N)} weights for {self.n_films} films; expected one positive weight a film")

    def __len__(self) -> int:
        return self.n_films

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch()))
        if self.weight_N is None:
            return map(int, random.permutation(self.n_films))  # a list would hold five times as much
        upper = np.cumsum(self.weight_N) * (self.n_films / self.weight_N.sum())
        drawn = np.searchsorted(upper, np.arange(self.n_films) + random.random(), side="right")
        return map(int, random.permutation(np.minimum(drawn, self.n_films - 1)))


def repeat_factors(labels_NL: torch.Tensor, threshold: float = 0.1) -> NDArray[np.float64]:
    """Repeat factor of each film: `max over its positive labels of max(1, sqrt(threshold / frequency))`. (N,)

    Repeat-factor sampling (Gupta et al. 2019, LVIS, Sec. 4.2): labels rarer than `threshold` are seen more often,
    no film less than once in proportion.
    """
    positive_NL = (labels_NL > 0.5).numpy()
    frequency_L = positive_NL.mean(axis=0)
    factor_L = np.where(frequency_L > 0, np.sqrt(threshold / np.maximum(frequency_L, 1e-12)), 1.0).clip(min=1.0)
    return np.where(positive_NL, factor_L, 1.0).max(axis=1)
