"""What is refused, and what the message says."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification
from transformers import pipeline as transformers_pipeline

from hf_cxr.models import CXRImageProcessor, FilmError
from hf_cxr.pipeline import TASK, ChestXRayClassificationPipeline
from hf_cxr.uncertainty import NoDropoutError
from tests.pipeline.helpers import N, pixels, reader


def test_another_model_is_named(tmp_path):
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    with pytest.raises(TypeError, match="ViTForImageClassification"):
        transformers_pipeline(TASK, model=ViTForImageClassification(config), image_processor=CXRImageProcessor())


def test_another_processor_is_refused(model, make_model):
    with pytest.raises(TypeError, match="image_processor: got NoneType"):
        ChestXRayClassificationPipeline(model)
    for other in (CXRImageProcessor(size={"height": 64, "width": 64}), CXRImageProcessor(
        size={"height": 32, "width": 32}, image_mean=None, image_std=None)):  # fmt: skip
        with pytest.raises(ValueError, match=r"image processor has .*trained with \(32, 0\.5, 0\.25\)"):
            transformers_pipeline(TASK, model=model, image_processor=other)
    own_statistics = make_model(image_mean=None, image_std=None)
    assert reader(own_statistics)(pixels()[0])["gate"]


def test_passes_need_dropout(make_model, films):
    read = reader(make_model())
    with pytest.raises(NoDropoutError, match="head_dropout"):
        read(films[0], n_passes=5)
    with pytest.raises(NoDropoutError):
        reader(make_model(), n_passes=5)
    with pytest.raises(ValueError, match="n_passes=1"):
        reader(make_model(head_dropout=0.1), n_passes=1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"heatmaps": ["Mass", "Pneumothorx"]}, r"'Pneumothorx'; did you mean 'Pneumothorax'\? .*Hernia"),
        ({"heatmaps": "cardiomegaly"}, "did you mean 'Cardiomegaly'"),
        ({"heatmaps": ["?"]}, "no label '[?]'; The labels are Abnormal"),
        ({"max_entropy": 0.0}, "max_entropy=0.0"),
        ({"max_entropy": 0.7}, r"max_entropy=0.7; expected nats in \(0, ln 2"),
    ],
)
def test_bad_parameters(model, films, parameters, message):
    for use in (lambda: reader(model, **parameters), lambda: reader(model)(films[0], **parameters)):
        with pytest.raises(ValueError, match=message):
            use()


def test_an_unknown_parameter(model, films):
    with pytest.raises(TypeError, match=r"\['passes', 'top_k'\]; expected some of n_passes"):
        reader(model)(films[0], top_k=3, passes=3)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_bad_film_is_named(model, films, tmp_path, batch_size):
    read = reader(model, batch_size=batch_size)
    blank, broken, missing = tmp_path / "blank.png", tmp_path / "broken.png", tmp_path / "missing.png"
    Image.new("L", (40, 40), 7).save(blank)
    broken.write_bytes(Path(films[0]).read_bytes()[:200])
    reasons = {blank: "has the value 7 in every pixel", broken: "OSError|SyntaxError", missing: "No such file"}
    for path, reason in reasons.items():
        with pytest.raises(FilmError, match=rf"^film 5: {path}: .*({reason})"):
            read([*films[:5], str(path)])
        with pytest.raises(FilmError, match=rf"^film 5: {path}: .*({reason})"):
            list(read(film for film in [*films[:5], path]))
        with pytest.raises(FilmError, match=rf"^{path}: .*({reason})"):
            read(path)
    with pytest.raises(FilmError, match=r"^film 1: film of size"):
        read([films[0], np.zeros((40, 40), np.uint8)])
    with pytest.raises(FilmError, match=r"^array of shape"):
        read(np.zeros(40, np.uint8))
    with pytest.raises(FilmError, match=r"^array of shape"):
        read(None)


def test_what_is_no_film(model, films):
    read = reader(model)
    dataset = datasets.Dataset.from_dict({"image": films, "id": range(N)})
    with pytest.raises(FilmError, match=r"^film 0: a row with the columns \['image', 'id'\]; pass KeyDataset"):
        list(read(dataset))
    with pytest.raises(FilmError, match=r"^film 1: 2 films in the place of one"):
        read([films[0], films[1:3]])
