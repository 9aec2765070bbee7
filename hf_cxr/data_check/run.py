"""The check as a whole: tables, then every film once, then what follows from both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hf_cxr.data import HospitalMap
from hf_cxr.data.index import FilmIndex
from hf_cxr.data_check.arguments import CheckArguments
from hf_cxr.data_check.base import Base, load_base, reference_of
from hf_cxr.data_check.decoding import Film, films
from hf_cxr.data_check.findings_said import said
from hf_cxr.data_check.looks import Looks
from hf_cxr.data_check.people import description, patients, splits
from hf_cxr.data_check.pictures import pictures
from hf_cxr.data_check.repeats import repeats
from hf_cxr.data_check.result import Check, Finding, ordered
from hf_cxr.data_check.tables import Tables, read_tables
from hf_cxr.film_reference import FilmReference
from hf_cxr.hierarchy import Hierarchy, load_taxonomy
from hf_cxr.models import CXRImageProcessor

BATCH = 64  # films that the base sees at a time
NO_BASE = "no --base"


def check(settings: CheckArguments) -> tuple[Check, tuple[str, ...]]:
    """Check a data set.

    Returns:
        What it comes to; and what the tables' problems quote, ids and words, which is for the terminal alone.

    Raises:
        FileNotFoundError: the map, the folder or a table is not there. TableError: a table cannot be read at all.
        ModelError, FilmReferenceError: of the base. SettingsError: options that the data set does not have.
    """
    base = load_base(settings.base, settings.wants_lateral) if settings.base else None
    reference, why = reference_of(base, settings) if base else (None, NO_BASE)
    tables = read_tables(settings.dataset, str(settings.data_dir), settings.builder_options())
    title = tables.mapped.name if tables.mapped else settings.dataset
    undefined: dict[str, str] = {}
    if tables.index is None:
        undefined["films"] = "the map or the tables give none to look at"
        return Check(title, ordered(tables.findings), {}, undefined), tables.cells
    index = tables.index
    seen, looks = _look(index, settings, base, reference)
    of_films, film_counts = pictures(index, seen)
    readable = np.array([not film.fault for film in seen], dtype=bool)
    of_patients, patient_counts = patients(tables, index)
    of_splits, split_counts = splits(tables, index, readable)
    of_repeats, repeat_counts = repeats(index, seen, tables.has_splits)
    hierarchy = base.hierarchy if base else _taxonomy(settings, tables.mapped)
    of_labels, label_counts = said(tables, index, hierarchy, base.prevalence if base else {})
    of_looks, look_counts = looks.findings(index, seen) if looks else ([], None)
    views = (
        index.films["view"]
        .astype(object)
        .where(index.films["view"].notna(), pd.Series([film.view for film in seen], dtype=object))
    )
    counts: dict[str, Any] = {
        "tables": tables.counts,
        "films": film_counts,
        "patients": patient_counts,
        "splits": split_counts,
        "splits_are": _splits_are(tables),
        "repeats": repeat_counts,
        "description": description(index, views),
        "taxonomy": hierarchy.name,
        "labels": label_counts,
        "base_prevalence_of": base.prevalence_of if base else None,
        "looks": look_counts,
        "looks_reference": why if looks else None,
    }
    if split_counts is None:
        undefined["splits"] = "not every film has one: the tables have problems, or no rows"
    if looks is None:
        undefined["looks"] = why
    if base is None or not base.prevalence:
        undefined["base_prevalence"] = base.prevalence_of if base else NO_BASE
    found: list[Finding] = [
        *tables.findings, *of_films, *of_patients, *of_splits, *of_repeats, *of_labels, *of_looks,
    ]  # fmt: skip
    distances = looks.looks if looks else None
    return Check(title, ordered(found), counts, undefined, distances), tables.cells


def _look(
    index: FilmIndex, settings: CheckArguments, base: Base | None, reference: FilmReference | None
) -> tuple[list[Film], Looks | None]:
    """Every film, without its pixels, and its distances where there is a reference."""
    looks = Looks(base, reference, len(index)) if base and reference else None
    processor = base.processor if base else CXRImageProcessor(lateral=settings.wants_lateral)
    size = base.image_size if base and looks else None
    seen: list[Film] = []
    rows: list[int] = []
    batch: list[Film] = []

    def flush() -> None:
        if looks and rows:
            looks.add(rows, batch)
        rows.clear()
        batch.clear()

    for row, film in enumerate(films(list(index.films["image"]), processor, size, settings.num_proc)):
        if film.pixels is not None and not film.exposure.blank:
            rows.append(row)
            batch.append(film)
        seen.append(film.without_pixels())
        if len(rows) == BATCH:
            flush()
    flush()
    return seen, looks


def _taxonomy(settings: CheckArguments, mapped: HospitalMap | None) -> Hierarchy:
    """As asked; or the first that the map names, which may be a file beside it; or the data set's own."""
    if settings.taxonomy is None and mapped is not None and mapped.taxonomies:
        beside = mapped.path.parent / mapped.taxonomies[0]
        return load_taxonomy(beside if beside.is_file() else mapped.taxonomies[0])
    return load_taxonomy(settings.taxonomy or ("chexpert" if settings.dataset == "chexpert" else "nih"))


def _splits_are(tables: Tables) -> str | None:
    if not tables.has_splits:
        return None
    if tables.given:
        return "the source's own; validation patients are cut from the training patients where it has none"
    return "cut by patient, for this check or as they are saved beside the map"
