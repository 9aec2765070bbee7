import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from hf_cxr import reliability
from hf_cxr.evaluate_metrics import MultilabelAUROC, MultilabelAveragePrecision, MultilabelCalibration


@pytest.fixture
def films():
    random = np.random.default_rng(0)
    truth = (random.random((300, 3)) < [0.5, 0.1, 0.0]).astype(float)  # the last label has no positive film
    probability = np.clip(random.random((300, 3)) * 0.7 + 0.3 * truth, 0, 1)
    truth[::9, 0] = np.nan
    return truth, probability


def known(films, i):
    truth, probability = films[0][:, i], films[1][:, i]
    return truth[~np.isnan(truth)], probability[~np.isnan(truth)]


def test_auroc_is_scikit_learns(films):
    truth, probability = films
    found = MultilabelAUROC().compute(predictions=probability, references=truth)
    expected = [roc_auc_score(*known(films, i)) for i in (0, 1)]
    assert found["auroc"] == [pytest.approx(expected[0], abs=1e-9), pytest.approx(expected[1], abs=1e-9), None]
    assert found["macro_auroc"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert found["weighted_auroc"] == pytest.approx(np.average(expected, weights=found["n_positive"][:2]), abs=1e-9)
    keep = ~np.isnan(truth)
    assert found["micro_auroc"] == pytest.approx(roc_auc_score(truth[keep], probability[keep]), abs=1e-9)


def test_average_precision_and_calibration(films):
    found = MultilabelAveragePrecision().compute(predictions=films[1], references=films[0])
    expected = [average_precision_score(*known(films, i)) for i in (0, 1)]
    assert found["macro_average_precision"] == pytest.approx(np.mean(expected), abs=1e-9)
    found = MultilabelCalibration().compute(predictions=films[1], references=films[0])
    assert found["brier"][1] == pytest.approx(brier_score_loss(*known(films, 1)), abs=1e-9)
    assert found["ece"][0] == pytest.approx(reliability.ece(*known(films, 0)))
    assert found["slope"][2] is None


def test_batches_add_up(films):
    truth, probability = films
    metric = MultilabelAUROC()
    for rows in (slice(0, 100), slice(100, 300)):
        metric.add_batch(predictions=probability[rows], references=truth[rows])
    assert metric.compute() == MultilabelAUROC().compute(predictions=probability, references=truth)


def test_shapes_must_agree(films):
    with pytest.raises(ValueError, match="expected the same"):
        MultilabelAUROC().compute(predictions=films[1][:, :2], references=films[0])


def test_averages_over_named_subsets(films):
    truth, probability = films
    found = MultilabelAUROC().compute(predictions=probability, references=truth, subsets={"first": [0], "both": [1, 0]})
    assert found["macro_auroc_first"] == pytest.approx(roc_auc_score(*known(films, 0)), abs=1e-9)
    assert found["macro_auroc_both"] == found["macro_auroc"]  # the third label has no positive film
    alone = MultilabelAUROC().compute(predictions=probability[:, :2], references=truth[:, :2])
    assert found["micro_auroc_both"] == alone["micro_auroc"] != found["micro_auroc"]
    assert "macro_average_precision_x" in MultilabelAveragePrecision().compute(
        predictions=probability, references=truth, subsets={"x": [0]}
    )
