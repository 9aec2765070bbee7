"""Decision thresholds from truth and probabilities of one label. A film is positive at P ≥ threshold.

Shapes: N films. NaN truth is unknown and left out.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import binom
from sklearn.metrics import precision_recall_curve, roc_curve

from hf_cxr.errors import UserError
from hf_cxr.metrics import Array, known, why_undefined


class ThresholdError(UserError, ValueError):
    """A criterion that these films cannot meet."""


def highest_f1(truth_N: Array, probability_N: Array) -> float | None:
    """The threshold at which F1 is highest, or None where a class is missing."""
    truth, probability = known(truth_N, probability_N)
    if why_undefined(truth):
        return None
    precision, recall, thresholds = precision_recall_curve(truth, probability)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return float(thresholds[int(f1[:-1].argmax())])


def highest_youden(truth_N: Array, probability_N: Array) -> float | None:
    """The threshold at which sensitivity + specificity is highest (Youden 1950), or None where a class is missing."""
    truth, probability = known(truth_N, probability_N)
    if why_undefined(truth):
        return None
    false_positive, true_positive, thresholds = roc_curve(truth, probability)
    # The first point is "nobody is positive", at an infinite threshold.
    return float(thresholds[1:][int((true_positive - false_positive)[1:].argmax())])


def at_sensitivity(truth_N: Array, probability_N: Array, sensitivity: float) -> float | None:
    """The highest threshold with at least this share of the positive films positive; None without such films.

    Raises:
        ThresholdError: a share outside (0, 1].
    """
    _check_share("sensitivity", sensitivity)
    truth, probability = known(truth_N, probability_N)
    positive = np.sort(probability[truth == 1])[::-1]
    return float(positive[math.ceil(sensitivity * len(positive) - 1e-9) - 1]) if len(positive) else None


def at_specificity(truth_N: Array, probability_N: Array, specificity: float) -> float | None:
    """The lowest threshold with at least this share of the negative films negative; None without such films.

    Raises:
        ThresholdError: a share outside (0, 1].
    """
    _check_share("specificity", specificity)
    truth, probability = known(truth_N, probability_N)
    negative = np.sort(probability[truth == 0])
    if not len(negative):
        return None
    # The least float above the last negative that has to stay below the threshold.
    return float(np.nextafter(negative[math.ceil(specificity * len(negative) - 1e-9) - 1], np.inf))


def at_miss_rate(truth_N: Array, probability_N: Array, miss_rate: float, confidence: float) -> float:
    """The highest threshold whose miss rate on new films stays under a limit, with a guarantee.

    The miss rate of the threshold "k-th lowest positive film" on exchangeable new films is Beta(k, n + 1 − k) for
    n positive films, so that P(miss rate > α) = P(Binomial(n, α) ≤ k − 1), an exact bound. The highest k that
    keeps this at 1 − confidence is taken: with that confidence over the choice of these n films the threshold
    misses at most α of all positive ones. (Conformal risk control bounds the mean over such choices instead,
    which a single hospital, that chooses once, is not helped by.)

    Films of one patient are not exchangeable one by one. Give one film a patient where patients have many.

    Args:
        miss_rate: α in (0, 1), the share of positive films that may be missed.
        confidence: in (0, 1).

    Raises:
        ThresholdError: too few positive films for such a statement; says how many it takes.
    """
    for name, value in (("miss_rate", miss_rate), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ThresholdError(f"{name}: got {value}, expected a share between 0 and 1, both excluded")
    truth, probability = known(truth_N, probability_N)
    positive = np.sort(probability[truth == 1])
    k = int((binom.cdf(np.arange(len(positive)), len(positive), miss_rate) <= 1 - confidence).sum())
    if not k:
        needed = math.ceil(math.log(1 - confidence) / math.log(1 - miss_rate))
        raise ThresholdError(
            f"a miss rate of at most {miss_rate} with confidence {confidence} takes {needed} positive films, "
            f"there are {len(positive)}; allow more misses or less confidence, or label more films"
        )
    return float(positive[k - 1])


def _check_share(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ThresholdError(f"{name}: got {value}, expected a share in (0, 1]")
