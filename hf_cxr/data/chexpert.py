"""CheXpert."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_cxr.data.base import FilmBuilder
from hf_cxr.data.chexpert_layout import locate_images, split_paths, table_folders
from hf_cxr.data.index import BLANK, FilmIndex
from hf_cxr.data.options import FilmConfig, one_of
from hf_cxr.data.problems import MALFORMED_CELL, UNKNOWN_FINDING, UNMATCHED_ROW, ProblemLog
from hf_cxr.data.tables import Table, choice, clip_ages, find_file, parse_column, read_table, require_columns

FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
DESCRIPTION = ("Sex", "Age", "Frontal/Lateral", "AP/PA")
EXPECTED_PATH = "…/patient00001/study1/view1_frontal.jpg"
ORIGIN = "https://stanfordmlgroup.github.io/competitions/chexpert"
SEX = {"Male": "M", "Female": "F", "M": "M", "F": "F", "Unknown": None, "": None}
SIDE = {"Frontal": "frontal", "Lateral": "lateral", "": None}
# 17 frontals of the training set are marked LL or RL; what they are is not known
PROJECTION = {"AP": "AP", "PA": "PA", "LL": "?", "RL": "?", "": None}
CELL = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1, "": BLANK}


@dataclass
class CheXpertConfig(FilmConfig):
    """Options of the CheXpert builder, besides `FilmConfig`'s.

    Attributes:
        train_csv: a table to be used in place of the folder's `train.csv`, VisualCheXbert's for one. It
            needs `Path` and the 14 observations; Sex, Age and the view are taken from the folder's table by
            path when it lacks them, and then the two must list the same films.
        validation: `fraction` cuts validation from the training patients; `official` takes `valid.csv`.
    """

    train_csv: str | None = None
    validation: str = "fraction"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("validation", self.validation, ("fraction", "official"))
        if self.train_csv is not None:
            self.train_csv = os.path.abspath(os.path.expanduser(self.train_csv))

    @property
    def cuts_validation(self) -> bool:
        """Not when `valid.csv` is the validation split."""
        return self.validation == "fraction"


class CheXpert(FilmBuilder):
    """CheXpert: 224,316 films of 65,240 patients of Stanford Hospital, 2002-2017.

    Of these `train.csv` lists 223,414 films of 64,540 patients, `valid.csv` 234 and `test.csv` 668 (500
    studies). Labels: 14 observations, for training mined from the reports by the CheXpert labeler as 1, 0,
    -1 (uncertain) or blank (not mentioned), for validation and test read by radiologists. `No Finding` is
    never 0 in training. The three sets share no patient.

    Splits: validation is cut from `train.csv` by patient, or is `valid.csv` with `validation="official"`.
    Test is `test.csv`; where that is not there and validation is cut, `valid.csv`. With neither there is no
    test split. `record["test_source"]` says which it was. `id` is the path from `train/`, `valid/` or
    `test/` on.

    Expects in `data_dir`, or in one folder below it, `train.csv`; `data_dir` may also be the folder of the
    `CheXpert-v1.0 batch …` folders. Tables may be gzipped.

    Citation: J. Irvin, P. Rajpurkar, M. Ko, Y. Yu et al., "CheXpert: A Large Chest Radiograph Dataset with
    Uncertainty Labels and Expert Comparison", AAAI 2019.
    """

    BUILDER_CONFIG_CLASS = CheXpertConfig
    FINDINGS = FINDINGS

    @classmethod
    def collect(cls, config: FilmConfig, with_images: bool) -> FilmIndex:
        """The rows of the two or three tables in use, each in its table's split."""
        assert isinstance(config, CheXpertConfig)
        problems = ProblemLog()
        folders = table_folders(config.folder)
        official = {name: find_file(folders, [f"{name}.csv"]) for name in ("train", "valid", "test")}
        chosen = _choose_tables(config, official)
        tables = {split: read_table(path, problems) for split, path in chosen.items()}
        parts = []
        for split, table in tables.items():
            films = _read_films(table, split, problems)
            parts.append(films)
        lacking = [name for name in DESCRIPTION if name not in tables["train"].frame]
        sources = dict(tables)
        if config.train_csv is not None and lacking:
            own = _described_by(official["train"], tables["train"], lacking, problems)
            _join_description(parts[0], own, lacking, problems)
            sources["train described by"] = own
        films = pd.concat(parts, ignore_index=True)
        findings = np.concatenate([_findings(table, problems) for table in tables.values()])
        ages, impossible = clip_ages(films["age"])
        films["age"] = ages
        unknown = int((films["view"] == "?").sum())
        films["view"] = films["view"].where(films["view"] != "?", None).astype("str")
        films["sex"] = films["sex"].astype("str")
        notes = {"impossible ages": impossible, "frontals marked LL or RL": unknown}
        index = FilmIndex(films, findings, FINDINGS, problems, notes=notes)
        index.check_ids()
        index.sources = {f"{use}: {table.path.name}": table.sha256 for use, table in sources.items()}
        index.test_source = chosen["test"].name if "test" in chosen else None
        if with_images:
            locate_images(films, folders)
        return index


def read_index(data_dir: str | Path, *, check_images: bool = True, **options: Any) -> FilmIndex:
    """The index of a CheXpert folder, without building anything.

    Args:
        data_dir: see `CheXpert`.
        check_images: look for the image files and read their headers; False needs no images at all.
        options: fields of `CheXpertConfig`.

    Raises:
        DataProblems: anything in the tables or images is wrong; all of it is collected first.
        FileNotFoundError: a table is not there.
    """
    return CheXpert.read_index(data_dir, check_images=check_images, **options)


def _choose_tables(config: CheXpertConfig, official: dict[str, Path | None]) -> dict[str, Path]:
    """The table of each split."""
    train = Path(config.train_csv) if config.train_csv is not None else official["train"]
    valid = official["valid"]
    if train is None or not train.is_file():
        where = train or f"train.csv (nor .gz) in {config.data_dir} or a CheXpert folder in it"
        raise FileNotFoundError(f"no {where}; expected CheXpert's table, as published at {ORIGIN}")
    chosen = {"train": train}
    if config.validation == "official":
        if valid is None:
            raise FileNotFoundError(
                f"no valid.csv in {config.data_dir} for validation='official'; fetch it from {ORIGIN} or cut "
                "validation from the training patients with validation='fraction'"
            )
        chosen["validation"] = valid
    test = official["test"] or (valid if config.validation == "fraction" else None)
    return chosen if test is None else {**chosen, "test": test}


def _read_films(table: Table, split: str, problems: ProblemLog) -> pd.DataFrame:
    """Every column of `FILM_COLUMNS`; `age` as objects, `view` `?` for a frontal marked LL or RL."""
    require_columns(table, ("Path",), problems)
    paths = table.frame.get("Path", pd.Series("", index=table.frame.index, dtype="str")).str.strip()
    # what a path that names no part belongs to
    default = "train" if split == "train" else "valid" if table.path.name.startswith("valid") else "test"
    films = split_paths(paths, default)
    stated = parse_column(table, "Frontal/Lateral", choice(SIDE), "Frontal, Lateral or blank", problems)
    side = pd.Series(stated, dtype=object)
    side = side.where(side.notna(), films.pop("side"))
    if "Path" in table.frame:
        bad = ((films["patient"] == "") | side.isna()).to_numpy()
        details = [f"Path is {path!r}, expected {EXPECTED_PATH}" for path in paths[bad]]
        problems.add(MALFORMED_CELL, table.path, table.lines[bad], details)
    projection = parse_column(table, "AP/PA", choice(PROJECTION), "AP, PA, LL, RL or blank", problems)
    films["view"] = np.where(side == "lateral", "LATERAL", projection)
    films["sex"] = parse_column(table, "Sex", choice(SEX), "Male, Female, Unknown or blank", problems)
    films["age"] = parse_column(table, "Age", _age, "whole years or blank", problems)
    films["split"], films["image"], films["file"], films["row"] = split, "", str(table.path), table.lines
    return films


def _age(cell: str) -> int | None:
    if not cell:
        return None
    years = float(cell)
    if not 0 <= years < 1e6 or not years.is_integer():
        raise ValueError(f"{cell!r} is no age")
    return int(years)


def _findings(table: Table, problems: ProblemLog) -> np.ndarray:
    """(N, 14) int8 by column name; columns that are no finding and no description are logged."""
    require_columns(table, FINDINGS, problems)
    unknown = [name for name in table.frame if name not in ("Path", *DESCRIPTION, *FINDINGS)]
    details = [f"column {name!r}; expected {', '.join(FINDINGS)}" for name in unknown]
    problems.add(UNKNOWN_FINDING, table.path, [1] * len(unknown), details)
    columns = [parse_column(table, name, choice(CELL), "1, 0, -1 or blank", problems) for name in FINDINGS]
    values = np.stack(columns, axis=1)
    values[pd.isna(values)] = BLANK
    return values.astype(np.int8)


def _described_by(own: Path | None, table: Table, lacking: list[str], problems: ProblemLog) -> Table:
    """The folder's own table, which a replacement without sex, age or view needs."""
    if own is None:
        raise FileNotFoundError(
            f"{table.path} lacks {', '.join(lacking)} and the folder has no train.csv to take them from; "
            "put CheXpert's own train.csv beside the images"
        )
    return read_table(own, problems)


def _join_description(films: pd.DataFrame, own: Table, lacking: list[str], problems: ProblemLog) -> None:
    """Fill in sex, age and view by id; log the rows of either table that the other lacks."""
    source = _read_films(own, "train", problems)
    for ours, theirs in ((films, source), (source, films)):
        alone = ours[~ours["id"].astype(object).isin(theirs["id"].astype(object))]
        details = [f"{film} has no row in the other table" for film in alone["id"]]
        problems.add(UNMATCHED_ROW, list(alone["file"]), list(alone["row"]), details)
    rows = source.drop_duplicates("id").set_index("id").reindex(films["id"])
    films["view"] = rows["view"].to_numpy()
    for name, column in (("sex", "Sex"), ("age", "Age")):
        if column in lacking:
            films[name] = rows[name].to_numpy()
