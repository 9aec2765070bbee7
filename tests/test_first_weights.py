"""A backbone begins with what the settings name, the config says with what, and nothing else fits."""

import json

import pytest
import torch

from hf_cxr.arguments import SettingsError, parse_settings
from hf_cxr.experiment import build_model
from hf_cxr.loading import ModelError
from hf_cxr.runs import REPORT_FILE
from hf_cxr.verification import identity
from tests.conftest import BACKBONES, join_stages
from tests.hub.card.runs import make_run

OF_FILMS = (0.4, 0.2)


@pytest.fixture
def donor(make_model, tmp_path):
    """A folder with a trained model whose films were normalised by a mean and a deviation of their own."""
    model = make_model(image_mean=0.3, image_std=0.1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    model.backbone.features.norm0.running_mean.fill_(7)
    model.save_pretrained(tmp_path / "phantoms")
    return tmp_path / "phantoms"


def settings_for(weights, *words):
    made = BACKBONES["densenet"]
    own = ["--backbone", made["backbone"], "--backbone_kwargs", json.dumps(made["backbone_kwargs"])]
    return parse_settings([*own, "--image_size", "32", "--use_cpu", "true", "--backbone_weights", str(weights), *words])


def test_a_backbone_of_the_project_is_taken_whole_and_named(donor, make_model, nih, monkeypatch):
    monkeypatch.chdir(donor.parent)
    model = build_model(settings_for(donor.name), nih, OF_FILMS)
    first = make_model().from_pretrained(donor)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, first.backbone.state_dict()[name]), name
    first_head = first.head.state_dict()
    assert not all(torch.equal(value, first_head[name]) for name, value in model.head.state_dict().items())
    assert (model.config.image_mean, model.config.image_std) == (0.3, 0.1), "films as these weights know them"
    assert model.config.backbone_from == {"name": "phantoms", **identity(first)}


def test_the_films_of_the_first_weights_are_told(make_model, nih, tmp_path):
    run = make_run(tmp_path / "phantoms", synthetic=True)
    make_model(image_mean=0.3, image_std=0.1).save_pretrained(run)
    began = build_model(settings_for(run), nih, OF_FILMS).config.backbone_from
    data = json.loads((run / REPORT_FILE).read_text())["provenance"]["data"]
    assert began["synthetic"] is True
    assert (began["dataset"], began["fingerprint"]) == (data["dataset"], data["fingerprint"])
    assert str(tmp_path) not in json.dumps(began)


def test_where_a_model_began_is_no_part_of_its_identity(donor, nih):
    model = build_model(settings_for(donor), nih, OF_FILMS)
    before = identity(model)
    model.config.backbone_from = None
    assert identity(model) == before


def test_both_stages_begin_alike_and_say_so(donor, nih):
    below = [name for name in nih.names if name != nih.gate]
    stages = [build_model(settings_for(donor), nih.subset(names), OF_FILMS) for names in ([nih.gate], below)]
    assert join_stages(*stages, nih).config.backbone_from == stages[1].config.backbone_from


def test_what_does_not_fit_is_refused_by_name(donor, make_model, nih, tmp_path):
    with pytest.raises(SettingsError, match=r"phantoms was trained with normalisation: dataset, .* say film"):
        build_model(settings_for(donor, "--normalisation", "film"), nih, OF_FILMS)
    wider = settings_for(donor, "--backbone_kwargs", '{"growth_rate": 16, "block_config": [1, 1]}')
    with pytest.raises(SettingsError, match=r"phantoms holds .* the settings ask for .*'growth_rate': 16"):
        build_model(wider, nih, OF_FILMS)
    with pytest.raises(ModelError, match="nowhere: cannot be used as a model"):
        build_model(settings_for(tmp_path / "nowhere"), nih, OF_FILMS)
    gate, below = nih.subset([nih.gate]), nih.subset([name for name in nih.names if name != nih.gate])
    stages = join_stages(make_model(hierarchy=gate), make_model(hierarchy=below), nih)
    stages.save_pretrained(tmp_path / "stages")
    with pytest.raises(SettingsError, match="stages is made of several models"):
        build_model(settings_for(tmp_path / "stages"), nih, OF_FILMS)
