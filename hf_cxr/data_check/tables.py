"""A data set's tables as the check sees them: the index of its films, and what is wrong in them as findings."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_cxr.arguments import SettingsError
from hf_cxr.data import BUILDERS, DataProblems, FilmBuilder, Hospital, HospitalMap, map_of, phantom_folder
from hf_cxr.data.hospital_splits import OVERLAP, SplitError
from hf_cxr.data.index import FilmIndex
from hf_cxr.data.problems import UNKNOWN_FINDING
from hf_cxr.data_check.result import ERROR, Finding, at, places

SHOW = "--show_cells true prints them on the terminal"
MEND = f"mend the rows named; what is wrong in each quotes their cells: {SHOW}"
REMEDIES = {
    "missing column": f"name the table's own columns in the map; {SHOW}",
    "malformed cell": MEND,
    "row with a wrong number of cells": MEND,
    UNKNOWN_FINDING: f"put each under `words` with its finding, or under `ignore`, in the map; {SHOW}",
    "image in two folders": f"name the folder too, or keep one of the files; {SHOW}",
    "duplicate id": "a film has one row; remove the others, or give films of their own names",
    "row in no list": "put each film, or its patient, into one of the split's lists",
    "name in both lists": "put each film, or its patient, into one of the split's lists",
    "listed name without a row": "remove the names from the lists, or add their rows",
    "row without a counterpart": f"add the rows, or set `unmatched: keep` under labels in the map; {SHOW}",
}
_WORDS = re.compile(r"(\d+) words of column")


@dataclass(frozen=True)
class Tables:
    """What the tables say.

    Attributes:
        index: the films of the wanted view; None where the tables give none.
        mapped: a hospital's map, None of another data set.
        folder: that the map's tables are in.
        findings: of the tables. cells: what they quote, for the terminal alone.
        counts: `rows`, `left_out_by_view`, `notes`.
        has_splits: whether each film has one. given: whether they are the source's own, rather than cut.
    """

    index: FilmIndex | None
    mapped: HospitalMap | None
    folder: Path | None
    findings: tuple[Finding, ...]
    cells: tuple[str, ...] = ()
    counts: dict[str, Any] = field(default_factory=dict)
    has_splits: bool = False
    given: bool = False


def read_tables(dataset: str, data_dir: str, options: dict[str, Any]) -> Tables:
    """Read the tables of a data set, whatever is wrong in them.

    Splits that a hospital does not give are read where they are saved; they are cut for the check, and not saved,
    where they are not.

    Raises:
        FileNotFoundError: no such map, folder or table. TableError: a table cannot be read at all.
        SettingsError: an option that the builder does not have, or out of range.
    """
    if dataset == "phantom":
        data_dir = str(phantom_folder(data_dir, {}))
    builder = BUILDERS[dataset]
    try:
        config = builder.config_of(data_dir, options)
        mapped = map_of(dataset, data_dir, **options)
    except DataProblems as problems:  # mistakes in the map: there is no film without it
        findings, cells = _of_problems(problems)
        return Tables(None, None, None, tuple(findings), tuple(cells))
    except ValueError as error:
        raise SettingsError(f"{dataset}: {error}") from error
    found: list[Finding] = []
    told: list[str] = []
    index = _collected(builder, config, mapped, found, told)
    if index is None:
        return Tables(None, mapped, config.folder, tuple(found), tuple(told))
    try:
        index.problems.raise_any()
    except DataProblems as problems:
        findings, cells = _of_problems(problems)
        found += findings
        told += cells
    has_splits = len(index) > 0 and not index.films["split"].isna().any()
    enough = index.films["patient"][index.films["split"] == "train"].nunique() > 1
    if has_splits and enough and not len(index.problems) and config.cuts_validation:
        index.cut_validation(config.validation_fraction, config.split_seed)
    found += _overlap(index) if has_splits else []  # in all views, as training will have it
    counts: dict[str, Any] = {"rows": len(index), "views_in_table": _views(index), "notes": dict(index.notes)}
    index.choose_view(config.view)
    counts["left_out_by_view"] = counts["rows"] - len(index)
    given = mapped is None or mapped.split is not None
    return Tables(index, mapped, config.folder, tuple(found), tuple(told), counts, has_splits, given)


def _collected(
    builder: type[FilmBuilder], config: Any, mapped: HospitalMap | None, found: list[Finding], told: list[str]
) -> FilmIndex | None:
    if mapped is None or mapped.split is not None or not issubclass(builder, Hospital):
        return builder.collect(config, True)
    beside = config.folder if mapped.packaged else mapped.path.parent
    saved = Path(config.splits_dir or beside / "splits")
    with tempfile.TemporaryDirectory() as folder:
        if saved.exists():
            try:
                return builder.collect(config, True)
            except SplitError as error:
                found.append(
                    Finding(
                        ERROR, "saved_splits", "the splits that are saved do not fit these tables", 1, "folder",
                        remedy="put new patients into the lists and take lost ones out, or delete the folder to cut "
                        f"anew, after which earlier figures are not comparable; {SHOW}",
                    )
                )  # fmt: skip
                told.append(str(error))
        config.splits_dir = str(Path(folder) / "splits")
        try:
            return builder.collect(config, True)
        except SplitError as error:
            found.append(
                Finding(
                    ERROR, "too_few_patients", "too few patients to cut into train, validation and test", 1, "table",
                    remedy="add patients; nothing else was checked",
                )
            )  # fmt: skip
            told.append(str(error))
            return None


def _overlap(index: FilmIndex) -> list[Finding]:
    """Patients in two splits."""
    named = index.films[index.films["patient"] != ""]
    in_two = named.groupby("patient")["split"].transform("nunique") > 1
    shared = named[in_two].drop_duplicates("patient")
    if not len(shared):
        return []
    what = "patients with films in two splits, which inflates figures"
    remedy = "give each patient to one split; the rows named are the first of each"
    rows = places(index, [int(row) for row in shared.index])
    return [Finding(ERROR, "patient_in_two_splits", what, len(shared), "patients", rows, remedy)]


def _of_problems(problems: DataProblems) -> tuple[list[Finding], list[str]]:
    """A finding a kind. A problem's own words quote cells; only its table and row are for the page."""
    found = []
    for kind, total in problems.totals.items():
        if kind == OVERLAP:  # told from the index, for every data set
            continue
        mine = [problem for problem in problems.problems if problem.kind == kind]
        words = [int(match[1]) for problem in mine if (match := _WORDS.match(problem.detail))]
        of = "rows"
        if words:  # one problem holds all words that a map does not know
            total, of = sum(words), "words"
        examples = dict.fromkeys(at(problem.file, problem.row) for problem in mine)
        remedy = REMEDIES.get(kind, f"{SHOW}, with what was expected")
        found.append(Finding(ERROR, _code(kind), kind, total, of, tuple(examples), remedy))
    return found, [str(problem) for problem in problems.problems if problem.kind != OVERLAP]


def _code(kind: str) -> str:
    return re.sub(r"\W+", "_", kind)


def _views(index: FilmIndex) -> dict[str, int]:
    return {str(view): int(n) for view, n in index.films["view"].fillna("unknown").value_counts().items()}
