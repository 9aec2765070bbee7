"""The figures of `metrics` and `reliability` as `evaluate.Metric`, for those who compute theirs with that library.

    MultilabelAUROC().compute(predictions=probability_NL, references=truth_NL)

`compute(…, subsets={"competition": [2, 5]})` adds the averages over those columns, `macro_auroc_competition` and so on.
Predictions are probabilities (N, L), references 0, 1 or NaN = unknown. Undefined figures are None.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_cxr import metrics, reliability


class _Multilabel(evaluate.Metric, ABC):
    """Takes probabilities and truths of many labels at once."""

    about: str
    averaged: tuple[str, ...]
    sources = ""

    def _info(self) -> evaluate.MetricInfo:
        row = datasets.List(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=self.about,
            citation=self.sources,
            inputs_description="predictions: (N, L) probabilities; references: (N, L) of 0, 1 or NaN for unknown.",
            features=datasets.Features({"predictions": row, "references": row}),
        )

    def _compute(
        self, predictions: Any, references: Any, subsets: Mapping[str, Sequence[int]] | None = None
    ) -> dict[str, Any]:
        probability, truth = np.asarray(predictions, float), np.asarray(references, float)
        if probability.shape != truth.shape or probability.ndim != 2:
            raise ValueError(f"predictions {probability.shape}, references {truth.shape}; expected the same (N, L)")
        found = self.figures(truth, probability)
        for name, columns in (subsets or {}).items():
            own = self.figures(truth[:, list(columns)], probability[:, list(columns)])
            found |= {f"{figure}_{name}": own[figure] for figure in self.averaged}
        return found

    @abstractmethod
    def figures(self, truth_NL: metrics.Array, probability_NL: metrics.Array) -> dict[str, Any]:
        """The metric's figures."""


class MultilabelAUROC(_Multilabel):
    """`auroc` of each label, `macro_auroc`, `weighted_auroc` (by positive films), `micro_auroc`, `n_positive`."""

    averaged = ("macro_auroc", "weighted_auroc", "micro_auroc")
    about = "Area under the ROC curve of many labels with unknown cells."

    def figures(self, truth_NL: metrics.Array, probability_NL: metrics.Array) -> dict[str, Any]:
        """See the class; None where a class is missing, and such labels are in no mean."""
        each = [metrics.auroc(t, p) for t, p in zip(truth_NL.T, probability_NL.T, strict=True)]
        n_positive = (truth_NL == 1).sum(axis=0).tolist()
        return {
            "auroc": each,
            "macro_auroc": metrics.macro(each),
            "weighted_auroc": metrics.support_weighted(each, n_positive),
            "micro_auroc": metrics.micro_auroc(truth_NL, probability_NL),
            "n_positive": n_positive,
        }


class MultilabelAveragePrecision(_Multilabel):
    """`average_precision` of each label and `macro_average_precision`."""

    averaged = ("macro_average_precision",)
    about = "Average precision of many labels with unknown cells."

    def figures(self, truth_NL: metrics.Array, probability_NL: metrics.Array) -> dict[str, Any]:
        """See the class."""
        each = [metrics.average_precision(t, p) for t, p in zip(truth_NL.T, probability_NL.T, strict=True)]
        return {"average_precision": each, "macro_average_precision": metrics.macro(each)}


class MultilabelCalibration(_Multilabel):
    """`brier`, `ece` (15 bins of equal width), `ece_mass` (of equal mass), `slope` and `intercept` of each label."""

    averaged = ("mean_ece",)
    about = "Calibration of the probabilities of many labels with unknown cells."
    sources = "Guo et al. 2017, On Calibration of Modern Neural Networks; Cox 1958, Biometrika 45."

    def figures(self, truth_NL: metrics.Array, probability_NL: metrics.Array) -> dict[str, Any]:
        """See the class, and `mean_ece` over the labels."""
        columns = list(zip(truth_NL.T, probability_NL.T, strict=True))
        lines = [reliability.slope_and_intercept(t, p) for t, p in columns]
        found: dict[str, Any] = {
            "brier": [metrics.brier(t, p) for t, p in columns],
            "ece": [reliability.ece(t, p) for t, p in columns],
            "ece_mass": [reliability.ece(t, p, "mass") for t, p in columns],
            "slope": [slope for slope, _ in lines],
            "intercept": [intercept for _, intercept in lines],
        }
        return found | {"mean_ece": metrics.macro(found["ece"])}
