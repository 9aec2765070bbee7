"""Films that do not look like frontal chest films, and how unlike the base's films all of them are to the base."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_cxr.data.index import FilmIndex
from hf_cxr.data_check.base import Base
from hf_cxr.data_check.decoding import Film
from hf_cxr.data_check.result import NOTE, WARNING, Finding, places
from hf_cxr.film_reference import FilmReference, describe

FAR = 1.5
"""Thresholds beyond which one film is enough for a warning: 0.6 % of `nih128`'s test films, none of `kermany224`'s."""
MANY = 0.05
"""Share beyond the threshold that is a warning: 3.7 % and 2.6 % there."""
ELSEWHERE = 0.25
"""Share beyond the features' threshold that is a warning: 5 % and 69 % there."""


class Looks:
    """Distances of films, taken up in batches, whose pixels need not be kept."""

    def __init__(self, base: Base, reference: FilmReference, n_films: int) -> None:
        self.base, self.reference = base, reference
        self.looks, self.features = np.full(n_films, np.nan), np.full(n_films, np.nan)

    def add(self, rows: list[int], films: list[Film]) -> None:
        """Take up films with pixels, by their rows."""
        pixels = np.stack([film.pixels for film in films if film.pixels is not None])
        self.looks[rows] = self.reference.looks.distance(describe(pixels))
        if self.reference.features is not None and (features := self.base.features(pixels)) is not None:
            self.features[rows] = self.reference.features.distance(features)

    def findings(self, index: FilmIndex, films: list[Film]) -> tuple[list[Finding], dict[str, Any]]:
        """What stands out; a film whose grays are told of already is not told of twice."""
        told = np.array([film.exposure.inverted or film.exposure.saturated for film in films], dtype=bool)
        strange = np.flatnonzero((np.nan_to_num(self.looks) > 1) & ~told)
        strange = strange[np.argsort(-self.looks[strange], kind="stable")]
        n = int(np.isfinite(self.looks).sum())
        found = []
        if len(strange):
            level = WARNING if len(strange) > MANY * n or self.looks[strange[0]] > FAR else NOTE
            found.append(
                Finding(
                    level, "strange_looks", "films that do not look like the upright frontal chest films that the base "
                    "knows, the strangest first (1 % of its own do not, either)", len(strange), "films",
                    places(index, strange),
                    "look at them: lateral, turned or other parts of the body do not belong here; unusual ones may",
                )
            )  # fmt: skip
        counts: dict[str, Any] = {"beyond": int((np.nan_to_num(self.looks) > 1).sum()), "films": n}
        counts |= {"largest_distance": _largest(self.looks), "features": None}
        known = np.isfinite(self.features)
        if known.any():
            share = float((self.features[known] > 1).mean())
            counts["features"] = {"share_beyond": share, "median_distance": float(np.median(self.features[known]))}
            if share > ELSEWHERE:
                beyond = int((self.features[known] > 1).sum())
                found.append(
                    Finding(
                        WARNING, "unlike_the_base", "films whose features are farther from the base's own films than "
                        "99 % of these are: another machine, population or processing", beyond, "films",
                        remedy="do not take the base's figures for this place; evaluate it here, or adapt it",
                    )
                )  # fmt: skip
        return found, counts


def _largest(distances: np.ndarray) -> float | None:
    return float(np.nanmax(distances)) if np.isfinite(distances).any() else None
