"""The prediction table: what any model, here or elsewhere, has to give to be evaluated.

One row a film: `id`, `patient`, optional metadata (`view`, `sex`, `age`), and for each label `<label>` (1, 0 or
blank) and `<label>_prob` (float in [0, 1], written with all its digits so that no order is lost). `TableFormat`
reads the tables of others, whose columns are called otherwise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hf_cxr.errors import UserError

METADATA = ("view", "sex", "age")


class PredictionTableError(UserError, ValueError):
    """A prediction table that cannot be scored; the message says where and why."""


@dataclass(frozen=True)
class TableFormat:
    """How a table's columns are called.

    Attributes:
        id_column: what names the film; by default `id`, or the table's first column where there is none.
        patient_column: a table may lack it; intervals are then over images, and say so.
        patient_pattern: regular expression whose first group is the patient, searched in the id; wins over a column.
        truth_suffix, prob_suffix: what follows the label's name in its two columns.
    """

    id_column: str | None = None
    patient_column: str = "patient"
    patient_pattern: str | None = None
    truth_suffix: str = ""
    prob_suffix: str = "_prob"


@dataclass(frozen=True)
class PredictionTable:
    """Predictions of N films over L labels.

    Attributes:
        names: the labels. ids, patients: (N,) strings.
        truth: (N, L) 0, 1 or NaN. probability: (N, L) float64 in [0, 1].
        metadata: (N, any) what else is known of the films, e.g. the columns of `METADATA`.
        unit: `"patient"`, or `"image"` where patients are not known and `patients` are the ids.

    Raises:
        PredictionTableError: shapes disagree, duplicate ids, probability outside [0, 1], truth not 0/1/NaN.
    """

    names: tuple[str, ...]
    ids: NDArray[Any]
    patients: NDArray[Any]
    truth: NDArray[np.float64]
    probability: NDArray[np.float64]
    metadata: pd.DataFrame
    unit: str = "patient"

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

    @property
    def n_patients(self) -> int | None:
        """Number of patients, None where they are not known."""
        return len(set(self.patients)) if self.unit == "patient" else None

    def column(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Truth and probability of one label, (N,) each."""
        at = self.names.index(name)
        return self.truth[:, at], self.probability[:, at]

    def in_order(self, names: tuple[str, ...]) -> PredictionTable:
        """The same table with these labels in this order."""
        at = [self.names.index(name) for name in names]
        return replace(self, names=names, truth=self.truth[:, at], probability=self.probability[:, at])

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
    def read(
        cls, path: Path, form: TableFormat | None = None, resolve: Callable[[str], str] | None = None
    ) -> PredictionTable:
        """Read a table (CSV or Parquet) written by `to_csv` or by any other system.

        Args:
            path: the table. form: its columns' names.
            resolve: from the table's label names to ours, e.g. `Hierarchy.resolve` for aliases.

        Raises:
            PredictionTableError: no such file, a column is missing, values are out of range or no numbers, an id
                from which no patient can be read, two columns for one label.
        """
        form = form or TableFormat()
        frame = _read_frame(path, form)
        film = form.id_column or ("id" if "id" in frame.columns else str(frame.columns[0]))
        raw = [str(c).removesuffix(form.prob_suffix) for c in frame.columns if str(c).endswith(form.prob_suffix)]
        if not len(frame):
            raise PredictionTableError(f"{path}: no rows below the header")
        truth, probability = [f"{n}{form.truth_suffix}" for n in raw], [f"{n}{form.prob_suffix}" for n in raw]
        missing = [c for c in (film, *truth) if c not in frame.columns]
        if missing or not raw:
            wanted = missing or [f"<label>{form.prob_suffix}"]
            raise PredictionTableError(f"{path}: no column {wanted}; it has {list(frame.columns)}")
        names = tuple(map(resolve, raw)) if resolve else tuple(raw)
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise PredictionTableError(f"{path}: several columns for {twice}: {raw}")
        ids = _text(frame, film, path)
        patients = _patients(frame, ids, form, path)
        other = [c for c in frame.columns if c not in {film, form.patient_column, *truth, *probability}]
        return cls(
            names=names,
            ids=ids.to_numpy(dtype=object),
            patients=ids.to_numpy(dtype=object) if patients is None else patients,
            truth=_numbers(frame[truth], path),
            probability=_numbers(frame[probability], path),
            metadata=frame[other],
            unit="image" if patients is None else "patient",
        )


def _read_frame(path: Path, form: TableFormat) -> pd.DataFrame:
    if not path.is_file():
        raise PredictionTableError(f"{path}: no such table")
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    # As text, for "007" is not 7.
    columns = pd.read_csv(path, nrows=0).columns
    names = {form.id_column or ("id" if "id" in columns else columns[0]), form.patient_column} & set(columns)
    return pd.read_csv(path, dtype=dict.fromkeys(names, str))


def _text(frame: pd.DataFrame, column: str, path: Path) -> pd.Series:
    """A column as text. A blank one is an error: as text, all blanks would be one patient called "nan"."""
    blank = frame[column].isna() | (frame[column].astype(str).str.strip() == "")
    if blank.any():
        raise PredictionTableError(
            f"{path}: column '{column}' is blank in {int(blank.sum())} rows, first in data row "
            f"{int(np.argmax(blank)) + 1}; fill it, or leave the whole column out"
        )
    return frame[column].astype(str)


def _patients(frame: pd.DataFrame, ids: pd.Series, form: TableFormat, path: Path) -> NDArray[Any] | None:
    if form.patient_pattern is None:
        if form.patient_column not in frame.columns:
            return None
        return _text(frame, form.patient_column, path).to_numpy(dtype=object)
    if re.compile(form.patient_pattern).groups < 1:
        raise PredictionTableError(f"patient_pattern {form.patient_pattern!r} has no group; write e.g. '(patient\\d+)'")
    found = ids.str.extract(form.patient_pattern)[0]
    if found.isna().any():
        first = ids[found.isna()].iloc[0]
        raise PredictionTableError(
            f"{path}: no patient by {form.patient_pattern!r} in {int(found.isna().sum())} ids, first '{first}'"
        )
    return found.to_numpy(dtype=object)


def _numbers(columns: pd.DataFrame, path: Path) -> NDArray[np.float64]:
    try:
        return columns.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        bad = [c for c in columns if not pd.api.types.is_numeric_dtype(columns[c])]
        raise PredictionTableError(f"{path}: columns {bad} hold something that is no number") from None


def probabilities(logits_NL: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Sigmoid in float64: strictly monotone on float32 logits, so that it neither makes nor breaks ties.

    Raises:
        PredictionTableError: a logit is not finite.
    """
    logits = np.asarray(logits_NL, np.float64)
    if not np.isfinite(logits).all():
        raise PredictionTableError(f"{int((~np.isfinite(logits)).sum())} logits of {logits.size} are not finite")
    return 1 / (1 + np.exp(-logits))
