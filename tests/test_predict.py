"""Batch prediction against the models' own forward pass and the pipeline; sources, bad films, stopping, refusals."""

import csv
import gc
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import date
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from hf_cxr.arguments import SettingsError
from hf_cxr.explain import look
from hf_cxr.models import SINGLE_STAGE, CXRImageProcessor
from hf_cxr.pipeline import TASK
from hf_cxr.predict import (
    LostFilmsError,
    ModelError,
    OutputFolderError,
    PredictArguments,
    SourceError,
    parse_predict_settings,
    predict,
)
from hf_cxr.predict import run as running
from hf_cxr.predict import shards as shards_module
from hf_cxr.predict.lists import CsvSource
from hf_cxr.predict.overlays import file_name, overlay
from hf_cxr.predict.reading import in_order
from hf_cxr.predict.shards import ParquetSource
from hf_cxr.predict.sources import FolderSource, within
from hf_cxr.predict.writing import OutputFolder
from hf_cxr.predictions import PredictionTable
from hf_cxr.uncertainty import NoDropoutError, mc_dropout
from tests.conftest import BACKBONES, REPO, join_stages
from tests.test_pipeline import every_node, lively, operating_points

N, SIZE = 11, 32
SMALL = {"batch_size": 2, "rows_per_part": 3, "num_workers": 2}  # parts of 4 films: 4, 4, 3


def film(i):
    random = np.random.default_rng(i)
    return (20 + 12 * i + random.integers(0, 100, (40, 48))).clip(0, 255).astype(np.uint8)


def tiny(kind, hierarchy, **settings):
    torch.manual_seed(0)
    config_class, model_class = SINGLE_STAGE[f"cxr-{kind}"]
    shared = {"image_size": SIZE, "link": "conditional", **hierarchy.to_config()}
    return lively(model_class(config_class(**BACKBONES[kind], **shared, **settings)))


def save(model, folder):
    model.save_pretrained(folder)
    CXRImageProcessor.for_model(model.config, "pad").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(nih, tmp_path_factory):
    """A folder with a calibrated one-stage model, its inputs normalised film by film; no threshold for Hernia."""
    own = tiny("densenet", nih, head_dropout=0.4, image_mean=None, image_std=None)
    own.config.calibration = {"coefficients": {name: [0.9, 1.1, 0.2] for name in nih.names}}
    thresholds = dict.fromkeys(nih.names, 0.05) | {"Hernia": None, nih.gate: 0.99}
    own.config.operating_points = operating_points(thresholds, 0.0)
    folder = save(own, tmp_path_factory.mktemp("models") / "one_stage")
    own = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        gate = own(pixels(folder, range(N))).logits.sigmoid()[:, nih.names.index(nih.gate)].sort().values.double()
    own.config.operating_points["gate_threshold"] = gate[2:4].mean().item()  # three films are cleared
    own.config.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def two_stage(nih, tmp_path_factory):
    """Four of the films are cleared and not looked at by its second model."""
    few = nih.subset(["Abnormal", "Opacity", "Mass", "Cardiomegaly"])
    both = join_stages(tiny("vit", few.subset(["Abnormal"])), tiny("densenet", few.subset(list(few.names[1:]))), few)
    folder = save(both, tmp_path_factory.mktemp("models") / "two_stage")
    with torch.no_grad():
        gate = both.gate(pixels(folder, range(N))).logits[:, 0].double().sigmoid().sort().values
    both.config.gate_threshold = gate[3:5].mean().item()
    both.config.operating_points = operating_points(dict.fromkeys(few.names, 0.01), both.config.gate_threshold)
    both.config.save_pretrained(folder)
    return folder


def pixels(model, numbers):
    processor = CXRImageProcessor.from_pretrained(model)
    return processor([film(i) for i in numbers], return_tensors="pt")["pixel_values"]


def loaded(model):
    return AutoModelForImageClassification.from_pretrained(model).eval()


NAMES = [f"a/{i:02d}.png" for i in range(4)] + [f"b/c/{i:02d}.png" for i in range(4, 7)] + ["d.png", "e.png"]
NAMES += ["z/09.png", "z/10.tif"]


def put(folder, names=NAMES):
    """The N films under these names: 8 and 16 bits deep, gray and RGB."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = film(i).astype(np.uint16) * 257 if i % 3 == 0 else film(i)
        image = Image.fromarray(values)
        (image.convert("RGB") if i % 3 == 1 else image).save(path)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return put(tmp_path_factory.mktemp("films"))


def settings(model, source, out, **other):
    return PredictArguments(**{"model": str(model), "source": str(source), "output_dir": str(out), **SMALL, **other})


def made(model, source, out, **other):
    done = predict(settings(model, source, out, **other))
    assert done.table == out / f"predictions.{other.get('format', 'csv')}"
    return read(done.table)


def read(path):
    return pd.read_csv(path, dtype={"id": str, "patient": str})


def figures(frame, names, what="prob"):
    return frame[[f"{name}_{what}" for name in names]].to_numpy(float)


def expected(model, numbers=range(N)):
    own = loaded(model)
    with torch.no_grad():
        return own(pixels(model, numbers)).logits.double().sigmoid().numpy()


@pytest.fixture(scope="module")
def once(model, folder, tmp_path_factory):
    """A finished run over the folder."""
    out = tmp_path_factory.mktemp("out") / "predictions"
    made(model, folder, out)
    return out


def recipe(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["recipes/predict.py", *map(str, words)])
    runpy.run_path(str(REPO / "recipes" / "predict.py"), run_name="__main__")


# Figures


def test_a_folder_in_its_order_with_the_models_own_figures(once, model, nih):
    frame = read(once / "predictions.csv")
    assert list(frame.id) == NAMES
    np.testing.assert_allclose(figures(frame, nih.names), expected(model), rtol=0, atol=1e-6)
    assert expected(model).std(0).min() > 1e-4  # films that change places would be seen
    assert [c for c in frame if c.endswith("_prob")] == [f"{name}_prob" for name in nih.names]
    assert frame.error.isna().all()
    assert not (once / "errors.csv").exists()
    assert sorted(path.name for path in once.iterdir()) == ["predict.yaml", "predictions.csv"]


def test_decisions_are_the_pipelines(once, model, folder, nih):
    frame = read(once / "predictions.csv")
    seen = pipeline(TASK, model=str(model))([str(folder / name) for name in NAMES], batch_size=4)
    nodes = [dict(every_node(each["findings"])) for each in seen]
    for name in nih.names:
        if name == "Hernia":  # without a threshold
            assert "Hernia_decision" not in frame
            continue
        assert list(frame[f"{name}_decision"]) == [int(of_film[name]["decision"]) for of_film in nodes]
    assert list(frame.gate_cleared) == [int(each["gate"]["cleared"]) for each in seen]
    assert frame.gate_cleared.sum() == 3
    decided = frame[[c for c in frame if c.endswith("_decision")]].to_numpy()
    assert 0 < decided.mean() < 1


def test_two_stages_differ_from_a_runs_own_table_only_on_cleared_films(two_stage, folder, tmp_path):
    frame, own = made(two_stage, folder, tmp_path / "out"), loaded(two_stage)
    names = own.config.label_names
    np.testing.assert_allclose(figures(frame, names), expected(two_stage), rtol=0, atol=1e-6)
    with torch.no_grad():
        all_run = own(pixels(two_stage, range(N)), run_all=True).logits.double().sigmoid().numpy()
    ran = frame.finding_model_ran.to_numpy() == 1
    assert ran.sum() == N - 4
    np.testing.assert_allclose(figures(frame, names)[ran], all_run[ran], rtol=0, atol=1e-6)
    findings = [name != "Abnormal" for name in names]
    assert np.abs(figures(frame, names) - all_run)[~ran][:, findings].max() > 1e-3
    # cleared: decided negative, though above their thresholds of 0.01
    assert (figures(frame, names)[~ran] > 0.01).all()
    assert (figures(frame, names, "decision")[~ran][:, findings] == 0).all()
    assert (figures(frame, names, "decision")[ran] == 1).all()
    assert list(frame.gate_cleared) == list(1 - frame.finding_model_ran)


def test_dropout(model, folder, tmp_path, nih):
    frame = made(model, folder, tmp_path / "out", dropout_passes=5, seed=3)
    doubt = mc_dropout(loaded(model), pixels(model, range(N)), n_passes=5, seed=3)
    for what in ("entropy", "deviation"):
        np.testing.assert_allclose(figures(frame, nih.names, what), getattr(doubt, what).numpy(), rtol=0, atol=1e-6)
    assert doubt.deviation.min() > 0
    # beside them the probabilities without dropout
    np.testing.assert_allclose(figures(frame, nih.names), expected(model), rtol=0, atol=1e-6)


def test_dropout_of_a_model_without_any(two_stage, folder, tmp_path):
    with pytest.raises(NoDropoutError):
        predict(settings(two_stage, folder, tmp_path / "out", dropout_passes=5))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["model", "two_stage"])
def test_heatmaps_of_the_findings_decided_positive(which, request, folder, tmp_path):
    where = request.getfixturevalue(which)
    frame, own = made(where, folder, tmp_path / "out", heatmaps=True), loaded(where)
    names, kinds = own.config.label_names, own.config.node_kinds
    findings = [n for n in names if kinds[n] == "finding" and f"{n}_decision" in frame]
    wanted = {
        f"{row['id'].replace('/', '%2F')}_{name}.png": (i, name)
        for i, row in frame.iterrows()
        for name in findings
        if row[f"{name}_decision"] == 1 and row["gate_cleared"] == 0
    }
    assert {path.name for path in (tmp_path / "out" / "heatmaps").iterdir()} == wanted.keys()
    decided = frame[[f"{n}_decision" for n in findings]].to_numpy()
    if which == "model":  # cleared films have decisions of their own, but no pictures
        assert len(wanted) < decided.sum()
    inputs, processor = pixels(where, range(N)), CXRImageProcessor.from_pretrained(where)
    maps = look(own, inputs, n_passes=None).heatmaps.numpy()
    file, (i, name) = next(iter(wanted.items()))
    drawn = np.asarray(Image.open(tmp_path / "out" / "heatmaps" / file)).astype(int)
    assert drawn.shape == (SIZE, SIZE, 3)
    own_overlay = overlay(processor.prepare(film(i)), maps[i, names.index(name)])
    assert np.abs(drawn - own_overlay).max() <= 1  # rounding of the map in another batch
    np.testing.assert_allclose(figures(frame, names), expected(where), rtol=0, atol=1e-5)


def test_an_overlay_leaves_the_film_where_the_map_is_dark():
    gray = np.arange(16, dtype=np.uint8).reshape(4, 4)
    heat = np.zeros((4, 4))
    heat[1, 2] = 1
    drawn = overlay(gray, heat)
    dark = heat == 0
    assert (drawn[dark] == gray[dark][:, None]).all()
    np.testing.assert_array_equal(
        drawn[1, 2], np.rint(0.4 * gray[1, 2] + 0.6 * np.array([252, 255, 164]))
    )  # its yellow


def test_names_of_overlays_stay_in_their_folder_and_apart():
    assert file_name("../a b/c.png", "Lung Lesion") == "..%2Fa b%2Fc.png_Lung Lesion.png"
    long = [file_name("x" * 300 + end, "Mass") for end in "ab"]
    assert len(set(long)) == 2
    assert max(map(len, long)) < 255


def test_heatmaps_need_decisions(model, folder, tmp_path):
    undecided = tmp_path / "undecided"
    shutil.copytree(model, undecided)
    config = json.loads((undecided / "config.json").read_text())
    (undecided / "config.json").write_text(json.dumps(config | {"operating_points": None}))
    with pytest.raises(ModelError, match="no operating points"):
        predict(settings(undecided, folder, tmp_path / "out", heatmaps=True))
    frame = made(undecided, folder, tmp_path / "out")
    assert not [c for c in frame if c.endswith("_decision")]
    assert frame.gate_cleared.isna().all()


# Sources


def write_list(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def listed(nih, names=NAMES):
    """A list with truth, some of it unknown, in an order of its own and with text that looks like numbers."""
    rows = [
        {"view": "PA", "path": name, "patient": f"{i:03d}", "sex": "FM"[i % 2], "age": "" if i == 2 else str(20 + i)}
        | {label: ["1", "0", "", "1.0"][(i + at) % 4] for at, label in enumerate(nih.names)}
        for i, name in enumerate(names)
    ]
    return rows[::-1]


def test_a_list_is_carried_and_can_be_evaluated(model, folder, nih, tmp_path, monkeypatch):
    films = tmp_path / "sub" / "films"
    shutil.copytree(folder, films)
    rows = listed(nih, [f"films/{name}" for name in NAMES])
    rows.insert(3, rows[0] | {"path": "films/gone.png", "patient": "x"})
    write_list(tmp_path / "sub" / "list.csv", rows)
    monkeypatch.chdir(folder)  # paths are relative to the list, not to here
    frame = made(model, tmp_path / "sub" / "list.csv", tmp_path / "out")
    assert list(frame.columns[:5]) == ["id", "view", "patient", "sex", "age"]
    assert list(frame.id) == [row["path"] for row in rows]
    text = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str, keep_default_na=False)
    for name in ("patient", "sex", "age", "view"):
        assert list(text[name]) == [row[name] for row in rows]
    with pytest.raises(ValueError, match="probability nan"):
        PredictionTable.read(tmp_path / "out" / "predictions.csv")
    frame[frame.error.isna()].to_csv(tmp_path / "read.csv", index=False)
    table = PredictionTable.read(tmp_path / "read.csv")
    good = [row for row in rows if row["path"] != "films/gone.png"]
    assert table.names == nih.names
    assert table.n_patients == N
    assert list(table.patients) == [row["patient"] for row in good]
    truth = [[float(row[name]) if row[name] else np.nan for name in nih.names] for row in good]
    np.testing.assert_array_equal(table.truth, truth)
    np.testing.assert_allclose(table.probability, expected(model)[::-1], rtol=0, atol=1e-6)


def test_an_evaluated_table_in_every_format(model, folder, nih, tmp_path):
    rows = listed(nih)
    source = write_list(folder / "list.csv", rows)
    try:
        tables = {}
        for form in ("csv", "parquet", "jsonl"):
            done = predict(settings(model, source, tmp_path / form, format=form))
            tables[form] = done.table
    finally:
        source.unlink()
    first, second = PredictionTable.read(tables["csv"]), PredictionTable.read(tables["parquet"])
    assert list(first.ids) == list(second.ids)
    assert list(first.patients) == list(second.patients)
    np.testing.assert_array_equal(first.truth, second.truth)
    np.testing.assert_array_equal(first.probability, second.probability)  # no digit lost in CSV
    lines = [json.loads(line) for line in tables["jsonl"].read_text().splitlines()]
    columns = pq.read_schema(tables["parquet"]).names
    assert list(lines[0]) == columns == list(read(tables["csv"]).columns)
    assert lines == pq.read_table(tables["parquet"]).to_pylist()
    assert [line["age"] for line in lines] == [row["age"] or None for row in rows]


def test_columns_of_paths_and_ids(model, folder, tmp_path):
    names = NAMES[:5]
    rows = [{"File": folder / name, "Number": f"{i:04d}", "note": 'a, "b"\nc'} for i, name in enumerate(names)]
    source = write_list(tmp_path / "list.csv", rows)
    with pytest.raises(SourceError, match=r"no column 'path' .*it has \['File', 'Number', 'note'\]"):
        predict(settings(model, source, tmp_path / "out"))
    with pytest.raises(SourceError, match="data row 1 would be called by an absolute path"):
        predict(settings(model, source, tmp_path / "out", path_column="File"))
    frame = made(model, source, tmp_path / "out", path_column="File", id_column="Number")
    assert list(frame.id) == ["0000", "0001", "0002", "0003", "0004"]
    assert list(frame.note) == ['a, "b"\nc'] * 5
    assert "File" not in frame  # absolute paths
    assert str(folder) not in (tmp_path / "out" / "predictions.csv").read_text()
    # an absolute path below the list's own folder has a name relative to it
    inside = write_list(folder / "inside.csv", [{"path": str(folder / names[0])}])
    assert [row.id for row in CsvSource(inside, (), "path", None).rows([range(1)])] == [names[0]]
    inside.unlink()


def shards(folder, numbers, paths=True, **other):
    """A Parquet file as `datasets` writes it, bytes and all."""
    rows = []
    for i in numbers:
        content = io.BytesIO()
        Image.fromarray(film(i)).save(content, "png")
        rows.append({"bytes": content.getvalue(), "path": NAMES[i] if paths else None})
    features = datasets.Features({"image": datasets.Image()}) if not other else None
    columns = {"image": rows, **{name: [make(i) for i in numbers] for name, make in other.items()}}
    return datasets.Dataset.from_dict(columns, features=features).cast_column("image", datasets.Image())


def test_parquet_files_of_datasets(model, nih, tmp_path):
    source = tmp_path / "shards" / "deep"
    source.mkdir(parents=True)
    columns = {
        "age": lambda i: 20 + i if i % 2 else None,
        "day": lambda i: date(2020, 1, 1 + i),
        "boxes": lambda i: [i, i],
        "Mass": lambda i: i % 2,
    }
    shards(tmp_path, range(7), **columns).to_parquet(source / "train-00000.parquet", batch_size=2)  # row groups of two
    shards(tmp_path, range(7, N), **columns).to_parquet(source / "train-00001.parquet", batch_size=3)
    assert pq.ParquetFile(source / "train-00000.parquet").num_row_groups == 4
    frame = made(model, tmp_path / "shards", tmp_path / "out")
    assert list(frame.id) == NAMES
    np.testing.assert_allclose(figures(frame, nih.names), expected(model), rtol=0, atol=1e-6)
    assert list(frame.columns[:4]) == ["id", "age", "day", "Mass"]
    ages = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str, keep_default_na=False).age
    assert list(ages) == [str(20 + i) if i % 2 else "" for i in range(N)]  # no 21.0
    assert frame.day[3] == "2020-01-04"
    described = yaml.safe_load((tmp_path / "out" / "predict.yaml").read_text())
    assert described["source"]["left_out"] == ["boxes"]
    assert described["source"]["kind"] == "parquet"
    # one file alone
    alone = made(model, source / "train-00001.parquet", tmp_path / "alone")
    pd.testing.assert_frame_equal(alone[["id", "age"]], frame[7:][["id", "age"]].reset_index(drop=True))


@pytest.mark.parametrize("at_a_time", [2, 16])
@pytest.mark.parametrize("group", [2, 7])
def test_parquet_ids_and_rows_anywhere(at_a_time, group, tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "_ROWS", at_a_time)
    columns = {"name": lambda i: f"film {i}", "sex": lambda i: "FM"[i % 2]}
    named = shards(tmp_path, range(7), paths=False, **columns)
    named.to_parquet(tmp_path / "a.parquet", batch_size=group)
    shards(tmp_path, range(7, N), paths=False, **columns).to_parquet(tmp_path / "b.parquet", batch_size=3)
    every = [f"a.parquet:{i}" for i in range(7)] + [f"b.parquet:{i}" for i in range(N - 7)]
    source = ParquetSource(tmp_path, "image", None)
    assert list(source.ids()) == every
    for ranges in ([range(N)], [range(0, 1), range(3, 5), range(6, 9)], [range(1, 2), range(10, 11)], []):
        rows = list(source.rows(ranges))
        assert [row.number for row in rows] == [n for each in ranges for n in each]
        assert [row.id for row in rows] == [every[n] for each in ranges for n in each]
        for row in rows:
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row.image))), film(row.number))
            assert row.metadata == {"name": f"film {row.number}", "sex": "FM"[row.number % 2]}
    assert list(ParquetSource(tmp_path, "image", "name").ids()) == [f"film {i}" for i in range(N)]


def test_parquet_without_bytes_and_with_categories(model, folder, nih, tmp_path):
    """`to_parquet` of a data set that was not embedded stores paths; pandas stores categories as dictionaries."""
    shutil.copytree(folder, tmp_path / "in")
    image = pa.array([{"bytes": None, "path": name} for name in NAMES[:3]] + [None])
    view = pa.array(["PA", "AP", "PA", None]).dictionary_encode()
    pq.write_table(pa.table({"image": image, "view": view}), tmp_path / "in" / "x.parquet")
    frame = made(model, tmp_path / "in" / "x.parquet", tmp_path / "out")
    assert list(frame.id) == [*NAMES[:3], "x.parquet:3"]
    np.testing.assert_allclose(figures(frame, nih.names)[:3], expected(model, range(3)), rtol=0, atol=1e-6)
    assert list(frame["view"][:3]) == ["PA", "AP", "PA"]
    assert frame.error[3] == "FilmError: no file is named, and no bytes are given"


def test_folders_are_walked_without_circles_and_hidden_files(tmp_path):
    put(tmp_path, ["b/1.png", "a/2.JPG", "c.png", "a.png"])
    (tmp_path / "a" / "notes.txt").write_text("no film")
    (tmp_path / ".hidden").mkdir()
    for hidden in (".hidden/x.png", "b/._1.png"):
        (tmp_path / hidden).write_bytes(b"")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    assert list(FolderSource(tmp_path).ids()) == ["a/2.JPG", "a.png", "b/1.png", "c.png", "linked/1.png"]


def bad_lists(folder, nih):
    good = {"path": "a.png", "patient": "1"}
    return {
        "no header": ("", "no column 'path'"),
        "no rows": ("path\n", "no film in it; expected at least one row"),
        "blank path": ("path,patient\na.png,1\n,2\n", "data row 2 has no id"),
        "twice": ("path\na.png\nb.png\na.png\n", "id 'a.png' in data rows 1 and 3"),
        "cells": ("path,patient\na.png,1\nb.png\n", "data row 2 has 1 cells, the header 2"),
        "truth": ("path,Mass\na.png,1\nb.png,often\n", "data row 2, label 'Mass': 'often'; expected 1, 0, -1 or blank"),
        "soft truth": ("path,Mass\na.png,0.5\n", "'0.5'"),
        "column twice": ("path,a,a\na.png,1,2\n", r"several columns are called \['a'\]"),
        "ours": ("path,error,Mass_prob\na.png,1,2\n", r"\['Mass_prob', 'error'\], which the table makes itself"),
        "not UTF-8": ("path,name\na.png,M\udcfcller\n", "cannot be read as CSV in UTF-8"),
        "quotes": ('path\n"a.png\n', "cannot be read as CSV"),
        "absolute": (f"path\n{good['path']}\n/data/b.png\n", "data row 2 would be called by an absolute path"),
    }


@pytest.mark.parametrize("which", bad_lists(None, None))
def test_lists_that_cannot_be_used(which, model, nih, tmp_path):
    text, message = bad_lists(None, None)[which]
    (tmp_path / "list.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(SourceError, match=message) as caught:
        predict(settings(model, tmp_path / "list.csv", tmp_path / "out"))
    assert "list.csv" in str(caught.value) or which == "ours"
    assert not (tmp_path / "out").exists()


def test_sources_that_cannot_be_used(model, folder, tmp_path):
    def refused(source, message, **other):
        with pytest.raises(SourceError, match=message):
            predict(settings(model, source, tmp_path / "out", **other))
        assert not (tmp_path / "out").exists()

    refused(tmp_path / "nowhere", "no such file or folder")
    (tmp_path / "list.txt").write_text("a.png")
    refused(tmp_path / "list.txt", "expected a folder, a .csv or a .parquet")
    (tmp_path / "films").mkdir()
    refused(tmp_path / "films", "no film in it; expected files that end in .png")
    refused(tmp_path / "x.csv", "no such file")
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    pq.write_table(pa.table({"image": [b""]}), mixed / "a.parquet")
    refused(mixed, "holds films and Parquet files besides, first a.parquet")
    put(mixed, ["z.png"])
    pq.write_table(pa.table({"image": [b""]}), mixed / "0.parquet")
    refused(mixed, "holds Parquet files and films besides")
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    pq.write_table(pa.table({"image": [b"x"], "age": [1]}), parquet / "a.parquet")
    refused(parquet, r"no column 'film' with films \(--image_column\); it has \['image', 'age'\]", image_column="film")
    refused(parquet, "column 'age' is int64; expected struct<bytes, path>", image_column="age")
    refused(parquet, "no column 'no'", id_column="no")
    pq.write_table(pa.table({"image": [b"x"], "age": ["1"]}), parquet / "b.parquet")
    refused(parquet, r"b.parquet has other columns than a.parquet: \[\('age', 'string'\)\] against")
    (parquet / "b.parquet").write_bytes(b"PAR1 no more")
    refused(parquet, "b.parquet cannot be read as Parquet")
    with pytest.raises(SourceError, match="lies in the source"):
        predict(settings(model, folder, folder / "out"))


def test_ranges_in_a_span():
    """No empty one, for which a row group would be read in vain."""
    wanted = [range(0, 4), range(8, 12), range(12, 16)]
    spans = {(4, 8): [], (3, 9): [range(3, 4), range(8, 9)], (12, 14): [range(12, 14)], (16, 20): [], (0, 20): wanted}
    for span, inside in spans.items():
        assert shards_module._overlaps(wanted, range(*span)) == inside


def test_ranges_of_a_stream():
    assert list(within("abcdefgh", [range(1, 3), range(3, 4), range(6, 9)])) == [
        (1, "b"), (2, "c"), (3, "d"), (6, "g"), (7, "h"),
    ]  # fmt: skip


@pytest.mark.parametrize("n_threads", [0, 1, 3])
def test_no_more_is_taken_than_is_needed_soon(n_threads):
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = in_order(lambda i: i * i, endless(), n_threads, ahead=4)
    for i in range(50):
        assert next(results) == i * i
        assert len(taken) <= i + 6
    before = threading.active_count()
    results.close()
    assert threading.active_count() <= before


def test_rows_are_read_as_they_are_needed(folder, tmp_path):
    """What is alive of a list of 20,000 rows while one goes through it is a few rows."""
    source = CsvSource(write_list(tmp_path / "l.csv", [{"path": f"{i}.png"} for i in range(20_000)]), (), "path", None)
    rows = source.rows([range(20_000)])
    for _ in range(10_000):
        row = next(rows)
    assert sum(type(each) is type(row) for each in gc.get_objects()) < 5


# Bad films


def spoil(folder):
    """Eight bad films among good ones: which, and what is said of them."""
    put(folder)
    whole = (folder / "e.png").read_bytes()
    (folder / "a" / "00_truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "empty.png").write_bytes(b"")
    (folder / "b" / "text.jpg").write_text("no picture")
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(folder / "blank.png")
    Image.fromarray(np.full((40, 40), 0.5, np.float32) * film(0)[:40, :40]).save(folder / "float.tif")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    corrupt = bytearray(whole)
    corrupt[len(whole) // 2 : len(whole) // 2 + 40] = b"\0" * 40
    (folder / "z" / "corrupt.png").write_bytes(bytes(corrupt))
    return {
        "a/00_truncated.png": "OSError: image file is truncated",
        "b/empty.png": "UnidentifiedImageError: not a picture",
        "b/text.jpg": "UnidentifiedImageError: not a picture",
        "blank.png": r"FilmError: film of size \(40, 40\) has the value 7 in every pixel",
        "float.tif": "FilmError: F image with values",
        "gone.png": "FileNotFoundError: no such file",
        "z/corrupt.png": "Error: ",
    }


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory):
    where = tmp_path_factory.mktemp("spoiled")
    return where, spoil(where)


@pytest.mark.parametrize("num_workers", [0, 3])
def test_bad_films_keep_their_rows_and_spoil_nothing_else(
    num_workers, model, spoiled, once, nih, tmp_path, monkeypatch
):
    where, bad = spoiled
    recipe(monkeypatch, "--model", model, where, "--output_dir", tmp_path / "out", "--num_workers", num_workers)
    frame = read(tmp_path / "out" / "predictions.csv")
    assert list(frame.id) == list(FolderSource(where).ids())
    assert set(frame.id[frame.error.notna()]) == bad.keys()
    for name, message in bad.items():
        row = frame[frame.id == name].iloc[0]
        assert pd.Series([row.error]).str.contains(message).all(), row.error
        assert row[[*(f"{n}_prob" for n in nih.names), "Mass_decision", "gate_cleared"]].isna().all()
    good = frame[frame.error.isna()]
    np.testing.assert_allclose(figures(good, nih.names), expected(model), rtol=0, atol=1e-6)
    listed = pd.read_csv(tmp_path / "out" / "errors.csv")
    pd.testing.assert_frame_equal(listed, frame[frame.error.notna()][["id", "error"]].reset_index(drop=True))
    counts = yaml.safe_load((tmp_path / "out" / "predict.yaml").read_text())["counts"]
    assert counts == {"films": N + 7, "errors": 7, "cleared": 3}


def test_no_output_tells_of_this_machines_folders(model, spoiled, tmp_path, monkeypatch):
    where, _ = spoiled
    monkeypatch.chdir(tmp_path)
    for out, source in (("out", where), ("listed", tmp_path / "list.csv")):
        paths = [where / name for name in (*FolderSource(where).ids(), "a")]  # the last is a folder
        write_list(tmp_path / "list.csv", [{"path": path, "id": i} for i, path in enumerate(paths)])
        predict(settings(model, source, tmp_path / out, heatmaps=True))
        for path in (tmp_path / out).rglob("*"):
            content = b"" if path.is_dir() else path.read_bytes()
            for told in (where, tmp_path, model, Path.home(), REPO):
                assert str(told).encode() not in content, path
            assert b" at 0x" not in content
    assert (
        read(tmp_path / "listed" / "predictions.csv").error.iloc[-1]
        == "IsADirectoryError: [Errno 21] Is a directory: '18'"
    )


def test_bytes_that_are_no_picture(model, nih, tmp_path):
    image = pa.array([{"bytes": b"nothing", "path": None}, {"bytes": b"", "path": None}])
    pq.write_table(pa.table({"image": image, "id": ["x", "y"]}), tmp_path / "x.parquet")
    errors = [list(made(model, tmp_path / "x.parquet", tmp_path / f"out{i}", num_workers=i).error) for i in range(2)]
    assert errors[0] == errors[1]  # no address in memory
    assert errors[0] == [
        "UnidentifiedImageError: not a picture in a format that Pillow reads",
        "FilmError: no file is named, and no bytes are given",
    ]


def test_a_model_that_gives_no_number_for_a_film(model, folder, nih, tmp_path, monkeypatch):
    once = figures(made(model, folder, tmp_path / "good"), nih.names)
    real = running.Reader._run

    def spoil_one(self, pixels):
        outputs = real(self, pixels)
        here = [i for i in range(len(pixels)) if (pixels[i].numpy() == prepared).all()]
        outputs["logits"][here, 3] = torch.nan
        return outputs

    prepared = CXRImageProcessor.from_pretrained(model).prepare(film(5))
    monkeypatch.setattr(running.Reader, "_run", spoil_one)
    frame = made(model, folder, tmp_path / "out")
    assert list(np.flatnonzero(frame.error.notna())) == [5]
    assert "not finite" in frame.error[5]
    np.testing.assert_array_equal(np.delete(figures(frame, nih.names), 5, 0), np.delete(once, 5, 0))
    assert np.isnan(figures(frame, nih.names)[5]).all()


def test_the_recipe_fails_if_every_film_does(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "films").mkdir()
    for i in range(3):
        (tmp_path / "films" / f"{i}.png").write_text("no film")
    with pytest.raises(SystemExit) as stopped:
        recipe(monkeypatch, "--model", model, tmp_path / "films", "--output_dir", tmp_path / "out")
    assert stopped.value.code == "predict.py: no film could be read, see errors.csv"
    assert "3 films, 0 of them cleared by the gate; 3 errors" in capsys.readouterr().out
    assert len(read(tmp_path / "out" / "predictions.csv")) == 3


# Stopping and going on


class Stopped(Exception):
    pass


def stop_after(monkeypatch, n, method="write_part"):
    """Raise in place of the call after the n-th."""
    real, calls = getattr(OutputFolder, method), []

    def stopping(self, *args):
        if len(calls) == n:
            raise Stopped
        calls.append(args)
        return real(self, *args)

    monkeypatch.setattr(OutputFolder, method, stopping)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("parts", [0, 1, 3])
def test_a_stopped_run_goes_on_to_the_same_bytes(form, parts, model, spoiled, tmp_path, monkeypatch):
    where, _ = spoiled
    shared = {"format": form, "heatmaps": form == "csv"}
    predict(settings(model, where, tmp_path / "whole", **shared))
    with monkeypatch.context() as patch:
        stop_after(patch, parts)
        with pytest.raises(Stopped):
            predict(settings(model, where, tmp_path / "out", **shared))
    assert len(list((tmp_path / "out" / "parts").glob("*.parquet"))) == parts
    assert not (tmp_path / "out" / f"predictions.{form}").exists()
    (tmp_path / "out" / "parts" / f"{parts:06d}.parquet.partial").write_bytes(b"cut off")
    read_again = []
    real = running.read_film
    monkeypatch.setattr(
        running, "read_film", lambda row, processor: read_again.append(row.number) or real(row, processor)
    )
    predict(settings(model, where, tmp_path / "out", resume=True, **shared))
    assert sorted(read_again) == list(range(4 * parts, N + 7))  # what was complete is not read again
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("where_stopped", ["join", "finish"])
def test_a_run_stopped_at_its_end(where_stopped, model, folder, once, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 0, where_stopped)
        with pytest.raises(Stopped):
            predict(settings(model, folder, tmp_path / "out"))
    predict(settings(model, folder, tmp_path / "out", resume=True))
    assert contents(tmp_path / "out") == contents(once)


def test_resume_of_nothing_begins(model, folder, once, tmp_path):
    predict(settings(model, folder, tmp_path / "out", resume=True, num_workers=0))
    assert contents(tmp_path / "out") == contents(once)


@pytest.fixture
def unfinished(model, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            predict(settings(model, folder, tmp_path / "out"))
    return tmp_path / "out"


def test_going_on_with_something_else_is_refused(model, folder, unfinished, tmp_path, nih):
    before = contents(unfinished)

    def refused(message, source=folder, own=model, **other):
        with pytest.raises(OutputFolderError, match=message):
            predict(settings(own, source, unfinished, **{"resume": True} | other))
        assert contents(unfinished) == before

    refused("unfinished predictions: --resume true goes on, --overwrite true begins", resume=False)
    refused("settings.batch_size: was 2, is 4", batch_size=4)
    refused("settings.rows_per_part: was 3, is 9", rows_per_part=9)
    refused("settings.format: was 'csv', is 'jsonl'", format="jsonl")
    refused("settings.heatmaps: was False, is True", heatmaps=True)
    refused("settings.dropout_passes: was 0, is 4", dropout_passes=4)
    more = tmp_path / "more"
    shutil.copytree(folder, more)
    put(more, ["a/new.png"])
    refused("source.n_films: was 11, is 12", more)
    (more / "a" / "00.png").unlink()
    refused("source.ids_sha256", more)
    other = tmp_path / "other_model"
    shutil.copytree(model, other)
    changed = loaded(other)
    with torch.no_grad():
        changed.head.trunk.classifier.bias[0] += 1e-3
    changed.save_pretrained(other)
    refused("model.sha256", own=other)
    shutil.copytree(model, other, dirs_exist_ok=True)
    config = json.loads((other / "config.json").read_text())
    config["operating_points"]["gate_threshold"] = 0.123
    (other / "config.json").write_text(json.dumps(config))
    refused("model.sha256", own=other)
    # the same model and films elsewhere are the same
    shutil.copytree(folder, tmp_path / "moved")
    shutil.copytree(model, tmp_path / "moved_model")
    predict(settings(tmp_path / "moved_model", tmp_path / "moved", unfinished, resume=True))


def test_a_list_that_changed_is_not_gone_on_with(model, folder, nih, tmp_path, monkeypatch):
    """Its films are the same, but not what is said of them."""
    rows = [{"path": os.path.relpath(folder / name, tmp_path), "sex": "F"} for name in NAMES]
    source = write_list(tmp_path / "list.csv", rows)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            predict(settings(model, source, tmp_path / "out"))
    write_list(source, [row | {"sex": "M"} for row in rows])
    with pytest.raises(OutputFolderError, match=r"source\.stamp: was"):
        predict(settings(model, source, tmp_path / "out", resume=True))


def test_finished_tables_are_replaced_only_on_demand(model, spoiled, folder, once, tmp_path):
    where, out = spoiled[0], tmp_path / "out"
    predict(settings(model, where, out, format="jsonl", heatmaps=True))
    before = contents(out)
    for choice, message in (({}, "--overwrite true replaces it"), ({"resume": True}, "nothing to resume")):
        with pytest.raises(OutputFolderError, match=message):
            predict(settings(model, folder, out, **choice))
        assert contents(out) == before
    with pytest.raises(OutputFolderError):  # said before the model is loaded
        predict(settings(tmp_path / "no_model", folder, out))
    (out / "mine.txt").write_text("mine")
    with pytest.raises(SourceError):  # nothing is thrown away for a run that cannot begin
        predict(settings(model, tmp_path / "nowhere", out, overwrite=True))
    assert (out / "predictions.jsonl").exists()
    predict(settings(model, folder, out, overwrite=True))
    assert contents(out) == contents(once) | {"mine.txt": b"mine"}


def test_foreign_folders_are_left_alone(model, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.csv").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputFolderError, match="is not empty and holds no predictions"):
            predict(settings(model, folder, out, overwrite=overwrite))
    with pytest.raises(OutputFolderError, match="is a file"):
        predict(settings(model, folder, out / "predictions.csv"))
    assert contents(out) == {"predictions.csv": b"mine"}


# No film lost, none doubled


@pytest.mark.parametrize("fault", ["lost", "doubled", "swapped", "short"])
def test_parts_that_do_not_hold_every_film_once(fault, model, folder, once, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 0, "join")
        with pytest.raises(Stopped):
            predict(settings(model, folder, tmp_path / "out"))
    parts = sorted((tmp_path / "out" / "parts").iterdir())
    first, second = (pq.read_table(path) for path in parts[:2])
    if fault == "lost":
        monkeypatch.setattr(OutputFolder, "write_part", lambda *_: None)
        parts[1].unlink()
    elif fault == "doubled":
        pq.write_table(pa.concat_tables([first, first]), parts[0])
    elif fault == "swapped":
        pq.write_table(first, parts[1])
        pq.write_table(second, parts[0])
    else:
        pq.write_table(second[:-1], parts[1])
    with pytest.raises(LostFilmsError, match=r"00000[01].parquet: (missing|\d rows from .*, expected exactly)"):
        predict(settings(model, folder, tmp_path / "out", resume=True))
    assert not (tmp_path / "out" / "predictions.csv").exists()


@pytest.mark.parametrize("change", ["swapped", "gone"])
def test_films_that_change_while_they_are_read(change, model, folder, tmp_path, monkeypatch):
    films = tmp_path / "films"
    shutil.copytree(folder, films)
    real = OutputFolder.claim

    def changing(self, *args):
        (films / "e.png").rename(films / "y.png") if change == "swapped" else (films / "e.png").unlink()
        return real(self, *args)

    monkeypatch.setattr(OutputFolder, "claim", changing)
    expected_error = LostFilmsError if change == "swapped" else SourceError
    with pytest.raises(
        expected_error, match="changed while they were read" if change == "swapped" else "ended after 2"
    ):
        predict(settings(model, films, tmp_path / "out"))
    assert not (tmp_path / "out" / "predictions.csv").exists()


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(model, spoiled, tmp_path):
    where, _ = spoiled
    predict(settings(model, where, tmp_path / "one", heatmaps=True))

    def launch():
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
        words = [*launcher, REPO / "recipes" / "accelerate" / "two_cpu_processes.yaml", REPO / "recipes" / "predict.py"]
        words += ["--model", model, where, "--output_dir", tmp_path / "two", "--heatmaps"]
        words += ["--batch_size", 2, "--rows_per_part", 3]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run([*map(str, words)], capture_output=True, text=True, env=environment, check=False)

    done = launch()
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("18 films, 3 of them cleared by the gate; 7 errors") == 1
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    described = [yaml.safe_load(each.pop("predict.yaml")) for each in (one, two)]
    assert two == one
    assert [each.pop("processes") for each in described] == [1, 2]
    assert described[0] == described[1]
    refused = launch()
    assert refused.returncode != 0
    assert "OutputFolderError" in refused.stderr
    assert contents(tmp_path / "two").keys() == two.keys() | {"predict.yaml"}


# The command line


@pytest.mark.parametrize(
    ("words", "source", "heatmaps"),
    [
        ("--model m films", "films", False),
        ("films --model m", "films", False),
        ("--model m --heatmaps films --output_dir out", "films", True),
        ("--model=m --heatmaps true films", "films", True),
        ("--model m films --heatmaps", "films", True),
        ("--model m --heatmaps false --source films", "films", False),
        ("--heatmaps --model m films", "films", True),
    ],
)
def test_the_source_may_stand_anywhere(words, source, heatmaps):
    parsed = parse_predict_settings(words.split())
    assert (parsed.model, parsed.source, parsed.heatmaps) == ("m", source, heatmaps)


def test_settings_may_come_from_a_file(tmp_path):
    (tmp_path / "s.yaml").write_text("model: m\nbatch_size: 8\n")
    parsed = parse_predict_settings([str(tmp_path / "s.yaml"), "films", "--batch_size", "4"])
    assert (parsed.model, parsed.source, parsed.batch_size) == ("m", "films", 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model m", "got model=m, source=None; give both"),
        ("films", "got model=None, source=films"),
        ("--model m a b", "several sources, a, b"),
        ("--model m a --format xlsx", "format: got 'xlsx', expected one of csv, parquet, jsonl"),
        ("--model m a --batch_size 0", "batch_size: got 0, expected 1 or more"),
        ("--model m a --num_workers -1", "num_workers: got -1, expected 0 or more"),
        ("--model m a --dropout_passes 1", "dropout_passes: got 1"),
        ("--model m a --overwrite --resume", "exclude each other"),
        ("--model m a --heatmap", "did you mean 'heatmaps'"),
    ],
)
def test_settings_are_checked(words, message):
    with pytest.raises(SettingsError, match=message):
        parse_predict_settings(words.split())


def test_parts_are_whole_batches():
    assert replace(settings("m", "s", "o"), rows_per_part=256, batch_size=48).part_size == 288
    assert replace(settings("m", "s", "o"), rows_per_part=1, batch_size=48).part_size == 48


def test_errors_are_one_line(model, folder, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        recipe(monkeypatch, "--model", model, tmp_path / "nowhere", "--output_dir", tmp_path / "out")
    assert stopped.value.code == f"predict.py: SourceError: {tmp_path / 'nowhere'}: no such file or folder"
    for broken in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(SystemExit) as stopped:
            recipe(monkeypatch, "--model", tmp_path / broken, folder, "--output_dir", tmp_path / "out")
        assert stopped.value.code.startswith(f"predict.py: ModelError: {tmp_path / broken}: cannot be used as a model")
        assert "\n" not in stopped.value.code
    assert not (tmp_path / "out").exists()
