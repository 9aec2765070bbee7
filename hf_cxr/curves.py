"""ROC and precision–recall curves with pointwise bands over resamples of patients, and the readers beside them.

Shapes: N films, G grid points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from hf_cxr.bootstrap import Array, Resamples
from hf_cxr.errors import UserError
from hf_cxr.metrics import known

GRID = np.linspace(0, 1, 101)
KINDS = ("roc", "pr")


class ReaderError(UserError, ValueError):
    """A table of readers that cannot be used."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve on a grid: x (G,) and y, low, high (G,), all shares in [0, 1]; low and high hold 95 % pointwise."""

    x: Array
    y: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Reader:
    """The operating point of one human reader for one label; shares in [0, 1]."""

    reader: str
    label: str
    sensitivity: float
    specificity: float


def with_band(truth_N: Array, score_N: Array, resamples: Resamples, kind: str = "roc") -> Curve:
    """A curve on `GRID` and its 95 % band.

    ROC: sensitivity over 1 − specificity, linear between thresholds. PR: precision over recall; at a recall the
    precision of the first threshold that reaches it, since between two thresholds precision is not linear (Davis &
    Goadrich 2006).

    Args:
        truth_N: both classes present. kind: one of `KINDS`.
        resamples: of the same films' patients; resamples without one of the classes are left out.
    """
    if kind not in KINDS:
        raise ValueError(f"curve: got {kind!r}, expected one of {', '.join(KINDS)}")
    truth, score = known(truth_N, score_N)
    patient = resamples.patient_N[~np.isnan(np.asarray(truth_N, float))]
    order = np.argsort(-score, kind="stable")
    positive, patient = truth[order] == 1, patient[order]
    last_of_tie = np.append(np.diff(score[order]) != 0, True)

    def curve(weight: Array) -> Array | None:
        hits = np.append(0.0, np.cumsum(weight * positive)[last_of_tie])
        alarms = np.append(0.0, np.cumsum(weight * ~positive)[last_of_tie])
        if not hits[-1] or not alarms[-1]:
            return None
        recall = hits / hits[-1]
        if kind == "roc":
            # Of equal x, a step straight up, np.interp takes the first from the left and the last to the right.
            return np.interp(GRID, alarms / alarms[-1], recall)
        at = np.searchsorted(recall, np.maximum(GRID, 1e-12) - 1e-12)
        return hits[at] / np.maximum(hits[at] + alarms[at], 1e-12)

    own = curve(np.ones(len(order)))
    assert own is not None  # both classes are there
    drawn = [curve(counts[patient]) for counts_PB in resamples.counts() for counts in counts_PB.T]
    low, high = np.quantile(np.array([c for c in drawn if c is not None]), [0.025, 0.975], axis=0)
    return Curve(GRID, own, low, high)


def read_readers(path: Path, labels: Sequence[str]) -> list[Reader]:
    """Readers' operating points from a CSV with the columns reader, label, sensitivity, specificity.

    Raises:
        ReaderError: a column is missing, an unknown label, or a share outside [0, 1].
    """
    frame = pd.read_csv(path)
    if missing := [c for c in ("reader", "label", "sensitivity", "specificity") if c not in frame]:
        raise ReaderError(f"{path}: no column {missing}; it has {list(frame.columns)}")
    if unknown := sorted(set(frame["label"]) - set(labels)):
        raise ReaderError(f"{path}: unknown labels {unknown}; labels are {list(labels)}")
    shares = frame[["sensitivity", "specificity"]]
    bad = np.flatnonzero(~((shares >= 0) & (shares <= 1)).all(axis=1))
    if len(bad):
        raise ReaderError(f"{path}, line {bad[0] + 2}: shares must lie in [0, 1], got {shares.iloc[bad[0]].to_dict()}")
    rows = frame[["reader", "label", "sensitivity", "specificity"]].itertuples(index=False)
    return [Reader(str(a), str(b), float(c), float(d)) for a, b, c, d in rows]


def readers_covered(truth_N: Array, score_N: Array, readers: Sequence[Reader]) -> int:
    """How many readers the ROC curve covers: at the reader's specificity it is at least as sensitive."""
    truth, score = known(truth_N, score_N)
    false_positive, true_positive, _ = roc_curve(truth, score, drop_intermediate=False)
    return sum(
        float(np.interp(1 - r.specificity, false_positive, true_positive)) >= r.sensitivity - 1e-12 for r in readers
    )
