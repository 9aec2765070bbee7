"""CheXpert's label cells: what a report labeller leaves in train.csv, what readers put in the others.

All rates are measured on CheXpert's `train.csv` (223,414 rows; the copy that torchxrayvision ships).
"""

from __future__ import annotations

import numpy as np

from hf_cxr.data.phantom.film import random_stream
from hf_cxr.data.phantom.findings import OBSERVATION_SIGNS
from hf_cxr.data.phantom.population import FilmRecord

COLUMNS = ("No Finding", *OBSERVATION_SIGNS)
"""The 14 observations in CheXpert's order."""

UNCERTAIN = {
    "Enlarged Cardiomediastinum": 0.0555, "Cardiomegaly": 0.0362, "Lung Opacity": 0.0251,
    "Lung Lesion": 0.0067, "Edema": 0.0581, "Consolidation": 0.1242, "Pneumonia": 0.0840,
    "Atelectasis": 0.1510, "Pneumothorax": 0.0141, "Pleural Effusion": 0.0520, "Pleural Other": 0.0119,
    "Fracture": 0.0029, "Support Devices": 0.0048,
}  # fmt: skip
"""Share of all cells that are -1."""

DENIED = {
    "Enlarged Cardiomediastinum": 0.108, "Cardiomegaly": 0.059, "Lung Opacity": 0.059, "Lung Lesion": 0.006,
    "Edema": 0.131, "Consolidation": 0.155, "Pneumonia": 0.014, "Atelectasis": 0.008, "Pneumothorax": 0.281,
    "Pleural Effusion": 0.282, "Pleural Other": 0.0014, "Fracture": 0.012, "Support Devices": 0.058,
}  # fmt: skip
"""Share of the cells neither 1 nor -1 that are 0; the others are blank, as most negatives are."""

PARENT_CELLS = (
    ("Cardiomegaly", "Enlarged Cardiomediastinum", 0.912, 0.006, 0.012),
    ("Pneumonia", "Consolidation", 0.654, 0.087, 0.090),
    ("Consolidation", "Lung Opacity", 0.559, 0.004, 0.060),
    ("Edema", "Lung Opacity", 0.449, 0.009, 0.017),
    ("Lung Lesion", "Lung Opacity", 0.384, 0.015, 0.022),
    ("Atelectasis", "Lung Opacity", 0.548, 0.010, 0.018),
)
"""(child, parent, and under a positive child the shares of parents blank, 0, -1)."""

POSITIVE_IS_UNSURE = 3.0
"""How much likelier -1 is where the sign is drawn than where it is not; chosen here, not measured."""


def drawn_observations(record: FilmRecord) -> dict[str, bool]:
    """What the film shows, parents closed upward; one entry an observation, No Finding left out."""
    return {name: any(sign in record.signs for sign in signs) for name, signs in OBSERVATION_SIGNS.items()}


def adjudicated_row(record: FilmRecord) -> dict[str, str]:
    """Cells of valid.csv and test.csv: 1.0 or 0.0 everywhere, as its readers gave.

    No Finding means no sign at all but devices; an emphysema or a hernia alone makes every cell 0.0.
    """
    drawn = drawn_observations(record)
    row = {name: "1.0" if shown else "0.0" for name, shown in drawn.items()}
    row["No Finding"] = "0.0" if set(record.signs) - {"Support Devices"} else "1.0"
    return row


def report_rows(films: list[FilmRecord], seed: int) -> list[dict[str, str]]:
    """Cells of train.csv: 1.0, 0.0, -1.0 or blank at CheXpert's rates; No Finding 1.0 or blank, never 0.0."""
    drawn = [drawn_observations(record) for record in films]
    share = {name: sum(row[name] for row in drawn) / max(len(drawn), 1) for name in OBSERVATION_SIGNS}
    return [_report_row(record, shown, share, seed) for record, shown in zip(films, drawn, strict=True)]


def _report_row(record: FilmRecord, drawn: dict[str, bool], share: dict[str, float], seed: int) -> dict[str, str]:
    rng = random_stream(seed, record.patient.number, record.film, "report")
    row: dict[str, str] = {}
    for name, shown in drawn.items():
        unsure, denied = rng.random(2)
        # Solved so that the column's share of -1 is the measured one at the phantom's prevalence.
        base = UNCERTAIN[name] / (1.0 + (POSITIVE_IS_UNSURE - 1.0) * share[name])
        if unsure < base * (POSITIVE_IS_UNSURE if shown else 1.0):
            row[name] = "-1.0"
        elif shown:
            row[name] = "1.0"
        else:
            row[name] = "0.0" if denied < DENIED[name] else ""
    settled: set[str] = set()
    for child, parent, blank, zero, unsure_share in PARENT_CELLS:
        fate = rng.random()
        if row[child] != "1.0" or parent in settled:
            continue
        settled.add(parent)
        cells = np.array(["", "0.0", "-1.0", "1.0"])
        row[parent] = str(cells[np.searchsorted(np.cumsum([blank, zero, unsure_share]), fate, side="right")])
    mentioned = any(cell in ("1.0", "-1.0") for name, cell in row.items() if name != "Support Devices")
    row["No Finding"] = "" if mentioned or set(record.signs) - {"Support Devices"} else "1.0"
    return row
