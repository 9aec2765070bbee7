"""Write a phantom population as NIH ChestX-ray14 or CheXpert would lie on disk.

Masks lie beside either layout as 1-bit PNGs, one a film and sign, only where the sign is drawn:
`masks/<sign>/<image path without its suffix>.png`. Boxes are in pixels of the written image; NIH's own
refer to 1024 x 1024.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from scipy.ndimage import find_objects, label

from hf_cxr.data.phantom.chexpert_cells import COLUMNS, adjudicated_row, report_rows
from hf_cxr.data.phantom.film import RenderedFilm, render_film
from hf_cxr.data.phantom.findings import NIH_FINDINGS, OBSERVATION_SIGNS
from hf_cxr.data.phantom.population import FilmRecord, split_patients
from hf_cxr.data.phantom.texture import FIELD_MM, Mask

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
BOX_NAMES = {
    name: name for name in ("Atelectasis", "Cardiomegaly", "Effusion", "Mass", "Nodule", "Pneumonia", "Pneumothorax")
} | {"Infiltration": "Infiltrate"}
"""The eight findings NIH boxed, under the names its box file uses."""

NIH_SHARES = {"train_val": 0.8, "test": 0.2}
CHEXPERT_SHARES = {"train": 0.7, "valid": 0.1, "test": 0.2}
CHEXPERT_PREFIX = "CheXpert-v1.0-small/"

Rendered = Iterable[tuple[FilmRecord, RenderedFilm]]
Track = Callable[[list[FilmRecord]], Iterable[FilmRecord]]


def mask_path(image_path: str, sign: str) -> PurePosixPath:
    """Where the mask of `sign` lies, relative to the phantom's root; `image_path` as below it or its name."""
    return PurePosixPath("masks") / sign / PurePosixPath(image_path).with_suffix(".png")


def largest_box(mask: Mask) -> tuple[int, int, int, int]:
    """x, y, width, height in pixels of the largest connected part of a non-empty mask (H, W)."""
    parts, count = label(mask)
    if count == 0:
        raise ValueError("largest_box: the mask is empty; expected at least one true pixel")
    largest = int(np.argmax(np.bincount(parts.ravel())[1:]))
    rows, columns = find_objects(parts)[largest]
    return columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start


def _render(record: FilmRecord, image_size: int, seed: int) -> RenderedFilm:
    return render_film(record.patient, record.film, record.view, record.signs, image_size=image_size, seed=seed)


def _save(root: Path, image_path: str, folder: str, film: RenderedFilm) -> None:
    target = root / folder / image_path
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".png":
        Image.fromarray(film.image).save(target, compress_level=1)
    else:
        Image.fromarray(film.image).save(target, quality=95)
    for sign, mask in film.masks.items():
        place = root / mask_path(image_path, sign)
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(place)


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def nih_image_index(record: FilmRecord) -> str:
    """NIH's file name: patient and follow-up, as `00000001_000.png`."""
    return f"{record.patient.number:08d}_{record.film:03d}.png"


def write_nih(root: Path, films: list[FilmRecord], image_size: int, seed: int, track: Track) -> None:
    """images/, Data_Entry_2017_v2020.csv, train_val_list.txt, test_list.txt, BBox_List_2017.csv, masks/."""
    parts = split_patients(films, NIH_SHARES, {name: (name,) for name in NIH_FINDINGS}, seed)
    for name, members in parts.items():
        _write_lines(root / f"{name}_list.txt", map(nih_image_index, members))
    tested = set(map(nih_image_index, parts["test"]))
    spacing = FIELD_MM / image_size
    entries, boxes = [NIH_HEADER], [BOX_HEADER]
    for record in track(films):
        index, person = nih_image_index(record), record.patient
        film = _render(record, image_size, seed)
        _save(root, index, "images", film)
        entries.append(
            f"{index},{'|'.join(record.findings) or 'No Finding'},{record.film},{person.number},{person.age},"
            f"{person.sex},{record.view},{image_size},{image_size},{spacing:g},{spacing:g}"
        )
        if index in tested:
            for sign in record.findings:
                if sign in BOX_NAMES:
                    box = ",".join(f"{edge:.1f}" for edge in largest_box(film.masks[sign]))
                    boxes.append(f"{index},{BOX_NAMES[sign]},{box}")
    _write_lines(root / "Data_Entry_2017_v2020.csv", entries)
    _write_lines(root / "BBox_List_2017.csv", boxes)


def chexpert_image_path(record: FilmRecord, split: str) -> str:
    """CheXpert's path without its prefix: one study a film, numbered from 1."""
    return f"{split}/patient{record.patient.number:05d}/study{record.film + 1}/view1_frontal.jpg"


def write_chexpert(root: Path, films: list[FilmRecord], image_size: int, seed: int, track: Track) -> None:
    """train/, valid/, test/ with train.csv, valid.csv, test.csv, masks/; frontal films, one a study."""
    parts = split_patients(films, CHEXPERT_SHARES, OBSERVATION_SIGNS, seed)
    split_of = {record.patient.number: name for name, members in parts.items() for record in members}
    for record in track(films):
        _save(
            root,
            chexpert_image_path(record, split_of[record.patient.number]),
            "",
            _render(record, image_size, seed),
        )
    for name, members in parts.items():
        cells = report_rows(members, seed) if name == "train" else [adjudicated_row(r) for r in members]
        with (root / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            about = [] if name == "test" else ["Sex", "Age", "Frontal/Lateral", "AP/PA"]
            writer.writerow(["Path", *about, *COLUMNS])
            for record, row in zip(members, cells, strict=True):
                path = chexpert_image_path(record, name)
                sex = "Male" if record.patient.sex == "M" else "Female"
                known = [] if name == "test" else [sex, record.patient.age, "Frontal", record.view]
                prefix = "" if name == "test" else CHEXPERT_PREFIX
                writer.writerow([prefix + path, *known, *(row[column] for column in COLUMNS)])


LAYOUTS: dict[str, Callable[[Path, list[FilmRecord], int, int, Track], None]] = {
    "nih": write_nih,
    "chexpert": write_chexpert,
}
