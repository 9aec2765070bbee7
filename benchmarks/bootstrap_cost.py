"""What 1,000 patient-clustered resamples of 14 AUROCs cost at the size of NIH's test split, beside scikit-learn's.

    OMP_NUM_THREADS=1 python benchmarks/bootstrap_cost.py

Alternates both within one run. scikit-learn's loop calls `roc_auc_score(sample_weight=...)` for each label on a few
resamples, which are scaled to all of them; the ratio of each round is shown with its spread. Then the time at n, 2n
and 4n films, the time by image and of every figure at once, and the peak of what the bootstrap allocates. Times are
of the processor, so that jobs beside it do not count; the wall time of one thread on an idle core is the same.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from hf_cxr.bootstrap import Resamples
from hf_cxr.intervals import bootstrap_table

# Roughly NIH's test split: films of each finding a hundred films.
PREVALENCE = np.array([23.9, 18.2, 12.8, 10.4, 6.8, 6.3, 4.5, 7.1, 4.5, 4.2, 4.3, 1.7, 3.6, 0.3]) / 100
FILMS_A_PATIENT = 9.15
NAMES = [f"finding {i}" for i in range(len(PREVALENCE))]


def synthetic(n_films: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patients (N,), truth and scores (N, 14): skewed numbers of films, patients who differ, ties by rounding."""
    random = np.random.default_rng(seed)
    n_patients = round(n_films / FILMS_A_PATIENT)
    size = random.lognormal(0, 1.2, n_patients)
    patients = np.concatenate(
        [np.arange(n_patients), random.choice(n_patients, n_films - n_patients, p=size / size.sum())]
    )
    leaning = random.normal(size=(n_patients, len(NAMES)))[patients]
    liability = 0.7 * leaning + 0.7 * random.normal(size=leaning.shape)
    truth = (liability > np.quantile(liability, 1 - PREVALENCE, axis=0).diagonal()).astype(float)
    score = 1 / (1 + np.exp(3 - truth - random.normal(size=truth.shape) - 0.3 * leaning))
    return patients, truth, score.round(4)


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def ours(n_films: int, n_resamples: int, unit: str = "patient", **settings: Any) -> float:
    """Seconds from the arrays to all intervals, with finding the patients and sorting."""
    patients, truth, score = synthetic(n_films)
    drawn = patients if unit == "patient" else np.arange(n_films)

    def call() -> None:
        figures = bootstrap_table(NAMES, truth, score, Resamples.of(drawn, n_resamples, unit=unit), **settings)
        for key in figures.point:
            figures.interval(key)

    return seconds(call)


def scikit_learn(n_films: int, n_resamples: int, timed: int) -> float:
    """Seconds of the loop over `timed` resamples, scaled to all."""
    patients, truth, score = synthetic(n_films)
    codes = np.unique(patients, return_inverse=True)[1]
    random, n_patients = np.random.default_rng(0), codes.max() + 1

    def call() -> None:
        for _ in range(timed):
            drawn = np.bincount(random.integers(n_patients, size=n_patients), minlength=n_patients)[codes]
            for i in range(len(NAMES)):
                roc_auc_score(truth[:, i], score[:, i], sample_weight=drawn)

    return seconds(call) * n_resamples / timed


def spread(values: list[float]) -> str:
    return f"{np.median(values):8.2f}  ({min(values):.2f} to {max(values):.2f})"


def peak(call: Callable[[], object]) -> float:
    """Most that a call had allocated at one time, in MB, with its arguments if it makes them."""
    tracemalloc.start()
    call()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=25596)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timed", type=int, default=4, help="resamples of scikit-learn's loop")
    options = parser.parse_args()
    auroc, size = {"figures": ("auroc",)}, (options.films, options.resamples)
    every = {"subsets": {"all": NAMES}}

    print(f"peak memory, AUROC        {peak(lambda: ours(*size, **auroc)):6.0f} MB")
    print(f"peak memory, every figure {peak(lambda: ours(*size, **every)):6.0f} MB")
    own, loop, lengths = [], [], {factor: [] for factor in (1, 2, 4)}
    for _ in range(options.rounds):
        own.append(ours(*size, **auroc))
        loop.append(scikit_learn(*size, options.timed))
        for factor, times in lengths.items():
            times.append(ours(factor * options.films, options.resamples, **auroc))
    print(
        f"{options.films} films, {len(NAMES)} labels, {options.resamples} resamples: processor seconds, median (range)"
    )
    print(f"  ours, AUROC        {spread(own)}")
    print(f"  scikit-learn's loop{spread(loop)}  scaled from {options.timed} resamples")
    print(f"  ratio of a round   {spread([b / a for a, b in zip(own, loop, strict=True)])}")
    for factor, times in lengths.items():
        print(
            f"  {factor * options.films:6} films       {spread(times)}  ×{np.median(times) / np.median(lengths[1]):.2f}"
        )
    print(f"  by image           {spread([ours(*size, unit='image', **auroc) for _ in range(options.rounds)])}")
    print(f"  every figure       {spread([ours(*size, **every) for _ in range(options.rounds)])}")


if __name__ == "__main__":
    main()
