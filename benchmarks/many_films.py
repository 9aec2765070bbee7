"""A data set that grows: the same films under new names, as other patients'."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pandas as pd

from hf_cxr import load_taxonomy
from hf_cxr.arguments import LabelArguments
from hf_cxr.data.nih import LISTS, TABLES, NIHChestXray14
from hf_cxr.data.phantom.generation import generate
from hf_cxr.labels import encode
from hf_cxr.predictions import METADATA, PredictionTable

REAL = Path(os.environ.get("HF_CXR_TEST_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / "nih128"
_NAME, _PATIENT = "Image Index", "Patient ID"


def base(drawn: Path, n_films: int = 2000) -> Path:
    """The folder of the real films, or of a phantom's drawn into `drawn` where those are not there."""
    return REAL if REAL.is_dir() else generate(drawn, n_images=n_films, image_size=128, progress=False)


def repeat(source: Path, times: int, folder: Path) -> int:
    """Write a folder of `times` as many films in NIH's layout; returns how many they are.

    The films are symbolic links, all in one folder: nothing is copied, and what decoding costs is decoded again under
    each name. Each repetition has patients of its own, in the split of the original ones.
    """
    films = NIHChestXray14.read_index(source).films
    folder.mkdir(parents=True)
    images = folder / "images"
    images.mkdir()
    for again in range(times):
        for name, path in zip(films["id"], films["image"], strict=True):
            (images / _renamed(name, again)).symlink_to(path)
    for split, file in LISTS.items():
        names = films["id"][(films["split"] == "test") == (split == "test")]
        with (folder / file).open("w", encoding="utf-8") as lines:
            lines.writelines(f"{_renamed(name, again)}\n" for again in range(times) for name in names)
    _repeat_table(source / next(name for name in TABLES if (source / name).exists()), times, folder / TABLES[0])
    return times * len(films)


def repeat_predictions(source: Path, times: int, file: Path) -> int:
    """Write a prediction table of `times` as many films, with their own truth; returns how many they are.

    Probabilities know a little of the truth and are others in each repetition, so that no rank is shared.
    """
    index, nih = NIHChestXray14.read_index(source, check_images=False), load_taxonomy("nih")
    columns = tuple(index.names), index.findings.astype(np.float32)
    truth = encode(*columns, nih, LabelArguments().policy(0).for_evaluation()).values.astype(np.float64)
    films, random = index.films, np.random.default_rng(0)
    noise = random.normal(size=(times, *truth.shape)).reshape(-1, truth.shape[1])
    all_truth = np.tile(truth, (times, 1))
    PredictionTable(
        names=nih.names,
        ids=_named(films["id"], times),
        patients=_named(films["patient"], times),
        truth=all_truth,
        probability=1 / (1 + np.exp(3 - np.nan_to_num(all_truth) - noise)),
        metadata=pd.concat([films[list(METADATA)]] * times, ignore_index=True),
    ).to_csv(file)
    return len(noise)


def _named(names: pd.Series, times: int) -> np.ndarray:
    return np.array([_renamed(name, again) for again in range(times) for name in names], dtype=object)


def _repeat_table(table: Path, times: int, out: Path) -> None:
    with table.open(encoding="utf-8", newline="") as file, out.open("w", encoding="utf-8", newline="") as written:
        rows = csv.DictReader(file)
        writer = csv.DictWriter(written, rows.fieldnames or [])
        writer.writeheader()
        lines = list(rows)
        for again in range(times):
            for line in lines:
                name, patient = _renamed(line[_NAME], again), f"{again + 1}{line[_PATIENT]:>08}"
                writer.writerow({**line, _NAME: name, _PATIENT: patient})


def _renamed(name: str, again: int) -> str:
    return f"{again:02d}{name}"
