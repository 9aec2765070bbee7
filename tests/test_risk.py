"""Risk–coverage figures against permutations, scikit-learn and closed forms; the abstain rule on known films."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hf_cxr.risk import AbstainRule, aurc, best_aurc, errors, risk_coverage, selective_risk


def slow_aurc(error, order):
    """Mean, over k, of the share of errors among the k first."""
    return np.mean([np.mean([error[i] for i in order[:k]]) for k in range(1, len(order) + 1)])


def test_without_ties_it_is_the_definition():
    random = np.random.default_rng(0)
    error, uncertainty = (random.random(50) < 0.3).astype(float), random.random(50)
    assert aurc(error, uncertainty) == pytest.approx(slow_aurc(error, np.argsort(uncertainty)), abs=1e-12)
    coverage, risk = risk_coverage(error, uncertainty)
    assert coverage[-1] == 1
    assert risk[-1] == pytest.approx(error.mean())
    assert risk[9] == pytest.approx(error[np.argsort(uncertainty)[:10]].mean())


def test_ties_are_the_mean_over_all_orders():
    error, uncertainty = np.array([1.0, 0, 0, 1, 0, 1, 0]), np.array([0.2, 0.2, 0.2, 0.2, 0.5, 0.9, 0.9])
    groups = [np.flatnonzero(uncertainty == u) for u in np.unique(uncertainty)]
    orders = itertools.product(*(itertools.permutations(g) for g in groups))
    expected = np.mean([slow_aurc(error, [i for part in order for i in part]) for order in orders])
    assert aurc(error, uncertainty) == pytest.approx(expected, abs=1e-12)
    shuffled = np.random.default_rng(0).permutation(7)
    assert aurc(error[shuffled], uncertainty[shuffled]) == pytest.approx(expected, abs=1e-12)
    assert aurc(error, np.zeros(7)) == pytest.approx(error.mean())  # an uncertainty that knows nothing


def test_the_best_order_is_the_best_of_all_and_near_the_papers_integral():
    error = np.array([1.0, 0, 0, 1, 0, np.nan])
    known = error[:5]
    assert best_aurc(error) == pytest.approx(min(slow_aurc(known, o) for o in itertools.permutations(range(5))))
    many = (np.arange(20000) < 3000).astype(float)  # r + (1 − r) ln(1 − r), the paper's
    assert best_aurc(many) == pytest.approx(0.15 + 0.85 * np.log(0.85), abs=1e-4)


@pytest.fixture
def films():
    """Decisions at 0.5 of calibrated probabilities: uncertainty near 0.5 has the errors."""
    random = np.random.default_rng(3)
    probability = random.random((3000, 3))
    truth = (random.random((3000, 3)) < probability).astype(float)
    uncertainty = probability * (1 - probability)
    uncertainty[:, 1] *= -1  # points the wrong way
    uncertainty[:, 2] = random.random(3000)  # knows nothing
    return truth, probability >= 0.5, uncertainty


def test_figures_of_uncertainties_that_know_mislead_and_guess(films):
    truth, positive, uncertainty = films
    knows, misleads, guesses = selective_risk(truth, positive, uncertainty, ["a", "b", "c"])
    for row, i in ((knows, 0), (misleads, 1), (guesses, 2)):
        wrong = (truth[:, i] == 1) != positive[:, i]
        assert row.n_errors == wrong.sum()
        assert row.error_auroc == pytest.approx(roc_auc_score(wrong, uncertainty[:, i]))
        assert row.excess_aurc == pytest.approx(row.aurc - row.best_aurc)
        assert row.undefined is None
    assert knows.error_auroc > 0.7
    assert misleads.error_auroc < 0.3
    assert guesses.error_auroc == pytest.approx(0.5, abs=0.05)
    assert knows.aurc < 0.7 * knows.risk
    assert misleads.aurc > misleads.risk
    assert guesses.aurc == pytest.approx(guesses.risk, abs=0.03)
    # calibrated, decided at 0.5, surest first: at coverage c the mean risk is c / 4, so the area is 1/8
    assert knows.aurc == pytest.approx(1 / 8, abs=0.01)


def test_unknown_truth_is_left_out(films):
    truth, positive, uncertainty = films
    half = truth.copy()
    half[::2] = np.nan
    a = selective_risk(half, positive, uncertainty, ["a", "b", "c"])
    b = selective_risk(half[1::2], positive[1::2], uncertainty[1::2], ["a", "b", "c"])
    assert a == b
    assert np.isnan(errors(half, positive)[::2]).all()


def test_undefined_figures_are_null_with_the_reason():
    truth = np.array([[1.0, 1, np.nan], [0, 0, np.nan], [1, 1, np.nan]])
    positive = np.array([[True, False, True], [False, True, True], [True, False, True]])
    right, wrong, unknown = selective_risk(truth, positive, np.arange(9.0).reshape(3, 3), ["a", "b", "c"])
    assert (right.undefined, right.error_auroc, right.risk, right.aurc) == ("no decision is wrong", None, 0, 0)
    assert (wrong.undefined, wrong.error_auroc, wrong.aurc, wrong.excess_aurc) == ("every one is wrong", None, 1, 0)
    assert (unknown.undefined, unknown.n) == ("no film with known truth", 0)
    assert (unknown.risk, unknown.aurc, unknown.best_aurc, unknown.excess_aurc) == (None,) * 4


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"for 2 labels; expected \(N, L\) alike"):
        selective_risk(np.zeros((3, 1)), np.zeros((3, 1), bool), np.zeros((3, 1)), ["a", "b"])
    with pytest.raises(ValueError, match="1 scores of 3 are not finite"):
        selective_risk(np.zeros((3, 1)), np.zeros((3, 1), bool), np.array([[0], [np.nan], [1]]), ["a"])
    with pytest.raises(ValueError, match="truth has the values"):
        selective_risk(np.full((3, 1), 0.5), np.zeros((3, 1), bool), np.zeros((3, 1)), ["a"])
    for values, coverage in (([], 0.5), ([np.nan], 0.5), ([1.0], 0.0), ([1.0], 1.1)):
        with pytest.raises(ValueError, match=r"share in \(0, 1\]"):
            AbstainRule.choose(np.array(values), coverage, "valid")


@pytest.mark.parametrize("n", [7, 10, 100, 1000])
@pytest.mark.parametrize("coverage", [0.01, 0.1, 0.7, 0.9, 1.0])
def test_abstaining_keeps_the_share_asked_for(n, coverage):
    uncertainty = np.random.default_rng(n).permutation(n) / n
    rule = AbstainRule.choose(uncertainty, coverage, "valid")
    wanted = next(k for k in range(1, n + 1) if k >= round(coverage * n, 9))
    assert rule.keeps(uncertainty).sum() == wanted
    assert (rule.coverage, rule.split) == (coverage, "valid")


def test_films_of_equal_uncertainty_stay_together():
    rule = AbstainRule.choose(np.array([0.1, 0.2, 0.2, 0.2, 0.3]), 0.4, "valid")
    assert rule.threshold == 0.2
    assert rule.keeps(np.array([0.1, 0.2, 0.2, 0.2, 0.3])).tolist() == [True, True, True, True, False]


def test_abstaining_lowers_the_risk_on_other_films_where_uncertainty_knows(films):
    truth, positive, uncertainty = films
    rule = AbstainRule.choose(uncertainty[:1500, 0], 0.8, "valid")
    truth[2000:2500, 0] = np.nan
    got = rule.evaluate(truth[1500:, 0], positive[1500:, 0], uncertainty[1500:, 0])
    assert got["n"] == 1000
    assert got["coverage"] == pytest.approx(0.8, abs=0.03)
    assert got["risk_kept"] < got["risk"] < got["risk_abstained"]
    kept, wrong = got["n_kept"], 1000 * got["risk"]
    assert kept * got["risk_kept"] + (1000 - kept) * got["risk_abstained"] == pytest.approx(wrong)
    nothing = rule.evaluate(np.array([1.0]), np.array([True]), np.array([9.0]))
    assert (nothing["risk_kept"], nothing["risk_abstained"], nothing["coverage"]) == (None, 0.0, 0.0)
