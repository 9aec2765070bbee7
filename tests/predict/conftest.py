import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_cxr.predict import (
    predict,
)
from tests.conftest import join_stages
from tests.pipeline.helpers import operating_points
from tests.predict.films import N, Stopped, made, pixels, put, save, settings, spoil, stop_after, tiny


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return put(tmp_path_factory.mktemp("films"))


@pytest.fixture(scope="session")
def once(model, folder, tmp_path_factory):
    """A finished run over the folder."""
    out = tmp_path_factory.mktemp("out") / "predictions"
    made(model, folder, out)
    return out


@pytest.fixture(scope="session")
def spoiled(tmp_path_factory):
    where = tmp_path_factory.mktemp("spoiled")
    return where, spoil(where)


@pytest.fixture
def unfinished(model, folder, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            predict(settings(model, folder, tmp_path / "out"))
    return tmp_path / "out"
