"""Whether an uncertainty tells errors from correct decisions, and what abstaining by it buys. numpy in, numbers out.

    coverage     share of the films that are decided, those of least uncertainty first
    risk         share of wrong decisions among them
    AURC         mean risk over the coverages 1/n, 2/n, … 1 (Geifman, Uziel and El-Yaniv 2019, ICLR)
    excess       AURC less that of the best order, all errors last (their E-AURC, with the sum and not its integral)

El-Yaniv and Wiener 2010 (JMLR 11) have the curve. An uncertainty that knows nothing has an AURC of about the risk
at full coverage and an error AUROC of about 0.5; below 0.5 it points the wrong way, and is reported as it is.
Compare with the entropy of the plain probability, which costs nothing: where a finding is rare and decided from a low
threshold, whatever grows with the probability ranks the errors.

Shapes: N films, L labels. NaN truth is unknown and left out; undefined figures are None, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hf_cxr.metrics import Array, auroc, known, ratio

Decisions = NDArray[np.bool_]


def errors(truth_N: Array, positive_N: Decisions) -> Array:
    """1 where the decision is wrong, 0 where right, NaN where the truth is unknown; any shape."""
    truth = np.asarray(truth_N, float)
    return np.where(np.isnan(truth), np.nan, (truth == 1) != np.asarray(positive_N, bool))


def risk_coverage(error_N: Array, uncertainty_N: Array) -> tuple[Array, Array]:
    """The curve: coverages k/n and the risk at each, k = 1 … n.

    Films of equal uncertainty have no order: each counts as its group's mean error, which is the mean over all
    orders of the group, so that the order of the films never matters.

    Args:
        error_N: see `errors`.
        uncertainty_N: finite, more is less sure.

    Raises:
        ValueError: another error than 0, 1 and NaN, or an uncertainty that is not finite.
    """
    error, uncertainty = known(error_N, uncertainty_N)
    _, group, size = np.unique(uncertainty, return_inverse=True, return_counts=True)
    in_order = np.repeat(np.bincount(group, error, len(size)) / size, size)
    kept = np.arange(1, len(error) + 1)
    return kept / max(len(error), 1), np.cumsum(in_order) / kept


def aurc(error_N: Array, uncertainty_N: Array) -> float | None:
    """Area under the risk–coverage curve, in [0, 1], less is better; None without known truth."""
    _, risk = risk_coverage(error_N, uncertainty_N)
    return float(risk.mean()) if len(risk) else None


def best_aurc(error_N: Array) -> float | None:
    """AURC of the best order; above 0 where there are errors, since full coverage includes them."""
    return aurc(error_N, np.nan_to_num(np.asarray(error_N, float)))


@dataclass(frozen=True)
class LabelRisk:
    """How well an uncertainty ranks one label's errors.

    Attributes:
        label: its name. n: films of known truth. n_errors: wrong decisions among them.
        risk: at full coverage. aurc, best_aurc, excess_aurc: see the module.
        error_auroc: AUROC of the uncertainty for "the decision is wrong"; None where all or none is wrong.
        undefined: why a figure is None, else None.
    """

    label: str
    n: int
    n_errors: int
    risk: float | None
    aurc: float | None
    best_aurc: float | None
    excess_aurc: float | None
    error_auroc: float | None
    undefined: str | None = None


def selective_risk(
    truth_NL: Array, positive_NL: Decisions, uncertainty_NL: Array, labels: Sequence[str]
) -> list[LabelRisk]:
    """One row a label.

    Args:
        truth_NL: 0, 1 or NaN.
        positive_NL: decisions, at operating points that these films did not choose.
        uncertainty_NL: finite; a standard deviation, an entropy or a mutual information of `mc_dropout`.
        labels: names of the columns.

    Raises:
        ValueError: shapes disagree, truth other than 0, 1 and NaN, or an uncertainty that is not finite.
    """
    shapes = [np.shape(a) for a in (truth_NL, positive_NL, uncertainty_NL)]
    if len(set(shapes)) > 1 or len(shapes[0]) != 2 or shapes[0][1] != len(labels):
        raise ValueError(
            f"truth, decisions and uncertainty of shapes {shapes} for {len(labels)} labels; expected (N, L) alike"
        )
    columns = (np.asarray(a).T for a in (truth_NL, positive_NL, uncertainty_NL))
    return [_label_risk(*row) for row in zip(labels, *columns, strict=True)]


def _label_risk(label: str, truth_N: Array, positive_N: Decisions, uncertainty_N: Array) -> LabelRisk:
    known(truth_N, uncertainty_N)  # refuses what is no truth, before it becomes an error
    error = errors(truth_N, positive_N)
    n, wrong = int((~np.isnan(error)).sum()), int(np.nansum(error))
    area, best = aurc(error, uncertainty_N), best_aurc(error)
    reason = None
    if not 0 < wrong < n:
        reason = "no film with known truth" if not n else "no decision is wrong" if not wrong else "every one is wrong"
    excess = None if area is None or best is None else area - best
    return LabelRisk(label, n, wrong, ratio(wrong, n), area, best, excess, auroc(error, uncertainty_N), reason)


@dataclass(frozen=True)
class AbstainRule:
    """Decide a film if its uncertainty is at most `threshold`, else leave it to a reader.

    Attributes:
        threshold: in the uncertainty's units. coverage: share of the split's films that it was to keep.
        split: where it was chosen; never the reported one.
    """

    threshold: float
    coverage: float
    split: str

    @classmethod
    def choose(cls, uncertainty_N: Array, coverage: float, split: str) -> AbstainRule:
        """The least threshold that keeps at least this share of the films; films of equal uncertainty stay together.

        No truth is needed: all films of the split count, whether theirs is known or not.

        Args:
            uncertainty_N: of one label, on validation. coverage: in (0, 1]. split: its name.

        Raises:
            ValueError: no film, an uncertainty that is not finite, or a coverage outside (0, 1].
        """
        values = np.sort(np.asarray(uncertainty_N, float))
        if not len(values) or not np.isfinite(values).all() or not 0 < coverage <= 1:
            raise ValueError(
                f"{len(values)} films, {int((~np.isfinite(values)).sum())} of them not finite, coverage={coverage}; "
                "expected one or more finite uncertainties and a share in (0, 1]"
            )
        # The tolerance keeps a product such as 0.7 · 10 = 7.000000000000001 from asking for an eighth film.
        return cls(float(values[int(np.ceil(coverage * len(values) - 1e-9)) - 1]), coverage, split)

    def keeps(self, uncertainty: Array) -> Decisions:
        """Which films are decided; any shape."""
        return np.asarray(uncertainty) <= self.threshold

    def evaluate(self, truth_N: Array, positive_N: Decisions, uncertainty_N: Array) -> dict[str, float | int | None]:
        """What the rule does on other films: `coverage` over all, `n`, `n_kept` and the risks over known truth.

        The share kept need not be the one asked for: films that differ from validation's show here. `risk_kept` and
        `risk_abstained` are None where no film is.
        """
        known(truth_N, uncertainty_N)
        error, kept = errors(truth_N, positive_N), self.keeps(uncertainty_N)
        usable = ~np.isnan(error)
        inside, outside = error[usable & kept], error[usable & ~kept]
        return {
            "coverage": ratio(int(kept.sum()), len(kept)),
            "n": int(usable.sum()),
            "n_kept": len(inside),
            "risk": ratio(int(error[usable].sum()), int(usable.sum())),
            "risk_kept": ratio(int(inside.sum()), len(inside)),
            "risk_abstained": ratio(int(outside.sum()), len(outside)),
        }
