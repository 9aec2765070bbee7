"""Findings about single films: missing, unreadable, inverted, blank, saturated; their sizes and bit depths."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from hf_cxr.data.index import FilmIndex
from hf_cxr.data_check.decoding import MISSING, REFUSED, Film
from hf_cxr.data_check.result import ERROR, WARNING, Finding, places

MANY = 0.1
"""Share of the films that may be missing or unreadable before the data are not usable: more is rarely chance, and the
films left are then no sample of all."""
OTHERS = tuple(REFUSED[code] for code in ("modality", "body_part", "view"))
ELSEWHERE = "take their rows out, or mend headers that are wrong; lateral films belong to --view all"
SKIP = "--skip_missing true in training leaves such films out, and counts them"


def pictures(index: FilmIndex, films: list[Film]) -> tuple[list[Finding], dict[str, Any]]:
    """What is wrong with the files.

    Args:
        films: of the index, row by row; a film whose row names no file is in neither count.
    """
    if not len(index):
        remedy = "look at the view that is asked for, and at `view` in the map"
        return [Finding(ERROR, "no_films", "no films are left", 1, "table", remedy=remedy)], {"films": 0}
    faults = np.array([film.fault for film in films], dtype=object)
    named = (index.films["image"] != "").to_numpy(dtype=bool)  # other rows are problems of the table
    missing, unreadable = (faults == MISSING) & named, (faults != "") & (faults != MISSING)
    share = float((missing | unreadable).mean())
    level = ERROR if share > MANY else WARNING
    found = []
    if missing.any():
        remedy = f"look at `images` in the map, and fetch the files; {SKIP}"
        rows = np.flatnonzero(missing)
        found.append(Finding(level, "missing", "films without a file", len(rows), "films", places(index, rows), remedy))
    for fault in dict.fromkeys(faults[unreadable]):
        rows = np.flatnonzero(faults == fault)
        what = f"films that cannot be read: {fault}"
        remedy = f"{ELSEWHERE if fault in OTHERS else 'export them again, or take their rows out'}; {SKIP}"
        found.append(Finding(level, "unreadable", what, len(rows), "films", places(index, rows), remedy))
    if (faults != "").all():
        found.append(Finding(ERROR, "no_readable_films", "no film can be read", len(index), "films"))
    for code, what, remedy in (
        ("blank", "films that are blank, or next to it", f"export them again; {SKIP} where they are wholly blank"),
        ("inverted", "films that look inverted: bones dark, air bright", "invert them before they are used"),
        ("saturated", "films that are white or black over most of their area", "export them with their own window"),
    ):
        rows = np.flatnonzero([getattr(film.exposure, code) for film in films])
        if len(rows):
            found.append(Finding(WARNING, code, what, len(rows), "films", places(index, rows), remedy))
    return found, _counts(index, films, missing, unreadable)


def _counts(index: FilmIndex, films: list[Film], missing: np.ndarray, unreadable: np.ndarray) -> dict[str, Any]:
    read = [film for film in films if film.width]
    sides = np.array([(film.width, film.height) for film in read]).reshape(-1, 2)
    return {
        "films": len(index),
        "missing": int(missing.sum()),
        "unreadable": int(unreadable.sum()),
        "sizes": {f"{width} × {height}": n for (width, height), n in _most([tuple(map(int, s)) for s in sides])},
        "longer_side": {"least": int(sides.max(1).min()), "most": int(sides.max(1).max())} if len(sides) else None,
        "bits": {str(bits): n for bits, n in sorted(Counter(film.bits for film in read).items())},
    }


def _most(sizes: list[tuple[int, ...]], listed: int = 10) -> list[tuple[tuple[int, ...], int]]:
    return Counter(sizes).most_common(listed)
