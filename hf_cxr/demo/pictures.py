"""A film and its heatmaps as pictures of one square, to be laid over each other by the browser."""

from __future__ import annotations

import base64
import io
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

FINEST = 768
"""Pixels a side of the largest picture of a film."""

_COLOURS = (matplotlib.colormaps["inferno"](range(256), bytes=True)[:, :3]).astype(np.uint8)


def square(film: Image.Image, size: int, fit: str) -> Image.Image:
    """The film in the square that the model reads, a whole number of times finer where the film is.

    The film lies where `processing.fit_to_square` puts it at the model's size, which rounds to the model's pixels: so a
    heatmap, stretched over the picture, lies on it right.

    Args:
        film: mode "L", any shape. size: of the model, pixels a side. fit: see `processing.FITS`.
    """
    finer = max(1, min(FINEST, max(film.size)) // size)
    if fit == "stretch":
        return film.resize((size * finer, size * finer), Image.Resampling.BILINEAR)
    side = max(film.size) if fit == "pad" else min(film.size)
    width, height = (max(1, round(length * size / side)) for length in film.size)
    left, top = (width - size) // 2 * finer, (height - size) // 2 * finer
    scaled = film.resize((width * finer, height * finer), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + size * finer, top + size * finer))  # outside the film a crop is black


def layer(heat: NDArray[Any]) -> Image.Image:
    """Heatmap (S, S) in [0, 1] -> a picture (S, S) in colours of which the map itself is the opacity.

    Laid over a film with an opacity of 0.6 it gives `predict.overlays.overlay`. A palette of 256 colours keeps it the
    size of a gray picture.
    """
    picture = Image.fromarray(np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)).convert("P")
    picture.putpalette(_COLOURS.tobytes())
    picture.info["transparency"] = bytes(range(256))
    return picture


def data_uri(picture: Image.Image) -> str:
    """The picture inside its own address, as PNG: the page asks for no file, and none is written."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
