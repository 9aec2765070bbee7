"""Films of many patients with unknown truth and tied scores, for the tests of intervals."""

import numpy as np

NAMES = ("common", "tied", "rare")
SUBSETS = {"all": NAMES, "two": ("rare", "common")}


def make_films(seed=0, n_patients=60, decimals=2):
    """Patients (N,), truth with unknowns and probabilities with ties (N, 3); patients of 1 to 6 films, shuffled."""
    random = np.random.default_rng(seed)
    patients = random.permutation(np.repeat(np.arange(n_patients), random.integers(1, 7, n_patients)))
    leaning = random.normal(size=(n_patients, 3))[patients]
    truth = (leaning + random.normal(size=leaning.shape) > [0, 0.5, 1.6]).astype(float)
    score = 1 / (1 + np.exp(-(random.normal(size=truth.shape) + truth + 0.5 * leaning)))
    truth[random.random(truth.shape) < 0.1] = np.nan
    return patients.astype(str), truth, np.round(score, decimals)


def film_counts(resamples):
    """(R, N) how often each film is in each resample."""
    return np.concatenate([block.T for block in resamples.counts()])[:, resamples.patient_N]
