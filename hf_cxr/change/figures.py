"""Before and after, label by label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_cxr.change.pairs import SIDES
from hf_cxr.figures.style import drawing

_LOOK = {
    "before": {"marker": "o", "color": "0.45", "markerfacecolor": "white"},
    "after": {"marker": "s", "color": "C0", "markerfacecolor": "C0"},
}
_OFFSET = {"before": 0.17, "after": -0.17}


def scored(row: dict[str, Any]) -> bool:
    """Whether a label has an AUROC in either model: of films of one class no other figure says much."""
    return any(row["auroc"][side] is not None for side in SIDES)


def change_auroc(part: dict[str, Any], path: Path, title: str) -> bool:
    """AUROC of every label before (open circle) and after (square) with intervals; on the right the paired difference.

    Args:
        part: of `compute.compare_models`. path: the PNG.

    Returns:
        Whether there was a label to draw. A label that only one model has keeps its row; undefined ones have none.
    """
    rows = {n: row["auroc"] for n, row in part["labels"].items() if scored(row)}
    if not rows:
        return False
    with drawing(path, 6.6, 0.36 * len(rows) + 1.5, title) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for place, row in enumerate(reversed(rows.values())):
            for side in SIDES:
                _point(left, row[side], row[f"{side}_ci"], place + _OFFSET[side], side)
            if row["difference"] is None:
                missing = "before" if row["before"] is None else "after"
                words: Any = {"ha": "center", "va": "center", "fontsize": 7, "backgroundcolor": "white"}
                right.text(0, place, f"no such output {missing}", **words)
            else:
                # Open without an interval: nothing says that it is not chance.
                face = "k" if row["difference_ci"] else "white"
                right.plot(row["difference"], place, "D", color="k", markerfacecolor=face, markersize=3.5)
                if row["difference_ci"]:
                    right.plot(row["difference_ci"], [place, place], color="k", linewidth=1)
        left.axvline(0.5, color="k", linewidth=0.8, linestyle=":")
        right.axvline(0, color="k", linewidth=0.8, linestyle=":")
        widest = max(abs(end) for end in right.get_xlim())
        right.set_xlim(-widest, widest)
        left.set_yticks(range(len(rows)), [_named(n, part) for n in reversed(rows)], fontsize=8)
        left.set_ylim(-0.7, len(rows) - 0.3)
        left.set_xlabel("AUROC")
        right.set_xlabel("after − before")
        _legend(figure, left)
    return True


def change_probabilities(part: dict[str, Any], path: Path, title: str) -> bool:
    """ECE and Brier score of every label before and after; a dash marks the ECE that chance gives exact probabilities.

    Arguments and result as `change_auroc`.
    """
    labels = {n: row for n, row in part["labels"].items() if scored(row)}
    if not labels:
        return False
    with drawing(path, 6.6, 0.32 * len(labels) + 1.5, title) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for place, row in enumerate(reversed(labels.values())):
            for side in SIDES:
                _point(left, row["ece"][side], None, place + _OFFSET[side], side)
                _point(right, row["brier"][side], row["brier"][f"{side}_ci"], place + _OFFSET[side], side)
                if row["ece"][side] is not None:
                    left.plot(row["ece"][f"{side}_if_perfect"], place + _OFFSET[side], "|", color="k", markersize=6)
        left.set_yticks(range(len(labels)), [_named(n, part) for n in reversed(labels)], fontsize=8)
        left.set_ylim(-0.7, len(labels) - 0.3)
        for axes, name in ((left, "ECE"), (right, "Brier score")):
            axes.set_xlim(left=0)
            axes.set_xlabel(name)
        _legend(figure, left)
    return True


def _point(axes: Any, value: float | None, interval: list[float] | None, place: float, side: str) -> None:
    if value is None:
        return
    if interval:
        axes.plot(interval, [place, place], color=_LOOK[side]["color"], linewidth=1)
    axes.plot(value, place, linestyle="none", markersize=4.5, **_LOOK[side])


def _named(name: str, part: dict[str, Any]) -> str:
    return f"{name} ({part['labels'][name]['n_positive']:,})"


def _legend(figure: Any, axes: Any) -> None:
    handles = [axes.plot([], [], linestyle="none", markersize=4.5, label=side, **_LOOK[side])[0] for side in SIDES]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
