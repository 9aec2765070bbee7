"""What an average of adapters is worth on each site's test films, beside the base and every site's own adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from hf_cxr.adaptation.merging import AveragingArguments
from hf_cxr.adaptation.report import side_of
from hf_cxr.adaptation.sites import AveragingError, Site
from hf_cxr.arguments import DataArguments, PolicyArguments
from hf_cxr.change import Side, compare_models
from hf_cxr.change.words import signed
from hf_cxr.data import load_splits, map_of
from hf_cxr.data.hospital_splits import SplitError
from hf_cxr.films import Films, prepare_split
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.operating_points import Criterion, OperatingPoints, choose_gate_threshold
from hf_cxr.verification import identity

SCHEMA_VERSION = 1
BASE, AVERAGE = "base", "average"
THRESHOLDS = (
    "Calibration and thresholds of the average are the base's, chosen before any site's films were seen; new labels "
    "have none. No validation films are shared: a site chooses thresholds for itself."
)
_CRITERION = Criterion.parse("sensitivity:0.95")
_SHARED_OPTIONS = ("view", "validation_fraction", "split_seed", "skip_missing")
_OWN_OPTIONS = ("test_fraction",)
"""Of the builder alone; its other options are paths on a site's machine."""


def names_of(sites: Sequence[Site]) -> list[str]:
    """What the sites are called in reports: their hospitals, with the report's fingerprint where two are the same."""
    names = [BASE, AVERAGE, *(site.name for site in sites)]
    return [site.name if names.count(site.name) == 1 else f"{site.name} ({site.report})" for site in sites]


def describe_average(
    base: CXRPreTrainedModel,
    averaged: CXRPreTrainedModel,
    sites: Sequence[Site],
    shares: Sequence[float],
    arguments: AveragingArguments,
    by_films: bool,
) -> dict[str, Any]:
    """Where an average comes from, as plain data without any folder.

    Args:
        by_films: whether the shares are those of training films, and not given.
    """
    names = names_of(sites)
    new = averaged.config.label_names[len(base.config.label_names) :]
    having = {n for n, share in zip(names, shares, strict=True) if share}
    return {
        "schema_version": SCHEMA_VERSION,
        "method": arguments.method,
        "density": arguments.density,
        "rank": arguments.rank,
        "seed": arguments.seed,
        "weights_from": "numbers of training films" if by_films else "given",
        "provenance": {
            "base": averaged.config.adapted_from,
            "model": identity(averaged),
            "sites": [
                {
                    "name": name,
                    "report": site.report,
                    "data": site.data["fingerprint"],
                    "films": site.films,
                    "share": share,
                    "rank": site.lora.r,
                }
                for name, site, share in zip(names, sites, shares, strict=True)
            ],
            "versions": {name: version(name) for name in ("hf_cxr", "peft", "torch", "transformers")},
        },
        "labels": {
            "base": len(base.config.label_names),
            "new": {
                label: [n for n, s in zip(names, sites, strict=True) if n in having and label in s.config.label_names]
                for label in new
            },
        },
        "thresholds": THRESHOLDS,
    }


def evaluate_average(
    maps: Sequence[Path],
    base: CXRPreTrainedModel,
    sites: Sequence[Site],
    averaged: CXRPreTrainedModel,
    processor: CXRImageProcessor,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Base, every site's adapter and the average on the test films of each map (data set `hospital`).

    Args:
        maps: of sites that are among `sites`, or of others; those whose films are on this machine. A site's own map is
            known by its hospital's name and by the fingerprint of the data that it trained on. Options of the data set
            are then those of the site's report; what uncertain and blank cells mean is the default.
        processor: of all. seed: of the bootstrap over patients.

    Returns:
        one entry a map: `{hospital, split, n_images, n_patients, intervals, trained_on: names of sites, labels: {label:
        {n_positive, n_negative, n_unknown}}, models: {name: {auroc: {label: {value, ci, undefined}}, gate: {threshold,
        sensitivity, specificity: {value, ci, undefined}} or None}}, differences: {"average − <name>": {label: row of
        `change.pairs.Pair`}}, refitted: the gate of the average at a threshold chosen on the map's validation films}`.

    Raises:
        AveragingError: a map by the name of a site's hospital, whose data no site of that name trained on.
        Otherwise as `films.prepare_split`.
    """
    own = {name: site.model(base) for name, site in zip(names_of(sites), sites, strict=True)}
    models = {BASE: base, **own, AVERAGE: averaged}
    return [_evaluate(path, models, dict(zip(own, sites, strict=True)), processor, seed) for path in maps]


def _evaluate(
    path: Path, models: Mapping[str, CXRPreTrainedModel], sites: Mapping[str, Site], processor: Any, seed: int
) -> dict[str, Any]:
    hospital = map_of("hospital", path)
    assert hospital is not None  # the data set has one
    data, trained = _known_by_data(path, {name: site for name, site in sites.items() if site.name == hospital.name})
    hierarchy = Hierarchy.from_config(models[AVERAGE].config)

    def films(split: str) -> Films:
        return prepare_split(data, PolicyArguments(), processor, hierarchy, split)

    test = films("test")
    sides = {name: side_of(model, test, "test") for name, model in models.items()}
    where = f"test films of {hospital.name}"
    compared = {n: compare_models(where, sides[BASE], side, seed=seed) for n, side in sides.items() if n != BASE}
    last = compared[AVERAGE]
    rows = {BASE: (last, "before")} | {name: (result, "after") for name, result in compared.items()}
    against = {BASE: last} | {n: compare_models(where, sides[n], sides[AVERAGE], seed=seed) for n in trained}
    known = {n: row for n, row in last["labels"].items() if row["n_positive"] + row["n_negative"]}
    return {
        "hospital": hospital.name,
        "split": "test",
        "n_images": last["n_images"],
        "n_patients": last["n_patients"],
        "intervals": last["intervals"],
        "trained_on": list(trained),
        "labels": {n: {key: row[key] for key in ("n_positive", "n_negative", "n_unknown")} for n, row in known.items()},
        "models": {name: _figures(*row, known) for name, row in rows.items()},
        "differences": {
            f"{AVERAGE} − {name}": {label: result["labels"][label]["auroc"] for label in known}
            for name, result in against.items()
        },
        "refitted": _refitted(models[AVERAGE], films, sides, where, seed),
    }


def _known_by_data(path: Path, named: Mapping[str, Site]) -> tuple[DataArguments, dict[str, Site]]:
    """How a map's films are read, and which of the sites of its name were trained on them.

    The name alone may be that of a file, `my_hospital`, which two hospitals gave their maps.
    """
    trained: dict[str, Site] = {}
    chosen, unlike = None, []
    for name, site in named.items():
        data = _read_with(path, site.data.get("options", {}))
        try:
            found = load_splits(data.dataset, data.data_dir, data.cache_dir, **data.builder_options())[1]["fingerprint"]
        except SplitError as error:  # the splits that lie here were cut with other options than this site's
            found = f"which its options cannot split: {error}"
        if found == site.data["fingerprint"]:
            trained[name] = site
            chosen = chosen or data
        else:
            unlike.append(f"{site.folder} on {site.data['fingerprint']} (these are {found})")
    if named and not trained:
        name = next(iter(named.values())).name
        raise AveragingError(
            f"{path}: adapters of a hospital of its name ({name}) were trained on other data: {'; '.join(unlike)}, so "
            "that their training films may be among these test films. Use the map, tables and splits of the training; "
            "or, if this is another hospital, give its map a name of its own (`hospital: …`)"
        )
    return chosen or _read_with(path, {}), trained


def _read_with(path: Path, options: Mapping[str, Any]) -> DataArguments:
    own = {key: options[key] for key in _OWN_OPTIONS if key in options}
    shared = {key: options[key] for key in _SHARED_OPTIONS if key in options}
    return DataArguments(dataset="hospital", data_dir=str(path), data_options=own or None, **shared)


def _figures(result: Mapping[str, Any], side: str, labels: Mapping[str, Any]) -> dict[str, Any]:
    gate = result["gate"]
    return {
        "auroc": {name: _one(result["labels"][name]["auroc"], side) for name in labels},
        "gate": None if gate is None else _gate(gate, side),
    }


def _gate(gate: Mapping[str, Any], side: str) -> dict[str, Any]:
    return {"threshold": gate["threshold"][side]} | {k: _one(gate[k], side) for k in ("sensitivity", "specificity")}


def _one(row: Mapping[str, Any], side: str) -> dict[str, Any]:
    why = [text for key, text in row["undefined"].items() if key in (side, f"{side}_ci")]
    return {"value": row[side], "ci": row[f"{side}_ci"], "undefined": why[0] if why else None}


def _refitted(
    averaged: CXRPreTrainedModel, films: Any, sides: Mapping[str, Side], where: str, seed: int
) -> dict[str, Any] | None:
    """Only the threshold is chosen again, and only for this table: the saved average does not have it."""
    gate = sides[AVERAGE].hierarchy.gate
    if gate is None:
        return None
    truth, probability = side_of(averaged, films("validation"), "validation").table.column(gate)
    if len(np.unique(truth[~np.isnan(truth)])) < 2:
        return {"undefined": f"the validation films of this hospital do not have both classes of {gate}"}
    threshold = choose_gate_threshold(truth, probability, gate, "validation", _CRITERION)
    points = OperatingPoints("validation", threshold, str(_CRITERION), "none", {})
    result = compare_models(where, sides[BASE], replace(sides[AVERAGE], operating_points=points), seed=seed)
    return {"criterion": f"{_CRITERION} on validation", "gate": _gate(result["gate"], "after")}


def average_markdown(result: Mapping[str, Any]) -> str:
    """The same for readers.

    Args:
        result: of `describe_average`, with `evaluation` of `evaluate_average` beside it.
    """
    about = result["provenance"]
    how = [f"{key} {result[key]}" for key in ("density", "rank") if result[key] is not None]
    new = "; ".join(f"{label} ({', '.join(sites)})" for label, sites in result["labels"]["new"].items())
    parts = [
        "# Adapters averaged",
        f"Base {about['base']['name']} (weights {about['base']['weights']}); method "
        f"{', '.join([result['method'], *how])}; weights: {result['weights_from']}.",
        _table(
            ["site", "training films", "weight", "rank", "report", "data"],
            [
                [s["name"], f"{s['films']:,}", f"{s['share']:.3f}", str(s["rank"]), s["report"], s["data"]]
                for s in about["sites"]
            ],
        ),
        f"Labels: the base's {result['labels']['base']}"
        + (f", and new ones of the sites that have them: {new}." if new else "; no new ones."),
        result["thresholds"],
    ]
    for site in result["evaluation"]:
        parts += _site_markdown(site)
    return "\n\n".join(parts) + "\n"


def _site_markdown(site: Mapping[str, Any]) -> list[str]:
    shown = [name for name, row in site["labels"].items() if row["n_positive"] and row["n_negative"]]
    left = [name for name in site["labels"] if name not in shown]
    patients = "unknown" if site["n_patients"] is None else f"{site['n_patients']:,}"
    own = f"trained on here: {', '.join(site['trained_on'])}" if site["trained_on"] else "no site's adapter is of here"
    gates = {name: model["gate"] for name, model in site["models"].items() if model["gate"]}
    parts = [
        f"## {site['hospital']}",
        f"{site['n_images']:,} test films of {patients} patients; {own}. AUROC with {site['intervals']['level']:.0%} "
        f"interval ({site['intervals']['method']})"
        + (f"; of one class only, without AUROC: {', '.join(left)}." if left else "."),
        _table(
            ["model", *(f"{name} ({site['labels'][name]['n_positive']:,} positive)" for name in shown)],
            [[name, *(_cell(model["auroc"][label]) for label in shown)] for name, model in site["models"].items()],
        ),
        _table(
            ["difference in AUROC", *shown],
            [[name, *(signed(rows[label]) for label in shown)] for name, rows in site["differences"].items()],
        ),
    ]
    refitted = site["refitted"]
    if refitted and "gate" in refitted:
        gates[f"{AVERAGE}, {refitted['criterion']} here"] = refitted["gate"]
    if gates:
        rows = [
            [name, "–" if (t := gate["threshold"]) is None else f"{t:.3f}"]
            + [_cell(gate[rate]) for rate in ("sensitivity", "specificity")]
            for name, gate in gates.items()
        ]
        parts.append(_table(["gate", "threshold", "sensitivity", "specificity"], rows))
    if refitted and "undefined" in refitted:
        parts.append(f"No threshold of the gate was chosen here: {refitted['undefined']}.")
    return parts


def _cell(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "–"
    return f"{row['value']:.3f}" + (f" ({row['ci'][0]:.3f}–{row['ci'][1]:.3f})" if row["ci"] else "")


def _table(head: list[str], rows: list[list[str]]) -> str:
    # A hospital's own words may hold what ends a cell.
    cells = [[cell.replace("|", "\\|") for cell in row] for row in [head, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    lines.insert(1, f"| --- |{' ---: |' * (len(head) - 1)}")
    return "\n".join(lines)
