"""DeLong's variance of AUROCs: one curve, or two over the same films.

DeLong, DeLong and Clarke-Pearson 1988, Biometrics 44, 837–845; from midranks as in Sun and Xu 2014, IEEE Signal
Process. Lett. 21, 1389–1393, in O(N log N). The films are taken as independent: with several films a patient the
intervals are too narrow and the p-values too small. `bootstrap` clusters by patient; this is the reference beside it.

Shapes: N films, m positive and n negative among those of known truth. NaN truth is unknown and left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from hf_cxr import metrics
from hf_cxr.metrics import Array

FLAT = 1e-12
"""Structural components are multiples of 1/(2m) or 1/(2n): a spread below this is rounding."""


@dataclass(frozen=True)
class DeLong:
    """One AUROC; a field is None where it cannot be had, and `undefined` says why.

    Attributes:
        auroc: in [0, 1]. standard_error: DeLong's. low, high: Wald interval on the logit of the AUROC.
        level: nominal coverage. n_positive, n_negative: m, n. undefined: reason of the first null.
    """

    auroc: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    level: float
    n_positive: int
    n_negative: int
    undefined: str | None = None


@dataclass(frozen=True)
class DeLongDifference:
    """First AUROC minus second on the same films; None and `undefined` as in `DeLong`.

    Attributes:
        difference: in [−1, 1]. standard_error: with the curves' covariance. low, high: plain Wald interval.
        level: nominal coverage. z: difference / standard error. p: two-sided, of z under the normal law.
        undefined: reason of the first null.
    """

    difference: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    level: float
    z: float | None
    p: float | None
    undefined: str | None = None


def delong(truth_N: Array, score_N: Array, level: float = 0.95) -> DeLong:
    """AUROC with DeLong's standard error and a logit Wald interval, which stays within (0, 1).

    Where no component varies (perfect separation, AUROC 1; or 0) the standard error is 0 and says nothing of the
    uncertainty: it is given, but the interval is null.

    Raises:
        ValueError: a score that is not finite, or truth other than 0, 1 and NaN.
    """
    truth, score = metrics.known(truth_N, score_N)
    m, n = int((truth == 1).sum()), int((truth == 0).sum())
    reason = metrics.why_undefined(truth)
    if reason:
        return DeLong(None, None, None, None, level, m, n, reason)
    positive_m, negative_n = _components(truth, score)
    auroc = float(positive_m.mean())
    if min(m, n) < 2:
        return DeLong(auroc, None, None, None, level, m, n, _too_few(m, n))
    if _flat(positive_m, negative_n):
        return DeLong(auroc, 0.0, None, None, level, m, n, f"AUROC {auroc:g} with a variance of 0: no interval")
    error = _standard_error(positive_m, negative_n)
    logit, spread = np.log(auroc / (1 - auroc)), _quantile(level) * error / (auroc * (1 - auroc))
    low, high = (float(1 / (1 + np.exp(-end))) for end in (logit - spread, logit + spread))
    return DeLong(auroc, error, low, high, level, m, n)


def delong_difference(truth_N: Array, first_N: Array, second_N: Array, level: float = 0.95) -> DeLongDifference:
    """DeLong's test of two correlated curves, first minus second.

    Where the components of the difference do not vary (the same ranking twice, or both perfect) z is 0/0: the
    difference and the standard error 0 are given; interval, z and p are null.

    Raises:
        ValueError: a score that is not finite, or truth other than 0, 1 and NaN.
    """
    truth, first = metrics.known(truth_N, first_N)
    _, second = metrics.known(truth_N, second_N)
    reason = metrics.why_undefined(truth)
    if reason:
        return DeLongDifference(None, None, None, None, level, None, None, reason)
    positive_m, negative_n = (a - b for a, b in zip(_components(truth, first), _components(truth, second), strict=True))
    difference = float(positive_m.mean())
    if min(len(positive_m), len(negative_n)) < 2:
        reason = _too_few(len(positive_m), len(negative_n))
        return DeLongDifference(difference, None, None, None, level, None, None, reason)
    if _flat(positive_m, negative_n):
        reason = f"difference {difference:g} with a variance of 0: no film tells the curves apart"
        return DeLongDifference(difference, 0.0, None, None, level, None, None, reason)
    error = _standard_error(positive_m, negative_n)
    z, spread = difference / error, _quantile(level) * error
    return DeLongDifference(
        difference, error, difference - spread, difference + spread, level, z, float(2 * ndtr(-abs(z)))
    )


def _components(truth: Array, score: Array) -> tuple[Array, Array]:
    """V10 (m,) and V01 (n,), equations 5 and 6 of Sun and Xu: shares of the other class that a film beats."""
    positive, negative = score[truth == 1], score[truth == 0]
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    return (ranks[:m] - rankdata(positive)) / n, 1 - (ranks[m:] - rankdata(negative)) / m


def _standard_error(positive_m: Array, negative_n: Array) -> float:
    return float(np.sqrt(positive_m.var(ddof=1) / len(positive_m) + negative_n.var(ddof=1) / len(negative_n)))


def _flat(positive_m: Array, negative_n: Array) -> bool:
    return bool(np.ptp(positive_m) < FLAT and np.ptp(negative_n) < FLAT)


def _too_few(m: int, n: int) -> str:
    return f"{m} positive and {n} negative films; the variance needs two of each"


def _quantile(level: float) -> float:
    if not 0 < level < 1:
        raise ValueError(f"level {level}, expected a share such as 0.95")
    return float(ndtri(0.5 + level / 2))
