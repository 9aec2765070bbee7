from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from hf_cxr import calibration, prior_shift, projection
from hf_cxr.calibration import Calibration, CalibrationError, fit
from hf_cxr.consistency import consistency
from tests.test_evaluation import make_table

NAMES = ("often", "rare", "few")


@pytest.fixture
def films():
    """Truth drawn from known probabilities, and what an over-confident, biased model would say of them."""
    random = np.random.default_rng(0)
    score = random.normal(size=(20_000, 3)) * [1.5, 1.0, 1.0] + [0.0, -3.0, -9.0]
    truth = (random.random(score.shape) < expit(score)).astype(float)
    truth[::7] = np.nan
    return truth, expit(score), expit(2.0 * score + 1.0)


def test_platt_is_logistic_regression_on_the_logit(films):
    truth, _, said = films
    a, b, c = fit(NAMES, truth, said, "platt", "validation").coefficients["often"]
    keep = ~np.isnan(truth[:, 0])
    reference = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(said[keep, :1]), truth[keep, 0])
    assert a == b == pytest.approx(reference.coef_[0, 0], rel=1e-4)
    assert c == pytest.approx(reference.intercept_[0], abs=1e-4)


def test_beta_is_logistic_regression_on_both_logarithms(films):
    truth, _, said = films
    found = fit(NAMES, truth, said, "beta", "validation").coefficients["often"]
    keep = ~np.isnan(truth[:, 0])
    p = said[keep, 0]
    reference = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000)
    reference.fit(np.stack([np.log(p), -np.log1p(-p)], 1), truth[keep, 0])
    np.testing.assert_allclose(found, [*reference.coef_[0], reference.intercept_[0]], atol=2e-3)


@pytest.mark.parametrize("method", ["platt", "beta"])
def test_the_true_probabilities_come_back(films, method):
    truth, true_probability, said = films
    fitted = fit(NAMES, truth, said, method, "validation").apply(NAMES, said)
    np.testing.assert_allclose(fitted[:, 0], true_probability[:, 0], atol=0.03)
    assert np.abs(said[:, 0] - true_probability[:, 0]).max() > 0.2


def test_temperature_is_one_slope_for_all_and_the_best_one(films):
    truth, _, said = films
    found = fit(NAMES, truth, expit(3 * logit(said)), "temperature", "validation")
    assert len(set(found.coefficients.values())) == 1
    keep = ~np.isnan(truth)

    def loss(slope):
        score = slope * 3 * logit(said)[keep]
        return np.mean(np.logaddexp(0, score) - truth[keep] * score)

    slope = found.coefficients["often"][0]
    assert loss(slope) <= min(loss(slope * 0.99), loss(slope * 1.01))


def test_labels_with_few_films_share_the_temperature(films):
    truth, _, said = films
    assert 0 < np.nansum(truth[:, 2]) < 20
    found = fit(NAMES, truth, said, "beta", "validation")
    assert found.pooled == ("few",)
    slope = fit(NAMES, truth, said, "temperature", "validation").coefficients["few"][0]
    a, b, c = found.coefficients["few"]
    assert a == b == slope
    keep = ~np.isnan(truth[:, 2])
    assert expit(slope * logit(said[keep, 2]) + c).mean() == pytest.approx(truth[keep, 2].mean(), rel=1e-3)
    truth[:, 2] = np.where(keep, 0, np.nan)
    assert fit(NAMES, truth, said, "beta", "validation").coefficients["few"][2] == 0.0  # no positive: no offset


@pytest.mark.parametrize("method", calibration.METHODS)
def test_ranking_stays(films, method):
    truth, _, said = films
    fitted = fit(NAMES, truth, said, method, "validation").apply(NAMES, said)
    keep = ~np.isnan(truth[:, 1])
    before, after = (roc_auc_score(truth[keep, 1], p[keep, 1]) for p in (said, fitted))
    assert after == pytest.approx(before, abs=1e-9)


def test_a_ranking_the_wrong_way_round_is_not_turned(films):
    truth, _, said = films
    a, b, _ = fit(NAMES, 1 - truth, said, "beta", "validation").coefficients["often"]
    assert a > 0
    assert b > 0


def own(n_films, of_each=2):
    """Patients of two films each."""
    return np.arange(n_films) // of_each


@pytest.mark.parametrize(
    ("bend", "expected"),
    [
        (lambda score: score, "none"),
        (lambda score: 2.5 * score, "temperature"),
        (lambda score: score + np.array([2.0, -2.0, 0.0]), "platt"),
        (lambda score: np.where(score > 0, 3 * score, 0.5 * score), "beta"),
    ],
)
def test_the_simplest_method_that_does_is_chosen(films, bend, expected):
    truth, true_probability, _ = films
    said = expit(bend(logit(true_probability)))
    assert calibration.choose_method(NAMES, truth, said, own(len(said))) == expected


def test_with_a_handful_of_patients_nothing_is_fitted(films):
    truth, _, said = films
    assert calibration.choose_method(NAMES, truth, said, np.arange(len(said)) % 4) == "none"


def test_few_films_do_not_buy_many_numbers(films):
    """On 300 films of a model that is right, per-label regression fits noise, and is not chosen."""
    truth, true_probability, _ = films
    chosen = calibration.choose_method(NAMES, truth[:300], true_probability[:300], own(300))
    assert chosen in ("none", "temperature")


def test_a_table_keeps_its_order(nih):
    table = make_table(nih)
    table = replace(table, probability=projection.project(table.probability, nih))
    fitted = calibration.fit_table(table, "platt", "validation")
    alone = replace(table, probability=fitted.apply(table.names, table.probability))
    after = calibration.calibrated(table, fitted, nih)
    assert consistency(alone.probability, nih)["images_out_of_order"] > 0
    assert consistency(after.probability, nih)["images_out_of_order"] == 0
    for name in (n for n in nih.names if not nih.parents[n]):
        np.testing.assert_array_equal(after.column(name)[1], alone.column(name)[1])


def test_none_changes_nothing(films):
    truth, _, said = films
    np.testing.assert_allclose(fit(NAMES, truth, said, "none", "validation").apply(NAMES, said), said, atol=1e-12)


def test_certain_probabilities_stay_in_range():
    apply = Calibration("platt", "validation", {"x": (3.0, 3.0, 1.0)}).apply
    out = apply(("x",), np.array([[0.0], [1e-300], [1.0], [1 - 1e-16]]))
    assert np.isfinite(out).all()
    assert (out >= 0).all()
    assert (out <= 1).all()
    assert (out[:2] < 1e-30).all()


def test_prior_shift_is_bayes():
    """Two classes of known densities: the posterior at another prevalence is the shifted one."""
    x = np.linspace(-3, 4, 50)
    positive, negative = np.exp(-((x - 1) ** 2) / 2), np.exp(-(x**2) / 2)

    def posterior(prevalence):
        return prevalence * positive / (prevalence * positive + (1 - prevalence) * negative)

    np.testing.assert_allclose(prior_shift.shift_prior(posterior(0.1), 0.1, 0.6), posterior(0.6), atol=1e-9)


def test_prior_is_found_without_labels():
    random = np.random.default_rng(0)
    sick = random.random(20_000) < 0.35
    score = random.normal(size=len(sick)) + 2.0 * sick
    at_five_percent = expit(2.0 * score - 2.0 + logit(0.05))  # exact posterior at a prevalence of 0.05
    assert prior_shift.estimate_prior(at_five_percent, 0.05) == pytest.approx(sick.mean(), abs=0.01)


def test_offsets_refit_from_a_few_labels(films):
    truth, _, said = films
    fitted = fit(NAMES, truth, said, "platt", "validation")
    apart = np.full_like(truth, np.nan)
    apart[:, 0] = (np.random.default_rng(1).random(len(truth)) < fitted.apply(NAMES, said)[:, 0] * 0.5).astype(float)
    few = slice(0, 300)
    again = calibration.refit_offsets(fitted, NAMES, apart[few], said[few])
    (a, b, c), (a2, b2, c2) = fitted.coefficients["often"], again.coefficients["often"]
    assert (a2, b2) == (a, b)
    assert c2 < c
    assert again.apply(NAMES, said[few])[:, 0].mean() == pytest.approx(apart[few, 0].mean(), abs=1e-4)
    assert again.coefficients["rare"] == fitted.coefficients["rare"]  # nothing known of it there


def test_bad_input_is_refused(films):
    truth, _, said = films
    with pytest.raises(CalibrationError, match="expected one of none, temperature"):
        fit(NAMES, truth, said, "isotonic", "validation")
    with pytest.raises(CalibrationError, match="no film with known truth"):
        fit(NAMES, np.full_like(truth, np.nan), said, "platt", "validation")
    with pytest.raises(CalibrationError, match=r"no calibration for \['other'\]"):
        fit(NAMES, truth, said, "platt", "validation").apply(("often", "other"), said[:, :2])
    with pytest.raises(CalibrationError, match="prevalence new"):
        prior_shift.shift_prior(said[:, 0], 0.5, 1.0)


def test_offsets_shift_without_labels():
    """Two classes of known densities, five percent here and a third there: the posterior there is found."""
    random = np.random.default_rng(0)

    def drawn(share):
        sick = random.random(40_000) < share
        score = random.normal(size=len(sick)) + 2.0 * sick
        return sick.astype(float)[:, None], expit(2 * (2.0 * score - 2.0 + logit(0.05)))[:, None]  # twice too sure

    truth, said = drawn(0.05)
    fitted = fit(("x",), truth, said, "platt", "validation")
    assert fitted.prevalence["x"] == truth.mean()
    there, said_there = drawn(0.33)
    shifted = prior_shift.shift_offsets(fitted, ("x",), said_there)
    assert shifted.coefficients["x"][:2] == fitted.coefficients["x"][:2]
    assert shifted.apply(("x",), said_there).mean() == pytest.approx(there.mean(), abs=0.01)
    assert abs(fitted.apply(("x",), said_there).mean() - there.mean()) > 0.05  # unshifted, it would be far off
    assert shifted.method == "platt, prior shifted"
    assert shifted.prevalence["x"] == pytest.approx(there.mean(), abs=0.01)
    again = prior_shift.shift_offsets(shifted, ("x",), said_there)
    assert again.coefficients["x"] == pytest.approx(shifted.coefficients["x"], abs=1e-3)  # it is there already
    refitted = calibration.refit_offsets(fitted, ("x",), there, said_there)
    assert refitted.prevalence["x"] == there.mean()
    after = prior_shift.shift_offsets(refitted, ("x",), said_there)
    assert after.apply(("x",), said_there).mean() == pytest.approx(there.mean(), abs=0.01)
    with pytest.raises(CalibrationError, match="nothing to shift from"):
        prior_shift.shift_offsets(fit(("x",), np.zeros_like(truth), said, "none", "v"), ("x",), said)


def test_no_calibration_can_be_shifted_too():
    truth, said = np.array([[1.0], [0], [0], [1], [0]] * 40), np.full((200, 1), 0.1)
    none = fit(("x",), truth, said, "none", "validation")
    assert not none.changes_anything
    moved = calibration.refit_offsets(none, ("x",), truth, said)
    assert moved.changes_anything
    assert moved.to_config()["method"] == "none, offsets refitted"
    assert moved.apply(("x",), said)[0] == pytest.approx(0.4, abs=1e-4)
