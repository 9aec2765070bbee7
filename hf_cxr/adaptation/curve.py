"""One finished adaptation as a point of a learning curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from hf_cxr.adaptation.arguments import AdaptationSettings
from hf_cxr.change import CHANGE_FILE, ChangeReport
from hf_cxr.runs import REPORT_FILE, SETTINGS_FILE, RunFolderError, check_same

OWN = "macro AUROC, base's own films"


def curve_point(run: Path) -> dict[str, Any]:
    """`{method, n_films, seed, <figure>: AUROC or None, <figure>_ci: …}` of the model after adaptation.

    Figures: every label that the hospital's films have both classes of, each pair of new findings told apart, and what
    is left of the base on its own films.

    Raises:
        FileNotFoundError: the run is not finished.
    """
    change = ChangeReport.from_json(run / CHANGE_FILE)
    settings = yaml.safe_load((run / SETTINGS_FILE).read_text(encoding="utf-8"))
    point: dict[str, Any] = {"method": change.cost.method, "n_films": change.cost.films, "seed": settings["seed"]}
    for name, row in _rows(change).items():
        point |= {name: row["after"], f"{name}_ci": row["after_ci"]}
    return point


def check_run(run: Path, settings: AdaptationSettings, data: str, weights: str) -> None:
    """Refuse a finished run that is not the one asked for.

    Args:
        settings: asked for. data: fingerprint of the films. weights: of the base (`verification.identity`).

    Raises:
        RunFolderError: with both sides of each difference.
    """
    check_same(run, {"settings": settings.to_plain()})
    described = yaml.safe_load((run / SETTINGS_FILE).read_text(encoding="utf-8"))
    report = json.loads((run / REPORT_FILE).read_text(encoding="utf-8"))["provenance"]
    for what, then, today in (
        ("films with fingerprint", described["data"]["fingerprint"], data),
        ("a base with weights", report["adapted_from"]["weights"], weights),
    ):
        if then != today:
            raise RunFolderError(f"{run} was made of {what} {then}, and asked for are {today}; name another output_dir")


def base_point(run: Path) -> dict[str, float | None]:
    """`{<figure>: AUROC or None}` of the model before adaptation, from any run that began with it."""
    return {name: row["before"] for name, row in _rows(ChangeReport.from_json(run / CHANGE_FILE)).items()}


def _rows(change: ChangeReport) -> dict[str, dict[str, Any]]:
    labels = change.hospital["labels"]
    rows = {n: row["auroc"] for n, row in labels.items() if row["n_positive"] and row["n_negative"]}
    for pair in change.hospital["siblings"]:
        rows[f"{pair['first']} or {pair['second']}"] = pair["auroc"]
    if change.base is not None:
        rows[OWN] = change.base["macro_auroc"]["shared"]
    return rows
