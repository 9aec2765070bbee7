"""Patients, sexes, ages, views and splits, as the tables have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hf_cxr.data.base import SPLITS
from hf_cxr.data.index import FilmIndex
from hf_cxr.data_check.result import ERROR, WARNING, Finding
from hf_cxr.data_check.tables import Tables

OLDEST = 90
FEW = 10
"""Validation films below which thresholds are chance: that of the gate may miss 5 %, and a film is more than 10 %."""


def patients(tables: Tables, index: FilmIndex) -> tuple[list[Finding], dict[str, Any]]:
    """Films per patient, and whether the patients are known at all."""
    known = tables.mapped is None or tables.mapped.columns.patient is not None
    if not known:
        return [
            Finding(
                ERROR, "no_patients", "no column says whose the films are, so nothing tells whether splits share "
                "patients", len(index), "films", remedy="name the column under `columns: patient` in the map",
            )
        ], {"n": None, "films_per_patient": None}  # fmt: skip
    per_patient = index.films["patient"][index.films["patient"] != ""].value_counts()
    if not len(per_patient):
        return [], {"n": 0, "films_per_patient": None}
    spread = {"median": float(per_patient.median()), "most": int(per_patient.max())}
    spread["with_one"] = int((per_patient == 1).sum())
    return [], {"n": len(per_patient), "films_per_patient": spread}


def splits(tables: Tables, index: FilmIndex, readable: np.ndarray) -> tuple[list[Finding], dict[str, Any] | None]:
    """Films and patients of each split, and splits without films.

    Args:
        readable: (N,) bool; a film that cannot be read is in no split.
    """
    if not tables.has_splits:
        return [], None
    films = index.films
    found = []
    usable = films[readable]
    counts = {}
    for split in SPLITS:
        mine = usable[usable["split"] == split]
        counts[split] = {"films": len(mine), "patients": int(mine["patient"].nunique())}
        if len(mine):
            if split == "validation" and len(mine) < FEW:
                what = "so few validation films that thresholds chosen from them are chance"
                remedy = f"have {FEW} or more: more films, or a larger validation_fraction when splits are cut"
                found.append(Finding(WARNING, "few_validation_films", what, len(mine), "films", remedy=remedy))
            continue
        if split == "test" and index.test_source is None:
            found.append(
                Finding(
                    WARNING, "no_test_split", "no film is held out for testing", 1, "split",
                    remedy="leave `split` out of the map to have patients cut, or name test patients",
                )
            )  # fmt: skip
        else:
            found.append(
                Finding(
                    ERROR, "split_without_films", f"split {split} has no film that can be read", 1, "split",
                    remedy="look at the lists or the column that makes the splits, and at the view that is asked for",
                )
            )  # fmt: skip
    return found, counts


def description(index: FilmIndex, views: pd.Series) -> dict[str, Any]:
    """View, sex and age in tens, `unknown` where the tables do not say.

    Args:
        views: (N,) of the tables, and where they do not say, of the films' own headers.
    """
    ages = index.films["age"]
    tens = pd.Series([None if pd.isna(age) else _tens(int(age)) for age in ages], dtype=object)
    return {
        "view": _counted(views),
        "sex": _counted(index.films["sex"]),
        "age": dict(sorted(_counted(tens).items(), key=lambda item: _first_number(item[0]))),
    }


def _tens(age: int) -> str:
    low = min(age // 10 * 10, OLDEST)
    return f"{low}+" if low == OLDEST else f"{low}–{low + 9}"


def _counted(values: pd.Series) -> dict[str, int]:
    return {str(value): int(n) for value, n in values.astype(object).fillna("unknown").value_counts().items()}


def _first_number(age: str) -> int:
    return 1000 if age == "unknown" else int(age.rstrip("+").split("–")[0])
