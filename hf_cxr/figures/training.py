"""How training went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from hf_cxr.figures.style import drawing


def learning_curves(history: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Losses (left) and validation figures (right) over the epochs, as a PNG.

    Args:
        history: `trainer.state.log_history`. path: the PNG. title: what was trained.
    """
    train = [row for row in history if "loss" in row and "grad_norm" in row]
    valid = [row for row in history if "eval_loss" in row]
    with drawing(path, 9, 3.4, title) as figure:
        left, right = figure.subplots(1, 2)
        _line(left, train, "loss", "training", "o-")
        _line(left, valid, "eval_loss", "validation", "s--")
        left.set(xlabel="epoch", ylabel="loss", title="Loss")
        _line(right, valid, "eval_macro_auroc", "macro AUROC, findings", "o-")
        _line(right, valid, "eval_gate_auroc", "AUROC, gate", "s--")
        if any(row.get("eval_gated_macro_auroc") != row.get("eval_macro_auroc") for row in valid):
            _line(right, valid, "eval_gated_macro_auroc", "macro AUROC, gated", "^:")
        right.set(xlabel="epoch", ylabel="AUROC", title="Validation")
        for axes in (left, right):
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False)


def _line(axes: Axes, rows: Sequence[dict[str, Any]], key: str, name: str, style: str) -> None:
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), style, markersize=3, label=name)
