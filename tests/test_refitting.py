"""Calibration and thresholds where a hospital labels a few of the findings only."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from hf_cxr.calibration import fit_table
from hf_cxr.gating import SingleClassGateError
from hf_cxr.operating_points import choose_operating_points
from hf_cxr.predictions import PredictionTable
from hf_cxr.refitting import refit_calibration, refit_points

KNOWN = ("Abnormal", "Pneumonia")


def table(nih, known=None, seed=0, n_films=400):
    random = np.random.default_rng(seed)
    score = random.normal(size=(n_films, len(nih.names)))
    truth = (random.random(score.shape) < 1 / (1 + np.exp(-2 * score))).astype(float)
    if known is not None:
        truth[:, [name not in known for name in nih.names]] = np.nan
    ids = np.array([f"f{i}" for i in range(n_films)], dtype=object)
    probability = 1 / (1 + np.exp(-score))
    return PredictionTable(nih.names, ids, ids, truth, probability, pd.DataFrame(index=range(n_films)))


@pytest.fixture
def earlier(nih):
    full = table(nih)
    return SimpleNamespace(
        calibration=fit_table(full, "platt", "validation").to_config(),
        operating_points=asdict(choose_operating_points(full, nih, "validation")),
    )


@pytest.mark.parametrize("method", ["none", "temperature", "platt", "beta", "auto"])
def test_labels_without_films_keep_the_earlier_calibration(nih, earlier, method):
    here = table(nih, KNOWN, seed=1)
    fitted = refit_calibration(here, method, "validation", earlier)
    alone = fit_table(here.in_order(KNOWN), method, "validation")
    for name in nih.names:
        expected = alone.coefficients[name] if name in KNOWN else earlier.calibration["coefficients"][name]
        assert tuple(fitted.coefficients[name]) == tuple(expected)
    assert "as before the adaptation: Opacity," in fitted.method
    assert set(fitted.prevalence) == set(nih.names)
    assert fitted.prevalence["Mass"] is None


def test_without_an_earlier_model_all_are_fitted(nih):
    full = table(nih)
    assert refit_calibration(full, "platt", "validation") == fit_table(full, "platt", "validation")
    assert refit_points(full, nih, "validation", "sensitivity:0.95") == choose_operating_points(full, nih, "validation")


def test_thresholds_likewise(nih, earlier):
    points = refit_points(table(nih, KNOWN, seed=1), nih, "validation", "sensitivity:0.9", earlier)
    before = earlier.operating_points
    assert points.thresholds["Mass"] == before["thresholds"]["Mass"]
    assert points.thresholds["Pneumonia"] != before["thresholds"]["Pneumonia"]
    assert points.gate_threshold != before["gate_threshold"]
    assert points.gate_criterion == "sensitivity >= 0.9"
    assert "as before the adaptation: Opacity," in points.criterion


def test_a_gate_of_one_class_keeps_its_threshold_if_it_has_one(nih, earlier):
    here = table(nih, KNOWN, seed=1)
    here.truth[:, 0] = 1
    points = refit_points(here, nih, "validation", "sensitivity:0.9", earlier)
    assert points.gate_threshold == earlier.operating_points["gate_threshold"]
    assert points.gate_criterion == "sensitivity >= 0.95 (before adaptation)"
    with pytest.raises(SingleClassGateError):
        refit_points(here, nih, "validation", "sensitivity:0.9")
    earlier.operating_points = None
    points = refit_points(here, nih, "validation", "sensitivity:0.9", earlier)
    assert (points.gate_threshold, points.gate_criterion) == (None, "none (before adaptation)")
    assert points.thresholds["Pneumonia"] is not None


@pytest.mark.parametrize("method", ["none", "platt", "auto"])
def test_films_that_say_nothing_leave_everything_as_it_was(nih, earlier, method):
    nothing = table(nih, ())
    fitted = refit_calibration(nothing, method, "validation", earlier)
    assert fitted.coefficients == earlier.calibration["coefficients"]
    points = refit_points(nothing, nih, "validation", "sensitivity:0.9", earlier)
    assert points.thresholds == earlier.operating_points["thresholds"]
    assert points.gate_threshold == earlier.operating_points["gate_threshold"]
