"""Whether probabilities mean what they say: expected calibration error, slope and intercept. numpy in, numbers out.

Shapes: N films. NaN truth is unknown and left out. Undefined figures are None.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from hf_cxr.metrics import Array, known, why_undefined

N_BINS = 15
KINDS = ("width", "mass")


def reliability_bins(
    truth_N: Array, probability_N: Array, kind: str = "width", n_bins: int = N_BINS
) -> list[dict[str, float]]:
    """The reliability diagram: for each bin that holds a film its bounds and what is in it.

    Args:
        kind: `"width"`, bins of equal width on [0, 1], right-closed, 0 in the first (Guo et al. 2017); or `"mass"`,
            bins of equally many films, equal probabilities never torn apart.

    Returns:
        rows `{low, high, n, mean_probability, share_positive}`.

    Raises:
        ValueError: unknown kind.
    """
    truth, probability = known(truth_N, probability_N)
    return [
        {
            "low": float(low),
            "high": float(high),
            "n": int(inside.sum()),
            "mean_probability": float(probability[inside].mean()),
            "share_positive": float(truth[inside].mean()),
        }
        for low, high, inside in _bins(probability, kind, n_bins)
    ]


def ece(truth_N: Array, probability_N: Array, kind: str = "width", n_bins: int = N_BINS) -> float | None:
    """Expected calibration error: mean over films of |share positive − mean probability| of their bin.

    Kinds as in `reliability_bins`. It is never 0 on a sample: see `ece_if_perfect`.
    """
    truth, probability = known(truth_N, probability_N)
    if not len(truth):
        return None
    gaps = [abs((truth - probability)[inside].sum()) for _, _, inside in _bins(probability, kind, n_bins)]
    return float(sum(gaps) / len(truth))


def ece_if_perfect(
    truth_N: Array, probability_N: Array, kind: str = "width", n_bins: int = N_BINS, n_draws: int = 200, seed: int = 0
) -> float | None:
    """The ECE that these probabilities would show if they were exactly right: chance's share of `ece`.

    Mean over truths drawn from the probabilities (the consistency bar of Bröcker & Smith 2007). An ECE near it
    cannot be told from perfect calibration on this many films.
    """
    _, probability = known(truth_N, probability_N)
    if not len(probability):
        return None
    random = np.random.default_rng(seed)
    drawn_RN = random.random((n_draws, len(probability))) < probability
    gaps = [np.abs((drawn_RN - probability)[:, inside].sum(1)) for _, _, inside in _bins(probability, kind, n_bins)]
    return float(np.sum(gaps, axis=0).mean() / len(probability))


def slope_and_intercept(truth_N: Array, probability_N: Array) -> tuple[float | None, float | None]:
    """Calibration slope and calibration-in-the-large (Cox 1958; Steyerberg 2010), None where a class is missing.

    Slope: of the logistic regression of truth on logit P; under 1 the probabilities are too extreme. Intercept: of
    the same with the slope held at 1; over 0 they are too low on the whole. 0 and 1 count as 1e-9 from them.
    """
    truth, probability = known(truth_N, probability_N)
    if why_undefined(truth):
        return None, None
    score = logit(np.clip(probability, 1e-9, 1 - 1e-9))
    slope = None
    if np.ptp(score) > 0:
        slope = float(LogisticRegression(C=np.inf, tol=1e-9, max_iter=1000).fit(score[:, None], truth).coef_[0, 0])
    # The mean of expit(score + c) rises with c from 0 to 1, hence one root.
    intercept = brentq(lambda c: expit(score + c).mean() - truth.mean(), -60.0, 60.0)
    return slope, float(intercept)


def _bins(probability: Array, kind: str, n_bins: int) -> list[tuple[float, float, Any]]:
    if kind not in KINDS:
        raise ValueError(f"bins: got {kind!r}, expected one of {', '.join(KINDS)}")
    if kind == "width":
        edges = np.linspace(0, 1, n_bins + 1)
    else:
        # The upper edge of each bin is the probability of its last film; a tie pulls in all its films.
        upper = np.unique(np.quantile(probability, np.arange(1, n_bins + 1) / n_bins, method="inverted_cdf"))
        edges = np.append(0.0, upper)
    place = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, len(edges) - 2)
    rows = [(edges[i], edges[i + 1], place == i) for i in range(len(edges) - 1)]
    return [row for row in rows if row[2].any()]
