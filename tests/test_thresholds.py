import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

from hf_cxr import thresholds
from hf_cxr.operating_points import Criterion, choose_operating_points
from hf_cxr.thresholds import ThresholdError
from tests.test_evaluation import make_table


@pytest.fixture
def films():
    random = np.random.default_rng(0)
    truth = (random.random(997) < 0.4).astype(float)
    return truth, np.round(np.clip(random.random(997) * 0.8 + 0.2 * truth, 0, 1), 2)  # with ties


@pytest.mark.parametrize("wished", [0.5, 0.9, 0.95, 1.0])
def test_sensitivity_is_reached_and_no_more(films, wished):
    truth, score = films
    threshold = thresholds.at_sensitivity(truth, score, wished)
    assert recall_score(truth, score >= threshold) >= wished
    assert recall_score(truth, score > threshold) < wished


@pytest.mark.parametrize("wished", [0.5, 0.9, 0.95, 1.0])
def test_specificity_is_reached_and_no_more(films, wished):
    truth, score = films
    threshold = thresholds.at_specificity(truth, score, wished)
    assert recall_score(1 - truth, score < threshold) >= wished
    highest_negative_below = score[(truth == 0) & (score < threshold)].max()
    assert recall_score(1 - truth, score < highest_negative_below) < wished


def test_f1_and_youden_are_the_best_of_all(films):
    truth, score = films
    best = thresholds.highest_f1(truth, score)
    assert f1_score(truth, score >= best) == pytest.approx(max(f1_score(truth, score >= t) for t in np.unique(score)))

    def youden(threshold):
        return recall_score(truth, score >= threshold) + recall_score(1 - truth, score < threshold)

    best = thresholds.highest_youden(truth, score)
    assert youden(best) == pytest.approx(max(youden(t) for t in np.unique(score)))


def test_unknown_truth_is_left_out_and_one_class_has_no_threshold(films):
    truth, score = films
    more = np.append(truth, [np.nan, np.nan]), np.append(score, [0.0, 1.0])
    for find in (thresholds.highest_f1, thresholds.highest_youden):
        assert find(*more) == find(truth, score)
        assert find(np.ones(5), np.linspace(0, 1, 5)) is None
    assert thresholds.at_sensitivity(*more, 0.9) == thresholds.at_sensitivity(truth, score, 0.9)
    assert thresholds.at_sensitivity(np.zeros(3), np.ones(3), 0.9) is None
    assert thresholds.at_specificity(np.ones(3), np.ones(3), 0.9) is None


@pytest.mark.parametrize(("n", "miss_rate", "confidence"), [(150, 0.05, 0.9), (400, 0.1, 0.95), (200, 0.05, 0.95)])
def test_the_guarantee_of_the_miss_rate_holds_and_is_tight(n, miss_rate, confidence):
    """Over many draws of validation films the true miss rate exceeds the limit about as often as allowed, not more."""
    random = np.random.default_rng(1)
    n_draws, broken, broken_by_plain_share = 3000, 0, 0
    for _ in range(n_draws):
        score = random.random(n)  # so that the miss rate of a threshold t on new films is t itself
        broken += thresholds.at_miss_rate(np.ones(n), score, miss_rate, confidence) > miss_rate
        broken_by_plain_share += thresholds.at_sensitivity(np.ones(n), score, 1 - miss_rate) > miss_rate
    allowed = 1 - confidence
    assert broken / n_draws <= allowed + 3 * np.sqrt(allowed / n_draws)
    assert broken / n_draws >= allowed / 3  # k is a whole number, hence not equal
    assert broken_by_plain_share / n_draws > 0.35  # what the guarantee is for


def test_too_few_films_for_a_guarantee_says_how_many_it_takes():
    for n in (58, 59):
        truth, score = np.ones(n), np.linspace(0, 1, n)
        if n == 58:
            with pytest.raises(ThresholdError, match="takes 59 positive films, there are 58"):
                thresholds.at_miss_rate(truth, score, 0.05, 0.95)
        else:
            assert thresholds.at_miss_rate(truth, score, 0.05, 0.95) == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("f1", "highest F1"),
        ("youden", "highest Youden"),
        ("sensitivity:0.95", "sensitivity >= 0.95"),
        ("specificity:.9", "specificity >= 0.9"),
        ("miss_rate:0.05@0.9", "miss rate <= 0.05 with confidence 0.9"),
    ],
)
def test_criteria_read_and_choose(nih, text, shown):
    points = choose_operating_points(make_table(nih), nih, "validation", criterion=text, gate_criterion=text)
    assert points.criterion == points.gate_criterion == shown
    truth, probability = make_table(nih).column("Abnormal")
    keep = ~np.isnan(truth)
    assert points.gate_threshold == Criterion.parse(text).threshold(truth[keep], probability[keep])


@pytest.mark.parametrize("text", ["f2", "sensitivity", "sensitivity:high", "miss_rate:0.1", "f1:0.5"])
def test_unreadable_criteria_are_refused(text):
    with pytest.raises(ThresholdError, match="expected one of f1, youden"):
        Criterion.parse(text)


@pytest.mark.parametrize("find", [thresholds.at_sensitivity, thresholds.at_specificity])
@pytest.mark.parametrize("share", [0, 1.1, -1])
def test_shares_out_of_range_are_refused(films, find, share):
    with pytest.raises(ThresholdError, match=r"share in \(0, 1\]"):
        find(*films, share)
