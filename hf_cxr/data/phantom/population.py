"""Who is filmed and what the films show: patients, follow-ups, views, signs.

Prevalences and associations are NIH ChestX-ray14's, measured on `Data_Entry_2017_v2020.csv` (112,120
films; the copy that torchxrayvision ships). Two departures. Rare findings are raised to a floor that keeps
the table's order, or a toy of 2,000 films would hold four hernias. And associations are tetrachoric
correlations, which reproduce the table's co-occurrence lifts at its own prevalences; at the raised ones
the lifts are smaller, in the same direction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hf_cxr.data.phantom.anatomy import View
from hf_cxr.data.phantom.film import Patient, random_stream
from hf_cxr.data.phantom.findings import NIH_FINDINGS, SIGNS

NIH_PREVALENCE = {
    "Infiltration": 0.1774, "Effusion": 0.1188, "Atelectasis": 0.1031, "Nodule": 0.0565, "Mass": 0.0516,
    "Pneumothorax": 0.0473, "Consolidation": 0.0416, "Pleural_Thickening": 0.0302, "Cardiomegaly": 0.0248,
    "Emphysema": 0.0224, "Edema": 0.0205, "Fibrosis": 0.0150, "Pneumonia": 0.0128, "Hernia": 0.0020,
}  # fmt: skip
"""Share of NIH's films, most common first."""

RAREST, STEP = 0.030, 0.003
"""The floor: the rarest finding's share of the films, and the rise from one rank to the next."""
PREVALENCE = {
    name: max(share, RAREST + STEP * (len(NIH_PREVALENCE) - 1 - rank))
    for rank, (name, share) in enumerate(NIH_PREVALENCE.items())
} | {"Enlarged Cardiomediastinum": 0.05, "Fracture": 0.05, "Support Devices": 0.25}
"""Share of the phantom's films; the last three, unlabelled by NIH, are set by hand near CheXpert's order."""

AP_SHARE, MALE_SHARE = 0.40, 0.565
MEAN_AGE, SPREAD_AGE = 46.6, 16.6
FILMS_PER_PATIENT = (0.42, 0.18, 0.12, 0.09, 0.07, 0.05, 0.04, 0.03)
"""Shares of patients with 1, 2, … 8 films; NIH's mean is 3.6 with a tail to 184, cut here."""

_CORRELATION: dict[str, tuple[float, ...]] = {
    "Infiltration": (),
    "Effusion": (0.25,),
    "Atelectasis": (0.21, 0.37),
    "Nodule": (0.12, 0.06, -0.03),
    "Mass": (0.04, 0.20, 0.06, 0.30),
    "Pneumothorax": (0.00, 0.15, 0.10, 0.03, 0.12),
    "Consolidation": (0.14, 0.28, 0.31, 0.12, 0.25, 0.00),
    "Pleural_Thickening": (0.07, 0.23, 0.10, 0.19, 0.24, 0.14, 0.13),
    "Cardiomegaly": (0.05, 0.39, 0.07, -0.07, -0.07, -0.17, 0.08, 0.06),
    "Emphysema": (0.00, 0.05, 0.13, -0.04, 0.11, 0.51, 0.00, 0.14, -0.06),
    "Edema": (0.31, 0.23, -0.02, 0.00, 0.02, -0.20, 0.11, -0.01, 0.16, -0.09),
    "Fibrosis": (0.04, -0.01, 0.06, 0.12, 0.06, 0.00, 0.02, 0.26, 0.04, -0.01, -0.19),
    "Pneumonia": (0.29, 0.12, 0.14, -0.03, -0.01, -0.09, 0.15, 0.02, 0.02, -0.05, 0.56, -0.09),
    "Hernia": (-0.04, -0.05, 0.11, -0.04, 0.13, -0.03, -0.11, 0.02, 0.03, -0.03, -0.05, 0.12, 0.00),
    "AP": (0.22, 0.16, 0.15, -0.08, -0.02, -0.05, 0.32, -0.14, 0.04, 0.00, 0.53, -0.27, 0.16, -0.23),
    "age": (-0.03, 0.12, 0.14, 0.09, 0.08, 0.00, 0.01, 0.12, 0.01, 0.12, -0.03, 0.12, -0.05, 0.34, -0.03),
}
"""Tetrachoric correlations of the findings with those above them, with the AP view, with age over 49."""

_BY_HAND = {
    ("Support Devices", "AP"): 0.50, ("Support Devices", "Effusion"): 0.25,
    ("Support Devices", "Edema"): 0.25, ("Support Devices", "Pneumothorax"): 0.15,
    ("Enlarged Cardiomediastinum", "Cardiomegaly"): 0.25, ("Enlarged Cardiomediastinum", "AP"): 0.20,
    ("Fracture", "age"): 0.20, ("Fracture", "Pneumothorax"): 0.15,
}  # fmt: skip

_LASTING = {"age": 1.0, "Cardiomegaly": 0.80, "Emphysema": 0.80, "Fibrosis": 0.80, "Hernia": 0.85,
            "Pleural_Thickening": 0.75, "Mass": 0.70, "Nodule": 0.65, "Infiltration": 0.45, "Edema": 0.45,
            "Pneumonia": 0.40, "Fracture": 0.70}  # fmt: skip
"""Share of a trait's variance that belongs to the patient; 0.6 where not named."""


@dataclass(frozen=True)
class FilmRecord:
    """One film of the population; `film` counts from 0, `patient.age` is the age at this film in years."""

    patient: Patient
    film: int
    view: View
    signs: tuple[str, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """NIH's labels; empty for 'No Finding'."""
        return tuple(name for name in NIH_FINDINGS if name in self.signs)


def _factor() -> tuple[list[str], NDArray[np.float64]]:
    names = [*_CORRELATION, "Enlarged Cardiomediastinum", "Fracture", "Support Devices"]
    matrix = np.eye(len(names))
    for name, row in _CORRELATION.items():
        for other, value in zip(_CORRELATION, row, strict=False):
            matrix[names.index(name), names.index(other)] = value
    for (name, other), value in _BY_HAND.items():
        matrix[names.index(name), names.index(other)] = value
    # Cholesky reads the lower triangle only, and fails loudly should an edit make the matrix indefinite.
    return names, np.asarray(np.linalg.cholesky(np.tril(matrix)), dtype=np.float64)


def draw_population(n_images: int, seed: int) -> list[FilmRecord]:
    """Exactly `n_images` films, patient by patient; each sign on `round(prevalence * n_images)` (1 at least).

    A film's traits are Gaussian, part the patient's and part its own; the films highest in a trait have
    the sign. So counts are exact, and which films carry a sign depends on the seed and on `n_images`.
    """
    names, factor = _factor()
    lasting = np.array([_LASTING.get(name, 0.6) for name in names])
    patients: list[tuple[Patient, int]] = []
    traits = []
    while len(patients) < n_images:
        number = patients[-1][0].number + 1 if patients else 1
        own = random_stream(seed, number, -1, "person")
        count = int(own.choice(len(FILMS_PER_PATIENT), p=FILMS_PER_PATIENT)) + 1
        steady = factor @ own.standard_normal(len(names))
        age = int(np.clip(round(MEAN_AGE + SPREAD_AGE * steady[names.index("age")]), 1, 95))
        person = Patient(number, "M" if own.random() < MALE_SHARE else "F", age)
        for film in range(min(count, n_images - len(patients))):
            passing = factor @ random_stream(seed, number, film, "day").standard_normal(len(names))
            traits.append(np.sqrt(lasting) * steady + np.sqrt(1.0 - lasting) * passing)
            patients.append((replace(person, age=min(age + film // 2, 95)), film))
    table = np.stack(traits)

    def highest(name: str, share: float) -> NDArray[np.bool_]:
        chosen = np.zeros(n_images, dtype=bool)
        order = np.argsort(-table[:, names.index(name)], kind="stable")
        chosen[order[: max(1, round(share * n_images))]] = True
        return chosen

    bedside = highest("AP", AP_SHARE)
    shown = {sign: highest(sign, PREVALENCE[sign]) for sign in SIGNS}
    return [
        FilmRecord(person, film, "AP" if bedside[i] else "PA", tuple(sign for sign in SIGNS if shown[sign][i]))
        for i, (person, film) in enumerate(patients)
    ]


def split_patients(
    films: list[FilmRecord], shares: dict[str, float], labels: dict[str, tuple[str, ...]], seed: int
) -> dict[str, list[FilmRecord]]:
    """Patient-disjoint splits of about `shares` (of the patients; they sum to 1).

    `labels` maps a label to the signs that make it true. Of 512 seeded shuffles the one is kept whose
    scarcest label in any split comes closest to its share. From 200 films on every label must be in every
    split: raises ValueError otherwise.
    """
    owner = np.array([record.patient.number - 1 for record in films])
    truth = np.array([[any(s in record.signs for s in signs) for signs in labels.values()] for record in films])
    borders = np.cumsum(list(shares.values()))[:-1]
    rng = random_stream(seed, 0, -1, "split")
    best, best_score = np.zeros(0, dtype=np.int64), -1.0
    people = int(owner.max()) + 1
    for _ in range(512):
        part = np.empty(people, dtype=np.int64)
        part[rng.permutation(people)] = np.searchsorted(borders, (np.arange(people) + 0.5) / people)
        held = np.array([truth[part[owner] == i].sum(axis=0) for i in range(len(shares))])
        score = float(np.min(held / (truth.sum(axis=0) * np.array(list(shares.values()))[:, None])))
        if score > best_score:
            best, best_score = part, score
    if best_score == 0.0 and len(films) >= 200:
        raise ValueError(
            f"split_patients: no shuffle of {people} patients puts every label of {list(labels)} "
            f"into each of {list(shares)}; use another seed or more than {len(films)} images"
        )
    return {name: [r for r, o in zip(films, owner, strict=True) if best[o] == i] for i, name in enumerate(shares)}
