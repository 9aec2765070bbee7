"""The calibration inside a model: the same numbers as `hf_cxr.calibration`, and an order that holds."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_cxr.calibration import Calibration
from hf_cxr.explain import look
from hf_cxr.models import Calibrate, CXRDenseNetConfig


def made_up(hierarchy, method="beta", seed=0):
    """A calibration that bends every label another way."""
    random = np.random.default_rng(seed)
    rows = {name: (*random.uniform(0.2, 3, 2), random.normal() * 2) for name in hierarchy.names}
    if method == "temperature":
        rows = dict.fromkeys(hierarchy.names, (0.7, 0.7, 0.0))
    return Calibration(method, "validation", rows)


def logits(hierarchy, n=500, scale=4.0):
    return torch.randn(n, len(hierarchy.names), generator=torch.Generator().manual_seed(3)) * scale


def step(hierarchy, calibration):
    return Calibrate(CXRDenseNetConfig(calibration=calibration.to_config(), **hierarchy.to_config()))


def in_order(hierarchy, values):
    parents, children = hierarchy.edge_indices
    return values[:, list(children)] <= values[:, list(parents)]


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_equal_to_the_tables_calibration(nih, scale):
    calibration, z = made_up(nih), logits(nih, scale=scale)
    expected = calibration.apply(nih.names, z.double().sigmoid().numpy(), nih)
    np.testing.assert_allclose(step(nih, calibration)(z).double().sigmoid(), expected, atol=1e-6)


@pytest.mark.parametrize("taxonomy", ["nih", "chexpert"])  # in the second, nodes have two parents
def test_what_was_in_order_stays_so(taxonomy, request):
    hierarchy = request.getfixturevalue(taxonomy)
    z = logits(hierarchy)
    after = step(hierarchy, made_up(hierarchy))(z)
    assert in_order(hierarchy, after)[in_order(hierarchy, z)].all()
    alone = made_up(hierarchy).apply(hierarchy.names, z.double().sigmoid().numpy())
    assert not in_order(hierarchy, alone)[in_order(hierarchy, z).numpy()].all()  # each label by itself would not do


def test_none_keeps_every_bit(nih):
    z = logits(nih)
    assert torch.equal(step(nih, Calibration("none", "v", dict.fromkeys(nih.names, (1.0, 1.0, 0.0))))(z), z)


def test_temperature_is_exact_and_breaks_no_tie(nih):
    z = logits(nih)
    assert torch.equal(step(nih, made_up(nih, "temperature"))(z), 0.7 * z)


@pytest.mark.parametrize("numbers", [(2.0, 0.3, 1.0), (0.3, 2.0, -1.0)])
def test_no_two_films_change_places(numbers):
    """On a grid finer than float32 resolves: rounding may tie two films, never turn them round."""
    config = CXRDenseNetConfig(
        id2label={0: "x"}, calibration={"method": "beta", "split": "v", "coefficients": {"x": numbers}, "pooled": []}
    )
    z = torch.linspace(-60, 60, 2_000_001)
    assert (Calibrate(config)(z[:, None])[:, 0].diff() >= 0).all()


@pytest.mark.parametrize("link", ["flat", "conditional"])
def test_it_travels_with_the_checkpoint(nih, make_model, tmp_path, link):
    model = make_model(link=link).eval()
    pixels = torch.randn(4, 1, 32, 32)
    plain = model(pixels).logits
    model.config.calibration = made_up(nih).to_config()
    calibrated = model(pixels).logits
    assert torch.equal(calibrated, Calibrate(model.config)(plain))
    assert not torch.equal(calibrated, plain)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(pixels).logits, calibrated)
    assert loaded.config.calibration == model.config.calibration
    if link == "conditional":
        assert in_order(nih, calibrated).all()


def test_uncertainty_and_heatmaps_are_of_the_calibrated_model(nih, make_model):
    model = make_model(link="conditional", head_dropout=0.3).eval()
    model.config.calibration = made_up(nih).to_config()
    pixels = torch.randn(3, 1, 32, 32)
    expected = model(pixels).logits.sigmoid()
    seen = look(model, pixels, n_passes=200)
    plain = make_model(link="conditional", head_dropout=0.3).eval()
    torch.testing.assert_close(seen.heatmaps, look(plain, pixels, n_passes=None).heatmaps)  # of what the model read
    torch.testing.assert_close(seen.logits.sigmoid(), expected, atol=1e-6, rtol=0)
    assert (seen.uncertainty.mean - expected).abs().max() < 0.1


@pytest.mark.parametrize("method", ["temperature", "beta"])
def test_thresholds_move_with_the_calibration(nih, make_model, method):
    """The same films are decided as before, whatever the calibration does to their probabilities."""
    model, z = make_model(), logits(nih, n=2000).double()
    thresholds = {name: float(torch.rand(())) for name in nih.names} | {"Mass": None, "Hernia": 0.0}
    model.config.operating_points = {
        "split": "validation", "gate_threshold": 0.3, "gate_criterion": "", "criterion": "", "thresholds": thresholds
    }  # fmt: skip

    def decided():
        points = model.config.operating_points
        rows = [points["thresholds"][n] for n in nih.names] + [points["gate_threshold"]]
        alone = Calibration("x", "", (model.config.calibration or identity)["coefficients"])
        p = torch.tensor(alone.apply(nih.names, z.sigmoid().numpy()))
        p = torch.cat([p, p[:, [nih.names.index(nih.gate)]]], 1)
        return [None if t is None else (p[:, i] >= t).tolist() for i, t in enumerate(rows)]

    identity = {"coefficients": dict.fromkeys(nih.names, (1.0, 1.0, 0.0))}
    before = decided()
    model.set_calibration(made_up(nih, method).to_config())
    assert decided() == before
    model.set_calibration(made_up(nih, seed=4).to_config())
    assert decided() == before
    model.set_calibration(None)
    assert decided() == before
    assert model.config.operating_points["thresholds"]["Nodule"] == pytest.approx(thresholds["Nodule"], abs=1e-9)
    short = made_up(nih).to_config()
    del short["coefficients"]["Hernia"]
    with pytest.raises(ValueError, match=r"no coefficients for \['Hernia'\]"):
        model.set_calibration(short)


@pytest.mark.parametrize("numbers", [(-1.0, 1.0, 0.0), (1.0, 0.0)])
def test_a_calibration_that_turns_rankings_is_refused(nih, numbers):
    broken = made_up(nih).to_config()
    broken["coefficients"]["Mass"] = list(numbers)
    with pytest.raises(ValueError, match="calibration of 'Mass'"):
        CXRDenseNetConfig(calibration=broken, **nih.to_config())


def test_a_calibration_of_other_labels_is_refused(nih):
    short = made_up(nih).to_config()
    del short["coefficients"]["Hernia"]
    with pytest.raises(ValueError, match=r"no coefficients for \['Hernia'\]"):
        CXRDenseNetConfig(calibration=short, **nih.to_config())
