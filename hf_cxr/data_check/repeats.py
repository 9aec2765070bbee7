"""Findings about films that are the same, or nearly: repeated, under two patients, in two splits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_cxr.data.index import FilmIndex
from hf_cxr.data_check.alike import NEAR, nearly_same, same
from hf_cxr.data_check.decoding import Film
from hf_cxr.data_check.result import ERROR, WARNING, Finding, place

_HOW = {"same": "the same film", "nearly_same": "nearly the same film"}


def repeats(index: FilmIndex, films: list[Film], by_split: bool) -> tuple[list[Finding], dict[str, Any]]:
    """Groups of films that are one.

    A group counts under two patients, and in two splits, where it is so, and otherwise as a mere repetition.

    Args:
        films: of the index, row by row. by_split: whether its films have splits.
    """
    hashed = np.flatnonzero([film.alike is not None for film in films])
    hashes = np.array([films[row].alike for row in hashed], dtype=np.uint64).reshape(-1, 4)
    exact = same([b"" if film.alike is None else film.content for film in films])
    near = [group for group in nearly_same(hashed, hashes) if len({films[i].content for i in group}) > 1]
    found, counts = [], {}
    for how, groups in (("same", exact), ("nearly_same", near)):
        found += _findings(index, how, groups, by_split)
        counts[how] = {"groups": len(groups), "films": sum(map(len, groups))}
    return found, counts | {"near_distance": NEAR}


def _findings(index: FilmIndex, how: str, groups: list[NDArray[np.int64]], by_split: bool) -> list[Finding]:
    patients, of_split = index.films["patient"].to_numpy(), index.films["split"].to_numpy()
    kinds: dict[str, list[NDArray[np.int64]]] = {"splits": [], "patients": [], "repeated": []}
    for group in groups:
        parted = by_split and len(set(of_split[group])) > 1
        shared = len(set(patients[group])) > 1
        if parted:
            kinds["splits"].append(group)
        if shared:
            kinds["patients"].append(group)
        if not parted and not shared:
            kinds["repeated"].append(group)
    keep = "keep one of each group"
    told = {
        # a near match may be a repeat exposure; the same pixels cannot
        "splits": (ERROR if how == "same" else WARNING, f"{_HOW[how]} in two splits, which inflates figures", keep),
        "patients": (WARNING, f"{_HOW[how]} under two patients", "find out whose it is, and " + keep),
        "repeated": (WARNING, f"{_HOW[how]} more than once", keep),
    }
    return [
        Finding(level, f"{how}_film_{kind}", what, len(kinds[kind]), "groups of films", _listed(index, kinds[kind]), do)
        for kind, (level, what, do) in told.items()
        if kinds[kind]
    ]


def _listed(index: FilmIndex, groups: Iterable[NDArray[np.int64]]) -> tuple[str, ...]:
    return tuple(" = ".join(place(index, int(film)) for film in group) for group in groups)
