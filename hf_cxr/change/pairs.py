"""One figure before and after, with its paired difference, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_cxr.bootstrap import Bootstrap, Figure

SIDES = ("before", "after")
HIGHER, LOWER, OPEN, EQUAL = "higher", "lower", "open", "equal"
"""What a difference says: its interval lies above 0, below it, or holds it; or every resample gives exactly 0."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Figures of both models and their differences, after − before, over the same resamples.

    Attributes:
        before, after: the figures that each model has. gap: of those that both have. level: of the intervals.
    """

    before: Bootstrap
    after: Bootstrap
    gap: Bootstrap
    level: float

    @classmethod
    def of(cls, before: Bootstrap, after: Bootstrap, level: float) -> Pair:
        """Pair them; ValueError if their resamples differ."""
        return cls(before, after, after.minus(before), level)

    def row(self, figure: Figure, absent: Mapping[str, str]) -> dict[str, Any]:
        """A figure as plain data.

        Args:
            absent: `{side: why}` for a side that has no such figure.

        Returns:
            `{before, before_ci, after, after_ci, difference, difference_ci, p, outcome, undefined}`: intervals
            `[low, high]`; `p` of `Bootstrap.p_value`, not corrected for the number of figures; `outcome` one of
            `HIGHER`, `LOWER`, `OPEN`, `EQUAL`, None without an interval; `undefined` `{key: why it is null}`.
        """
        row: dict[str, Any] = {}
        undefined: dict[str, str] = {}
        for side, drawn in zip((*SIDES, "difference"), (self.before, self.after, self.gap), strict=True):
            row |= {side: None, f"{side}_ci": None}
            if figure not in drawn.point:
                if side in SIDES:
                    undefined[side] = absent.get(side, "not computed")
                continue
            interval = drawn.interval(figure, self.level)
            row[side] = drawn.point[figure]
            row[f"{side}_ci"] = None if interval.undefined else [interval.low, interval.high]
            if interval.undefined:
                undefined[side if row[side] is None else f"{side}_ci"] = interval.undefined
        if row["difference"] is None:
            undefined["difference"] = "; ".join(dict.fromkeys(undefined[s] for s in SIDES if s in undefined))
        both = figure in self.gap.point
        row["p"] = self.gap.p_value(figure, self.level) if both else None
        return row | {"outcome": self._outcome(figure, row), "undefined": undefined}

    def _outcome(self, figure: Figure, row: dict[str, Any]) -> str | None:
        if row["difference"] is None:
            return None
        if row["difference_ci"] is None:
            return EQUAL if np.all(np.nan_to_num(self.gap.draws[figure]) == 0) and row["difference"] == 0 else None
        low, high = row["difference_ci"]
        return HIGHER if low > 0 else LOWER if high < 0 else OPEN
