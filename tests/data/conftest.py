"""Small folders in the layouts of the real data sets, and the way to the real ones."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from film_folders import (
    CHEXPERT_FINDINGS,
    CHEXPERT_HEADER,
    NIH_HEADER,
    chexpert_rows,
    nih_rows,
    write_image,
    write_text,
)

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="session")
def _quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def published_tables() -> Path:
    """The folder of the full label tables that torchxrayvision ships."""
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchxrayvision is not installed; its folder holds the full NIH and CheXpert tables")
    return Path(spec.origin).parent / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The shared folder of real images and lists."""
    folder = Path(os.environ.get("HF_CXR_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "nih128").is_dir():
        pytest.skip(f"no real data in {folder}; set HF_CXR_TEST_DATA to the folder that holds nih128")
    return folder


@pytest.fixture
def nih(tmp_path) -> Callable[..., Path]:
    """A function that writes an NIH folder: 20 patients, the last five in the test list."""

    def make(
        rows: list[str] | None = None,
        header: str = NIH_HEADER,
        table: str = "Data_Entry_2017_v2020.csv",
        images: tuple[str, ...] = ("images",),
        zipped: bool = False,
        lists: tuple[list[str], list[str]] | None = None,
    ) -> Path:
        folder = tmp_path / "nih"
        rows = nih_rows() if rows is None else rows
        names = [row.split(",")[0] for row in rows if row]
        write_text(folder / table, [header, *rows], zipped)
        train, test = lists or ([n for n in names if n < "00000016"], [n for n in names if n >= "00000016"])
        write_text(folder / "train_val_list.txt", train, zipped)
        write_text(folder / "test_list.txt", test, zipped)
        for i, name in enumerate(dict.fromkeys(names)):
            write_image(folder / images[i % len(images)] / name, seed=i)
        return folder

    return make


@pytest.fixture
def chexpert(tmp_path) -> Callable[..., Path]:
    """A function that writes a CheXpert folder: 20 training patients, 4 in valid.csv, 3 in test.csv."""

    def make(
        folder: str = "CheXpert-v1.0-small",
        prefix: str = "CheXpert-v1.0-small/",
        test: bool = True,
        valid: bool = True,
        train_rows: list[str] | None = None,
        zipped: bool = False,
    ) -> Path:
        root = tmp_path / "chexpert" / folder
        rows = chexpert_rows("train", range(1, 21), f"{prefix}train/") if train_rows is None else train_rows
        write_text(root / "train.csv", [CHEXPERT_HEADER, *rows], zipped)
        if valid:
            rows = chexpert_rows("valid", range(101, 105), f"{prefix}valid/")
            write_text(root / "valid.csv", [CHEXPERT_HEADER, *rows], zipped)
        if test:
            rows = chexpert_rows("test", range(201, 204), "test/", described=False)
            write_text(root / "test.csv", [f"Path,{CHEXPERT_FINDINGS}", *rows], zipped)
        films = {"train": range(1, 21), "valid": range(101, 105), "test": range(201, 204)}
        for part, patients in films.items():
            for patient in patients:
                study = root / part / f"patient{patient:05d}" / "study1"
                write_image(study / "view1_frontal.jpg", patient)
                write_image(study / "view2_lateral.jpg", patient)
        return root

    return make
