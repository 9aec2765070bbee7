"""What is wrong with a folder of films, collected over all of it and told at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_cxr.errors import UserError

LISTED = 10

MISSING_IMAGE = "missing image"
UNREADABLE_IMAGE = "unreadable image"
AMBIGUOUS_IMAGE = "image in two folders"
DUPLICATE_ID = "duplicate id"
UNKNOWN_FINDING = "unknown finding"
MISSING_COLUMN = "missing column"
MALFORMED_CELL = "malformed cell"
RAGGED_ROW = "row with a wrong number of cells"
NOT_IN_A_LIST = "row in no list"
IN_BOTH_LISTS = "name in both lists"
NO_TABLE_ROW = "listed name without a row"
UNMATCHED_ROW = "row without a counterpart"

SKIPPABLE = (MISSING_IMAGE, UNREADABLE_IMAGE)


@dataclass(frozen=True)
class Problem:
    """One defect: its kind, the file and line that name the film, what was found, and the image file."""

    kind: str
    file: str
    row: int | None
    detail: str
    image: str | None = None

    def __str__(self) -> str:
        where = self.file if self.row is None else f"{self.file}, row {self.row}"
        image = f" [{self.image}]" if self.image else ""
        return f"{self.kind}: {where}: {self.detail}{image}"


class DataProblems(UserError, ValueError):
    """A data folder cannot be used as it is.

    Attributes:
        problems: the first ten `Problem`s, the kinds taking turns so that none hides another.
        totals: the number of problems of each kind, over the whole index.
    """

    def __init__(self, problems: Sequence[Problem], totals: dict[str, int], remedy: str = "") -> None:
        self.problems = list(problems)
        self.totals = dict(totals)
        self.remedy = remedy
        total = sum(self.totals.values())
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.totals.items())
        lines = [f"{total:,} problem{'s' if total != 1 else ''} in the data ({kinds})."]
        lines += [f"  {problem}" for problem in self.problems]
        if total > len(self.problems):
            lines.append(f"  … and {total - len(self.problems):,} more")
        super().__init__("\n".join(lines + ([remedy] if remedy else [])))

    @classmethod
    def together(cls, several: Sequence[DataProblems]) -> DataProblems:
        """Those of several splits as one, with the remedy of the first."""
        totals: dict[str, int] = {}
        for each in several:
            for kind, count in each.totals.items():
                totals[kind] = totals.get(kind, 0) + count
        turns = zip_longest(*(each.problems for each in several))
        listed = [problem for turn in turns for problem in turn if problem is not None]
        return cls(listed[:LISTED], totals, several[0].remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is unpickled from its message alone; worker processes need all three parts.
        return type(self), (self.problems, self.totals, self.remedy)


class ProblemLog:
    """Collects problems in bulk; keeps the first ten of each kind and the totals."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self._first: dict[str, list[Problem]] = {}

    def __len__(self) -> int:
        return sum(self.totals.values())

    def add(
        self,
        kind: str,
        file: str | Path | Sequence[str],
        rows: Sequence[int] | npt.NDArray[np.int64] | None,
        details: Sequence[str],
        images: Sequence[str] | None = None,
    ) -> None:
        """Add `len(details)` problems of one kind.

        Args:
            file: one file for all of them, or one for each.
            rows: line numbers in that file, from 1, as a text editor counts; None where there are none.
            details: what was received and what was expected, one string a problem.
            images: the image files, where there are any.
        """
        if not len(details):
            return
        self.totals[kind] = self.totals.get(kind, 0) + len(details)
        kept = self._first.setdefault(kind, [])
        for i in range(min(len(details), LISTED - len(kept))):
            name = str(file) if isinstance(file, (str, Path)) else file[i]
            row = None if rows is None else int(rows[i])
            kept.append(Problem(kind, name, row, str(details[i]), images[i] if images is not None else None))

    def raise_any(self) -> None:
        """Raise `DataProblems` if anything was collected."""
        if not len(self):
            return
        turns = zip_longest(*self._first.values())
        listed = [problem for turn in turns for problem in turn if problem is not None]
        remedy = "Mend the files named above."
        if any(kind in SKIPPABLE for kind in self.totals):
            remedy += (
                " skip_missing=True (in recipes: --skip_missing true) leaves out, and counts, films with missing or "
                "unreadable images."
            )
        raise DataProblems(listed[:LISTED], self.totals, remedy)
