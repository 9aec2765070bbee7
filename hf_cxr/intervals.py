"""Bootstrap of a table's rankings, per label and over subsets of labels, and the paired comparison of two tables.

Scores are sorted once. A resample only reweights the films, and only the negatives between two positives matter:
a sparse matrix (K, P) of each patient's films there, times the counts (P, B) of the patients drawn, gives the
weighted curve of B resamples at once. Ties count one half.

Shapes: N films, L labels, P patients, B resamples at a time, K distinct scores of positive films, M films or (film,
label) pairs. NaN truth is unknown and left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from hf_cxr import metrics
from hf_cxr.bootstrap import Array, Bootstrap, Draw, Figure, Interval, Resamples, bootstrap_ratios, share
from hf_cxr.delong import delong_difference

OF_LABELS = ("auroc", "average_precision", "brier")
OF_SUBSETS = ("macro_auroc", "weighted_auroc", "micro_auroc", "macro_average_precision")
FIGURES = OF_LABELS + OF_SUBSETS
EXACT = 2**24
"""Counts are integers, and float32 adds integers exactly up to here; beyond, the sums are in float64."""


@dataclass(frozen=True)
class Comparison:
    """One figure of two sets of scores over the same films.

    Attributes:
        first, second: the figures. difference: first − second, or None where one is undefined.
        interval: of the difference, over paired resamples. p: see `Bootstrap.p_value`.
        p_delong: of an AUROC per label, films taken as independent; for reference.
    """

    first: float | None
    second: float | None
    difference: float | None
    interval: Interval
    p: float | None
    p_delong: float | None


def bootstrap_table(
    names: Sequence[str],
    truth_NL: Array,
    score_NL: Array,
    resamples: Resamples,
    subsets: Mapping[str, Collection[str]] | None = None,
    figures: Collection[str] = FIGURES,
) -> Bootstrap:
    """Figures of each label, `("auroc", label)`, and of each subset, `("macro_auroc", subset)`.

    Means are over the labels that are defined on the original sample, as in `metrics`. A label of which a resample has
    one class only sits that resample out: it moves a mean of S labels by at most 1/S, whereas leaving the resample out
    would leave every table with one rare label (Hernia, three patients) without an interval of its mean.
    `weighted_auroc` is weighted by the resample's positives. `micro_auroc` ranks all (film, label) pairs of the subset
    at once.

    Args:
        names: the L labels. truth_NL: 0, 1 or NaN. score_NL: finite; for Brier, probabilities.
        resamples: of the same N films.
        subsets: `{name: labels}`. figures: which of `FIGURES`.

    Raises:
        ValueError: shapes disagree, an unknown figure or label, a score that is not finite, strange truth.
    """
    truth_NL, score_NL = np.asarray(truth_NL, float), np.asarray(score_NL)
    shape, subsets = (len(resamples.patient_N), len(names)), subsets or {}
    if truth_NL.shape != shape or score_NL.shape != shape:
        raise ValueError(f"truth {truth_NL.shape} and scores {score_NL.shape}, expected {shape} (films, labels)")
    unknown = (set(figures) - set(FIGURES)) | {n for members in subsets.values() for n in members} - set(names)
    if unknown:
        raise ValueError(f"no such figures or labels: {sorted(unknown)}; figures are {FIGURES}, labels {list(names)}")
    wanted, column = set(figures), {name: i for i, name in enumerate(names)}
    why = {name: metrics.why_undefined(metrics.known(truth_NL[:, i], score_NL[:, i])[0]) for name, i in column.items()}
    averaged = {key: [n for n in members if why[n] is None] for key, members in subsets.items()}
    n_patients = len(resamples.patients_P)
    rankings, pooled = {}, {}
    if wanted - {"brier", "micro_auroc"}:
        for name, i in column.items():
            rankings[name] = _Ranking(truth_NL[:, i], score_NL[:, i], resamples.patient_N, n_patients)
    if "micro_auroc" in wanted:
        for key, members in subsets.items():
            at = [column[n] for n in members]
            patient_M = np.repeat(resamples.patient_N, len(at))
            pooled[key] = _Ranking(truth_NL[:, at].ravel(), score_NL[:, at].ravel(), patient_M, n_patients)
    with_precision = bool(wanted & {"average_precision", "macro_average_precision"})

    def draw(counts_PB: Array) -> Draw:
        auroc, precision, support = {}, {}, {}
        for name, ranking in rankings.items():
            auroc[name], precision[name], support[name] = ranking.figures(counts_PB, with_precision)
        drawn = {("auroc", n): value for n, value in auroc.items()}
        drawn |= {("average_precision", n): value for n, value in precision.items()}
        empty = np.full((1, counts_PB.shape[1]), np.nan)
        for key, members in averaged.items() if rankings else ():
            values_SB = np.array([auroc[n] for n in members] or empty)
            support_SB = np.array([support[n] for n in members] or empty)
            drawn["macro_auroc", key] = _mean_of_defined(values_SB)
            weighted_SB = np.where(support_SB > 0, support_SB * values_SB, 0)
            drawn["weighted_auroc", key] = share(weighted_SB.sum(axis=0), support_SB.sum(axis=0))
            drawn["macro_average_precision", key] = _mean_of_defined(np.array([precision[n] for n in members] or empty))
        drawn |= {("micro_auroc", key): ranking.figures(counts_PB)[0] for key, ranking in pooled.items()}
        return {key: value for key, value in drawn.items() if key[0] in wanted}

    reasons = {(f, n): reason for f in ("auroc", "average_precision") for n, reason in why.items() if reason}
    reasons |= {(f, key): "no label of the subset has both classes" for f in OF_SUBSETS for key in subsets}
    ranked = resamples.bootstrap(draw, reasons)
    if "brier" not in wanted:
        return ranked
    known_NL = ~np.isnan(truth_NL)
    error_NL = np.where(known_NL, (score_NL - truth_NL) ** 2, 0)
    parts = {("brier", name): (error_NL[:, i], known_NL[:, i]) for name, i in column.items()}
    return bootstrap_ratios(parts, resamples).with_figures(ranked)


def _mean_of_defined(values_SB: Array) -> Array:
    """Mean over the S labels that each resample defines, (B,), NaN where it defines none."""
    return share(np.nansum(values_SB, axis=0), (~np.isnan(values_SB)).sum(axis=0))


def compare(
    names: Sequence[str],
    truth_NL: Array,
    first_NL: Array,
    second_NL: Array,
    resamples: Resamples,
    subsets: Mapping[str, Collection[str]] | None = None,
    figures: Collection[str] = FIGURES,
    level: float = 0.95,
) -> dict[Figure, Comparison]:
    """Two sets of scores over the same films on the same resamples; arguments and errors as `bootstrap_table`."""
    first = bootstrap_table(names, truth_NL, first_NL, resamples, subsets, figures)
    second = bootstrap_table(names, truth_NL, second_NL, resamples, subsets, figures)
    paired, compared = first.minus(second), {}
    for key in paired.point:
        p_delong = None
        if key[0] == "auroc":
            i = list(names).index(key[1])
            p_delong = delong_difference(truth_NL[:, i], first_NL[:, i], second_NL[:, i]).p
        interval, p = paired.interval(key, level), paired.p_value(key, level)
        compared[key] = Comparison(first.point[key], second.point[key], paired.point[key], interval, p, p_delong)
    return compared


class _Ranking:
    """One sorted ranking, as patients' films at and below each distinct score of a positive film."""

    def __init__(self, truth_M: Array, score_M: Array, patient_M: NDArray[np.intp], n_patients: int) -> None:
        of_positive, of_negative = (patient_M[truth_M == value] for value in (1, 0))
        steps_K, row = np.unique(score_M[truth_M == 1], return_inverse=True)
        # The first positive score above a negative one, K where there is none; a tie is with the one before it.
        negative = score_M[truth_M == 0]
        above = np.searchsorted(steps_K, negative, side="right")
        tied = np.isin(negative, steps_K)
        per_patient = np.bincount(np.concatenate([of_positive, of_negative]), minlength=n_patients)
        self.dtype = np.float32 if n_patients * int(per_patient.max(initial=0)) < EXACT else np.float64

        def films(row: Any, patient: Any) -> csr_array:
            ones, inside = np.ones(len(row), self.dtype), row < len(steps_K)
            entries = (ones[inside], (row[inside].astype(np.int32), patient[inside].astype(np.int32)))
            return csr_array(entries, shape=(len(steps_K), n_patients))

        self.positive_KP = films(row, of_positive)
        self.below_KP = films(above, of_negative)
        self.tied_KP = films(above[tied] - 1, of_negative[tied])
        # Sparse as the others: BLAS would start threads for so thin a product, and they cost more than it does.
        self.negative_1P = csr_array(np.bincount(of_negative, minlength=n_patients)[None].astype(self.dtype))

    def figures(self, counts_PB: Array, with_precision: bool = False) -> tuple[Array, Array, Array]:
        """AUROC, average precision (NaN unless asked for) and the weight of the positives, (B,) each."""
        counts = counts_PB.astype(self.dtype, copy=False)
        positive_KB, tied_KB = self.positive_KP @ counts, self.tied_KP @ counts
        below_KB = np.cumsum(self.below_KP @ counts, axis=0)
        positive_B = positive_KB.sum(axis=0, dtype=np.float64)
        negative_B = (self.negative_1P @ counts)[0].astype(np.float64)
        beaten_B = np.einsum("kb,kb->b", positive_KB, below_KB, dtype=np.float64)
        beaten_B += np.einsum("kb,kb->b", positive_KB, tied_KB, dtype=np.float64) / 2
        auroc_B = share(beaten_B, positive_B * negative_B)
        if not with_precision:
            return auroc_B, np.full_like(auroc_B, np.nan), positive_B
        hit_KB = positive_B - np.cumsum(positive_KB, axis=0, dtype=np.float64) + positive_KB
        # Where nothing is flagged, the step of recall is 0 whatever the precision.
        precision_KB = hit_KB / np.maximum(hit_KB + negative_B - below_KB, 1)
        steps_B = np.einsum("kb,kb->b", positive_KB, precision_KB)
        return auroc_B, share(np.where(negative_B > 0, steps_B, np.nan), positive_B), positive_B
