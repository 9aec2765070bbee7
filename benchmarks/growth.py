"""What more films cost: seconds and memory at 1, 2, 4, 8 and 16 times nih128's films.

Each size is measured in a process of its own (`growing`). Up and down the sizes in turn, so that a machine that drifts
harms none of them alone; the largest ones fewer times, to end within minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.growing import RESAMPLES, RESAMPLES_OF_REPORT, SIZE, Grown, save_tiny_model
from benchmarks.many_films import base, repeat, repeat_predictions

FACTORS = (1, 2, 4, 8, 16)
ROUNDS = 3
FLAT = 1.1
"""Most over least memory of work that goes through films in parts: of training and of prediction."""
Row = dict[str, Any]
Run = Callable[[int], Grown]


def growth_preparation(factors: Sequence[int] = FACTORS, source: Path | None = None) -> Row:
    """Decoding more films into the cache, with index and validation."""
    with _place(source) as (place, films):
        folders = _folders(films, factors, place)

        def run(factor: int) -> Grown:
            with tempfile.TemporaryDirectory(dir=place) as cache:  # an empty one each time
                return apart("preparation", folders[factor], cache)

        return summary(
            "preparation: index, validate, decode",
            _rounds(factors, run),
            f"PNG files into a cache of {SIZE}²; the files are links to few, so that no disk is measured",
        )


def growth_epoch(factors: Sequence[int] = FACTORS, source: Path | None = None) -> Row:
    """One epoch over more films, with its evaluation."""
    with _place(source) as (place, films):
        folders = _folders(films, factors, place)
        for folder in folders.values():
            apart("preparation", folder, f"{folder}.cache")
        return summary(
            "one epoch with its evaluation",
            _rounds(factors, lambda factor: apart("epoch", folders[factor], f"{folders[factor]}.cache")),
            "CXRTrainer from the cache, all augmentations, batch 32, bf16, with a DenseNet of two layers at "
            f"{SIZE}²: loader, augmentation and Trainer are measured, not convolutions",
            memory_at_most=FLAT,
        )


def growth_evaluation(factors: Sequence[int] = FACTORS, source: Path | None = None) -> Row:
    """From a longer prediction table to its full report."""
    return _of_tables(
        "evaluation",
        "evaluation: table to full report",
        f"21 labels, {RESAMPLES_OF_REPORT} resamples of patients, groups by view, sex and age; reads a CSV first",
        factors,
        source,
    )


def growth_bootstrap(factors: Sequence[int] = FACTORS, source: Path | None = None) -> Row:
    """Intervals of 14 AUROCs over more patients."""
    return _of_tables("bootstrap", f"bootstrap: {RESAMPLES:,} resamples, 14 AUROCs", "", factors, source)


def growth_prediction(factors: Sequence[int] = FACTORS, source: Path | None = None) -> Row:
    """A table of predictions of more films in one folder."""
    with _place(source) as (place, films):
        folders, model = _folders(films, factors, place), place / "model"
        save_tiny_model(model)
        return summary(
            "prediction: folder of PNG to table",
            _rounds(factors, lambda factor: apart("prediction", folders[factor], model)),
            f"recipes/predict.py, with a DenseNet of two layers at {SIZE}²: reading and writing are measured, not "
            "convolutions",
            memory_at_most=FLAT,
        )


def _of_tables(work: str, title: str, note: str, factors: Sequence[int], source: Path | None) -> Row:
    with _place(source) as (place, films):
        files = {factor: place / f"{factor}.csv" for factor in factors}
        for factor, file in files.items():
            repeat_predictions(films, factor, file)
        return summary(title, _rounds(factors, lambda factor: apart(work, files[factor])), note)


@contextmanager
def _place(source: Path | None) -> Iterator[tuple[Path, Path]]:
    """A temporary folder, and the folder of the films that are repeated."""
    with tempfile.TemporaryDirectory(prefix="hf_cxr_growth_") as place:
        yield Path(place), source or base(Path(place) / "drawn")


def _folders(films: Path, factors: Sequence[int], place: Path) -> dict[int, Path]:
    folders = {factor: place / f"{factor}_times" for factor in factors}
    for factor, folder in folders.items():
        repeat(films, factor, folder)
    return folders


def apart(work: str, *given: object) -> Grown:
    """One work of `growing`, in a process of its own.

    Raises:
        RuntimeError: it failed; with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.growing", work, *map(str, given)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return Grown(**json.loads(done.stdout.splitlines()[-1]))


def _rounds(factors: Sequence[int], run: Run) -> list[list[Grown]]:
    """All runs of each size: `ROUNDS` of them, of the two largest two and one."""
    runs: dict[int, list[Grown]] = {factor: [] for factor in factors}
    for i in range(ROUNDS):
        for factor in sorted(factors, reverse=bool(i % 2)):
            if i < max(1, min(ROUNDS, max(FACTORS) // factor)):
                grown = run(factor)
                print(f"  {grown}", file=sys.stderr, flush=True)
                runs[factor].append(grown)
    return list(runs.values())


def summary(title: str, runs: Sequence[Sequence[Grown]], note: str, memory_at_most: float | None = None) -> Row:
    """The row of a growth: medians over the runs of each size, and the slopes of their logarithms.

    `slope` is over all sizes, `slope_of_largest` over the last three, where nothing that is done once still counts,
    `cpu_slope` that of processor seconds. `peak_bytes` are the most of each size's runs, and `bytes_a_film` what each
    further film adds to them.
    """
    films = [size[0].films for size in runs]
    seconds, cpu = ([float(np.median([getattr(g, key) for g in size])) for size in runs] for key in _CLOCKS)
    before, peak = ([max(getattr(g, key) for g in size) for size in runs] for key in ("before_bytes", "peak_bytes"))
    added, largest, of_cpu = float(np.polyfit(films, peak, 1)[0]), slope(films[-3:], seconds[-3:]), slope(films, cpu)
    times = f"slope of the three largest sizes {largest:.2f}, of processor seconds {of_cpu:.2f}"
    memory = f"each film adds {added:,.0f} bytes to the memory held (RssAnon and RssShmem, no pages of mapped files)"
    return {
        "title": title,
        "films": films,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "seconds_of_each_run": [[run.seconds for run in size] for size in runs],
        "slope": slope(films, seconds),
        "slope_of_largest": largest,
        "cpu_slope": of_cpu,
        "peak_bytes": peak,
        "before_bytes": before,
        "bytes_a_film": added,
        "memory_at_most": memory_at_most,
        "note": "; ".join(filter(None, (note, times, memory))),
    }


_CLOCKS = ("seconds", "cpu_seconds")


def slope(films: Sequence[int], seconds: Sequence[float]) -> float:
    """k of seconds ∝ filmsᵏ, by least squares of the logarithms."""
    return float(np.polyfit(np.log(films), np.log(seconds), 1)[0])
