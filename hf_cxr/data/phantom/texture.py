"""Random fields and strokes in millimetres, so that a pattern looks alike at every image size.

Legend for shapes: H, W are the film's height and width in pixels; P is a number of points.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Field = NDArray[np.float32]
Mask = NDArray[np.bool_]

FIELD_MM = 384.0
"""Side of the square film in millimetres: 3 mm per pixel at 128 pixels, 0.375 mm at 1024."""


def soft_step(distance_mm: Field, edge_mm: float) -> Field:
    """0 outside, 1 inside, linear over `edge_mm` around distance 0. Shape kept; values in [0, 1]."""
    return np.asarray(np.clip(distance_mm * np.float32(1.0 / edge_mm) + np.float32(0.5), 0.0, 1.0), np.float32)


@lru_cache(maxsize=64)
def _spline_weights(size: int, cell_mm: float) -> Field:
    """Quadratic B-spline weights (size, cells) that spread one lattice value a cell over the pixels."""
    cells = math.ceil(FIELD_MM / cell_mm) + 3
    centre_mm = (np.arange(size) + 0.5) * (FIELD_MM / size)
    offset = np.abs(centre_mm[:, None] / cell_mm - (np.arange(cells)[None, :] - 1.0))
    inner = 0.75 - offset**2
    outer = 0.5 * np.clip(1.5 - offset, 0.0, None) ** 2
    return np.where(offset < 0.5, inner, outer).astype(np.float32)


def lattice_noise(rng: np.random.Generator, size: int, cell_mm: float) -> Field:
    """Smooth noise of unit variance (about) with features of `cell_mm`; float32 (size, size)."""
    weights = _spline_weights(size, float(cell_mm))
    cells = weights.shape[1]
    values = rng.standard_normal((cells, cells), dtype=np.float32)
    return np.asarray(weights @ values @ weights.T * np.float32(1.75), dtype=np.float32)


def stroke(paths: Iterable[Field], size: int, width_mm: float) -> Field:
    """Draw smooth lines; a path is float (P, 2) of (x, y) in mm from the film's top left corner.

    Returns float32 (size, size), about 1 on a line's centre, 0 far from it; crossings may exceed 1.
    Points outside the film are left out.
    """
    mm = FIELD_MM / size
    # Under 0.6 pixel a Gaussian no longer hides the raster, and the line's brightness would flicker.
    sigma = max(width_mm / 2.0 / mm, 0.6)
    step = 0.4
    columns, rows = [], []
    for path in paths:
        lengths = np.hypot(*np.diff(path, axis=0).T) / mm
        along = np.concatenate([[0.0], np.cumsum(lengths)])
        sampled = np.arange(0.0, along[-1], step)
        columns.append(np.interp(sampled, along, path[:, 0]) / mm)
        rows.append(np.interp(sampled, along, path[:, 1]) / mm)
    canvas = np.zeros((size, size), dtype=np.float32)
    if not columns:
        return canvas
    column = np.floor(np.concatenate(columns)).astype(np.int64)
    row = np.floor(np.concatenate(rows)).astype(np.int64)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    hits = np.bincount(row[inside] * size + column[inside], minlength=size * size)
    canvas += hits.reshape(size, size).astype(np.float32)
    return np.asarray(gaussian_filter(canvas, sigma) * (step * math.sqrt(2.0 * math.pi) * sigma), dtype=np.float32)
