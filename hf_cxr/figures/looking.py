"""What a model knows of itself: risk–coverage curves, and heatmaps over films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_cxr.figures.style import drawing, grid

_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True, eq=False)
class Curve:
    """One risk–coverage curve: coverage and risk, both in [0, 1], and how it is called."""

    name: str
    coverage: NDArray[np.floating[Any]]
    risk: NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Panel:
    """One film, uint8 (S, S), what is true of it, and heatmaps `{caption: (S, S) in [0, 1]}`."""

    film: NDArray[np.uint8]
    truth: str
    heatmaps: Mapping[str, NDArray[Any]]


def risk_coverage_grid(curves: Mapping[str, Sequence[Curve]], path: Path, title: str) -> None:
    """Risk among the films that are decided, the surest first, one small picture a label."""
    with drawing(path, 11.0, 2.2 * -(-len(curves) // 5) + 0.5, title) as figure:
        for axes, (label, drawn) in zip(grid(figure, len(curves), 5), curves.items(), strict=True):
            for curve, style in zip(drawn, _STYLES, strict=False):
                axes.plot(curve.coverage, curve.risk, style, linewidth=1.2, label=curve.name)
            axes.set_title(label, fontsize=7)
            axes.set(xlim=(0, 1), ylim=(0, None))
            axes.tick_params(labelsize=6)
            axes.locator_params(nbins=4)
        figure.supxlabel("share of films decided, least doubt first", fontsize=8)
        figure.supylabel("share of them wrong", fontsize=8)
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", frameon=False, fontsize=7)


def heatmap_panels(panels: Sequence[Panel], path: Path, title: str) -> None:
    """A row a film: the film with its truth, then each heatmap over it with what it is of."""
    columns = 1 + max(len(panel.heatmaps) for panel in panels)
    with drawing(path, 2.4 * columns, 2.75 * len(panels) + 0.4, title) as figure:
        cells = figure.subplots(len(panels), columns, squeeze=False)
        for row, panel in zip(cells, panels, strict=True):
            for axes in row:
                axes.set_axis_off()
            row[0].imshow(panel.film, cmap="gray", vmin=0, vmax=255)
            row[0].set_title(panel.truth, fontsize=7)
            for axes, (caption, heat) in zip(row[1:], panel.heatmaps.items(), strict=False):
                axes.imshow(panel.film, cmap="gray", vmin=0, vmax=255)
                axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=np.clip(heat, 0, 1) * 0.6)
                axes.contour(heat, levels=[0.5], colors="white", linewidths=0.7)  # legible in gray, too
                axes.set_title(caption, fontsize=7)
