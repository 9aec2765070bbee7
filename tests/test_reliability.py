import itertools

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve

from hf_cxr import reliability


@pytest.fixture
def films():
    random = np.random.default_rng(0)
    probability = expit(random.normal(size=5000) - 1)
    return (random.random(5000) < probability).astype(float), probability


@pytest.mark.parametrize(("kind", "strategy"), [("width", "uniform"), ("mass", "quantile")])
def test_bins_are_scikit_learns(films, kind, strategy):
    truth, probability = films
    rows = reliability.reliability_bins(truth, probability, kind)
    share, mean = calibration_curve(truth, probability, n_bins=15, strategy=strategy)
    np.testing.assert_allclose([row["mean_probability"] for row in rows], mean, atol=2e-3)
    np.testing.assert_allclose([row["share_positive"] for row in rows], share, atol=2e-2)
    assert sum(row["n"] for row in rows) == 5000


@pytest.mark.parametrize("kind", reliability.KINDS)
def test_ece_is_the_slow_loop(films, kind):
    truth, probability = films
    total = sum(r["n"] * abs(r["share_positive"] - r["mean_probability"]) for r in _slow_bins(truth, probability, kind))
    assert reliability.ece(truth, probability, kind) == pytest.approx(total / 5000, abs=1e-12)


def _slow_bins(truth, probability, kind):
    if kind == "width":
        groups = [np.flatnonzero((probability > i / 15) & (probability <= (i + 1) / 15)) for i in range(15)]
    else:
        order = np.argsort(probability)
        cuts = [int(np.ceil(i * len(order) / 15)) for i in range(16)]
        groups = [order[a:b] for a, b in itertools.pairwise(cuts)]
    return [
        {"n": len(g), "share_positive": truth[g].mean(), "mean_probability": probability[g].mean()}
        for g in groups
        if len(g)
    ]


def test_equal_probabilities_are_never_torn_apart():
    probability = np.repeat([0.1, 0.2, 0.9], [50, 30, 20])
    rows = reliability.reliability_bins(np.zeros(100), probability, "mass")
    assert [row["n"] for row in rows] == [50, 30, 20]
    assert [row["n"] for row in reliability.reliability_bins(np.zeros(7), np.full(7, 0.3), "mass")] == [7]


def test_ece_of_known_cases():
    assert reliability.ece(np.array([0.0, 1, 1, 1]), np.full(4, 0.75)) == 0
    assert reliability.ece(np.array([0.0, 0, 0, 0]), np.full(4, 0.75)) == 0.75
    assert reliability.ece(np.array([1.0, 0]), np.array([1.0, 0.0])) == 0
    assert reliability.ece(np.array([np.nan]), np.array([0.4])) is None


def test_chance_accounts_for_the_ece_of_perfect_probabilities(films):
    truth, probability = films
    by_chance = reliability.ece_if_perfect(truth, probability)
    drawn = [
        reliability.ece((np.random.default_rng(i).random(5000) < probability).astype(float), probability)
        for i in range(100)
    ]
    assert by_chance == pytest.approx(np.mean(drawn), rel=0.05)
    assert reliability.ece(truth, expit(2 * logit(probability))) > 3 * by_chance


def test_slope_and_intercept_find_what_was_done_to_the_probabilities():
    random = np.random.default_rng(0)
    score = random.normal(size=200_000)
    truth = (random.random(len(score)) < expit(score)).astype(float)
    slope, intercept = reliability.slope_and_intercept(truth, expit(2 * score))
    assert slope == pytest.approx(0.5, abs=0.02)
    assert intercept == pytest.approx(0, abs=0.03)
    slope, intercept = reliability.slope_and_intercept(truth, expit(score - 0.7))
    assert slope == pytest.approx(1, abs=0.02)
    assert intercept == pytest.approx(0.7, abs=0.03)


def test_undefined_is_none():
    assert reliability.slope_and_intercept(np.ones(4), np.full(4, 0.5)) == (None, None)
    assert reliability.slope_and_intercept(np.array([0.0, 1]), np.full(2, 0.5)) == (None, pytest.approx(0))
    with pytest.raises(ValueError, match="expected one of width, mass"):
        reliability.ece(np.ones(4), np.full(4, 0.5), kind="size")
