"""Calibration: probabilities that mean what they say. numpy in, numpy out.

One family holds all three methods, beta calibration (Kull, Silva Filho & Flach 2017, AISTATS):

    logit P' = a · ln P − b · ln(1 − P) + c,  a, b ≥ 0

- `temperature`: a = b = 1/T, the same for all labels, c = 0 (Guo et al. 2017): two numbers cannot overfit.
- `platt`: a = b and c for each label: logistic regression on the logit.
- `beta`: a, b and c for each label.

All are monotone, so that by itself no label's ranking changes. Platt and beta, each label by itself, could put a child
above its parent: where it was not above before, it is lowered to the parent, and there its ranking is the parent's.

`models.calibrate` does the same to logits inside a model.

Shapes: N films, L labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_expit, logit

from hf_cxr.errors import UserError
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.metrics import FEW_POSITIVES, Array, known
from hf_cxr.predictions import PredictionTable

METHODS = ("none", "temperature", "platt", "beta")
"""From the fewest numbers to the most."""
AUTO = "auto"
N_FOLDS = 5
_BOUNDS = (1e-3, 20.0)
"""Of slopes: 0 would make all films alike and destroy the ranking."""


class CalibrationError(UserError, ValueError):
    """A calibration that cannot be fitted or applied."""


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration.

    Attributes:
        method: one of `METHODS`, and what was done to its offsets since.
        split: the split on which it was fitted.
        coefficients: `{label: (a, b, c)}`.
        pooled: labels with fewer than 20 positive or negative films in that split. They take the temperature of
            all labels together, since their own few films would teach them noise, and no more than an offset c of
            their own; none where one class is missing.
        prevalence: `{label: share of positive films}` for which the offsets hold, None where none was known: that
            split's, or the place's to which it was moved since.
    """

    method: str
    split: str
    coefficients: dict[str, tuple[float, float, float]]
    pooled: tuple[str, ...] = ()
    prevalence: dict[str, float | None] = field(default_factory=dict)

    def to_config(self) -> dict[str, Any]:
        """For a model's config (`models.calibrate`)."""
        plain = {name: list(numbers) for name, numbers in self.coefficients.items()}
        return asdict(self) | {"coefficients": plain, "pooled": list(self.pooled)}

    @property
    def changes_anything(self) -> bool:
        """Whether a probability comes out other than it went in."""
        return any(tuple(numbers) != (1.0, 1.0, 0.0) for numbers in self.coefficients.values())

    def apply(
        self, names: tuple[str, ...], probability_NL: Array, hierarchy: Hierarchy | None = None
    ) -> NDArray[np.float64]:
        """Calibrated probabilities (N, L).

        Args:
            names: the columns. probability_NL: in [0, 1].
            hierarchy: a child that was not above a parent is not above it afterwards either. None: each label by
                itself.

        Raises:
            CalibrationError: a label that was not calibrated.
        """
        if missing := [name for name in names if name not in self.coefficients]:
            raise CalibrationError(f"no calibration for {missing}; there is one for {list(self.coefficients)}")
        a, b, c = np.array([self.coefficients[name] for name in names]).T
        log_p, log_q = logs(probability_NL)
        calibrated = expit(a * log_p - b * log_q + c)
        return calibrated if hierarchy is None else _keep_order(names, probability_NL, calibrated, hierarchy)


def choose_method(names: tuple[str, ...], truth_NL: Array, probability_NL: Array, patients_N: NDArray[Any]) -> str:
    """The simplest method that is not worse than the best, by log loss on patients left out.

    Five folds that share no patient. A method needs to beat a simpler one by more than one standard error of the
    paired difference over the folds: with few positives, three numbers a label fit noise (README,
    "Calibration").

    Args:
        patients_N: whose film each row is; with fewer patients than folds, `none` is chosen. Otherwise as `fit`.
    """
    patients, patient_N = np.unique(patients_N.astype(str), return_inverse=True)
    if len(patients) < N_FOLDS:
        return METHODS[0]
    fold_N = (np.random.default_rng(0).permutation(len(patients)) % N_FOLDS)[patient_N]
    losses = {method: np.zeros(N_FOLDS) for method in METHODS}
    for fold in range(N_FOLDS):
        inside, outside = fold_N != fold, fold_N == fold
        keep = ~np.isnan(truth_NL[outside])
        for method in METHODS:
            fitted = fit(names, truth_NL[inside], probability_NL[inside], method, "")
            log_p, log_q = logs(fitted.apply(names, probability_NL[outside]))
            losses[method][fold] = _loss(truth_NL[outside][keep], (log_p - log_q)[keep])
    chosen = METHODS[0]
    for method in METHODS[1:]:
        gain = losses[chosen] - losses[method]
        if gain.mean() > gain.std(ddof=1) / np.sqrt(N_FOLDS):
            chosen = method
    return chosen


def fit_table(table: PredictionTable, method: str, split: str) -> Calibration:
    """Fit a calibration on a table's films.

    Args:
        method: one of `METHODS`, or `auto` (`choose_method`). split: the table's; goes into the result.

    Raises:
        CalibrationError: see `fit`.
    """
    if method == AUTO:
        method = choose_method(table.names, table.truth, table.probability, table.patients)
    return fit(table.names, table.truth, table.probability, method, split)


def calibrated(table: PredictionTable, calibration: Calibration, hierarchy: Hierarchy) -> PredictionTable:
    """The table with calibrated probabilities, its order within the hierarchy kept."""
    return replace(table, probability=calibration.apply(table.names, table.probability, hierarchy))


def fit(names: tuple[str, ...], truth_NL: Array, probability_NL: Array, method: str, split: str) -> Calibration:
    """Fit a calibration by maximum likelihood.

    Args:
        names: the columns. truth_NL: 0, 1, NaN = unknown. probability_NL: in [0, 1].
        method: one of `METHODS`. split: goes into the result.

    Raises:
        CalibrationError: unknown method, or no known truth at all.
    """
    if method not in METHODS:
        raise CalibrationError(f"calibration: got {method!r}, expected one of {', '.join(METHODS)}")
    prevalence = {name: _prevalence(truth_NL[:, i]) for i, name in enumerate(names)}
    slope = 1.0 if method == "none" else _temperature(truth_NL, probability_NL)
    shared = Calibration(method, split, dict.fromkeys(names, (slope, slope, 0.0)), (), prevalence)
    if method in ("none", "temperature"):
        return shared
    few = [i for i in range(len(names)) if _n_rarer(truth_NL[:, i]) < FEW_POSITIVES]
    coefficients = dict(refit_offsets(shared, names, truth_NL, probability_NL).coefficients)
    for i, name in enumerate(names):
        if i not in few:
            coefficients[name] = _regress(*known(truth_NL[:, i], probability_NL[:, i]), tied=method == "platt")
    return replace(shared, coefficients=coefficients, pooled=tuple(names[i] for i in few))


def refit_offsets(
    calibration: Calibration, names: tuple[str, ...], truth_NL: Array, probability_NL: Array
) -> Calibration:
    """The same slopes with new offsets c, from a few labelled films of another place: one number a label.

    A label without both classes among them keeps its offset.
    """
    log_p, log_q = logs(probability_NL)
    coefficients, prevalence = dict(calibration.coefficients), dict(calibration.prevalence)
    for i, name in enumerate(names):
        a, b, c = coefficients[name]
        keep = ~np.isnan(truth_NL[:, i])
        truth, base = truth_NL[keep, i], (a * log_p - b * log_q)[keep, i]
        if 0 < truth.sum() < len(truth):
            found = minimize_scalar(lambda c, truth=truth, base=base: _loss(truth, base + c), bracket=(c - 1, c + 1))
            coefficients[name] = (a, b, float(found.x))
            prevalence[name] = float(truth.mean())
    method = f"{calibration.method}, offsets refitted"
    return replace(calibration, method=method, coefficients=coefficients, prevalence=prevalence)


def _keep_order(names: tuple[str, ...], before_NL: Array, after_NL: Array, hierarchy: Hierarchy) -> Any:
    for child in hierarchy.topological_order:
        i = names.index(child)
        for parent in hierarchy.parents[child]:
            j = names.index(parent)
            lowered = np.minimum(after_NL[:, i], after_NL[:, j])
            after_NL[:, i] = np.where(before_NL[:, i] <= before_NL[:, j], lowered, after_NL[:, i])
    return after_NL


def logs(probability: Array) -> tuple[Any, Any]:
    """ln P and ln(1 − P), finite: 0 and 1 are taken as the floats next to them."""
    info = np.finfo(np.float64)
    score = logit(np.clip(np.asarray(probability, np.float64), info.tiny, 1 - info.epsneg))
    return log_expit(score), log_expit(-score)


def _loss(truth: Array, score: Array) -> float:
    return float(np.mean(np.logaddexp(0, score) - truth * score))


def _prevalence(truth_N: Array) -> float | None:
    known_M = truth_N[~np.isnan(truth_N)]
    return float(known_M.mean()) if len(known_M) else None


def _n_rarer(truth_N: Array) -> int:
    """Films of the class that has fewer."""
    return int(min((truth_N == 1).sum(), (truth_N == 0).sum()))


def _temperature(truth_NL: Array, probability_NL: Array) -> float:
    keep = ~np.isnan(truth_NL)
    if not keep.any():
        raise CalibrationError("no film with known truth: nothing to calibrate on")
    log_p, log_q = logs(probability_NL)
    score, truth = (log_p - log_q)[keep], truth_NL[keep]
    found = minimize_scalar(lambda slope: _loss(truth, slope * score), bounds=_BOUNDS, method="bounded")
    return float(found.x)


def _regress(truth: Array, probability: Array, *, tied: bool) -> tuple[float, float, float]:
    log_p, log_q = logs(probability)
    columns = (log_p - log_q)[:, None] if tied else np.stack([log_p, -log_q], axis=1)

    def objective(w: Array) -> tuple[float, Any]:
        score = columns @ w[:-1] + w[-1]
        rest = (expit(score) - truth) / len(truth)
        return _loss(truth, score), np.append(rest @ columns, rest.sum())

    # Not scikit-learn's LogisticRegression: it cannot keep the slopes positive, and a negative one turns the ranking.
    start = np.append(np.ones(columns.shape[1]), 0.0)
    bounds = [_BOUNDS] * columns.shape[1] + [(None, None)]
    w = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-9}).x
    a, b, c = (w[0], w[0], w[1]) if tied else w
    return float(a), float(b), float(c)
