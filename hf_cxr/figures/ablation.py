"""What the arms of an ablation differ by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_cxr.figures.style import drawing


def ablation_differences(summary: Mapping[str, Any], path: Path, title: str) -> None:
    """Difference of each arm's macro AUROC to the reference with its interval, and how many films are out of order.

    Args:
        summary: of `ablation_results.summarise`.
    """
    arms = list(summary["arms"].items())
    with drawing(path, 9.0, 0.3 * len(arms) + 1.4, title) as figure:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        for place, (name, row) in enumerate(reversed(arms)):
            macro, reference = row["macro_auroc"], name == summary["reference"]
            marker = "D" if reference else "o"
            if macro["difference"] is None:
                continue
            left.plot(macro["difference"], place, marker, color="k" if reference else "C0", markersize=4)
            if macro["difference_ci"]:
                left.plot(macro["difference_ci"], [place, place], color="C0", linewidth=1)
            if row["share_out_of_order"] is None:
                right.text(1, place, "no edges", va="center", fontsize=7, fontstyle="italic")
            else:
                right.barh(place, 100 * row["share_out_of_order"], color="0.6")
        left.axvline(0, color="k", linewidth=0.8, linestyle=":")
        left.set_yticks(range(len(arms)), [row["label"] for _, row in reversed(arms)], fontsize=7)
        left.set_xlabel("macro AUROC less the reference's (diamond), 95 % interval over patients")
        right.set_xlabel("films out of order, %")
        right.set_xlim(0, 100)
