"""A heatmap over its film, as a PNG of the model's size."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import quote

import matplotlib
import numpy as np
from numpy.typing import NDArray

_STRENGTH = 0.6
_LONGEST = 200
"""Bytes of a file's name before its suffix; file systems allow 255."""


def overlay(film: NDArray[np.uint8], heat: NDArray[Any]) -> NDArray[np.uint8]:
    """Film (S, S) and map (S, S) in [0, 1] -> (S, S, 3): where the map is 0 the film stays as it is."""
    colours = matplotlib.colormaps["inferno"](heat)[..., :3] * 255
    share = np.clip(heat, 0, 1)[..., None] * _STRENGTH
    return np.rint(film[..., None] * (1 - share) + colours * share).astype(np.uint8)


def file_name(film: str, label: str) -> str:
    """`<id>_<label>.png`, with what is no plain character (a folder's slash, above all) written as %XX."""
    name = quote(f"{film}_{label}", safe=" ()+,=@")
    if len(name) > _LONGEST:
        name = f"{name[:150]}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"{name}.png"
