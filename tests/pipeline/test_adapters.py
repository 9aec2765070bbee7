"""One pipeline reads for several hospitals as a pipeline of each adapter alone would."""

import json

import pytest
from transformers import pipeline as transformers_pipeline

from hf_cxr.loading import ModelError, load_model, load_processor
from hf_cxr.models import CXRImageProcessor
from hf_cxr.pipeline import TASK
from hf_cxr.switching import SwitchError
from hf_cxr.uncertainty import NoDropoutError
from tests.pipeline.helpers import OPTIONS, assert_all_same, assert_same, flat, reader
from tests.test_switching import save_adapter


@pytest.fixture
def base(model, tmp_path):
    model.save_pretrained(tmp_path / "base")
    CXRImageProcessor.for_model(model.config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapters(base, nih, tmp_path):
    south = save_adapter(base, tmp_path / "south", nih, ["Fracture", "Pacemaker"], 1)
    north = save_adapter(base, tmp_path / "north", nih, seed=2, lora_rank=1, lora_dropout=0.5)
    # This hospital stretches its films, where the others pad them.
    CXRImageProcessor.for_model(load_model(north).config, fit="stretch").save_pretrained(north)
    return {"south": south, "Lyon": north}


@pytest.fixture
def read(base, adapters):
    return transformers_pipeline(TASK, model=str(base), adapters=adapters, device="cpu")


def alone(folder):
    return transformers_pipeline(TASK, model=load_model(folder), image_processor=load_processor(folder), device="cpu")


def unnamed(rows):
    return [{key: value for key, value in row.items() if key != "adapter"} for row in rows]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_each_reads_as_if_it_were_alone(read, base, adapters, films, options):
    seen = {}
    for name in ("south", None, "Lyon", "south", None):
        rows = read(films, batch_size=3, adapter=name, **options)
        assert {row["adapter"] for row in rows} == {name}
        expected = alone(adapters.get(name, base))(films, batch_size=3, **options)
        assert_all_same(unnamed(rows), unnamed(expected))
        assert seen.setdefault(name, flat(unnamed(rows)[0] | {"heatmaps": None})) is not None
    assert_all_same(unnamed(read(films, batch_size=3, **options)), unnamed(alone(base)(films, batch_size=3, **options)))
    assert abs(seen["south"]["/probabilities/Mass"] - seen[None]["/probabilities/Mass"]) > 1e-3
    assert abs(seen["south"]["/probabilities/Mass"] - seen["Lyon"]["/probabilities/Mass"]) > 1e-3
    assert read.network is read.model
    assert read.adapters.active is None
    assert not any("lora" in name for name in read.network.config.to_dict())


def test_the_tree_and_its_thresholds_are_the_adapters(read, films):
    own, plain = read(films[0], adapter="south"), read(films[0])
    assert list(own["probabilities"]) == [*plain["probabilities"], "Fracture", "Pacemaker"]
    assert [node["label"] for node in own["findings"]] == [*(n["label"] for n in plain["findings"]), "Pacemaker"]
    abnormal = next(node for node in own["findings"] if node["label"] == "Abnormal")
    assert "Fracture" in [child["label"] for child in abnormal["children"]]
    assert own["findings"][-1]["threshold"] == pytest.approx(0.3)
    assert (own["operating_points_from"], plain["operating_points_from"]) == ("of hospital 1", "validation")
    assert own["gate"]["threshold"] == pytest.approx(0.1)
    assert json.loads(json.dumps(own)) == own
    heat = read(films[0], adapter="south", heatmaps="Fracture", n_passes=2)["heatmaps"]
    assert list(heat) == ["Fracture"]
    assert heat["Fracture"].shape == (32, 32)


def test_a_series_keeps_its_adapter_whatever_is_read_in_between(read, films):
    expected = {name: read(films, adapter=name) for name in ("south", "Lyon", None)}
    streams = {name: iter(read(iter(films), adapter=name, batch_size=2)) for name in expected}
    for position in range(len(films)):
        for name, stream in streams.items():
            row = next(stream)
            assert row["adapter"] == name
            assert_same(row, expected[name][position])
        assert_same(read(films[0]), expected[None][0])


def test_what_the_pipeline_was_given_holds_for_every_adapter(base, adapters, films):
    read = transformers_pipeline(
        TASK, model=str(base), adapters=adapters, adapter="south", heatmaps=True, n_passes=3, device="cpu"
    )
    own, plain = read(films[0]), read(films[0], adapter=None)
    assert (own["adapter"], plain["adapter"]) == ("south", None)
    for row in (own, plain):
        assert list(row["heatmaps"]) == list(row["probabilities"])
    assert len(own["heatmaps"]) == len(plain["heatmaps"]) + 2
    chosen = transformers_pipeline(
        TASK, model=str(base), adapters=adapters, adapter="south", heatmaps=iter(["Fracture", "Mass"]), device="cpu"
    )
    assert list(chosen(films[0])["heatmaps"]) == list(chosen(films[1])["heatmaps"]) == ["Fracture", "Mass"]
    with pytest.raises(ValueError, match="no label 'Fracture'"):
        chosen(films[0], adapter=None)


def test_a_film_of_a_pipeline_without_adapters_names_none(model, two_stage, films):
    for own in (model, two_stage):
        assert reader(own)(films[0])["adapter"] is None
        with pytest.raises(SwitchError, match="no adapter 'south'; none is loaded"):
            reader(own)(films[0], adapter="south")


def test_what_is_refused(read, base, adapters, films, nih, tmp_path):
    before = read(films[0], adapter="south")
    with pytest.raises(SwitchError, match="no adapter 'Souht'; loaded are 'south', 'Lyon'"):
        read(films[0], adapter="Souht")
    with pytest.raises(SwitchError, match="no adapter 'Souht'"):
        transformers_pipeline(TASK, model=str(base), adapters=adapters, adapter="Souht", device="cpu")
    with pytest.raises(SwitchError, match="a model with switched adapters is not saved"):
        read.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(ModelError, match="other: has no image processor"):
        transformers_pipeline(TASK, model=str(base), adapters={"other": tmp_path / "other"}, device="cpu")
    whole = save_adapter(base, tmp_path / "whole", nih, method="head")
    with pytest.raises(SwitchError, match="only adapters"):
        transformers_pipeline(TASK, model=str(base), adapters={"whole": whole}, device="cpu")
    assert_same(read(films[0], adapter="south"), before)


def test_passes_need_dropout_in_the_adapters_head(base, adapters, films):
    config = json.loads((adapters["south"] / "config.json").read_text())
    (adapters["south"] / "config.json").write_text(json.dumps(config | {"head_dropout": 0.0}))
    read = transformers_pipeline(TASK, model=str(base), adapters=adapters, n_passes=2, device="cpu")
    assert read(films[0], adapter="Lyon")["findings"][0]["deviation"] > 0
    with pytest.raises(NoDropoutError):
        read(films[0], adapter="south")


def test_another_size_is_refused(base, adapters):
    CXRImageProcessor(size={"height": 64, "width": 64}).save_pretrained(adapters["Lyon"])
    with pytest.raises(ValueError, match=r"image processor has \(64, "):
        transformers_pipeline(TASK, model=str(base), adapters=adapters, device="cpu")
