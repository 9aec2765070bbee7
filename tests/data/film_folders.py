"""What the small data folders of these tests are made of.

Not in conftest.py: `from conftest import …` finds whichever directory's conftest came first.
"""

import gzip
from pathlib import Path

import numpy as np
import PIL.Image

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
CHEXPERT_FINDINGS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,"
    "Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
CHEXPERT_HEADER = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT_FINDINGS}"


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
            sex, view = "MF"[patient % 2], ("PA", "AP")[film]
            rows.append(f"{name},{words},{film},{patient},058Y,{sex},{view},9,9,1,1")
    return rows


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
