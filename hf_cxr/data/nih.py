"""NIH ChestX-ray14."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_cxr.data.base import FilmBuilder
from hf_cxr.data.index import BLANK, FilmIndex
from hf_cxr.data.options import FilmConfig
from hf_cxr.data.problems import (
    AMBIGUOUS_IMAGE,
    IN_BOTH_LISTS,
    MALFORMED_CELL,
    NO_TABLE_ROW,
    NOT_IN_A_LIST,
    UNKNOWN_FINDING,
    ProblemLog,
)
from hf_cxr.data.tables import (
    Table,
    choice,
    clip_ages,
    find_file,
    parse_column,
    read_list,
    read_table,
    require_columns,
)

NO_FINDING = "No Finding"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
    NO_FINDING,
)
TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
ORIGIN = "https://nihcc.app.box.com/v/ChestXray-NIHCC (or nih-chest-xrays/data on Kaggle)"
AGE = re.compile(r"(\d{1,9})([YMD]?)")
SEX = {"M": "M", "F": "F", "": None}
VIEW = {"PA": "PA", "AP": "AP", "LATERAL": "LATERAL", "LL": "LATERAL", "": None}
YEARS = {"": 1, "Y": 1, "M": 12, "D": 365}


class NIHChestXray14(FilmBuilder):
    """NIH ChestX-ray14: 112,120 frontal films of 30,805 patients of the NIH Clinical Center, 1992-2015.

    Labels: 14 findings and `No Finding`, mined from the radiology reports (estimated accuracy over 90 %),
    each 1 or 0 on every film. Official lists: 86,524 films for training and validation, 25,596 for testing,
    the patients disjoint. Validation is cut from the first list by patient. The test films are not drawn
    like the others: `No Finding` falls from 58 % to 38.5 %, Pneumothorax rises from 3.0 % to 10.4 %.

    Each film is a study of its own (`study` is the file name without its ending): the table groups none.

    Expects in `data_dir`: `Data_Entry_2017_v2020.csv` or `Data_Entry_2017.csv`, `train_val_list.txt` and
    `test_list.txt` (each also as `.gz`), and the images in `images_001/images` … `images_012/images`, in
    `images/`, or beside the table.

    Citation: X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers, "ChestX-ray8: Hospital-scale Chest
    X-ray Database and Benchmarks on Weakly-Supervised Classification and Localization of Common Thorax
    Diseases", CVPR 2017.
    """

    BUILDER_CONFIG_CLASS = FilmConfig
    FINDINGS = FINDINGS

    @classmethod
    def collect(cls, config: FilmConfig, with_images: bool) -> FilmIndex:
        """The table's rows, each in the split of the list that names it."""
        problems = ProblemLog()
        folder = config.folder
        path = _required(folder, TABLES)
        lists = {split: read_list(_required(folder, (name,))) for split, name in LISTS.items()}
        table = read_table(path, problems)
        index = _read_rows(table, problems)
        _assign_lists(index, lists)
        index.check_ids()
        index.sources = {t.path.name: t.sha256 for t in (table, *lists.values())}
        index.test_source = lists["test"].path.name
        if with_images:
            _locate_images(index, folder)
        return index


def read_index(data_dir: str | Path, *, check_images: bool = True, **options: Any) -> FilmIndex:
    """The index of an NIH folder, without building anything.

    Args:
        data_dir: see `NIHChestXray14`.
        check_images: look for the image files and read their headers; False needs no images at all.
        options: fields of `options.FilmConfig`.

    Raises:
        DataProblems: anything in the tables, lists or images is wrong; all of it is collected first.
        FileNotFoundError: the table or a list is not there.
    """
    return NIHChestXray14.read_index(data_dir, check_images=check_images, **options)


def _required(folder: Path, names: tuple[str, ...]) -> Path:
    path = find_file([folder], names)
    if path is None:
        raise FileNotFoundError(
            f"{folder} has no {' or '.join(names)} (nor .gz); expected it beside the images, as published at "
            f"{ORIGIN}. Download it into that folder."
        )
    return path


def _read_rows(table: Table, problems: ProblemLog) -> FilmIndex:
    require_columns(table, COLUMNS, problems)

    def parse(column: str, how: Callable[[str], Any], expected: str) -> pd.Series:
        return pd.Series(parse_column(table, column, how, expected, problems), dtype=object)

    films = pd.DataFrame({"id": parse("Image Index", _some, "a file name").fillna("").astype("str")})
    films["patient"] = parse("Patient ID", _patient, "a patient number").fillna("").astype("str")
    films["study"] = films["id"].str.rsplit(".", n=1).str[0]
    films["view"] = parse("View Position", choice(VIEW), "PA, AP, LATERAL or blank").astype("str")
    films["sex"] = parse("Patient Gender", choice(SEX), "M, F or blank").astype("str")
    ages = parse("Patient Age", _age, "an age such as 58, 058Y, 010M or 003D")
    films["age"], impossible = clip_ages(ages)
    films["split"] = pd.Series(pd.NA, index=films.index, dtype="str")
    films["image"], films["file"], films["row"] = "", str(table.path), table.lines
    findings = _findings(table, problems)
    return FilmIndex(films, findings, FINDINGS, problems, notes={"impossible ages": impossible})


def _findings(table: Table, problems: ProblemLog) -> np.ndarray:
    """(N, 15) int8, 1 for each word of the `|`-joined cell and 0 for the others."""
    if "Finding Labels" not in table.frame:
        return np.full((len(table.frame), len(FINDINGS)), BLANK, dtype=np.int8)
    codes, distinct = pd.factorize(table.frame["Finding Labels"])
    columns = {name: i for i, name in enumerate(FINDINGS)}
    values = np.zeros((len(distinct), len(FINDINGS)), dtype=np.int8)
    for code, cell in enumerate(distinct):
        words = [word.strip() for word in str(cell).split("|")]
        unknown = [word for word in words if word and word not in columns]
        values[code, [columns[word] for word in words if word in columns]] = 1
        kind, detail = "", ""
        if unknown:
            kind = UNKNOWN_FINDING
            detail = f"{', '.join(map(repr, unknown))}; expected one of {', '.join(FINDINGS)}"
        elif "" in words:
            kind, detail = MALFORMED_CELL, f"Finding Labels is {cell!r}, expected findings joined by '|'"
        elif NO_FINDING in words and len(words) > 1:
            kind, detail = MALFORMED_CELL, f"Finding Labels is {cell!r}: {NO_FINDING} stands beside findings"
        if kind:
            rows = table.lines[codes == code]
            problems.add(kind, table.path, rows, [detail] * len(rows))
    return values[codes]


def _some(cell: str) -> str:
    if not cell:
        raise ValueError("blank")
    return cell


def _patient(cell: str) -> str:
    # "1" and "00000001" are one patient; as two they could part over the splits
    return str(int(cell)) if cell.isdecimal() else _some(cell)


def _age(cell: str) -> int | None:
    if not cell:
        return None
    match = AGE.fullmatch(cell.upper())
    if match is None:
        raise ValueError(f"{cell!r} is no age")
    return int(match[1]) // YEARS[match[2]]


def _assign_lists(index: FilmIndex, lists: dict[str, Table]) -> None:
    """Set `split` from the official lists; log rows in no list and names without a row."""
    films, problems = index.films, index.problems
    # pandas' isin takes a second on its own string type, and 20 ms on objects
    ids = films["id"].astype(object)
    names = {split: listed.frame["name"].astype(object) for split, listed in lists.items()}
    for split, listed in lists.items():
        films.loc[ids.isin(names[split]), "split"] = split
        without = ~names[split].isin(ids).to_numpy()
        details = [f"{name} has no row in the table" for name in names[split][without]]
        problems.add(NO_TABLE_ROW, listed.path, listed.lines[without], details)
    both = names["test"].isin(names["train"]).to_numpy()
    details = [f"{name} is also in {LISTS['train']}" for name in names["test"][both]]
    problems.add(IN_BOTH_LISTS, lists["test"].path, lists["test"].lines[both], details)
    nowhere = films[films["split"].isna()]
    details = [f"{film} is neither in {LISTS['train']} nor in {LISTS['test']}" for film in nowhere["id"]]
    problems.add(NOT_IN_A_LIST, list(nowhere["file"]), list(nowhere["row"]), details)


def _locate_images(index: FilmIndex, folder: Path) -> None:
    """Set `image`: the file of that name in one of the image folders, or where it was expected."""
    parts = [p for p in sorted(folder.glob("images_*")) if p.is_dir()]
    folders = [p / "images" if (p / "images").is_dir() else p for p in parts] + [folder / "images", folder]
    wanted = set(index.films["id"])
    found: dict[str, str] = {}
    twice: dict[str, str] = {}
    for place in folders:
        if place.is_dir():
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name in wanted and found.setdefault(entry.name, entry.path) != entry.path:
                        twice[entry.name] = entry.path
    expected = next(place for place in folders if place.is_dir())
    ids = index.films["id"]
    index.films["image"] = [found.get(name) or (f"{expected}/{name}" if name else "") for name in ids]
    double = index.films[ids.isin(list(twice))]
    details = [f"also at {twice[name]}; keep one of the two" for name in double["id"]]
    index.problems.add(AMBIGUOUS_IMAGE, list(double["file"]), list(double["row"]), details, list(double["image"]))
