"""Small folders in the layouts of the real data sets, and the way to the real ones."""

import gzip
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
CHEXPERT_FINDINGS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,"
    "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
CHEXPERT_HEADER = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT_FINDINGS}"


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


def write_image(path: Path, seed: int = 0, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    gray = np.random.default_rng(seed).integers(0, 256, (24, 24), dtype=np.uint8)
    image = PIL.Image.fromarray(gray.astype(np.uint16) * 257 if mode == "I;16" else gray)
    (image if mode in ("L", "I;16") else image.convert(mode)).save(path)


def write_text(path: Path, lines: list[str], zipped: bool = False) -> None:
    text = "\n".join(lines) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


def nih_rows(patients: int = 20) -> list[str]:
    """Two films of each patient, "00000001_000.png" on; every third shows Hernia and Mass, age 58."""
    rows = []
    for patient in range(1, patients + 1):
        for film in range(2):
            words = "Hernia|Mass" if patient % 3 == 0 else "No Finding"
            name = f"{patient:08d}_{film:03d}.png"
            rows.append(f"{name},{words},{film},{patient},058Y,{'MF'[patient % 2]},{('PA', 'AP')[film]},9,9,1,1")
    return rows


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


def chexpert_rows(part: str, patients: range, prefix: str, described: bool = True) -> list[str]:
    """A frontal and a lateral of each patient; Cardiomegaly 1, Edema -1, Fracture 0, the rest blank."""
    rows = []
    for patient in patients:
        for number, side in enumerate(("frontal", "lateral"), start=1):
            path = f"{prefix}patient{patient:05d}/study1/view{number}_{side}.jpg"
            view = f"{side.title()},{'AP' if side == 'frontal' else ''}"
            middle = f",{('Male', 'Female')[patient % 2]},{40 + patient % 50},{view}" if described else ""
            rows.append(f"{path}{middle},,,1.0,,,-1.0,,,,,,,0.0,")
    return rows


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
        for part, patients in (("train", range(1, 21)), ("valid", range(101, 105)), ("test", range(201, 204))):
            for patient in patients:
                study = root / part / f"patient{patient:05d}" / "study1"
                write_image(study / "view1_frontal.jpg", patient)
                write_image(study / "view2_lateral.jpg", patient)
        return root

    return make
