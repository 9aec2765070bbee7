"""The page's figures: prevalence here and where the base was trained, ages, and how films look."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hf_cxr.data_check.result import Check
from hf_cxr.figures.style import drawing

FIGURES = ("prevalence", "ages", "looks")


def draw(check: Check, folder: Path) -> dict[str, str]:
    """Draw what there is something to draw of, as PNGs; returns `{file stem: caption}`."""
    captions = {}
    nodes = (check.counts.get("labels") or {}).get("nodes") or {}
    shown = {name: node for name, node in nodes.items() if node["positive"]}
    if shown:
        _prevalence(shown, folder / "prevalence.png", check.title)
        captions["prevalence"] = "Share of the films, of those of which it is known, that show each node"
    ages = (check.counts.get("description") or {}).get("age") or {}
    if set(ages) - {"unknown"}:
        with drawing(folder / "ages.png", 6, 2.6, check.title) as figure:
            axes = figure.subplots()
            axes.bar(list(ages), list(ages.values()), color="0.4")
            axes.set(xlabel="age in years", ylabel="films")
        captions["ages"] = "Ages"
    if check.distances is not None and np.isfinite(check.distances).any():
        with drawing(folder / "looks.png", 6, 2.6, check.title) as figure:
            axes = figure.subplots()
            axes.hist(check.distances[np.isfinite(check.distances)], bins=50, color="0.4")
            axes.axvline(1, color="black", linestyle="--")
            axes.set(xlabel="distance in looks (dashed: 1 % of the base's own films are beyond)", ylabel="films")
            axes.set_yscale("symlog", linthresh=1)
        captions["looks"] = "How far films are, in looks, from the base's own"
    return captions


def _prevalence(nodes: dict[str, dict[str, float | None]], path: Path, title: str) -> None:
    names = list(nodes)[::-1]
    places = np.arange(len(names))
    with drawing(path, 6, 1.2 + 0.22 * len(names), title) as figure:
        axes = figure.subplots()
        for key, label, marker in (("prevalence", "here", "o"), ("base_prevalence", "base, trained on", "x")):
            points = [(nodes[name][key], place) for name, place in zip(names, places, strict=True)]
            known = [(x, y) for x, y in points if x]
            if known:
                axes.plot(*zip(*known, strict=True), marker, color="black", fillstyle="none", label=label)
        axes.set_yticks(places, names)
        axes.set_xscale("log")
        axes.set(xlabel="share of the films")
        axes.legend(loc="lower left", frameon=False)
