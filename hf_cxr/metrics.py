"""Figures of one label or of many, on numpy arrays; NaN truth is unknown and left out.

Shapes: N films, L labels. Undefined figures are None, never 0 and never silently part of a mean. scikit-learn
does the arithmetic.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

Array = NDArray[np.floating[Any]]
FEW_POSITIVES = 20
"""Below this many positives a label's AUROC is flagged: its standard error is about 0.05 or more."""


def known(truth_N: Array, score_N: Array) -> tuple[Array, Array]:
    """The films whose truth is known.

    Raises:
        ValueError: a score that is not finite, or truth other than 0, 1 and NaN.
    """
    truth_N, score_N = np.asarray(truth_N, float), np.asarray(score_N, float)
    if not np.isfinite(score_N).all():
        raise ValueError(f"{int((~np.isfinite(score_N)).sum())} scores of {len(score_N)} are not finite")
    keep = ~np.isnan(truth_N)
    if not np.isin(truth_N[keep], (0, 1)).all():
        raise ValueError(f"truth has the values {np.unique(truth_N[keep])[:5]}; expected 0, 1 or NaN")
    return truth_N[keep], score_N[keep]


def why_undefined(truth_N: Array) -> str | None:
    """Why ranking figures of this truth are undefined, or None if they are defined."""
    values = np.asarray(truth_N, float)
    values = values[~np.isnan(values)]
    if not len(values):
        return "no film with known truth"
    if (values == 1).all():
        return "no negative film"
    return "no positive film" if (values == 0).all() else None


def auroc(truth_N: Array, score_N: Array) -> float | None:
    """Area under the ROC curve, or None where a class is missing."""
    truth, score = known(truth_N, score_N)
    return None if why_undefined(truth) else float(roc_auc_score(truth, score))


def average_precision(truth_N: Array, score_N: Array) -> float | None:
    """Average precision, or None where a class is missing."""
    truth, score = known(truth_N, score_N)
    return None if why_undefined(truth) else float(average_precision_score(truth, score))


def brier(truth_N: Array, probability_N: Array) -> float | None:
    """Mean squared difference of probability and truth, or None without known truth."""
    truth, probability = known(truth_N, probability_N)
    return float(np.mean((probability - truth) ** 2)) if len(truth) else None


def confusion(truth_N: Array, positive_N: NDArray[np.bool_]) -> dict[str, int | float | None]:
    """Counts and rates of decisions: tp, fn, fp, tn, sensitivity, specificity, ppv, npv, f1 (None where 0/0)."""
    truth, decided = known(truth_N, np.asarray(positive_N, float))
    tp, fn = int(((truth == 1) & (decided == 1)).sum()), int(((truth == 1) & (decided == 0)).sum())
    fp, tn = int(((truth == 0) & (decided == 1)).sum()), int(((truth == 0) & (decided == 0)).sum())
    return {
        "tp": tp,
        "fn": fn,
        "fp": fp,
        "tn": tn,
        "sensitivity": ratio(tp, tp + fn),
        "specificity": ratio(tn, tn + fp),
        "ppv": ratio(tp, tp + fp),
        "npv": ratio(tn, tn + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
    }


def ratio(part: int, whole: int) -> float | None:
    """`part / whole`, or None of nothing."""
    return part / whole if whole else None


def macro(values: list[float | None]) -> float | None:
    """Mean of the defined values, or None if none is."""
    defined = [v for v in values if v is not None]
    return float(np.mean(defined)) if defined else None


def support_weighted(values: list[float | None], n_positive: list[int]) -> float | None:
    """Mean weighted by the number of positive films, over the defined values (R1's headline figure)."""
    pairs = [(v, n) for v, n in zip(values, n_positive, strict=True) if v is not None]
    return float(np.average([v for v, _ in pairs], weights=[n for _, n in pairs])) if pairs else None


def micro_auroc(truth_NL: Array, score_NL: Array) -> float | None:
    """AUROC over all (film, label) pairs at once."""
    return auroc(np.asarray(truth_NL).ravel(), np.asarray(score_NL).ravel())
