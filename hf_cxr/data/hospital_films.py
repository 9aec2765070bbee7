"""A hospital's films and their findings, from its tables; no image and no split yet."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from hf_cxr.data import hospital_cells as cells
from hf_cxr.data.hospital_map import HospitalMap, Labels
from hf_cxr.data.hospital_table import read_hospital_table, without_repeats
from hf_cxr.data.index import FilmIndex
from hf_cxr.data.near import folded
from hf_cxr.data.problems import DUPLICATE_ID, MALFORMED_CELL, UNMATCHED_ROW, ProblemLog
from hf_cxr.data.tables import Table, clip_ages, parse_column
from hf_cxr.data.vocabulary import follow, join_rows, read_readings

DISAGREEING = "rows of one film that disagree"
IMAGE_SUFFIX = re.compile(r"\.(png|jpe?g|dcm|dicom|tiff?|bmp)$")


def read_films(mapped: HospitalMap, folder: Path) -> tuple[FilmIndex, Table]:
    """Every film that the hospital's tables name, with its findings.

    Returns:
        The index, `split` and `image` empty, `view` `leave_out` where the map says so; and the films' own table, a
        row a film in the same order, with the columns of the image path and of the split.
    """
    problems, notes = ProblemLog(), dict[str, int]()
    labels, columns = mapped.labels, mapped.columns
    said = _label_columns(labels) if labels.table is None else []
    described = _described(mapped)
    table = read_hospital_table(mapped.table, folder, [*described, *said], problems, notes)
    sources = {f"map: {mapped.path.name}": mapped.sha256, f"films: {table.path.name}": table.sha256}
    if labels.table is None and labels.per_finding:
        whole = table
        table, film_of_row = _one_row_a_film(whole, columns.image, described, problems)
    else:
        whole = table = without_repeats(table, notes)
        film_of_row = np.arange(len(table.lines))
    films = _describe(table, mapped, problems, notes)
    if labels.table is None or labels.by is None:
        strengths, says, complete = _joined(whole, mapped, film_of_row, len(films), problems)
    else:
        other = read_hospital_table(labels.table, folder, [labels.by[1], *_label_columns(labels)], problems, notes)
        other = other if labels.per_finding else without_repeats(other, notes)
        sources[f"labels: {other.path.name}"] = other.sha256
        rows, n_keys, key_of_film = match(films, other, labels.by, not labels.per_finding, problems)
        _check_matches(films, other, mapped, rows, key_of_film, problems, notes)
        # the last key is that of films without a row
        joined = _joined(other, mapped, rows, n_keys + 1, problems)
        strengths, says, complete = joined[0][key_of_film], joined[1][key_of_film], joined[2][key_of_film]
    findings = follow(strengths, says, complete, mapped, notes)
    index = FilmIndex(films, findings, mapped.findings, problems, notes=notes, sources=sources)
    index.check_ids()
    return index, table


def _label_columns(labels: Labels) -> list[str]:
    return [c for c in (labels.column, labels.reader, *(coded.column for coded in labels.coded)) if c is not None]


def _described(mapped: HospitalMap) -> list[str]:
    """Columns of the films' table that say something of the film rather than of a finding."""
    columns, split = mapped.columns, mapped.split
    chosen = [choice.column for choice in (columns.view, columns.sex) if choice is not None]
    ages = [] if columns.age is None else [columns.age.column, columns.age.born, columns.age.on]
    places = [column for _, column, _ in mapped.images.path]
    own_split = split.column if split is not None and split.table is None else None
    wanted = [columns.image, columns.patient, columns.study, *chosen, *ages, *places, own_split]
    return list(dict.fromkeys(column for column in wanted if column is not None))


def _one_row_a_film(
    table: Table, image: str, described: list[str], problems: ProblemLog
) -> tuple[Table, npt.NDArray[np.int64]]:
    """The first row of each film, and the film of each row; logs rows that describe their film otherwise."""
    if image not in table.frame:
        return table, np.arange(len(table.lines))
    codes, _ = pd.factorize(table.frame[image])
    first = np.unique(codes, return_index=True)[1]
    for column in (column for column in described if column in table.frame):
        values = table.frame[column].to_numpy(dtype=object)
        other = values != values[first][codes]
        details = [
            f"{column} is {mine!r}, but {theirs!r} in row {row} of the same film; give it one"
            for mine, theirs, row in zip(
                values[other], values[first][codes][other], table.lines[first][codes][other], strict=True
            )
        ]
        problems.add(DISAGREEING, table.path, table.lines[other], details)
    one = Table(table.path, table.frame.iloc[first].reset_index(drop=True), table.lines[first], table.sha256)
    return one, codes.astype(np.int64)


def _describe(table: Table, mapped: HospitalMap, problems: ProblemLog, notes: dict[str, int]) -> pd.DataFrame:
    """Every column of `FILM_COLUMNS`."""
    columns, n_films = mapped.columns, len(table.lines)

    def parse(column: str, how: Any, expected: str) -> pd.Series:
        return pd.Series(parse_column(table, column, how, expected, problems), dtype=object)

    films = pd.DataFrame({"id": parse(columns.image, _some, "the film's file").fillna("").astype("str")})
    if columns.patient is None:
        films["patient"] = films["id"]
        notes["films whose patient is not known, each taken for one"] = n_films
    else:
        ids = parse(columns.patient, cells.identifier, cells.EXPECTED_ID).fillna("")
        films["patient"], spellings = cells.one_spelling(ids)
        if spellings:
            notes["patients spelled in several ways"] = spellings
    own = films["id"].str.replace("\\", "/").str.rsplit("/", n=1).str[-1].str.rsplit(".", n=1).str[0]
    films["study"] = own
    if columns.study is not None:
        studies = parse(columns.study, cells.optional(cells.identifier), cells.EXPECTED_ID)
        films["study"] = cells.one_spelling(studies.where(studies.notna(), own))[0]
    for name, choices, words in (("view", columns.view, cells.VIEWS), ("sex", columns.sex, cells.SEXES)):
        films[name] = pd.Series(None, index=films.index, dtype="str")
        if choices is not None:
            films[name] = parse(choices.column, *cells.chosen(choices, words)).astype("str")
    ages, before_birth = _ages(table, mapped, problems)
    films["age"], impossible = clip_ages(pd.Series(ages, dtype=object))
    if columns.age is not None:
        notes["impossible ages"] = impossible + before_birth
    films["split"] = pd.Series(pd.NA, index=films.index, dtype="str")
    films["image"], films["file"], films["row"] = "", str(table.path), table.lines
    return films


def _some(cell: str) -> str:
    if not cell:
        raise ValueError("blank")
    return cell


def _ages(table: Table, mapped: HospitalMap, problems: ProblemLog) -> tuple[list[int | None], int]:
    """Ages in years, and how many were below 0, which are unknown."""
    columns = mapped.columns.age
    if columns is None:
        return [None] * len(table.lines), 0
    if columns.column is not None:
        how = cells.optional(cells.age)
        return list(parse_column(table, columns.column, how, cells.EXPECTED_AGE, problems)), 0

    def when(cell: str) -> cells.Date:
        return cells.date(cell, columns.date_format)

    dates = [
        parse_column(table, str(column), cells.optional(when), cells.EXPECTED_DATE, problems)
        for column in (columns.born, columns.on)
    ]
    years = [cells.years_between(born, on) for born, on in zip(*dates, strict=True)]
    if "%y" in (columns.date_format or ""):  # Python reads 61 as 2061: born before the film, a century earlier
        years = [y + 100 if y is not None and y < 0 else y for y in years]
    return [y if y is None or y >= 0 else None for y in years], sum(y is not None and y < 0 for y in years)


def _joined(
    table: Table, mapped: HospitalMap, keys: npt.NDArray[np.int64], n_keys: int, problems: ProblemLog
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The readings of each key from all its rows."""
    strengths, says, complete = read_readings(table, mapped, problems)
    readers = None
    if mapped.labels.reader is not None and mapped.labels.reader in table.frame:
        readers = pd.factorize(table.frame[mapped.labels.reader].map(folded))[0].astype(np.int64)
    all_says, all_complete = np.zeros(n_keys, bool), np.ones(n_keys, bool)
    np.logical_or.at(all_says, keys, says)
    np.logical_and.at(all_complete, keys, complete)
    return join_rows(keys, readers, mapped.labels.agreement, strengths, n_keys), all_says, all_complete


def match(
    films: pd.DataFrame, table: Table, by: tuple[str, str], unique: bool, problems: ProblemLog
) -> tuple[npt.NDArray[np.int64], int, npt.NDArray[np.int64]]:
    """Join a table to the films.

    Args:
        by: `image`, `study` or `patient`, and the table's column with it.
        unique: each key has one row; others are logged.

    Returns:
        (R,) key of each row from 0; the number of keys K; (N,) key of each film, K where the table has no row for it.
    """
    what, column = by
    how = {"image": image_key}.get(what, lambda cell: cells.identifier(cell).casefold())
    expected = "the film's file" if what == "image" else cells.EXPECTED_ID
    values = pd.Series(parse_column(table, column, how, expected, problems), dtype=object)
    known = values.notna().to_numpy()
    rows, distinct = pd.factorize(values.where(values.notna(), ""))
    if unique:
        again = pd.Series(rows).duplicated().to_numpy() & known
        details = [f"an earlier row is about the same {what} {cell!r}; keep one" for cell in values[again]]
        problems.add(DUPLICATE_ID, table.path, table.lines[again], details)
    own = films["id"].map(image_key) if what == "image" else films[what].str.casefold()
    found = pd.Index(distinct).get_indexer(own.astype(object))
    return rows.astype(np.int64), len(distinct), np.where(found < 0, len(distinct), found).astype(np.int64)


def image_key(name: str) -> str:
    """A film's file as two tables may write it: whatever its case, slashes and ending."""
    if not name:
        raise ValueError("blank")
    return IMAGE_SUFFIX.sub("", folded(name.replace("\\", "/")))


def _check_matches(
    films: pd.DataFrame,
    table: Table,
    mapped: HospitalMap,
    rows: npt.NDArray[np.int64],
    key_of_film: npt.NDArray[np.int64],
    problems: ProblemLog,
    notes: dict[str, int],
) -> None:
    """Films and rows without a counterpart; studies of several patients, which cannot be told apart."""
    what, column = mapped.labels.by or ("", "")
    alone = ~np.isin(rows, key_of_film)
    missing = ~np.isin(key_of_film, rows)
    if mapped.labels.keep_unmatched:
        notes["films without a row of labels"] = int(missing.sum())
        notes["rows of labels without a film"] = int(alone.sum())
    else:
        hint = "or set `unmatched: keep` under labels in the map"
        lone = films[missing]
        details = [f"{what} {key!r} has no row in {table.path.name}; add one, {hint}" for key in lone[_column(what)]]
        problems.add(UNMATCHED_ROW, list(lone["file"]), list(lone["row"]), details)
        if column in table.frame:
            names = table.frame[column][alone]
            details = [f"{what} {key!r} has no film in {mapped.table.names[0]}; remove it, {hint}" for key in names]
            problems.add(UNMATCHED_ROW, table.path, table.lines[alone], details)
    if what == "study":
        shared = films.groupby("study", sort=False)["patient"].transform("nunique") > 1
        bad = films[shared.to_numpy() & ~missing]
        why = "so whose labels these are cannot be told; join by image, or make the studies' ids unique"
        details = [f"several patients have a study {study!r}, {why}" for study in bad["study"]]
        problems.add(MALFORMED_CELL, list(bad["file"]), list(bad["row"]), details)


def _column(what: str) -> str:
    return "id" if what == "image" else what
