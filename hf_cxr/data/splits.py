"""Splits that never part a patient."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

LISTED = 5


def patient_disjoint_split(
    patients: npt.ArrayLike, labels: npt.ArrayLike, fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Hold out whole patients, stratified over the findings any of their films shows.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas, ECML PKDD 2011, Algorithm 1) of the patients.
    It gives a finding with fewer than about `1 / (2 * fraction)` patients to the larger side altogether, so
    one such patient is moved afterwards: a finding that at least two patients have stands on both sides
    wherever the co-occurrences allow it. The result does not depend on the order of the films.

    Args:
        patients: (N,) patient of each film.
        labels: (N, F) bool, true where a film shows a finding.
        fraction: of the patients to hold out, in (0, 1).
        seed: of the choice, in [0, 2**32).

    Returns:
        (N,) bool, true for the films held out.

    Raises:
        ValueError: shapes disagree, the fraction is outside (0, 1), or there are fewer than two patients.
    """
    patients, labels = np.asarray(patients), np.asarray(labels, dtype=bool)
    if labels.ndim != 2 or patients.shape != labels.shape[:1]:
        received = f"patients {patients.shape} and labels {labels.shape}"
        raise ValueError(f"received {received}, expected (N,) and (N, F)")
    if not 0 < fraction < 1:
        raise ValueError(f"received fraction {fraction}, expected a number between 0 and 1, both excluded")
    patient_of_film, distinct = pd.factorize(patients, sort=True)
    if len(distinct) < 2:
        raise ValueError(f"received {len(distinct)} patient(s), expected at least 2 to hold any out")
    shown_PF = np.zeros((len(distinct), labels.shape[1]), dtype=bool)
    for finding in range(labels.shape[1]):
        shown_PF[:, finding] = np.bincount(patient_of_film[labels[:, finding]], minlength=len(distinct)) > 0

    # a single column would be taken for a single-label target; two constant ones are inert
    target = np.column_stack([shown_PF, np.zeros((len(distinct), 2), dtype=bool)]).astype(int)
    size = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    shuffle = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=seed)
    held = np.zeros(len(distinct), dtype=bool)
    held[next(shuffle.split(target, target))[1]] = True

    rng = np.random.default_rng(seed)
    rarest_first = np.argsort(shown_PF.sum(axis=0), kind="stable")
    for finding in map(int, rarest_first):
        if shown_PF[:, finding].sum() >= 2:
            for side in (True, False):
                if not (shown_PF[:, finding] & (held == side)).any():
                    _move_one(held, shown_PF, finding, side, rng)
    if held.all() or not held.any():
        held[rng.integers(len(held))] ^= True
    return held[patient_of_film]


def _move_one(
    held: npt.NDArray[np.bool_],
    shown_PF: npt.NDArray[np.bool_],
    finding: int,
    side: bool,
    rng: np.random.Generator,
) -> None:
    """Move one patient with `finding` to `side`, by preference one who strands no other finding."""
    candidates = np.flatnonzero(shown_PF[:, finding] & (held != side))
    last = shown_PF[held != side].sum(axis=0) == 1
    stranded = (shown_PF[candidates] & last).sum(axis=1)
    held[rng.choice(candidates[stranded == stranded.min()])] = side


def check_disjoint(splits: Mapping[str, Collection[str]]) -> None:
    """Make sure that no patient is in two splits.

    Raises:
        ValueError: two splits share patients; names the splits, the count and the first patients.
    """
    for (first, ours), (second, theirs) in combinations(splits.items(), 2):
        shared = sorted(set(ours) & set(theirs))
        if shared:
            names = ", ".join(str(patient) for patient in shared[:LISTED])
            raise ValueError(
                f"{len(shared):,} patient(s) are in both {first} and {second}: {names}"
                f"{', …' if len(shared) > LISTED else ''}; expected none. Figures on {second} would be "
                "inflated: give each patient to one split in the lists or tables."
            )
