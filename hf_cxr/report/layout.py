"""What a report's page is made of, as plain data for the templates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NONE = "–"


@dataclass(frozen=True)
class Table:
    """Rows under a head; the first column is text, the others are numbers."""

    head: list[str]
    rows: list[list[str]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A title, sentences, tables and figures (`{file name: caption}`), in this order on the page."""

    title: str
    text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)


def number(value: Any, digits: int = 3) -> str:
    """A figure for readers; `–` where undefined."""
    if value is None:
        return NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def with_interval(row: dict[str, Any], name: str, digits: int = 3) -> str:
    """`0.712 (0.680–0.741)`, without the bracket where there is no interval."""
    interval = row.get(f"{name}_ci")
    text = number(row.get(name), digits)
    return f"{text} ({interval[0]:.{digits}f}–{interval[1]:.{digits}f})" if interval else text
