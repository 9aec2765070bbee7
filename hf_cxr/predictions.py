"""The prediction table: what any model, here or elsewhere, has to give to be evaluated.

One row a film: `id`, `patient`, optional metadata (`view`, `sex`, `age`), and for each label `<label>` (1, 0 or
blank) and `<label>_prob` (float in [0, 1], written with all its digits so that no order is lost).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

METADATA = ("view", "sex", "age")


class PredictionTableError(ValueError):
    """A prediction table that cannot be scored; the message says where and why."""


@dataclass(frozen=True)
class PredictionTable:
    """Predictions of N films over L labels.

    Attributes:
        names: the labels. ids, patients: (N,) strings.
        truth: (N, L) 0, 1 or NaN. probability: (N, L) float64 in [0, 1].
        metadata: columns of `METADATA` that are known.

    Raises:
        PredictionTableError: shapes disagree, duplicate ids, probability outside [0, 1], truth not 0/1/NaN.
    """

    names: tuple[str, ...]
    ids: NDArray[Any]
    patients: NDArray[Any]
    truth: NDArray[np.float64]
    probability: NDArray[np.float64]
    metadata: pd.DataFrame

    def __post_init__(self) -> None:
        expected = (len(self.ids), len(self.names))
        for what in ("truth", "probability"):
            if getattr(self, what).shape != expected:
                raise PredictionTableError(f"{what} has shape {getattr(self, what).shape}, expected {expected}")
        repeated = pd.Series(self.ids)[pd.Series(self.ids).duplicated()]
        if len(repeated):
            raise PredictionTableError(f"{len(repeated)} ids appear twice, first {list(repeated[:3])}")
        off = ~((self.probability >= 0) & (self.probability <= 1))
        if off.any():
            row, column = (int(i[0]) for i in np.nonzero(off))
            raise PredictionTableError(
                f"film '{self.ids[row]}', label '{self.names[column]}': probability "
                f"{self.probability[row, column]}, expected [0, 1] ({int(off.sum())} such cells)"
            )
        strange = ~(np.isnan(self.truth) | np.isin(self.truth, (0, 1)))
        if strange.any():
            row, column = (int(i[0]) for i in np.nonzero(strange))
            raise PredictionTableError(
                f"film '{self.ids[row]}', label '{self.names[column]}': truth {self.truth[row, column]}, "
                f"expected 0, 1 or blank ({int(strange.sum())} such cells)"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def column(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Truth and probability of one label, (N,) each."""
        at = self.names.index(name)
        return self.truth[:, at], self.probability[:, at]

    def to_csv(self, path: Path) -> None:
        """Write the table; the file appears whole or not at all."""
        columns: dict[str, Any] = {
            "id": self.ids,
            "patient": self.patients,
            **{str(name): self.metadata[name] for name in self.metadata},
        }
        for i, name in enumerate(self.names):
            columns[name] = pd.array(np.where(np.isnan(self.truth[:, i]), np.nan, self.truth[:, i])).astype("Int8")
            columns[f"{name}_prob"] = self.probability[:, i]
        partial = path.with_name(f"{path.name}.partial")
        pd.DataFrame(columns).to_csv(partial, index=False)
        os.replace(partial, path)

    @classmethod
    def from_csv(cls, path: Path) -> PredictionTable:
        """Read a table written by `to_csv` or by another system in the same format.

        Raises:
            PredictionTableError: columns are missing or values are out of range.
        """
        frame = pd.read_csv(path, dtype={"id": str, "patient": str})
        names = tuple(c.removesuffix("_prob") for c in frame.columns if c.endswith("_prob"))
        missing = [c for c in ("id", "patient", *names) if c not in frame.columns]
        if missing or not names:
            raise PredictionTableError(f"{path}: no column {missing or '<label>_prob'}; it has {list(frame.columns)}")
        return cls(
            names=names,
            ids=frame["id"].to_numpy(),
            patients=frame["patient"].to_numpy(),
            truth=frame[list(names)].to_numpy(np.float64, na_value=np.nan),
            probability=frame[[f"{n}_prob" for n in names]].to_numpy(np.float64),
            metadata=frame[[c for c in METADATA if c in frame.columns]],
        )


def probabilities(logits_NL: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Sigmoid in float64: strictly monotone on float32 logits, so that it neither makes nor breaks ties.

    Raises:
        PredictionTableError: a logit is not finite.
    """
    logits = np.asarray(logits_NL, np.float64)
    if not np.isfinite(logits).all():
        raise PredictionTableError(f"{int((~np.isfinite(logits)).sum())} logits of {logits.size} are not finite")
    return 1 / (1 + np.exp(-logits))
