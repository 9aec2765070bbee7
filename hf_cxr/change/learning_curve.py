"""How many labelled films an adaptation needs: AUROC against films, a line for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import NullFormatter, NullLocator

from hf_cxr.change.errors import ChangeError
from hf_cxr.figures.style import drawing, grid
from hf_cxr.report.layout import NONE, number

_SETTINGS = ("method", "n_films", "seed")
_KNOWN = ("head", "lora", "full")
_LOOKS = (("o", "--"), ("s", "-"), ("^", "-."), ("D", ":"), ("v", "-"), ("P", "--"))


@dataclass(frozen=True)
class Point:
    """One method with one number of films.

    Attributes:
        mean: over the seeds that define it, None if none does. n_seeds: of these; n_runs: of all.
        low, high: the least and the greatest of several seeds; of one seed the interval that its run has, or None.
    """

    mean: float | None
    low: float | None
    high: float | None
    n_seeds: int
    n_runs: int


def learning_points(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[int, Point]]]:
    """Runs brought together over seeds.

    Args:
        runs: `{method, n_films, seed, <label>: AUROC or None, …}`, with `<label>_ci: [low, high] or None` where a run
            has an interval; every run with the same labels, of which a mean such as `macro AUROC` may be one.

    Returns:
        `{label: {method: {n_films: Point}}}`; methods head, lora, full first, films ascending.

    Raises:
        ChangeError: no runs, a setting or label is missing, two runs with the same settings, fewer than one film, an
            AUROC outside [0, 1].
    """
    _check(runs)
    methods = list(dict.fromkeys(run["method"] for run in runs))
    methods.sort(key=lambda m: (_KNOWN.index(m) if m in _KNOWN else len(_KNOWN), m))
    return {
        label: {
            method: {
                n: _point(label, [run for run in runs if run["method"] == method and run["n_films"] == n])
                for n in sorted({run["n_films"] for run in runs if run["method"] == method})
            }
            for method in methods
        }
        for label in _labels(runs[0])
    }


def draw_learning_curve(
    runs: Sequence[Mapping[str, Any]], path: Path, title: str, base: Mapping[str, float | None] | None = None
) -> None:
    """AUROC against the number of labelled training films, on a logarithmic axis, as a PNG; a small picture a label.

    Args:
        runs: as `learning_points`, whose errors are raised. base: AUROC of each label before adaptation, on the same
            films; a horizontal line. A label that the base lacks has none.
    """
    points = learning_points(runs)
    columns = min(len(points), 3)
    films = sorted({run["n_films"] for run in runs})
    with drawing(path, 3.2 * columns + 0.6, 2.6 * -(-len(points) // columns) + 0.9, title) as figure:
        handles: dict[str, Any] = {}
        for axes, (label, of_methods) in zip(grid(figure, len(points), columns), points.items(), strict=True):
            for place, (method, of_films) in enumerate(of_methods.items()):
                marker, line = _LOOKS[place % len(_LOOKS)]
                # Apart by a hair, so that the spreads of two methods on the same films do not cover each other.
                shift = 1.04 ** (place - (len(of_methods) - 1) / 2)
                shown = {n: p for n, p in of_films.items() if p.mean is not None}
                (handles[method],) = axes.plot(
                    [n * shift for n in shown],
                    [p.mean for p in shown.values()],
                    line,
                    marker=marker,
                    color=f"C{place}",
                    markersize=4,
                    linewidth=1.2,
                )
                for n, p in shown.items():
                    if p.low is not None:
                        axes.plot([n * shift] * 2, [p.low, p.high], color=f"C{place}", linewidth=1)
            value = (base or {}).get(label)
            if value is not None:
                handles["base before adaptation"] = axes.axhline(value, color="k", linestyle=(0, (1, 1)), linewidth=1)
            axes.set_title(label, fontsize=8)
            axes.set_xlabel("labelled training films", fontsize=8)
            axes.set_xscale("log")
            axes.set_xlim(films[0] / 1.25, films[-1] * 1.25)
            axes.set_xticks(films, [f"{n:,}" for n in films], fontsize=7)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_minor_formatter(NullFormatter())
        figure.supylabel("AUROC", fontsize=8)
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)


def learning_markdown(runs: Sequence[Mapping[str, Any]], base: Mapping[str, float | None] | None = None) -> str:
    """The same as a Markdown table, a row for each method and number of films; arguments and errors alike."""
    points = learning_points(runs)
    labels = list(points)
    rows = (
        [["base before adaptation", "0", NONE, *(number((base or {}).get(label)) for label in labels)]] if base else []
    )
    for method, of_films in points[labels[0]].items():
        for n in of_films:
            own = [points[label][method][n] for label in labels]
            rows.append([method, f"{n:,}", str(own[0].n_runs), *map(_cell, own)])
    head = ["method", "films", "seeds", *labels]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines.insert(1, f"| --- |{' ---: |' * (len(head) - 1)}")
    note = (
        "AUROC by method and number of labelled training films: mean over seeds. Brackets: the least and the greatest "
        "of several seeds, or the interval of one."
    )
    return f"{note}\n\n" + "\n".join(lines) + "\n"


def _labels(run: Mapping[str, Any]) -> list[str]:
    intervals = {f"{key}_ci" for key in run}
    return [key for key in run if key not in _SETTINGS and key not in intervals]


def _check(runs: Sequence[Mapping[str, Any]]) -> None:
    if not runs:
        raise ChangeError("no runs to draw a learning curve of")
    labels, seen = _labels(runs[0]), set()
    if not labels:
        raise ChangeError(f"run 1 has no label's AUROC beside {', '.join(_SETTINGS)}; it has {sorted(runs[0])}")
    for place, run in enumerate(runs, 1):
        if missing := [key for key in (*_SETTINGS, *labels) if key not in run]:
            raise ChangeError(
                f"run {place} has no {', '.join(missing)}; every run needs {', '.join(_SETTINGS)} and {labels}"
            )
        if strange := sorted(set(_labels(run)) - set(labels)):
            raise ChangeError(f"run {place} has {strange}, which run 1 lacks; give all runs the same labels")
        own = tuple(run[key] for key in _SETTINGS)
        if own in seen:
            raise ChangeError(f"run {place} repeats method {own[0]}, {own[1]} films, seed {own[2]}; give each run once")
        seen.add(own)
        if not run["n_films"] >= 1:
            raise ChangeError(f"run {place} has {run['n_films']} films; without films it is the base, not a run")
        for label in labels:
            if run[label] is not None and not 0 <= run[label] <= 1:
                raise ChangeError(f"run {place}, label '{label}': AUROC {run[label]}, expected 0 to 1, or None")


def _point(label: str, runs: Sequence[Mapping[str, Any]]) -> Point:
    values = [float(run[label]) for run in runs if run[label] is not None]
    if not values:
        return Point(None, None, None, 0, len(runs))
    low = high = None
    if len(values) > 1:
        low, high = min(values), max(values)
    elif len(runs) == 1 and runs[0].get(f"{label}_ci"):
        low, high = runs[0][f"{label}_ci"]
    return Point(float(np.mean(values)), low, high, len(values), len(runs))


def _cell(point: Point) -> str:
    text = number(point.mean)
    if point.low is not None:
        text += f" ({point.low:.3f}–{point.high:.3f})"
    return text + (f", {point.n_seeds} of {point.n_runs} seeds" if 0 < point.n_seeds < point.n_runs else "")
