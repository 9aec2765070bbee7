"""What a check comes to: findings, counts, a verdict. Plain data, and nothing of anybody in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_cxr.data.index import FilmIndex

NOTE, WARNING, ERROR = "note", "warning", "error"
LEVELS = (ERROR, WARNING, NOTE)
VERDICTS = ("usable", "usable with warnings", "not usable")
SHOWN = 5
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Finding:
    """One thing that the check found.

    Attributes:
        level: `error` (training would stop, or its figures be wrong), `warning` or `note`.
        code: short name for programs, such as `same_film_two_patients`.
        what: a sentence without any count, id, file name or cell.
        count: how many `of` what (films, patients, rows, …).
        examples: the places, as `place` writes them; all that are known, of which a page shows the first `SHOWN`.
        remedy: what to do; empty where nothing need be done.
    """

    level: str
    code: str
    what: str
    count: int
    of: str
    examples: tuple[str, ...] = ()
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level {self.level!r}; expected one of {', '.join(LEVELS)}")


@dataclass(frozen=True)
class Check:
    """The whole page.

    Attributes:
        title: of the data. findings: the gravest first.
        counts: plain JSON by subject; what is undefined is None, with its reason in `undefined`.
        distances: (N,) distance of each film's looks for the figure, NaN where not known; not in the JSON.
    """

    title: str
    findings: tuple[Finding, ...]
    counts: dict[str, Any]
    undefined: dict[str, str] = field(default_factory=dict)
    distances: np.ndarray | None = None

    @property
    def exit_code(self) -> int:
        """0 usable, 1 usable with warnings, 2 not usable."""
        return max((LEVELS[::-1].index(finding.level) for finding in self.findings), default=0)

    @property
    def verdict(self) -> str:
        """The same in words."""
        return VERDICTS[self.exit_code]

    def to_plain(self) -> dict[str, Any]:
        """For `check.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "data": self.title,
            "verdict": self.verdict,
            "exit_code": self.exit_code,
            "findings": [asdict(finding) | {"examples": list(finding.examples)} for finding in self.findings],
            "counts": self.counts,
            "undefined": self.undefined,
        }


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The gravest first, otherwise as they came."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def place(index: FilmIndex, film: int) -> str:
    """How a film is named on a page that may be shown around: its table and row."""
    return at(str(index.films["file"].iloc[film]), int(np.asarray(index.films["row"])[film]))


def at(file: str, row: int | None) -> str:
    """A table's name without its folder, and the row."""
    name = Path(file).name
    return name if row is None else f"{name}, row {row}"


def places(index: FilmIndex, films: Iterable[int]) -> tuple[str, ...]:
    """How several films are named."""
    return tuple(place(index, film) for film in films)
