"""Cells that describe a film, as hospitals write them: identifiers, ages, dates, sex, view."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from hf_cxr.data.hospital_map import Choices
from hf_cxr.data.near import folded

BLANKS = frozenset(("", "na", "n/a", "nan", "none", "null", "-", "--", "?", "unk", "unknown", "not known", "#n/a"))
LEAVE_OUT = "leave_out"
VIEWS = {
    "pa": "PA", "p.a.": "PA", "posteroanterior": "PA", "postero-anterior": "PA",
    "ap": "AP", "a.p.": "AP", "anteroposterior": "AP", "antero-posterior": "AP",
    "l": "LATERAL", "ll": "LATERAL", "rl": "LATERAL", "lat": "LATERAL", "lateral": "LATERAL",
    "left lateral": "LATERAL", "right lateral": "LATERAL",
}  # fmt: skip
SEXES = {
    "m": "M", "male": "M", "man": "M", "f": "F", "female": "F", "woman": "F",
    "o": "unknown", "other": "unknown", "u": "unknown", "x": "unknown",
}  # fmt: skip

EXPECTED_ID = "an identifier; one with lost digits (1.2E+10) has to be exported again, from a column formatted as text"
EXPECTED_AGE = "an age such as 58, 58.5, 058Y, 010M, 003D, 40-44, 90+ or blank"
EXPECTED_DATE = "a year or a date such as 1961, 19610205, 1961-02-05 or 05.02.1961; name any other as age.date_format"

_LOST_DIGITS = re.compile(r"\d[.,]\d+e\+\d+", re.IGNORECASE)
_DECIMAL = re.compile(r"(\d+)[.,]0+")
_AGE = re.compile(
    r"(?P<low>\d{1,3}(?:[.,]\d+)?)\s*"
    r"(?:(?:-|–|to)\s*(?P<high>\d{1,3})\s*)?"
    r"(?P<unit>y|yrs?|years?|m|months?|w|weeks?|d|days?)?\s*"
    r"(?:\+|(?:or|and)\s+(?:more|over|older|above))?"
)
_AT_LEAST = re.compile(r"(?:>=|>|≥)\s*")
_PER_YEAR = {"y": 1.0, "m": 12.0, "w": 365.25 / 7, "d": 365.25}
_DATES = (
    re.compile(r"(?P<y>\d{4})(?:[.,]0+)?"),
    re.compile(r"(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)(?:[.,]0+)?"),
    re.compile(r"(?P<y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})(?:[T ].*)?"),
    re.compile(r"(?P<d>\d{1,2})\.\s*(?P<m>\d{1,2})\.\s*(?P<y>\d{4})(?: .*)?"),
)

Date = tuple[int, int, int]  # year, month, day; the last two 0 where only the year is known


def identifier(cell: str) -> str:
    """A patient's or a study's identifier as every table writes it.

    Spreadsheets drop leading zeros and add decimals: `007`, `7` and `7.0` are one identifier.

    Raises:
        ValueError: blank, or digits were lost in scientific notation.
    """
    text = " ".join(cell.replace("\ufeff", "").replace("\u200b", "").split())
    if folded(text) in BLANKS or _LOST_DIGITS.fullmatch(text):
        raise ValueError(f"{cell!r} is no identifier")
    match = _DECIMAL.fullmatch(text)
    text = match[1] if match else text
    return text.lstrip("0") or "0" if text.isascii() and text.isdecimal() else text


def one_spelling(ids: pd.Series) -> tuple[pd.Series, int]:
    """Identifiers that differ in case alone get one spelling, and how many spellings were given up."""
    codes, distinct = pd.factorize(ids)
    first: dict[str, str] = {}
    for text in sorted(map(str, distinct)):  # the same spelling whatever the order of the rows
        first.setdefault(text.casefold(), text)
    spelling = np.array([first[str(text).casefold()] for text in distinct], dtype=object)
    return pd.Series(spelling[codes], index=ids.index, dtype="str"), len(distinct) - len(first)


def optional(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same parser with None for cells that say that nothing is known."""
    return lambda cell: None if folded(cell) in BLANKS else parse(cell)


def chosen(choices: Choices, own: dict[str, str]) -> tuple[Callable[[str], Any], str]:
    """A parser for a column of few words, and what it expects.

    Args:
        own: the builder's words, which the map's come before.

    Returns:
        It gives a meaning of the map's, None for `unknown`.
    """
    known = {**dict.fromkeys(BLANKS, "unknown"), **own, **choices.values}

    def parse(cell: str) -> str | None:
        meaning = known.get(folded(cell), choices.otherwise)
        if meaning is None:
            raise ValueError(f"{cell!r} is not known")
        return None if meaning == "unknown" else meaning

    words = ", ".join(repr(word) for word in {**choices.values, **own})
    return parse, f"one of {words} or blank; what else it may be belongs under its `values` in the map"


def age(cell: str) -> int:
    """Whole years; of a range such as 40-44 the middle.

    Raises:
        ValueError: no age.
    """
    match = _AGE.fullmatch(_AT_LEAST.sub("", folded(cell)))
    if match is None:
        raise ValueError(f"{cell!r} is no age")
    low = float(match["low"].replace(",", "."))
    high = float(match["high"] or low)
    if high < low:
        raise ValueError(f"{cell!r} is no age")
    return int((low + high) / 2 / _PER_YEAR[(match["unit"] or "y")[0]])


def date(cell: str, date_format: str | None) -> Date:
    """A date, or a year alone.

    Args:
        date_format: of `datetime.strptime`, for what is not among `EXPECTED_DATE`.

    Raises:
        ValueError: no date, or one in which day and month could be either.
    """
    if date_format is not None:
        day = datetime.datetime.strptime(cell, date_format)
        return day.year, day.month, day.day
    match = next(filter(None, (pattern.fullmatch(cell) for pattern in _DATES)), None)
    if match is None:
        raise ValueError(f"{cell!r} is no date")
    parts = {key: int(value) for key, value in match.groupdict().items()}
    if "m" not in parts:
        return parts["y"], 0, 0
    datetime.date(parts["y"], parts["m"], parts["d"])  # ValueError for 30 February
    return parts["y"], parts["m"], parts["d"]


def years_between(born: Date | None, on: Date | None) -> int | None:
    """Whole years from birth to the film; by the years alone where a day is not known."""
    if born is None or on is None:
        return None
    had_birthday = 0 in (born[1], on[1]) or on[1:] >= born[1:]
    return on[0] - born[0] - (not had_birthday)
