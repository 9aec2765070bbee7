"""Figures, from a log history or an EvalReport. Legible in gray: markers and line styles, not colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_cxr.evaluation import EvalReport
from hf_cxr.metrics import FEW_POSITIVES

_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.axisbelow": True,
}


def learning_curves(history: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Losses (left) and validation figures (right) over the epochs, as a PNG.

    Args:
        history: `trainer.state.log_history`. path: the PNG. title: what was trained.
    """
    train = [row for row in history if "loss" in row and "grad_norm" in row]
    valid = [row for row in history if "eval_loss" in row]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
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
        figure.suptitle(title)
        figure.savefig(path, dpi=150)


def _line(axes: Axes, rows: Sequence[dict[str, Any]], key: str, name: str, style: str) -> None:
    points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), style, markersize=3, label=name)


def label_auroc(report: EvalReport, path: Path, title: str, groups: Sequence[str] = ()) -> None:
    """AUROC of every label as horizontal bars with the number of positive films, as a PNG.

    Args:
        report: of the split to show. path: the PNG. title: what and where.
        groups: labels that are no findings (gate, groups), drawn hatched at the top.

    Bars start at 0.5, chance. A label with an undefined AUROC keeps its row and says why; one with few positives is
    drawn pale.
    """
    findings = [n for n in report.labels if n not in groups]
    ranked = sorted(findings, key=lambda n: report.labels[n]["auroc"] or 0.0)
    rows = ranked + [n for n in reversed(report.labels) if n in groups]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 0.27 * len(rows) + 1.5), layout="constrained")
        axes = figure.subplots()
        for position, name in enumerate(rows):
            figures = report.labels[name]
            value = figures["auroc"]
            # In columns beside the bars, where nothing can cross them.
            axes.text(1.17, position, f"{figures['n_positive']:,}", va="center", ha="right", fontsize=8)
            if value is None:
                axes.text(0.505, position, f"undefined: {figures['undefined']}", va="center", fontstyle="italic")
                continue
            axes.text(1.09, position, f"{value:.3f}", va="center", ha="right", fontsize=8)
            axes.barh(
                position,
                value - 0.5,
                left=0.5,
                color="0.75" if figures["few_positives"] else "C0",
                edgecolor="white",
                hatch="///" if name in groups else None,
            )
        axes.text(1.09, len(rows) - 0.2, "AUROC", ha="right", va="bottom", fontsize=8)
        axes.text(1.17, len(rows) - 0.2, "n", ha="right", va="bottom", fontsize=8)
        macro = report.aggregate["macro_auroc"]
        if macro is not None:
            axes.plot([macro, macro], [-0.6, len(rows) - 0.4], color="k", linestyle="--", linewidth=1)
            axes.text(macro, len(rows) - 0.2, f"macro {macro:.3f}", ha="center", va="bottom", fontsize=8)
        lowest = min([0.5, *(f["auroc"] for f in report.labels.values() if f["auroc"] is not None)])
        left = np.floor(lowest * 10) / 10
        axes.set_yticks(np.arange(len(rows)), rows)
        axes.set(xlim=(left, 1.18), ylim=(-0.6, len(rows) + 0.6), xlabel="AUROC")
        axes.set_xticks(np.arange(left, 1.01, 0.1))
        axes.grid(axis="y", visible=False)
        figure.suptitle(
            f"{title}\n{report.n_images:,} films of {report.n_patients:,} patients; pale: under {FEW_POSITIVES} "
            "positive; hatched: gate and groups",
            fontsize=9,
        )
        figure.savefig(path, dpi=150)
