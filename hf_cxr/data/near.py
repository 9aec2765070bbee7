"""Suggestions for words that were nearly right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

CUTOFF = 0.6  # of difflib's ratio: "Pleural effusion" and "Effusion" have 0.67


def folded(word: str) -> str:
    """A word without what spelling adds: case, stray and invisible spaces."""
    return " ".join(word.replace("\ufeff", "").replace("\u200b", "").split()).casefold()


def nearest(word: str, known: Iterable[str], n: int = 1) -> list[str]:
    """The `known` words most like `word`, best first; none where none is like it."""
    spellings: dict[str, str] = {}
    for other in known:
        spellings.setdefault(_bare(other), other)
    return [spellings[found] for found in difflib.get_close_matches(_bare(word), spellings, n, CUTOFF)]


def near(word: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the nearest of `known`, or nothing: the middle of a message."""
    found = nearest(word, known)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _bare(word: str) -> str:
    return " ".join(re.findall(r"\w+", folded(word).replace("_", " ")))
