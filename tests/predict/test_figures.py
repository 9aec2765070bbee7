"""Figures, decisions and heatmaps are the model's own."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from hf_cxr.explain import look
from hf_cxr.models import CXRImageProcessor
from hf_cxr.pipeline import TASK
from hf_cxr.predict import (
    ModelError,
    predict,
)
from hf_cxr.predict.overlays import file_name, overlay
from hf_cxr.uncertainty import NoDropoutError, mc_dropout
from tests.pipeline.helpers import every_node
from tests.predict.films import NAMES, SIZE, N, expected, figures, film, loaded, made, pixels, read, settings


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
