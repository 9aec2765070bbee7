"""The hierarchy as a picture, with the AUROC of every node beside it, and as text."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hf_cxr.evaluation import EvalReport
from hf_cxr.figures.style import drawing
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.metrics import FEW_POSITIVES

_INDENT, _ROW, _CHARACTER = 0.24, 0.255, 0.075  # inches: a level's, a row's, a character's at 8.5 points


def text_tree(hierarchy: Hierarchy) -> str:
    """One line a node, its children indented below it; a node with several parents stands under each of them."""
    lines: list[str] = []

    def put(name: str, before: str, branch: str, parent: str | None) -> None:
        others = [p for p in hierarchy.parents[name] if p != parent]
        also = f" (also under {', '.join(others)})" if others else ""
        lines.append(f"{before}{branch}{name}{also}")
        below = hierarchy.children[name]
        deeper = before + {"": "", "├── ": "│   ", "└── ": "    "}[branch]
        for child in below:
            put(child, deeper, "└── " if child == below[-1] else "├── ", name)

    for name in hierarchy.names:
        if not hierarchy.parents[name]:
            put(name, "", "", None)
    return "\n".join(lines)


def rows_of(hierarchy: Hierarchy) -> list[tuple[str, int, str | None]]:
    """(node, depth, parent that it hangs from) from top to bottom; a node hangs from its deepest parent, once."""

    @cache
    def depth(name: str) -> int:
        return 1 + max((depth(parent) for parent in hierarchy.parents[name]), default=-1)

    hangs = {name: max(hierarchy.parents[name], key=depth, default=None) for name in hierarchy.names}
    rows: list[tuple[str, int, str | None]] = []

    def put(name: str) -> None:
        rows.append((name, depth(name), hangs[name]))
        for child in hierarchy.children[name]:
            if hangs[child] == name:
                put(child)

    for name in hierarchy.names:
        if hangs[name] is None:
            put(name)
    return rows


def draw_hierarchy(report: EvalReport, hierarchy: Hierarchy, path: Path, title: str) -> None:
    """Draw the tree with a row a node, and in the same rows AUROC, interval and number of positive films.

    A dashed arrow leads to a node from each further parent. An open circle is a label with few positive films.
    """
    rows = rows_of(hierarchy)
    place = {name: (depth * _INDENT, row) for row, (name, depth, _) in enumerate(rows)}
    end = {name: x + 0.1 + _CHARACTER * len(name) for name, (x, _) in place.items()}
    further = [edge for edge in hierarchy.edges if (edge[1], edge[0]) not in {(name, up) for name, _, up in rows}]
    columns = _columns(rows, place, end, further)
    wide = max([*end.values(), *columns]) + 0.1
    with drawing(path, wide + 4.0, _ROW * len(rows) + 1.15, title) as figure:
        tree, plot = figure.subplots(1, 2, sharey=True, width_ratios=[wide, 4.0])
        _draw_tree(tree, rows, place, hierarchy)
        for (parent, child), column in zip(further, columns, strict=True):
            _draw_further(tree, place[parent][1], place[child][1], end[parent], end[child], column)
        tree.set(xlim=(-0.05, wide), ylim=(len(rows) - 0.5, -0.5))
        _draw_figures(plot, report, rows)
        figure.text(
            0.01,
            0.005,
            f"circle: AUROC, open with fewer than {FEW_POSITIVES} positive films; line: "
            f"{report.intervals['level']:.0%} interval\nn: positive films; dotted: guessing"
            + ("; dashed: a further parent" if further else ""),
            fontsize=7,
            va="bottom",
        )
        figure.set_layout_engine("constrained", rect=(0, 0.045, 1, 0.955))


def _columns(
    rows: list[tuple[str, int, str | None]],
    place: dict[str, tuple[float, int]],
    end: dict[str, float],
    further: list[tuple[str, str]],
) -> list[float]:
    """Where the arrow of each further parent runs down: right of every name on its way, and of the arrows before."""
    taken: dict[float, list[range]] = {}
    columns = []
    for edge in further:
        first, last = sorted(place[name][1] for name in edge)
        way = range(first, last + 1)
        column = max(end[name] for name, _, _ in rows[first : last + 1]) + 0.15
        while any(set(way) & set(other) for x, ways in taken.items() if abs(x - column) < 0.1 for other in ways):
            column += 0.12
        taken.setdefault(column, []).append(way)
        columns.append(column)
    return columns


def _draw_tree(
    axes: Any, rows: list[tuple[str, int, str | None]], place: dict[str, tuple[float, int]], hierarchy: Hierarchy
) -> None:
    axes.set_axis_off()
    kinds = {node.name: node.kind for node in hierarchy.nodes}
    for name, _, parent in rows:
        x, row = place[name]
        weight = "bold" if kinds[name] in ("gate", "group") else "normal"
        axes.text(x, row, name, va="center", fontsize=8.5, weight=weight)
        if parent is not None:
            left = place[parent][0] + 0.08
            axes.plot([left, left, x - 0.03], [place[parent][1] + 0.42, row, row], color="0.6", linewidth=0.8)


def _draw_further(axes: Any, top: int, bottom: int, start: float, target: float, column: float) -> None:
    line = {"color": "0.25", "linewidth": 0.9, "linestyle": "--"}
    axes.plot([start, column, column], [top, top, bottom], **line)
    axes.annotate(
        "", (target, bottom), (column, bottom), arrowprops={**line, "arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    )


def _draw_figures(axes: Any, report: EvalReport, rows: list[tuple[str, int, str | None]]) -> None:
    drawn = [0.45]
    for row, (name, _, _) in enumerate(rows):
        figures = report.labels[name]
        value, interval = figures["auroc"], figures.get("auroc_ci")
        text = "–" if value is None else f"{value:.3f}"
        axes.text(1.03, row, text, va="center", fontsize=8)
        axes.text(1.28, row, f"{figures['n_positive']:,}", va="center", ha="right", fontsize=8)
        if interval:
            axes.plot(interval, [row, row], color="black", linewidth=1.1)
            drawn += interval
        if value is not None:
            face = "white" if figures["few_positives"] else "black"
            axes.plot([value], [row], "o", markersize=4.5, color="black", markerfacecolor=face)
            drawn.append(value)
    low = 0.05 * int(min(drawn) / 0.05)
    axes.axvline(0.5, color="0.4", linestyle=":", linewidth=1)
    axes.text(1.03, -1.0, "AUROC", fontsize=7.5)
    axes.text(1.28, -1.0, "n", fontsize=7.5, ha="right")
    axes.set(xlim=(low, 1.3), xlabel="AUROC", xticks=[t / 10 for t in range(11) if low <= t / 10 <= 1])
    axes.grid(visible=False, axis="y")
    axes.tick_params(left=False, labelsize=8)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_bounds(low, 1.0)
