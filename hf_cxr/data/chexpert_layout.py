"""Where CheXpert's tables and images stand, in each of the ways it is handed out.

The table's paths begin with `CheXpert-v1.0-small/train/…`, `CheXpert-v1.0/train/…`, `CheXpert-v1.0 batch 2
(train 1)/…` or `train/…`, and need not agree with the folders on the disk; an id begins with `train/`,
`valid/` or `test/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from hf_cxr.data.tables import find_file

_PATH = re.compile(
    r"(?:^|/)(?:[^/]*\((?P<batch>train|valid|test)[^/]*\)/)?(?:(?P<part>train|valid|test)/)?"
    r"(?P<patient>patient\d+)/(?P<study>study\d+)/(?P<name>[^/]*?(?P<side>frontal|lateral)?\.\w+)$"
)


def split_paths(paths: pd.Series, default: str) -> pd.DataFrame:
    """Take the paths of a table apart.

    Args:
        paths: (N,) strings.
        default: `train`, `valid` or `test`, for paths that name none.

    Returns:
        (N, 4) `id`, `patient` (patient00001), `study` (patient00001/study1), `side` (frontal, lateral or
        null); the first three empty where the path is not CheXpert's.
    """
    # a plain loop: pandas' str.extract takes three times as long
    rows: list[tuple[str, str, str, str | None]] = []
    for path in paths:
        match = _PATH.search(path.replace("\\", "/"))
        if match is None:
            rows.append(("", "", "", None))
        else:
            batch, part, patient, study, name, side = match.groups()
            study = f"{patient}/{study}"
            rows.append((f"{part or batch or default}/{study}/{name}", patient, study, side))
    films = pd.DataFrame(rows, columns=["id", "patient", "study", "side"], dtype=object)
    return films.astype({"id": "str", "patient": "str", "study": "str"})


def table_folders(folder: Path) -> list[Path]:
    """Where tables and images may stand: the folder itself, then those in it that are CheXpert's.

    Raises:
        ValueError: two folders in `folder` are a CheXpert each.
    """
    inner = [p for p in sorted(folder.iterdir()) if p.is_dir()]
    with_table = [p for p in inner if find_file([p], ["train.csv"])]
    if len(with_table) > 1 and not find_file([folder], ["train.csv"]):
        names = ", ".join(p.name for p in with_table)
        raise ValueError(f"{folder} has several folders with a train.csv: {names}; expected one. Name it.")
    return [folder, *(p for p in inner if p in with_table or p.name.lower().startswith("chexpert"))]


def _patient_folders(folders: list[Path]) -> Iterator[tuple[str, str]]:
    """(`train/patient00001`, its folder) for each patient folder, batch folders included."""
    for folder in folders:
        batch = re.search(r"\((train|valid|test)", folder.name)
        places = [(part, folder / part) for part in ("train", "valid", "test")]
        for part, place in [*places, (batch[1], folder)] if batch else places:
            if place.is_dir():
                with os.scandir(place) as entries:
                    yield from ((f"{part}/{e.name}", e.path) for e in entries if e.name.startswith("patient"))


def locate_images(films: pd.DataFrame, folders: list[Path]) -> None:
    """Set `image`: the path below the patient's folder, or where it was expected."""
    found: dict[str, str] = {}
    for patient, place in _patient_folders(folders):
        found.setdefault(patient, place)
    expected = next((f for f in folders[1:] if (f / "train").is_dir()), folders[0])
    images = []
    for film in films["id"]:
        part, _, rest = film.partition("/")
        patient, _, name = rest.partition("/")
        folder = found.get(f"{part}/{patient}")
        images.append(f"{folder}/{name}" if folder else f"{expected}/{film}" if film else "")
    films["image"] = images
