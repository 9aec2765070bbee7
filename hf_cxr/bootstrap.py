"""Resamples of patients, percentile intervals over them, and the bootstrap of proportions.

Films of one patient resemble each other, so patients are drawn with replacement and each brings all its films as
often as it is drawn (the cluster bootstrap: Field and Welsh 2007, J. R. Stat. Soc. B 69, 369–390). Resamples that
are drawn alike can be paired, whatever the figures. Rankings are in `intervals`.

Shapes: N films, P patients (or films, where there is no patient column), R resamples, B of them at a time, F figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Figure = tuple[str, str]
"""A figure and what it is of: `("auroc", "Hernia")`, `("macro_auroc", "findings")`, `("ppv", "Mass")`."""
Draw = dict[Figure, Array]

BLOCK, LEAST, COUNTS, FILMS = 64, 16, 320_000, 2**22
"""Resamples at a time: as many as let a block's counts stay in a core's cache (`COUNTS` of them, 1.3 MB), from `LEAST`,
a line of the cache, to `BLOCK`. Fewer where a block would hold more than `FILMS` films, for the memory's sake."""


@dataclass(frozen=True)
class Interval:
    """A percentile interval, or null with the reason.

    Attributes:
        low, high: its ends. level: nominal coverage in (0, 1).
        n_resamples: drawn. n_undefined: of these, where the figure is undefined (a class is missing); left out.
        unit: what was resampled, `"patient"` or `"image"`.
        undefined: why there is no interval, None if there is one.
    """

    low: float | None
    high: float | None
    level: float
    n_resamples: int
    n_undefined: int
    unit: str
    undefined: str | None = None


@dataclass(frozen=True, eq=False)
class Resamples:
    """Which patients each resample draws; depends on the set of patients and the seed, not on the order of films.

    Attributes:
        patients_P: distinct patients, sorted. patient_N: each film's position therein.
        n: resamples. seed: of `np.random.default_rng`. unit: see `Interval`. block: resamples at a time.
    """

    patients_P: NDArray[Any]
    patient_N: NDArray[np.intp]
    n: int = 1000
    seed: int = 0
    unit: str = "patient"
    block: int = BLOCK

    @classmethod
    def of(
        cls, patients_N: Sequence[Any] | NDArray[Any], n: int = 1000, seed: int = 0, unit: str = "patient"
    ) -> Resamples:
        """Resamples of these films' patients; without patients give ids and `unit="image"`.

        Raises:
            ValueError: a film without patient, no film at all, or an id that repeats under `"image"`. One patient is
                allowed: every resample is then the same, and every interval null with that as its reason.
        """
        missing = sum(p is None or p != p or p == "" for p in patients_N)
        if missing:
            raise ValueError(f"{missing} films of {len(patients_N)} have no patient; give ids and unit='image'")
        patients_P, patient_N = np.unique(np.asarray(patients_N), return_inverse=True)
        if unit not in ("patient", "image") or len(patients_P) < 1 or n < 1:
            raise ValueError(
                f"unit '{unit}', {len(patients_P)} distinct, {n} resamples; expected 'patient' or 'image', one, one"
            )
        if unit == "image" and len(patients_P) < len(patient_N):
            raise ValueError(f"{len(patient_N)} films have {len(patients_P)} ids; with patients give unit='patient'")
        in_cache = int(np.clip(COUNTS // len(patients_P), LEAST, BLOCK))
        return cls(patients_P, patient_N, n, seed, unit, int(np.clip(FILMS // len(patient_N), 1, in_cache)))

    def counts(self) -> Iterator[NDArray[np.float32]]:
        """(P, B) blocks: how often each resample draws each patient. Every column sums to P."""
        random, n_patients = np.random.default_rng(self.seed), len(self.patients_P)
        for start in range(0, self.n, self.block):
            size = min(self.block, self.n - start)
            # Drawn in the order of resamples, so that neither the block nor n changes those that came before.
            cell_BP = random.integers(n_patients, size=(size, n_patients)) + n_patients * np.arange(size)[:, None]
            counts_BP = np.bincount(cell_BP.ravel(), minlength=size * n_patients).reshape(size, n_patients)
            yield np.ascontiguousarray(counts_BP.T, np.float32)

    def bootstrap(self, draw: Callable[[Array], Draw], reasons: dict[Figure, str]) -> Bootstrap:
        """Figures of the original sample (each patient once) and of every resample.

        Args:
            draw: from counts (P, B) to figures (B,), NaN where undefined.
            reasons: why figures of the original sample are undefined.
        """
        point = draw(np.ones((len(self.patients_P), 1), np.float32))
        blocks = [draw(counts_PB) for counts_PB in self.counts()]
        return Bootstrap(
            {key: None if np.isnan(value).any() else float(value[0]) for key, value in point.items()},
            {key: np.concatenate([block[key] for block in blocks]) for key in point},
            self,
            reasons,
        )


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Figures and their resamples.

    Attributes:
        point: figure on the original sample, None where undefined.
        draws: (R,) figure on each resample, NaN where undefined.
        resamples: what was drawn. reasons: why a point is None.
    """

    point: dict[Figure, float | None]
    draws: dict[Figure, Array]
    resamples: Resamples
    reasons: dict[Figure, str] = field(default_factory=dict)

    def interval(self, figure: Figure, level: float = 0.95) -> Interval:
        """Percentile interval over the resamples in which the figure is defined.

        Null where the point is undefined, and where more resamples are undefined than one tail holds, (1 − level)/2:
        beyond that, what the missing resamples would have given could move an end anywhere. A class carried by k
        patients is missing from a share of about e^−k, so at 95 % a label needs four patients of each class. Null
        too where both ends are the same number, as for a sensitivity of 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level {level}, expected a share such as 0.95")
        draws, tail = self.draws[figure], (1 - level) / 2
        n_undefined, reason = int(np.isnan(draws).sum()), None
        low = high = None
        if self.point[figure] is None:
            reason = self.reasons.get(figure, "undefined on the original sample")
        elif n_undefined > tail * len(draws):
            reason = f"undefined in {n_undefined} of {len(draws)} resamples; at most {tail * len(draws):g} may be"
        else:
            low, high = (float(q) for q in np.nanquantile(draws, [tail, 1 - tail]))
            if low == high:  # no miss among a few cases, say: 0 to 0 would claim a certainty that nobody has
                low, high, reason = None, None, f"{high:g} in every resample, which says nothing of its uncertainty"
        return Interval(low, high, level, len(draws), n_undefined, self.resamples.unit, reason)

    def p_value(self, figure: Figure, level: float = 0.95) -> float | None:
        """Two-sided p of "the figure is 0", for differences: twice the smaller tail beyond 0, as the percentile
        interval has it: min(1, 2 (1 + min(#{d ≤ 0}, #{d ≥ 0})) / (1 + n)), n defined resamples; never 0. None
        where the interval is null.
        """
        if self.interval(figure, level).undefined:
            return None
        draws = self.draws[figure][~np.isnan(self.draws[figure])]
        smaller = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
        return min(1.0, 2 * (1 + smaller) / (1 + len(draws)))

    def minus(self, other: Bootstrap) -> Bootstrap:
        """Paired differences of the figures that both have.

        Raises:
            ValueError: the resamples differ, so that there is nothing to pair.
        """
        self._check_alike(other)
        point: dict[Figure, float | None] = {}
        for key, left in self.point.items():
            if key in other.point:
                right = other.point[key]
                point[key] = None if left is None or right is None else left - right
        return Bootstrap(
            point, {k: self.draws[k] - other.draws[k] for k in point}, self.resamples, other.reasons | self.reasons
        )

    def with_figures(self, other: Bootstrap) -> Bootstrap:
        """These figures and others of the same resamples; errors as `minus`."""
        self._check_alike(other)
        reasons = self.reasons | other.reasons
        return Bootstrap(self.point | other.point, self.draws | other.draws, self.resamples, reasons)

    def _check_alike(self, other: Bootstrap) -> None:
        a, b = self.resamples, other.resamples
        if (a.n, a.seed, a.unit) != (b.n, b.seed, b.unit) or not np.array_equal(a.patients_P, b.patients_P):
            sides = [f"{len(s.patients_P)} of unit {s.unit}, {s.n} resamples, seed {s.seed}" for s in (a, b)]
            raise ValueError(f"resamples differ: {sides[0]} against {sides[1]} (or other patients); draw them alike")


def bootstrap_ratios(parts: Mapping[Figure, tuple[Array, Array]], resamples: Resamples) -> Bootstrap:
    """Weighted proportions: sensitivity, PPV, share of films skipped, or a mean such as Brier's.

    Args:
        parts: `{figure: (numerator_N, denominator_N)}`, masks or finite numbers; see `decision_parts`.
        resamples: over the same N films.

    Raises:
        ValueError: a shape differs, a value is not finite, or a numerator lies outside its denominator.
    """
    n_patients, shape = len(resamples.patients_P), resamples.patient_N.shape
    for key, pair in parts.items():
        numerator, denominator = (np.asarray(part, float) for part in pair)
        if numerator.shape != shape or denominator.shape != shape:
            raise ValueError(f"{key}: shapes {numerator.shape} and {denominator.shape}, expected {shape} of resamples")
        if not np.isfinite(numerator).all() or ((denominator == 0) & (numerator != 0)).any() or (denominator < 0).any():
            raise ValueError(f"{key}: the numerator is not finite, or counts films that the denominator leaves out")
    top_FP, bottom_FP = (
        np.array([np.bincount(resamples.patient_N, np.asarray(p[i], float), n_patients) for p in parts.values()])
        for i in (0, 1)
    )

    def draw(counts_PB: Array) -> Draw:
        counts = counts_PB.astype(np.float64)
        return dict(zip(parts, share(top_FP @ counts, bottom_FP @ counts), strict=True))

    empty = {key: "no film in the denominator" for key, pair in parts.items() if not np.any(pair[1])}
    return resamples.bootstrap(draw, empty)


def decision_parts(label: str, truth_N: Array, positive_N: NDArray[np.bool_]) -> dict[Figure, tuple[Array, Array]]:
    """The rates of `metrics.confusion` as parts for `bootstrap_ratios`; films of unknown truth are in none."""
    true, false, decided = truth_N == 1, truth_N == 0, np.asarray(positive_N, bool)
    tp, tn, known = true & decided, false & ~decided, true | false
    rates = {
        "sensitivity": (tp, true),
        "specificity": (tn, false),
        "ppv": (tp, known & decided),
        "npv": (tn, known & ~decided),
        "f1": (2.0 * tp, 1.0 * true + (known & decided)),
    }
    return {(name, label): (a.astype(float), b.astype(float)) for name, (a, b) in rates.items()}


def share(top: Array, bottom: Array) -> Array:
    """`top / bottom`, NaN of nothing."""
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom > 0)
