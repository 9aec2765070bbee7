"""Where a hospital's films lie: as its table says, or nearly so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from hf_cxr.data.hospital_films import IMAGE_SUFFIX, image_key
from hf_cxr.data.hospital_map import Images
from hf_cxr.data.images import MISSING, stat_images
from hf_cxr.data.index import FilmIndex
from hf_cxr.data.problems import AMBIGUOUS_IMAGE
from hf_cxr.data.tables import Table


def locate_images(index: FilmIndex, table: Table, images: Images, folder: Path) -> None:
    """Set `image`: the file as the table names it, or the one file below the folder that it can only mean.

    A name may lack its ending, differ in case, be written with backslashes, or be a path on another machine, of
    which the file lies somewhere below the folder; two files that it could mean are a problem, and so are two films
    that mean one file. A file that is nowhere keeps the path where it was expected.

    Args:
        table: the films' own, row by row, with the columns of `images.path`.
        folder: the data folder, which `images.folder` is relative to.
    """
    place = folder / Path(images.folder).expanduser()
    wanted = _wanted(index.films["id"], table, images)
    paths = np.array([os.path.join(place, name) if name else "" for name in wanted], dtype=object)
    missing = np.flatnonzero((stat_images(list(paths))[:, 0] == MISSING) & (paths != ""))
    if len(missing):
        by_name = _files_below(place, {_last(wanted[i]) for i in missing})
        for i in missing:
            found = _most_alike(wanted[i], by_name.get(_last(wanted[i]), []), place)
            if found:
                paths[i] = found[0]
            if len(found) > 1:
                film = index.films.iloc[i]
                detail = f"could be {' or '.join(found[:3])}; name its folder too, or keep one"
                index.problems.add(AMBIGUOUS_IMAGE, [film["file"]], [film["row"]], [detail], [wanted[i]])
    index.films["image"] = paths
    again = index.films[(index.films["image"] != "") & index.films["image"].duplicated()]
    details = [f"{film} is the same file as an earlier film" for film in again["id"]]
    index.problems.add(AMBIGUOUS_IMAGE, list(again["file"]), list(again["row"]), details, list(again["image"]))


def _wanted(ids: pd.Series, table: Table, images: Images) -> list[str]:
    """Each film's path below the folder as the map's `path` makes it, or else its id; with slashes."""
    if not images.path or any(column is not None and column not in table.frame for _, column, _ in images.path):
        return [name.replace("\\", "/") for name in ids]
    parts: list[list[str]] = []
    for literal, column, letters in images.path:
        texts = [""] * len(ids) if column is None else list(table.frame[column])
        parts.append([literal + text[:letters] for text in texts])
    return ["".join(texts).replace("\\", "/") for texts in zip(*parts, strict=True)]


def _last(name: str) -> str:
    return PurePosixPath(image_key(name)).name if name else ""


def _files_below(place: Path, names: set[str]) -> dict[str, list[str]]:
    """Every file below a folder whose name, without case and ending, is one of `names`."""
    found: dict[str, list[str]] = {}
    for path in _walk(os.fspath(place)):
        name = IMAGE_SUFFIX.sub("", os.path.basename(path).casefold())
        if name in names:
            found.setdefault(name, []).append(path)
    return found


def _walk(place: str) -> Iterator[str]:
    for folder, _, files in os.walk(place, followlinks=True):
        for name in files:
            yield os.path.join(folder, name)


def _most_alike(name: str, paths: list[str], place: Path) -> list[str]:
    """Those of `paths` that share the most with a name: its ending, then the folders from the last one up."""
    folders = PurePosixPath(name.casefold()).parts[:-1][::-1]
    suffix = PurePosixPath(name).suffix.casefold()

    def likeness(path: str) -> tuple[bool, int]:
        own = PurePosixPath(os.path.relpath(path, place).replace(os.sep, "/").casefold())
        pairs = zip(folders, own.parts[:-1][::-1], strict=False)
        same = [ours == theirs for ours, theirs in pairs]
        return own.suffix == suffix, [*same, False].index(False)

    best = max(map(likeness, paths), default=None)
    return sorted(path for path in paths if likeness(path) == best)
