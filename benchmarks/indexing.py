"""The published tables at full size: read, checked, cut into splits, labels encoded; no images.

The tables are in the torchxrayvision package.
"""

from __future__ import annotations

import atexit
import gzip
import importlib.util
import shutil
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np

from benchmarks.timing import Budget, Round
from hf_cxr import load_taxonomy
from hf_cxr.data.base import FilmBuilder
from hf_cxr.data.chexpert import CheXpert
from hf_cxr.data.index import BLANK
from hf_cxr.data.nih import LISTS, NIHChestXray14
from hf_cxr.labels import LabelPolicy, encode

SECONDS = 10
NIH_TRAINING_FILMS = 86_524


def published(name: str, rows: int | None) -> list[str]:
    """Lines of a table, the header first."""
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchxrayvision holds the tables: pip install -e '.[bench]'")
    with gzip.open(Path(spec.origin).parent / "data" / name, "rt", encoding="utf-8") as file:
        return list(islice(file, None if rows is None else rows + 1))


def folder_of(files: dict[str, list[str]]) -> Path:
    """A temporary folder of these text files, compressed as they are published."""
    folder = Path(tempfile.mkdtemp(prefix="hf_cxr_bench_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, lines in files.items():
        with gzip.open(folder / f"{name}.gz", "wt", encoding="utf-8") as file:
            file.writelines(lines)
    return folder


def index_once(builder: type[FilmBuilder], folder: Path, taxonomy: str, policy: LabelPolicy, **options: str) -> Round:
    """Rows of an index with labels."""
    hierarchy = load_taxonomy(taxonomy)

    def run() -> float:
        index = builder.read_index(folder, check_images=False, **options)
        raw = np.where(index.findings == BLANK, np.float32(np.nan), index.findings)
        return float(len(encode(index.names, raw, hierarchy, policy).values))

    return run


def index_nih(rows: int | None = None) -> Budget:
    """NIH's table of 112,120 films: read, checked, validation cut by patient, labels encoded."""

    def work() -> Round:
        name = "Data_Entry_2017_v2020.csv"
        header, *films = published(f"{name}.gz", rows)
        ids, patient = header.strip().split(",").index("Image Index"), header.strip().split(",").index("Patient ID")
        cells = [film.split(",") for film in films]
        # The package has no official lists: the table goes by patient, and is cut at a patient of about their share.
        cut = round(len(films) * NIH_TRAINING_FILMS / 112_120)
        while cells[cut][patient] == cells[cut - 1][patient]:
            cut += 1
        lists = {"train": cells[:cut], "test": cells[cut:]}
        files = {LISTS[split]: [f"{film[ids]}\n" for film in there] for split, there in lists.items()}
        folder = folder_of({name: [header, *films], **files})
        return index_once(NIHChestXray14, folder, "nih", LabelPolicy())

    return Budget("index and validate NIH's table, no images", "films", SECONDS, work)


def index_chexpert(rows: int | None = None) -> Budget:
    """CheXpert's table of 223,414 films: read, checked, validation cut by patient, labels encoded."""

    def work() -> Round:
        folder = folder_of({"train.csv": published("chexpert_train.csv.gz", rows)})
        return index_once(CheXpert, folder, "chexpert", LabelPolicy(blank="zeros"), view="all")

    return Budget("index and validate CheXpert's table, no images", "films", SECONDS, work)
