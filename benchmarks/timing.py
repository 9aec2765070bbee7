"""Two ways of doing the same work, timed in turn within one run.

A machine whose speed drifts slows both sides of a round alike: compared are therefore the rates of the same round,
and reported are the median of the rounds' ratios with its quartiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Round = Callable[[], float]
"""Does some work and returns how much it was, in the comparison's unit (films, steps, resamples)."""


@dataclass(frozen=True)
class Comparison:
    """One row of the table.

    Attributes:
        title: what is compared. unit: of the work, in the plural.
        ours, peer: names of the sides. target: the least ratio of our rate to the peer's that was asked for; None where
            nothing was asked.
        sides: makes both sides' rounds, by name; what it does itself is not timed.
        rounds: measured; one more before them is not.
        bound: `(what limits it, our share of that limit)` from our rate; None where no limit is known.
        note: what else a reader must know.
    """

    title: str
    unit: str
    ours: str
    peer: str
    target: float | None
    sides: Callable[[], dict[str, Round]]
    rounds: int = 7
    bound: Callable[[float], tuple[str, float]] | None = None
    note: str = ""


@dataclass(frozen=True)
class Budget:
    """Work that has no peer, only a time that it may take.

    Attributes:
        title: what is done. unit: of the work, in the plural. seconds: at most.
        work: makes the round; what it does itself is not timed.
    """

    title: str
    unit: str
    seconds: float
    work: Callable[[], Round]
    rounds: int = 3


@dataclass
class Rates:
    """Work a second of every side, round by round."""

    by_side: dict[str, list[float]] = field(default_factory=dict)

    def summary(self, side: str) -> dict[str, float]:
        """Median and quartiles of a side's rates."""
        return spread(np.array(self.by_side[side]))

    def ratio(self, ours: str, peer: str) -> dict[str, float]:
        """Median and quartiles of the ratio of two sides in the same round."""
        return spread(np.array(self.by_side[ours]) / np.array(self.by_side[peer]))


def spread(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, [25, 50, 75])
    return {"median": float(middle), "low": float(low), "high": float(high)}


def alternate(sides: dict[str, Round], rounds: int, clock: Callable[[], float] = time.perf_counter) -> Rates:
    """Run every side once a round, after one round that is not measured.

    Every second round runs them backwards: what one side leaves behind (heat, caches) then helps or harms both.
    """
    rates = Rates({name: [] for name in sides})
    for i in range(rounds + 1):
        for name in list(sides) if i % 2 else reversed(list(sides)):
            start = clock()
            amount = sides[name]()
            if i:
                rates.by_side[name].append(amount / (clock() - start))
    return rates


def timed(run: Round, rounds: int) -> tuple[np.ndarray, float]:
    """Seconds of each round after one that is not measured, and the work of a round."""
    amount, seconds = run(), []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return np.array(seconds), amount
