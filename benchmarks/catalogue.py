"""What there is to measure, by name, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.timing import Budget, Comparison

CATALOGUE: dict[str, Callable[[], Comparison | Budget | dict[str, Any]]] = {}
