"""A hospital's splits: its own, or cut by patient and kept as files that are used again."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from hf_cxr.data.hospital_cells import identifier
from hf_cxr.data.hospital_films import image_key, match
from hf_cxr.data.hospital_map import HospitalMap, SplitSource
from hf_cxr.data.hospital_table import read_hospital_table
from hf_cxr.data.index import FilmIndex
from hf_cxr.data.near import folded
from hf_cxr.data.problems import IN_BOTH_LISTS, MALFORMED_CELL, NO_TABLE_ROW, NOT_IN_A_LIST, UNMATCHED_ROW
from hf_cxr.data.splits import patient_disjoint_split
from hf_cxr.data.tables import Table, read_list
from hf_cxr.errors import UserError

OVERLAP = "patient in two splits"
SPLITS = ("train", "validation", "test")
WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "validate": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip
LISTED = 5


class SplitError(UserError, ValueError):
    """Films that cannot be split, or saved splits that do not fit them; the message says what to do."""


def given_splits(index: FilmIndex, table: Table, mapped: HospitalMap, folder: Path) -> None:
    """Set `split` from the hospital's own column or lists, and log patients that are in two."""
    split = mapped.split
    if split is None:
        return
    if split.lists:
        _from_lists(index, split, folder)
    else:
        _from_column(index, table, split, folder)
    films = index.films[index.films["split"].notna() & (index.films["patient"] != "")]
    first = films.drop_duplicates("patient").set_index("patient")
    own = first.loc[films["patient"]]
    parted = films[(own["split"].to_numpy() != films["split"].to_numpy())].drop_duplicates("patient")
    details = [
        f"patient {film.patient!r} is in {film.split} here, and in {first.loc[film.patient, 'split']} in row "
        f"{first.loc[film.patient, 'row']}; give the patient to one"
        for film in parted.itertuples()
    ]
    index.problems.add(OVERLAP, list(parted["file"]), list(parted["row"]), details)


def _from_column(index: FilmIndex, table: Table, split: SplitSource, folder: Path) -> None:
    column, films = str(split.column), index.films
    rows: np.ndarray = np.arange(len(films))
    if split.table is not None and split.by is not None:
        table = read_hospital_table(split.table, folder, [split.by[1], column], index.problems, index.notes)
        index.sources[f"split: {table.path.name}"] = table.sha256
        keys, n_keys, key_of_film = match(films, table, split.by, True, index.problems)
        row_of_key = np.full(n_keys + 1, -1)
        row_of_key[keys] = np.arange(len(keys))
        rows = row_of_key[key_of_film]
        lone = films[rows < 0]
        details = [f"{film} has no row in {table.path.name}; add one" for film in lone["id"]]
        index.problems.add(UNMATCHED_ROW, list(lone["file"]), list(lone["row"]), details)
    if column not in table.frame:
        return
    known = {**WORDS, **split.values}
    cells = table.frame[column].to_numpy(dtype=object)
    meant = np.array([known.get(folded(cell)) for cell in cells], dtype=object)
    bad = pd.isna(meant)
    details = [f"{column} is {cell!r}, expected one of {', '.join(map(repr, known))}" for cell in cells[bad]]
    index.problems.add(MALFORMED_CELL, table.path, table.lines[bad], details)
    films["split"] = pd.Series(meant[rows], index=films.index, dtype="str").where(rows >= 0)
    if (films["split"] == "test").any():
        index.test_source = f"column {column} of {table.path.name}"


def _from_lists(index: FilmIndex, split: SplitSource, folder: Path) -> None:
    films, of = index.films, split.of

    def key(name: str) -> str:
        try:
            return image_key(name) if of == "image" else identifier(name).casefold()
        except ValueError:  # no identifier: it will be in no row of the table
            return name

    own = films["id"].map(image_key) if of == "image" else films[of].str.casefold()
    lists = {name: read_list(folder / path) for name, path in split.lists.items()}
    named: dict[str, str] = {}
    for name, listed in lists.items():
        index.sources[f"split {name}: {listed.path.name}"] = listed.sha256
        keys = listed.frame["name"].map(key)
        both = np.array([k in named for k in keys], dtype=bool)
        details = [f"{of} {n!r} is also in {lists[named[key(n)]].path.name}" for n in listed.frame["name"][both]]
        index.problems.add(IN_BOTH_LISTS, listed.path, listed.lines[both], details)
        without = ~keys.isin(set(own)).to_numpy(dtype=bool)
        details = [f"{of} {n!r} is in no row of the table" for n in listed.frame["name"][without]]
        index.problems.add(NO_TABLE_ROW, listed.path, listed.lines[without], details)
        named |= dict.fromkeys(keys, name)
    films["split"] = own.map(named).astype("str")
    nowhere = films[films["split"].isna()]
    shown = ", ".join(listed.path.name for listed in lists.values())
    details = [f"{of} {n!r} is in none of {shown}" for n in nowhere["id" if of == "image" else of]]
    index.problems.add(NOT_IN_A_LIST, list(nowhere["file"]), list(nowhere["row"]), details)
    index.test_source = lists["test"].path.name if "test" in lists else None


def cut_splits(index: FilmIndex, folder: Path, fractions: dict[str, float], seed: int) -> None:
    """Set `split` from the patients' lists in a folder, which are cut and written there where it is not there yet.

    The test patients are cut from all, stratified over the findings (`splits.patient_disjoint_split`), and the
    validation patients from the others. The lists hold the patients as the index spells them. They are used again as
    long as they name exactly the patients of the tables: corrected labels and new films of a known patient change
    no split.

    Args:
        fractions: `test`, of all patients, and `validation`, of the others.
        seed: of the cut.

    Raises:
        SplitError: fewer than three patients; the lists were cut otherwise, are incomplete, or name other patients;
            the folder cannot be written.
    """
    made = f"test {fractions['test']:g}, validation {fractions['validation']:g}, seed {seed}"
    lists = {split: folder / f"{split}.txt" for split in SPLITS}
    if not folder.exists():
        _cut(index, fractions, seed)
        try:
            _save(index, folder, made)
        except OSError as error:
            if not folder.exists():  # else another process was faster, with the same lists
                raise SplitError(f"splits cannot be saved in {folder} ({error}); name another splits_dir") from error
    _read_saved(index, lists, made)
    index.test_source = f"{folder.name}/{lists['test'].name}"


def _cut(index: FilmIndex, fractions: dict[str, float], seed: int) -> None:
    films = index.films
    if films["patient"].nunique() < len(SPLITS):
        n_patients = films["patient"].nunique()
        raise SplitError(f"{n_patients} patients cannot be cut into train, validation and test; expected at least 3")
    patients = films["patient"].to_numpy()
    held = patient_disjoint_split(patients, index.findings == 1, fractions["test"], seed)
    if films["patient"][~held].nunique() < 2:
        raise SplitError(f"test_fraction {fractions['test']:g} leaves fewer than two patients to train and validate on")
    films["split"] = np.where(held, "test", "train")
    index.cut_validation(fractions["validation"], seed)


def _save(index: FilmIndex, folder: Path, made: str) -> None:
    """Write the lists; the folder appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for split in SPLITS:
            patients = sorted(set(index.films["patient"][index.films["split"] == split]))
            (partial / f"{split}.txt").write_text("\n".join([f"# patients; cut: {made}", *patients, ""]), "utf-8")
        partial.chmod(0o755)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_saved(index: FilmIndex, lists: dict[str, Path], made: str) -> None:
    folder = lists["test"].parent
    again = f"Delete {folder} to cut anew: figures from before are then no longer comparable."
    absent = [path.name for path in lists.values() if not path.is_file()]
    if absent:
        raise SplitError(f"{folder} lacks {', '.join(absent)}; expected the lists of all three splits. {again}")
    split_of: dict[str, str] = {}
    for split, path in lists.items():
        raw = path.read_bytes()
        index.sources[f"split {split}: {path.name}"] = hashlib.sha256(raw).hexdigest()
        for line in raw.decode("utf-8-sig").splitlines():
            was = re.match(r"# patients; cut: (.*)", line)
            if was and was[1] != made:
                raise SplitError(f"{path} was cut with {was[1]}, asked for is {made}. Ask for the same. {again}")
            patient = "" if line.startswith("#") else line.strip()
            if patient and split_of.setdefault(patient, split) != split:
                raise SplitError(f"{path}: patient {patient!r} is in {split_of[patient]}.txt too; keep one")
    patients = set(index.films["patient"])
    for these, where in (
        (sorted(patients - set(split_of)), "are in the tables, but in none of the lists"),
        (sorted(set(split_of) - patients), "are in the lists, but not in the tables"),
    ):
        if these:
            shown = ", ".join(these[:LISTED]) + (", …" if len(these) > LISTED else "")
            raise SplitError(
                f"{folder}: the data have changed since the splits were cut: {len(these):,} patients {where}: {shown}. "
                f"Put them into, or take them out of, the lists by hand. {again}"
            )
    index.films["split"] = index.films["patient"].map(split_of).astype("str")
