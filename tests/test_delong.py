"""DeLong against a slow loop over pairs, and by hand."""

import numpy as np
import pytest

from hf_cxr.delong import delong, delong_difference
from tests.interval_films import make_films


def slow_delong(truth, *scores):
    """AUROCs and covariance by the pairs of films, DeLong et al. 1988, equations 4 to 6."""
    keep = ~np.isnan(truth)
    components = []
    for score in scores:
        positive, negative = score[keep & (truth == 1)], score[keep & (truth == 0)]
        wins = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in negative] for x in positive])
        components.append((wins.mean(axis=1), wins.mean(axis=0)))
    m, n = wins.shape
    by_positive, by_negative = (np.atleast_2d(np.cov([c[i] for c in components])) for i in (0, 1))
    return [c[0].mean() for c in components], by_positive / m + by_negative / n


@pytest.mark.parametrize("decimals", [1, 9], ids=["ties", "no ties"])
def test_delong_is_the_slow_loop_over_pairs(decimals):
    _, truth, score = make_films(decimals=decimals)
    other = np.round(score + np.random.default_rng(9).normal(size=score.shape), decimals)
    for i in range(3):
        aurocs, covariance = slow_delong(truth[:, i], score[:, i], other[:, i])
        one = delong(truth[:, i], score[:, i])
        assert one.auroc == pytest.approx(aurocs[0], abs=1e-12)
        assert one.standard_error**2 == pytest.approx(covariance[0, 0], abs=1e-12)
        assert 0 < one.low < one.auroc < one.high < 1
        middle = (np.log(one.low / (1 - one.low)) + np.log(one.high / (1 - one.high))) / 2
        assert middle == pytest.approx(np.log(one.auroc / (1 - one.auroc)), abs=1e-9)  # symmetric on the logit
        two = delong_difference(truth[:, i], score[:, i], other[:, i])
        variance = np.array([1, -1]) @ covariance @ np.array([1, -1])
        assert two.difference == pytest.approx(aurocs[0] - aurocs[1], abs=1e-12)
        assert two.standard_error**2 == pytest.approx(variance, abs=1e-12)
        assert two.z == pytest.approx(two.difference / np.sqrt(variance), abs=1e-9)
        assert (two.p < 0.05) == (two.low > 0 or two.high < 0)


def test_delong_by_hand():
    """Positives 3, 1 against negatives 2, 0: V10 = (1, 1/2), V01 = (1/2, 1), variance 1/16 + 1/16."""
    found = delong(np.array([1, 1, 0, 0, np.nan]), np.array([3.0, 1, 2, 0, 9]))
    assert (found.auroc, found.n_positive, found.n_negative) == (0.75, 2, 2)
    assert found.standard_error == pytest.approx(np.sqrt(1 / 8), abs=1e-15)
    odds = 3 * np.exp(1.959963984540054 * np.sqrt(1 / 8) / (0.75 * 0.25))
    assert found.high == pytest.approx(odds / (1 + odds), abs=1e-12)
    # Second curve: 3, 2 against 1, 0 is perfect; components differ by (0, −1/2) and (−1/2, 0), variance 1/8 again.
    two = delong_difference(np.array([1, 1, 0, 0]), np.array([3.0, 1, 2, 0]), np.array([3.0, 2, 1, 0]))
    assert (two.difference, two.z) == pytest.approx((-0.25, -0.25 / np.sqrt(1 / 8)), abs=1e-12)
    assert two.high == pytest.approx(-0.25 + 1.959963984540054 * np.sqrt(1 / 8), abs=1e-12)
    assert two.p == pytest.approx(0.4795001221869535, abs=1e-12)  # 2 Φ(−1/√2) = erfc(1/2)


def test_delong_is_silent_where_it_knows_nothing():
    truth, perfect = np.array([1.0, 1, 0, 0]), np.array([4.0, 3, 2, 1])
    found = delong(truth, perfect)
    assert (found.auroc, found.standard_error, found.low, found.high) == (1, 0, None, None)
    assert "variance of 0" in found.undefined
    same = delong_difference(truth, perfect, perfect * 2)
    assert (same.difference, same.standard_error, same.low, same.z, same.p) == (0, 0, None, None, None)
    assert "no film tells the curves apart" in same.undefined
    assert delong(np.ones(4), perfect).undefined == delong_difference(np.ones(4), perfect, perfect).undefined
    assert delong(np.ones(4), perfect).undefined == "no negative film"
    lone = delong(np.array([1.0, 0, 0]), np.array([0.5, 0.4, 0.6]))
    assert (lone.auroc, lone.standard_error) == (0.5, None)
    assert "1 positive and 2 negative films; the variance needs two of each" in lone.undefined
    assert delong_difference(np.array([1.0, 0, 0]), np.arange(3.0), np.arange(3.0)).undefined == lone.undefined


def test_a_level_is_a_share():
    with pytest.raises(ValueError, match=r"level 95"):
        delong(np.array([1.0, 0, 1, 0]), np.array([0.1, 0.2, 0.3, 0.4]), 95)
