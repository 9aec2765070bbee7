"""The labels among themselves: the hierarchy with its figures, and which labels occur together."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from hf_cxr.evaluation import EvalReport
from hf_cxr.figures.style import drawing
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.predictions import PredictionTable


def hierarchy_tree(report: EvalReport, hierarchy: Hierarchy, path: Path, title: str) -> None:
    """The hierarchy from left to right, each node coloured by its AUROC and labelled with it and its positive films.

    A node with several parents hangs from the first in its row, with a line to each.
    """
    place = _places(hierarchy)
    depth = max(x for x, _ in place.values()) + 1
    rows = max(y for _, y in place.values()) + 1
    colours = mpl.colormaps["viridis"]
    with drawing(path, 2.6 * depth + 0.8, 0.33 * rows + 0.9, title) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        for parent, child in hierarchy.edges:
            (x0, y0), (x1, y1) = place[parent], place[child]
            axes.plot([x0 + 0.72, x0 + 0.86, x0 + 0.86, x1], [y0, y0, y1, y1], color="0.6", linewidth=0.8, zorder=0)
        for name, (x, y) in place.items():
            row = report.labels[name]
            value = row["auroc"]
            shade = colours(np.clip(((value or 0.5) - 0.5) / 0.5, 0, 1)) if value is not None else (1, 1, 1, 1)
            dark = value is not None and value < 0.8
            text = f"{name}  {value:.3f}" if value is not None else f"{name}  –"
            axes.text(
                x,
                y,
                f"{text}  (n {row['n_positive']:,})",
                va="center",
                fontsize=7.5,
                color="white" if dark else "black",
                bbox={"boxstyle": "round,pad=0.3", "facecolor": shade, "edgecolor": "0.4", "linewidth": 0.6},
            )
        axes.set(xlim=(-0.05, depth), ylim=(rows - 0.4, -0.8))
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0.5, 1.0), colours)
        figure.colorbar(scale, ax=axes, label="AUROC", fraction=0.03, pad=0.01)


def _places(hierarchy: Hierarchy) -> dict[str, tuple[int, int]]:
    """(depth, row) of each node: a leaf takes the next row, an inner node the row of its first child."""
    place: dict[str, tuple[int, int]] = {}
    next_row = 0

    def put(name: str, depth: int) -> None:
        nonlocal next_row
        if name in place:
            return
        first, place[name] = next_row, (depth, next_row)
        below = [c for c in hierarchy.children.get(name, ()) if c not in place]
        for child in below:
            put(child, depth + 1)
        if next_row == first:
            next_row += 1

    for name in hierarchy.topological_order:
        if not hierarchy.parents.get(name):
            put(name, 0)
    return place


def co_occurrence(table: PredictionTable, hierarchy: Hierarchy, path: Path, title: str) -> None:
    """How often a film with the row's finding also has the column's, in percent; the diagonal has the counts."""
    names = hierarchy.findings
    positive = np.stack([table.column(n)[0] == 1 for n in names], axis=1).astype(float)
    both = positive.T @ positive
    with np.errstate(invalid="ignore", divide="ignore"):
        share = both / np.diag(both)[:, None]
    with drawing(path, 0.42 * len(names) + 2.2, 0.36 * len(names) + 2.0, title) as figure:
        axes = figure.subplots()
        shown = np.where(np.eye(len(names), dtype=bool), np.nan, share)
        axes.imshow(shown, cmap="Blues", vmin=0, vmax=max(0.5, float(np.nanmax(np.nan_to_num(shown)))))
        for i in range(len(names)):
            for j in range(len(names)):
                text = (
                    f"{int(both[i, i]):,}" if i == j else ("–" if np.isnan(share[i, j]) else f"{100 * share[i, j]:.0f}")
                )
                strong = i != j and share[i, j] > 0.35
                axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color="white" if strong else "black")
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7.5)
        axes.set_yticks(range(len(names)), names, fontsize=7.5)
        axes.set(xlabel="… % also have", ylabel="of films with")
        axes.grid(visible=False)
