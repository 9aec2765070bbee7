"""Rankings: AUROC of every label, ROC and precision–recall curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_cxr import curves
from hf_cxr.bootstrap import Resamples
from hf_cxr.evaluation import EvalReport
from hf_cxr.figures.style import drawing, grid
from hf_cxr.metrics import FEW_POSITIVES, why_undefined
from hf_cxr.predictions import PredictionTable


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
    subtitle = f"{report.size}; pale: under {FEW_POSITIVES} positive; hatched: gate and groups"
    with drawing(path, 7.2, 0.27 * len(rows) + 1.5, f"{title}\n{subtitle}") as figure:
        axes = figure.subplots()
        for position, name in enumerate(rows):
            figures = report.labels[name]
            value = figures["auroc"]
            # In columns beside the bars, where nothing can cross them.
            axes.text(1.17, position, f"{figures['n_positive']:,}", va="center", ha="right", fontsize=8)
            if value is None:
                axes.text(
                    0.505, position, f"undefined: {figures['undefined']['auroc']}", va="center", fontstyle="italic"
                )
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
            if interval := figures.get("auroc_ci"):
                axes.plot(interval, [position, position], color="k", linewidth=1)
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


def curve_grid(
    table: PredictionTable,
    names: Sequence[str],
    kind: str,
    path: Path,
    title: str,
    resamples: Resamples,
    readers: Sequence[curves.Reader] = (),
) -> None:
    """ROC or precision–recall curves of labels, a small picture each, with pointwise 95 % bands.

    Args:
        kind: `"roc"` or `"pr"`. resamples: of the table's patients, for the bands.
        readers: operating points of human readers, drawn as crosses on the ROC curves.
    """
    with drawing(path, 9.5, 2.1 * -(-len(names) // 5) + 0.5, title) as figure:
        for axes, name in zip(grid(figure, len(names), 5), names, strict=True):
            truth, probability = table.column(name)
            n_positive = int((truth == 1).sum())
            axes.set_title(f"{name}\nn = {n_positive:,}", fontsize=7)
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
            axes.tick_params(labelsize=7)
            if reason := why_undefined(truth):
                axes.text(0.5, 0.5, reason, ha="center", fontsize=7, fontstyle="italic")
                continue
            drawn = curves.with_band(truth, probability, resamples, kind)
            axes.fill_between(drawn.x, drawn.low, drawn.high, color="0.8", linewidth=0)
            axes.plot(drawn.x, drawn.y, color="C0", linewidth=1.2)
            chance: Any = ([0, 1], [0, 1]) if kind == "roc" else ([0, 1], [np.nanmean(truth)] * 2)
            axes.plot(*chance, color="k", linestyle=":", linewidth=0.8)
            for reader in readers if kind == "roc" else ():
                if reader.label == name:
                    axes.plot(1 - reader.specificity, reader.sensitivity, "x", color="k", markersize=5)
        names_of_axes = ("1 − specificity", "sensitivity") if kind == "roc" else ("recall (sensitivity)", "precision")
        figure.supxlabel(names_of_axes[0], fontsize=8)
        figure.supylabel(names_of_axes[1], fontsize=8)
