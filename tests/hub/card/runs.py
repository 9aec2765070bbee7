"""Folders of finished runs for the tests of cards, made in a second: true reports on random films, without training."""

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd

from hf_cxr.arguments import parse_settings
from hf_cxr.calibration import fit_table
from hf_cxr.evaluation import is_composed
from hf_cxr.films import Films, label_summary
from hf_cxr.full_report import full_report
from hf_cxr.hierarchy import load_taxonomy
from hf_cxr.inspection import Inspection
from hf_cxr.labels import LabelPolicy, encode
from hf_cxr.models import CXRDenseNetConfig, CXRImageProcessor
from hf_cxr.operating_points import choose_operating_points
from hf_cxr.predictions import METADATA, PredictionTable
from hf_cxr.report.doubt import doubt_section
from hf_cxr.runs import describe_run, provenance, write_yaml
from tests.conftest import BACKBONES, join_stages

STAGE = {
    "seconds": 71.7943, "steps": 860, "steps_per_second": 11.979, "parameters": 411729, "processes": 1,
    "best_metric": 0.9085426963359717,
}  # fmt: skip
ENERGY = {
    "kwh": 0.012345,
    "co2_kg": 0.0045678,
    "country": "DEU",
    "processor": "Some CPU",
    "measured_by": "codecarbon 3.3.2",
}


def table_of(hierarchy, seed, n_films=260):
    """Films of 80 patients with findings that the probabilities know a little of; `Hernia` or `Fracture` is rare."""
    random = np.random.default_rng(seed)
    patients = np.sort(random.integers(0, 80, n_films))
    truth = np.zeros((n_films, len(hierarchy.names)))
    for i, name in enumerate(hierarchy.names):
        if not hierarchy.children[name]:
            truth[:, i] = random.random(n_films) < (0.01 if name in ("Hernia", "Fracture") else 0.15)
    for name in reversed(hierarchy.topological_order):
        if below := [hierarchy.names.index(child) for child in hierarchy.children[name]]:
            at = hierarchy.names.index(name)
            truth[:, at] = np.maximum(truth[:, at], truth[:, below].max(1))
    score = 1.2 * truth - 1.5 + random.normal(size=truth.shape)
    metadata = pd.DataFrame(
        {
            "view": np.where(random.random(n_films) < 0.6, "PA", "AP"),
            "sex": np.where(random.random(n_films) < 0.5, "M", "F"),
            "age": random.integers(10, 90, n_films),
        }
    )
    ids = np.array([f"{p:08d}_{i:03d}.png" for i, p in enumerate(patients)], dtype=object)
    owners = np.array([f"{p:08d}" for p in patients], dtype=object)
    return PredictionTable(hierarchy.names, ids, owners, truth, 1 / (1 + np.exp(-score)), metadata)


def make_run(
    folder, *words, taxonomy="nih", dataset="nih", looked=False, calibration="none", two_stage=False, energy=None,
    make_model=None, decided=True, known_patients=True, synthetic=False,
):  # fmt: skip
    """Write what `recipes/train.py` leaves, weights and tables aside; returns the folder.

    Args:
        words: more options of the recipe.
        looked: also write `looked.json`, a report of `recipes/evaluate.py` with doubt and heatmaps.
        decided: the report has thresholds. known_patients: it knows whose the films are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hierarchy = load_taxonomy(taxonomy)
    words = ["--dataset", dataset, "--taxonomy", taxonomy, "--output_dir", str(folder), *words]
    settings = parse_settings(words)
    validation, test = table_of(hierarchy, 1), table_of(hierarchy, 2)
    fitted = fit_table(validation, calibration, "validation")
    points = choose_operating_points(validation, hierarchy, "validation")
    config = _config(hierarchy, settings, two_stage, make_model)
    config.operating_points, config.calibration = asdict(points), fitted.to_config()
    config.save_pretrained(folder)
    CXRImageProcessor.for_model(config).save_pretrained(folder)
    described = describe_run(
        settings.to_plain(), _data(dataset) | {"synthetic": synthetic}, label_summary(_films(hierarchy))
    )
    write_yaml(folder / "run.yaml", described)
    stages = ("gate", "findings") if two_stage else ("model",)
    traced = provenance(described) | {"training": dict.fromkeys(stages, STAGE), "energy": energy}
    if not known_patients:
        test = replace(test, patients=test.ids, unit="image")
    report = full_report(
        test, hierarchy, "test", operating_points=points if decided else None,
        composed_by_model=is_composed(hierarchy, config.link), provenance=traced, n_resamples=60, calibration=fitted,
        uncalibrated=test, group_by=METADATA,
    )  # fmt: skip
    report.to_json(folder / "eval_report.json")
    if looked:
        _looked(report, test, validation, described).to_json(folder / "looked.json")
    return folder


def _config(hierarchy, settings, two_stage, make_model):
    if two_stage:
        gate = hierarchy.subset([hierarchy.gate])
        findings = hierarchy.subset([n for n in hierarchy.names if n != hierarchy.gate])
        parts = (make_model(hierarchy=part, head_dropout=0.2) for part in (gate, findings))
        return join_stages(*parts, hierarchy).config
    chosen = settings.model
    return CXRDenseNetConfig(
        **BACKBONES["densenet"], image_size=chosen.image_size, head_dropout=chosen.head_dropout, link=chosen.link,
        image_mean=0.51, image_std=0.23, **hierarchy.to_config(),
    )  # fmt: skip


def _films(hierarchy):
    raw = {split: table_of(hierarchy, seed) for seed, split in enumerate(("train", "validation", "test"))}
    observed = hierarchy.of_kind("finding", "device", "no_finding")
    labels = {}
    for split, table in raw.items():
        cells = table.in_order(observed).truth.astype(np.float32)
        if split == "train":
            cells[:5, 0] = -1
        labels[split] = encode(observed, cells, hierarchy, LabelPolicy())
    return Films(hierarchy, {}, labels, {})


def _data(dataset):
    return {
        "dataset": dataset, "data_dir": "films", "builder_version": "1.0.0",
        "fingerprint": "43b5c3d3344d6b9d356bd64191f1448b",
        "options": {"view": "frontal", "validation_fraction": 0.1, "split_seed": 0, "skip_missing": False},
        "splits": {name: {"films": 260, "patients": 77 + i} for i, name in enumerate(("train", "validation", "test"))},
        "skipped": {"no image": 3}, "notes": {"impossible ages": 0}, "test_source": "test_list.txt",
        "unreadable": {"train": 2, "validation": 0, "test": 0},
    }  # fmt: skip


def _looked(report, test, validation, described):
    """The report as `recipes/evaluate.py` gives it: of the same run, with doubt, heatmaps and the cost of a film."""
    random = np.random.default_rng(5)

    def inspected(table):
        doubt = {key: random.random(table.truth.shape) for key in ("entropy", "mutual_information", "deviation")}
        return Inspection(table.names, doubt, 30, 0, {}, {})

    doubt = doubt_section(test, report, inspected(test), inspected(validation), 0.8)
    score = {"n": 30, "n_empty": 1, "n_without_map": 0, "pointing": 0.4123, "iou": 0.2871, "inside": 0.3333}
    scores = {"Mass": score | {"area": 0.0521, "undefined": None}}
    return replace(
        report,
        provenance={"source": "films", **described["data"], "trained": provenance(described)},
        uncertainty=doubt,
        localisation={"source": "the boxes", "trained": scores, "untrained": scores},
        gate=report.gate | {"compute": {"flops": 144285000, "flops_gate": 144285000, "share_saved": 0.0}},
    )


def edit(path, change):
    """Apply a change to a JSON file's content."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
