"""One look for all figures: legible in gray (markers, line styles and hatches, not colour alone), labelled axes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
}


@contextmanager
def drawing(path: Path, width: float, height: float, title: str) -> Iterator[Figure]:
    """A figure of this size in inches, saved as PNG when the block ends.

    Drawn without pyplot, so that nothing is left open in a long run.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        figure.suptitle(title, fontsize=9)
        figure.savefig(path, dpi=150)


def grid(figure: Figure, n: int, columns: int) -> list[Any]:
    """`n` axes in rows of `columns`; the places left over stay empty."""
    rows = -(-n // columns)
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for unused in axes[n:]:
        unused.set_axis_off()
    return axes[:n]
