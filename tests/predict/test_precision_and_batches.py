"""Predicting in another precision, and with batches as the memory takes them."""

import numpy as np
import pytest
import torch
import yaml

from hf_cxr.loading import load_model, load_processor
from hf_cxr.models import CXRDenseNetForImageClassification
from hf_cxr.precision import PrecisionError
from hf_cxr.predict import OutputFolderError, predict
from hf_cxr.quantisation import quantise
from tests.predict.films import N, Stopped, contents, expected, figures, made, pixels, put, save, settings, stop_after
from tests.predict.films import tiny as tiny_model


@pytest.fixture(scope="module")
def int8(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    quantise(load_model(model), load_processor(model), [pixels(model, range(N))], folder)
    return folder


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_the_table_says_its_precision(precision, model, folder, int8, tmp_path, nih):
    own = {"precision": precision, "int8": str(int8) if precision == "int8" else None}
    frame = made(model, folder, tmp_path / "out", heatmaps=True, dropout_passes=4, **own)
    difference = np.abs(figures(frame, nih.names) - expected(model)).max()
    assert 1e-6 < difference < 0.2
    text = (tmp_path / "out" / "predict.yaml").read_text()
    described = yaml.safe_load(text)
    assert described["settings"]["precision"] == precision
    assert str(int8) not in text
    assert list(described["model"].get("int8_sha256", {})) == (["model"] if precision == "int8" else [])
    assert list((tmp_path / "out" / "heatmaps").iterdir())


def test_going_on_in_another_precision_is_refused(model, folder, unfinished, int8, tmp_path):
    before = contents(unfinished)
    for own in ({"precision": "bfloat16"}, {"precision": "int8", "int8": str(int8)}):
        with pytest.raises(OutputFolderError, match=r"settings\.precision: was 'float32'"):
            predict(settings(model, folder, unfinished, resume=True, **own))
    assert contents(unfinished) == before


def test_going_on_with_other_int8_files_is_refused(model, folder, int8, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            predict(settings(model, folder, tmp_path / "out", precision="int8", int8=str(int8)))
    other = tmp_path / "other"
    quantise(load_model(model), load_processor(model), [pixels(model, range(4))], other)
    with pytest.raises(OutputFolderError, match=r"model\.int8_sha256: was"):
        predict(settings(model, folder, tmp_path / "out", resume=True, precision="int8", int8=str(other)))
    moved = int8.rename(tmp_path / "moved")
    predict(settings(model, folder, tmp_path / "out", resume=True, precision="int8", int8=str(moved)))
    moved.rename(int8)


def test_heatmaps_of_a_vit_only_in_float32(nih, tmp_path):
    vit = save(tiny_model("vit", nih), tmp_path / "vit")
    put(tmp_path / "films", ["a.png"])
    with pytest.raises(PrecisionError, match="heatmaps of a ViT"):
        predict(settings(vit, tmp_path / "films", tmp_path / "out", heatmaps=True, precision="bfloat16"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("batch_size", [0, 4])
def test_memory_that_runs_out_changes_no_figure(batch_size, model, folder, tmp_path, nih, monkeypatch):
    real, seen = CXRDenseNetForImageClassification.forward, []

    def forward(self, pixel_values, **kwargs):
        if len(pixel_values) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        seen.append(len(pixel_values))
        return real(self, pixel_values, **kwargs)

    monkeypatch.setattr(CXRDenseNetForImageClassification, "forward", forward)
    own = {"batch_size": batch_size, "rows_per_part": 5}
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            predict(settings(model, folder, tmp_path / "out", **own))
    frame = made(model, folder, tmp_path / "out", resume=True, **own)
    np.testing.assert_allclose(figures(frame, nih.names), expected_without(model, real, monkeypatch), rtol=0, atol=1e-6)
    assert max(seen) <= 2


def expected_without(model, real, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(CXRDenseNetForImageClassification, "forward", real)
        return expected(model)


def test_without_a_batch_size_the_part_is_one_batch_here(model, folder, once, tmp_path, nih):
    frame = made(model, folder, tmp_path / "out", batch_size=0)
    np.testing.assert_allclose(figures(frame, nih.names), expected(model), rtol=0, atol=1e-6)
    assert yaml.safe_load((tmp_path / "out" / "predict.yaml").read_text())["settings"]["batch_size"] == 0
