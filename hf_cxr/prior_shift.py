"""A calibration moved to a place where findings are more or less common, from films without any label.

Films of a class are taken to look the same there (label shift), so that only the offsets c of `calibration` change.
With a few labels there, `calibration.refit_offsets` needs no such assumption.

Shapes: N films, L labels.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from hf_cxr.calibration import Calibration, CalibrationError, logs
from hf_cxr.metrics import Array


def shift_offsets(calibration: Calibration, names: tuple[str, ...], probability_NL: Array) -> Calibration:
    """The same slopes with new offsets c, from films of another place without any label (`estimate_prior`).

    Right where films of a class look the same there and only the classes' shares differ (label shift).

    Args:
        probability_NL: before calibration, as in `refit_offsets`.

    Raises:
        CalibrationError: the calibration's split had one class of a label, so that there is no shift to start from.
    """
    before = calibration.apply(names, probability_NL)
    coefficients, prevalence = dict(calibration.coefficients), dict(calibration.prevalence)
    for i, name in enumerate(names):
        old = calibration.prevalence.get(name)
        if old is None or not 0 < old < 1:
            raise CalibrationError(f"'{name}': its prevalence on {calibration.split} is {old}; nothing to shift from")
        a, b, c = coefficients[name]
        new = estimate_prior(before[:, i], old)
        coefficients[name], prevalence[name] = (a, b, float(c + logit(new) - logit(old))), new
    method = f"{calibration.method}, prior shifted"
    return replace(calibration, method=method, coefficients=coefficients, prevalence=prevalence)


def shift_prior(probability_N: Array, old: float, new: float) -> NDArray[np.float64]:
    """Probabilities for another prevalence, where films of a class look the same (label shift).

        odds' = odds · [new / (1 − new)] / [old / (1 − old)]

    Args:
        probability_N: calibrated for the prevalence `old`. old, new: in (0, 1).
    """
    for name, value in (("old", old), ("new", new)):
        if not 0 < value < 1:
            raise CalibrationError(f"prevalence {name}: got {value}, expected a share between 0 and 1, both excluded")
    log_p, log_q = logs(probability_N)
    return expit(log_p - log_q + logit(new) - logit(old))


def estimate_prior(probability_N: Array, old: float, tolerance: float = 1e-8, max_iterations: int = 10_000) -> float:
    """The prevalence among new films without labels, by expectation–maximisation (Saerens et al. 2002).

    Args:
        probability_N: of the new films, calibrated for the prevalence `old` in (0, 1).

    Returns:
        prevalence in (0, 1): where the mean of the shifted probabilities is the assumed prevalence.
    """
    new = old
    for _ in range(max_iterations):
        last, new = new, float(np.clip(shift_prior(probability_N, old, new).mean(), 1e-9, 1 - 1e-9))
        if abs(new - last) < tolerance:
            break
    return new
