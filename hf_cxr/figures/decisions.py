"""What decisions rest on: calibration, and what the gate loses for what it clears."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_cxr.evaluation import EvalReport
from hf_cxr.figures.style import drawing, grid
from hf_cxr.predictions import PredictionTable


def reliability_grid(report: EvalReport, names: Sequence[str], path: Path, title: str) -> None:
    """Reliability diagrams of labels, before calibration (open, gray) and after (filled), one small picture each.

    Args:
        report: a full report. Bins with fewer than 10 films are left out of the picture, not of the figures.
    """
    after, before = report.calibration["bins"], report.calibration.get("before", {}).get("bins", {})
    with drawing(path, 9.5, 2.2 * -(-len(names) // 5) + 0.5, title) as figure:
        for axes, name in zip(grid(figure, len(names), 5), names, strict=True):
            shown = [row for rows in (before.get(name, []), after[name]) for row in rows if row["n"] >= 10]
            top = min(1.0, 1.15 * max([0.05] + [max(r["mean_probability"], r["share_positive"]) for r in shown]))
            axes.plot([0, top], [0, top], color="k", linestyle=":", linewidth=0.8)
            for rows, style in ((before.get(name, []), "o--"), (after[name], "s-")):
                points = [(r["mean_probability"], r["share_positive"]) for r in rows if r["n"] >= 10]
                if points:
                    first = style == "o--"
                    axes.plot(
                        *zip(*points, strict=True),
                        style,
                        color="0.55" if first else "C0",
                        markerfacecolor="white" if first else "C0",
                        markersize=3,
                        linewidth=1,
                    )
            ece = report.labels[name]["ece"]
            axes.set_title(f"{name}\nECE {ece:.3f}" if ece is not None else name, fontsize=7)
            axes.set(xlim=(0, top), ylim=(0, top))
            axes.tick_params(labelsize=6)
            axes.locator_params(nbins=4)
        figure.supxlabel("mean probability of the bin", fontsize=8)
        figure.supylabel("share of positive films", fontsize=8)


def gate_trade_off(report: EvalReport, table: PredictionTable, path: Path, title: str) -> None:
    """What each possible threshold of the gate clears, and what it misses, with the chosen one marked.

    x: share of all films cleared. y: share of abnormal films among them that are abnormal (missed), and the same for
    the findings that lose most at the chosen threshold.
    """
    assert report.gate is not None
    _, probability = table.column(report.gate["node"])
    order = np.argsort(probability, kind="stable")
    cleared = np.arange(1, len(order) + 1) / len(order)
    lost = report.gate.get("lost", {})
    scored = [n for n in lost if lost[n]["n_true"] >= 20 and lost[n].get("share_lost") is not None]
    worst = sorted(scored, key=lambda n: -lost[n]["share_lost"])[:3]
    with drawing(path, 6.4, 4.2, title) as figure:
        axes = figure.subplots()
        for name, style in zip([report.gate["node"], *worst], ("-", "--", "-.", ":"), strict=False):
            positive = (table.column(name)[0] == 1)[order]
            if positive.any():
                width = 2.0 if name == report.gate["node"] else 1.2
                label = f"{name} (n = {positive.sum():,})"
                axes.plot(cleared, np.cumsum(positive) / positive.sum(), style, linewidth=width, label=label)
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        axes.text(0.5, 0.52, "chance", ha="right", rotation=35, color="0.4", fontsize=8)
        if "threshold" in report.gate:
            gate = report.gate
            axes.axvline(gate["skip_rate"], color="k", linewidth=1)
            axes.text(
                gate["skip_rate"] + 0.01,
                0.98,
                f"threshold {gate['threshold']:.3f}\n({gate['threshold_criterion']}, {gate['threshold_split']})",
                va="top",
                fontsize=8,
            )
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of films cleared", ylabel="share of true cases missed")
        axes.legend(frameon=False, loc="lower right", fontsize=8)
