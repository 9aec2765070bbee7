"""Doubt, heatmaps and their scores of a whole split, in one pass and in the report."""

import dataclasses

import numpy as np
import pytest
import torch

from hf_cxr.explain import grad_cam, look
from hf_cxr.full_report import full_report
from hf_cxr.inference import predict_logits
from hf_cxr.inspection import MEASURES, Inspection, inspect, localise
from hf_cxr.localisation import score_localisation
from hf_cxr.models.processing import normalise
from hf_cxr.operating_points import choose_operating_points
from hf_cxr.report.doubt import PLAIN, doubt_section
from hf_cxr.risk import aurc
from hf_cxr.uncertainty import mc_dropout
from tests.conftest import join_stages
from tests.test_evaluation import make_table


@pytest.fixture
def model(make_model):
    return make_model(link="conditional", head_dropout=0.4).eval()


def inputs_of(model, films):
    return normalise(films.pixels, model.config.image_mean, model.config.image_std)


def test_batches_change_nothing(model, make_films):
    films = make_films(n_films=11)
    seen = look(model, inputs_of(model, films), n_passes=7, seed=3)
    found = inspect(model, films, n_passes=7, seed=3, shown={2, 9}, batch_size=4)
    for name in MEASURES:
        np.testing.assert_allclose(found.doubt[name], getattr(seen.uncertainty, name), atol=1e-6)
    assert set(found.films) == set(found.heatmaps) == {2, 9}
    np.testing.assert_array_equal(found.films[9], films.pixels[9, 0])
    np.testing.assert_allclose(found.heatmaps[9], seen.heatmaps[9], atol=1e-5)


def test_doubt_of_two_stages_is_of_the_reported_probabilities(nih, make_model, make_films):
    """A gate that clears every film: the report's table still has the finding model's say, and so has its doubt."""
    below = tuple(name for name in nih.names if name != nih.gate)
    gate = make_model(hierarchy=nih.subset([nih.gate]), head_dropout=0.1)
    findings = make_model(hierarchy=nih.subset(below), link="conditional", head_dropout=0.1)
    model = join_stages(gate, findings, nih, gate_threshold=1.0, skipped=0.9)
    films = make_films(n_films=5)
    found = inspect(model, films, n_passes=200, shown={1}, batch_size=2)
    reported = torch.tensor(predict_logits(model, films)).sigmoid().numpy()
    expected = mc_dropout(model, inputs_of(model, films), 200, run_all=True)
    np.testing.assert_allclose(found.doubt["entropy"], expected.entropy, atol=1e-5)
    assert np.abs(expected.mean.numpy() - reported).max() < 0.1
    hard = mc_dropout(model, inputs_of(model, films), 200)
    assert np.abs(hard.mean.numpy() - reported).max() > 0.2  # of another model
    assert not np.isnan(found.heatmaps[1]).any()


def test_localisation_is_that_of_all_maps_at_once(model, make_films):
    films, names = make_films(n_films=10), model.config.label_names
    square = np.zeros((32, 32), bool)
    square[4:12, 10:20] = True
    of_film = {1: {"Mass": square}, 4: {"Mass": square.T, "Nodule": square}, 7: {"Fracture": square}}
    found = localise(model, films, lambda row: of_film.get(row, {}), n_untrained=2, batch_size=3)
    assert set(found["trained"]) == set(found["untrained"]) == {"Mass", "Nodule"}  # the model has no Fracture
    heat = grad_cam(model, inputs_of(model, films), raw=True).numpy()[[1, 4], names.index("Mass")]
    expected = score_localisation(heat, np.stack([square, square.T]))
    for name, value in dataclasses.asdict(expected).items():
        assert getattr(found["trained"]["Mass"], name) == pytest.approx(value, abs=1e-6), name
    assert found["untrained"]["Mass"].n == 4  # two films, two networks


def made_up_doubt(table, seed=0):
    random = np.random.default_rng(seed)
    doubt = {name: random.random(table.probability.shape).astype(np.float32) for name in MEASURES}
    return Inspection(table.names, doubt, 30, 0, {}, {})


def test_section_is_of_decisions_at_the_stored_thresholds(nih):
    table = make_table(nih, seed=2).in_order(nih.names)
    points = choose_operating_points(make_table(nih, seed=1), nih, "validation")
    report = full_report(table, nih, "test", operating_points=points, n_resamples=100)
    inspection = made_up_doubt(table)
    section = doubt_section(table, report, inspection, made_up_doubt(table, seed=1), 0.8)
    row = section["labels"]["Mass"]
    truth, probability = table.column("Mass")
    wrong = np.where(np.isnan(truth), np.nan, (probability >= points.thresholds["Mass"]) != (truth == 1))
    at = table.names.index("Mass")
    assert row["n_errors"] == np.nansum(wrong)
    assert row["measures"]["deviation"]["aurc"] == aurc(wrong, inspection.doubt["deviation"][:, at])
    entropy = -probability * np.log(probability) - (1 - probability) * np.log(1 - probability)
    assert row["measures"][PLAIN]["aurc"] == pytest.approx(aurc(wrong, entropy), abs=1e-9)
    assert row["abstain"]["split"] == "validation"
    assert row["abstain"]["coverage"] == pytest.approx(0.8, abs=0.08)  # validation's threshold on other films
    assert doubt_section(table, full_report(table, nih, "test", n_resamples=100), inspection) == {
        "undefined": "no operating points: nothing is decided, so nothing can be wrong"
    }


def test_doubt_needs_dropout(make_model, make_films):
    with pytest.raises(ValueError, match="head_dropout is 0"):
        inspect(make_model().eval(), make_films(n_films=2))
    assert inspect(make_model().eval(), make_films(n_films=2), n_passes=None, shown={0}).doubt is None
