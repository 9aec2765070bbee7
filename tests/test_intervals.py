"""Bootstrap and DeLong against scikit-learn with weights, slow loops, closed forms and simulation."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from hf_cxr import intervals, metrics
from hf_cxr.bootstrap import Resamples, bootstrap_ratios, decision_parts
from hf_cxr.delong import delong, delong_difference
from hf_cxr.intervals import bootstrap_table, compare

NAMES = ("common", "tied", "rare")
SUBSETS = {"all": NAMES, "two": ("rare", "common")}


def make_films(seed=0, n_patients=60, decimals=2):
    """Patients (N,), truth with unknowns and probabilities with ties (N, 3); patients of 1 to 6 films, shuffled."""
    random = np.random.default_rng(seed)
    patients = random.permutation(np.repeat(np.arange(n_patients), random.integers(1, 7, n_patients)))
    leaning = random.normal(size=(n_patients, 3))[patients]
    truth = (leaning + random.normal(size=leaning.shape) > [0, 0.5, 1.6]).astype(float)
    score = 1 / (1 + np.exp(-(random.normal(size=truth.shape) + truth + 0.5 * leaning)))
    truth[random.random(truth.shape) < 0.1] = np.nan
    return patients.astype(str), truth, np.round(score, decimals)


def film_counts(resamples):
    """(R, N) how often each film is in each resample."""
    return np.concatenate([block.T for block in resamples.counts()])[:, resamples.patient_N]


def sklearn_figures(truth, score, weight):
    """Every figure of one resample, the slow way: films as often as they are drawn."""
    found, support = {}, {}
    for i, name in enumerate(NAMES):
        keep = ~np.isnan(truth[:, i])
        given = (truth[keep, i], score[keep, i])
        found["auroc", name] = roc_auc_score(*given, sample_weight=weight[keep])
        found["average_precision", name] = average_precision_score(*given, sample_weight=weight[keep])
        found["brier", name] = brier_score_loss(*given, sample_weight=weight[keep])
        support[name] = weight[keep] @ given[0]
    for key, members in SUBSETS.items():
        aurocs = [found["auroc", n] for n in members]
        found["macro_auroc", key] = np.mean(aurocs)
        found["weighted_auroc", key] = np.average(aurocs, weights=[support[n] for n in members])
        found["macro_average_precision", key] = np.mean([found["average_precision", n] for n in members])
        at = [NAMES.index(n) for n in members]
        pairs, repeated = truth[:, at].ravel(), np.repeat(weight, len(at))
        keep = ~np.isnan(pairs)
        found["micro_auroc", key] = roc_auc_score(pairs[keep], score[:, at].ravel()[keep], sample_weight=repeated[keep])
    return found


@pytest.mark.parametrize(
    ("decimals", "exact"),
    [(1, intervals.EXACT), (2, intervals.EXACT), (9, intervals.EXACT), (2, 1)],
    ids=["many ties", "ties", "no ties", "in float64"],
)
def test_every_figure_of_every_resample_is_scikit_learns(decimals, exact, monkeypatch):
    monkeypatch.setattr(intervals, "EXACT", exact)
    patients, truth, score = make_films(decimals=decimals)
    resamples = Resamples.of(patients, 12, seed=3)
    ours = bootstrap_table(NAMES, truth, score, resamples, SUBSETS)
    assert set(ours.point) == {(f, n) for f in intervals.OF_LABELS for n in NAMES} | {
        (f, key) for f in intervals.OF_SUBSETS for key in SUBSETS
    }
    expected = [sklearn_figures(truth, score, weight) for weight in film_counts(resamples)]
    for key in ours.point:
        np.testing.assert_allclose(ours.draws[key], [e[key] for e in expected], rtol=0, atol=1e-9, err_msg=str(key))
    once = sklearn_figures(truth, score, np.ones(len(patients)))
    assert ours.point == {key: pytest.approx(once[key], abs=1e-9) for key in ours.point}


def test_points_are_those_of_the_report():
    _, truth, score = make_films()
    truth[:, 2] = np.where(np.isnan(truth[:, 2]), np.nan, 0)  # no positive: left out of the means, and said
    figures = bootstrap_table(NAMES, truth, score, Resamples.of(np.arange(len(truth)), 5, unit="image"), SUBSETS)
    aurocs = [metrics.auroc(truth[:, i], score[:, i]) for i in range(3)]
    assert aurocs[2] is None
    assert figures.point["auroc", "rare"] is None
    assert figures.interval(("auroc", "rare")).undefined == "no positive film"
    assert figures.point["brier", "rare"] == pytest.approx(metrics.brier(truth[:, 2], score[:, 2]), abs=1e-12)
    assert figures.interval(("brier", "rare")).undefined is None
    support = np.nansum(truth, axis=0).tolist()
    assert figures.point["macro_auroc", "all"] == pytest.approx(metrics.macro(aurocs), abs=1e-12)
    expected = metrics.support_weighted(aurocs, support)
    assert figures.point["weighted_auroc", "all"] == pytest.approx(expected, abs=1e-12)
    assert figures.point["micro_auroc", "all"] == pytest.approx(metrics.micro_auroc(truth, score), abs=1e-12)


def test_resamples_draw_patients_with_replacement_and_all_their_films():
    patients, *_ = make_films()
    resamples = Resamples.of(patients, 300)
    counts = np.concatenate([block.T for block in resamples.counts()])
    n_patients = len(set(patients))
    assert counts.shape == (300, n_patients)
    assert (counts.sum(axis=1) == n_patients).all()
    # A count is binomial(P, 1/P): mean 1, variance 1 − 1/P, fourth central moment about 4. Five standard errors.
    np.testing.assert_allclose(counts.mean(axis=0), 1, rtol=0, atol=5 / np.sqrt(300))
    assert counts.var() == pytest.approx(1 - 1 / n_patients, abs=5 * np.sqrt(3 / counts.size))
    films = film_counts(resamples)
    for patient in sorted(set(patients))[:5]:
        assert (np.ptp(films[:, patients == patient], axis=1) == 0).all()
    assert np.ptp(films[:, :50], axis=1).max() > 0


def test_a_seed_repeats_and_neither_block_nor_order_of_films_matters():
    patients, truth, score = make_films()
    resamples = Resamples.of(patients, 50, seed=1)
    first = bootstrap_table(NAMES, truth, score, resamples, SUBSETS)
    order = np.random.default_rng(0).permutation(len(patients))
    others = {
        "again": bootstrap_table(NAMES, truth, score, Resamples.of(patients, 50, seed=1), SUBSETS),
        "blocks of 7": bootstrap_table(NAMES, truth, score, dataclasses.replace(resamples, block=7), SUBSETS),
        "other order": bootstrap_table(
            NAMES, truth[order], score[order], Resamples.of(patients[order], 50, seed=1), SUBSETS
        ),
    }
    for what, other in others.items():
        for key in first.point:
            np.testing.assert_allclose(other.draws[key], first.draws[key], rtol=0, atol=1e-12, err_msg=what)
    reseeded = bootstrap_table(NAMES, truth, score, Resamples.of(patients, 50, seed=2), SUBSETS)
    assert all(not np.allclose(reseeded.draws[key], first.draws[key]) for key in first.point)
    longer = bootstrap_table(NAMES, truth, score, Resamples.of(patients, 80, seed=1), SUBSETS, ("auroc",))
    np.testing.assert_array_equal(longer.draws["auroc", "rare"][:50], first.draws["auroc", "rare"])


def test_copies_of_films_narrow_the_image_interval_only():
    """Four copies of each film hold no more than one: resampling patients sees that, resampling images does not."""
    patients, truth, score = (np.repeat(part, 4, axis=0) for part in make_films(n_patients=150))
    single = bootstrap_table(NAMES, truth[::4], score[::4], Resamples.of(patients[::4], 400), SUBSETS)
    copied = bootstrap_table(NAMES, truth, score, Resamples.of(patients, 400), SUBSETS)
    alone = Resamples.of(np.arange(len(patients) // 4), 400, unit="image")
    image = bootstrap_table(NAMES, truth, score, Resamples.of(np.arange(len(patients)), 400, unit="image"), SUBSETS)
    image_single = bootstrap_table(NAMES, truth[::4], score[::4], alone, SUBSETS)
    for key in single.point:
        once, fourfold = single.interval(key), copied.interval(key)
        assert (fourfold.low, fourfold.high) == pytest.approx((once.low, once.high), abs=1e-9)
        by_image, by_image_once = image.interval(key), image_single.interval(key)
        assert by_image.unit == "image"
        # Half as wide, as the square root of four; 400 resamples give widths to about 8 %.
        assert by_image.high - by_image.low == pytest.approx((by_image_once.high - by_image_once.low) / 2, rel=0.25)
        assert by_image.high - by_image.low < 0.7 * (fourfold.high - fourfold.low)


def test_an_interval_is_the_percentiles_and_travels_as_json():
    patients, truth, score = make_films()
    figures = bootstrap_table(NAMES, truth, score, Resamples.of(patients, 200), figures=("auroc",))
    interval = figures.interval(("auroc", "common"), 0.9)
    ordered = sorted(figures.draws["auroc", "common"])
    assert ordered[8] <= interval.low <= ordered[11]
    assert ordered[188] <= interval.high <= ordered[191]
    assert json.loads(json.dumps(dataclasses.asdict(interval))) == {
        "low": interval.low, "high": interval.high, "level": 0.9, "n_resamples": 200, "n_undefined": 0,
        "unit": "patient", "undefined": None,
    }  # fmt: skip


@pytest.mark.parametrize(("carriers", "defined"), [(3, False), (4, True)])
@pytest.mark.parametrize("carried", [1, 0], ids=["positives", "negatives"])
def test_missing_classes_are_counted_and_too_many_undo_the_interval(carriers, defined, carried):
    """k of P patients carry the class: it is missing from (1 − k/P)^P of the resamples, 2.5 % are allowed."""
    random = np.random.default_rng(0)
    patients, truth = np.arange(200), np.where(np.arange(200) < carriers, carried, 1.0 - carried)[:, None]
    score = random.random((200, 1))
    figures = bootstrap_table(("hernia",), truth, score, Resamples.of(patients, 4000), {"all": ("hernia",)})
    expected = (1 - carriers / 200) ** 200
    for key in [("auroc", "hernia"), ("average_precision", "hernia"), ("macro_auroc", "all")]:
        interval = figures.interval(key)
        missing = (film_counts(figures.resamples)[:, :carriers].sum(axis=1) == 0).sum()
        assert interval.n_undefined == missing
        assert missing / 4000 == pytest.approx(expected, abs=4 * np.sqrt(expected / 4000))
        assert (interval.undefined is None) == defined == (interval.low is not None) == (interval.high is not None)
    assert defined or f"in {missing} of 4000 resamples; at most 100" in interval.undefined
    assert figures.interval(("brier", "hernia")).n_undefined == 0


def test_a_label_missing_from_a_resample_sits_it_out():
    patients, truth = np.arange(100).astype(str), np.zeros((100, 2))
    truth[:40, 0], truth[:2, 1] = 1, 1
    score = np.random.default_rng(1).random((100, 2))
    figures = bootstrap_table(("a", "b"), truth, score, Resamples.of(patients, 300), {"all": ("a", "b")})
    gone = film_counts(figures.resamples)[:, :2].sum(axis=1) == 0
    assert 10 < gone.sum() < 100
    a, b = figures.draws["auroc", "a"], figures.draws["auroc", "b"]
    np.testing.assert_allclose(figures.draws["macro_auroc", "all"][~gone], (a + b)[~gone] / 2, rtol=0, atol=1e-12)
    for mean in ("macro_auroc", "weighted_auroc"):
        np.testing.assert_allclose(figures.draws[mean, "all"][gone], a[gone], rtol=0, atol=1e-12)
    assert figures.interval(("auroc", "b")).undefined
    assert figures.interval(("macro_auroc", "all")).undefined is None


def test_rates_are_those_of_the_films_drawn():
    patients, truth, score = make_films()
    decided = score[:, 0] >= 0.5
    parts = decision_parts("common", truth[:, 0], decided)
    parts["skip_rate", "gate"] = (~decided, np.ones(len(decided)))
    figures = bootstrap_ratios(parts, Resamples.of(patients, 30))
    for r, count in enumerate(film_counts(figures.resamples).astype(int)):
        drawn = np.repeat(np.arange(len(count)), count)
        expected = metrics.confusion(truth[drawn, 0], decided[drawn])
        for name in ("sensitivity", "specificity", "ppv", "npv", "f1"):
            assert figures.draws[name, "common"][r] == pytest.approx(expected[name], abs=1e-12)
        assert figures.draws["skip_rate", "gate"][r] == pytest.approx(1 - decided[drawn].mean(), abs=1e-12)
    whole = metrics.confusion(truth[:, 0], decided)
    assert all(figures.point[key] == pytest.approx(whole[key[0]], abs=1e-12) for key in parts if key[1] == "common")


def test_a_rate_of_nothing_is_null_with_its_reason():
    patients, truth, _ = make_films()
    figures = bootstrap_ratios(decision_parts("common", truth[:, 0], np.zeros(len(truth))), Resamples.of(patients, 30))
    interval = figures.interval(("ppv", "common"))
    assert figures.point["ppv", "common"] is None
    assert (interval.low, interval.high, interval.undefined) == (None, None, "no film in the denominator")
    assert interval.n_undefined == 30
    assert figures.point["sensitivity", "common"] == 0


def binormal(random, n_patients, films=3, shift=1.2):
    """Patients, truth and a score whose true AUROC is Φ(shift/√2); a patient's films share truth and half the noise."""
    patients = np.repeat(np.arange(n_patients), films)
    truth = np.repeat((np.arange(n_patients) % 3 == 0).astype(float), films)
    noise = np.sqrt(0.5) * (random.normal(size=n_patients)[patients] + random.normal(size=len(patients)))
    return patients, truth, shift * truth + noise


def test_coverage_is_about_nominal_by_patient_and_short_by_image():
    true_auroc, key = 0.8019, ("auroc", "x")  # Φ(1.2/√2)
    covered = {"patient": 0, "image": 0}
    for seed in range(300):
        patients, truth, score = binormal(np.random.default_rng(seed), 120)
        for unit in covered:
            drawn = patients if unit == "patient" else np.arange(len(patients))
            resamples = Resamples.of(drawn, 200, seed, unit)
            interval = bootstrap_table(("x",), truth[:, None], score[:, None], resamples, figures=("auroc",)).interval(
                key
            )
            covered[unit] += interval.low <= true_auroc <= interval.high
    assert 0.90 <= covered["patient"] / 300 <= 0.99
    assert covered["image"] / 300 < 0.90


def test_paired_p_is_about_uniform_without_a_difference():
    ps, delongs = [], []
    for seed in range(400):
        random = np.random.default_rng(seed)
        patients, truth, shared = binormal(random, 120, films=1)
        scores = [(shared + 0.7 * random.normal(size=len(truth)))[:, None] for _ in range(2)]
        resamples = Resamples.of(patients, 199, seed)
        found = compare(("x",), truth[:, None], *scores, resamples, figures=("auroc",))["auroc", "x"]
        ps.append(found.p)
        delongs.append(found.p_delong)
    assert kstest(ps, "uniform").pvalue > 0.001
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.09  # within three standard errors of 0.05
    assert np.corrcoef(ps, delongs)[0, 1] > 0.95  # one film a patient: both test the same


def test_a_real_difference_is_found_and_p_is_never_zero():
    patients, truth, _ = make_films(n_patients=150)
    random = np.random.default_rng(0)
    noise = random.normal(size=truth.shape)
    known = np.nan_to_num(truth)
    good, bad = (1 / (1 + np.exp(-(shift * known + noise))) for shift in (2.5, 0.5))
    resamples = Resamples.of(patients, 400)
    found = compare(NAMES, truth, good, bad, resamples, SUBSETS)
    one, two = (bootstrap_table(NAMES, truth, score, resamples, SUBSETS) for score in (good, bad))
    for key, comparison in found.items():
        assert comparison.first - comparison.second == pytest.approx(comparison.difference, abs=1e-12)
        expected = np.percentile(one.draws[key] - two.draws[key], [2.5, 97.5])
        assert (comparison.interval.low, comparison.interval.high) == pytest.approx(tuple(expected), abs=1e-12)
        assert (comparison.p_delong is not None) == (key[0] == "auroc")
    for key in [("auroc", "common"), ("auroc", "tied"), ("macro_auroc", "all"), ("micro_auroc", "two")]:
        assert found[key].interval.low > 0
        assert found[key].p == pytest.approx(2 / 401)
    assert found["auroc", "common"].p_delong < 1e-6
    same = compare(NAMES, truth, good, good, resamples, SUBSETS)
    assert {(c.difference, c.p, c.interval.low, c.interval.high) for c in same.values()} == {(0.0, None, None, None)}
    assert {c.p_delong for c in same.values()} == {None}
    assert json.loads(json.dumps(dataclasses.asdict(found["auroc", "rare"])))["interval"]["unit"] == "patient"


def test_p_is_twice_the_smaller_tail():
    _, truth, score = make_films()
    figures = bootstrap_ratios({("x", "x"): (score[:, 0], np.ones(len(truth)))}, Resamples.of(np.arange(len(truth)), 9))
    draws = np.array([-3.0, -1, 0, 1, 2, 3, 4, 5, 6])
    crafted = dataclasses.replace(figures, draws={("x", "x"): draws})
    assert crafted.p_value(("x", "x")) == pytest.approx(2 * (1 + 3) / 10)  # three of nine are 0 or less


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


def test_errors_say_what_was_received():
    patients, truth, score = make_films()
    resamples = Resamples.of(patients, 5)
    with pytest.raises(ValueError, match=r"1 films of 3 have no patient; give ids and unit='image'"):
        Resamples.of(["a", float("nan"), "b"])
    with pytest.raises(ValueError, match="3 films have 2 ids; with patients give unit='patient'"):
        Resamples.of(["a", "a", "b"], unit="image")
    with pytest.raises(ValueError, match="unit 'study'"):
        Resamples.of(patients, unit="study")
    with pytest.raises(ValueError, match="0 distinct"):
        Resamples.of([])
    with pytest.raises(ValueError, match=r"expected \(\d+, 3\)"):
        bootstrap_table(NAMES, truth, score[:, :2], resamples)
    with pytest.raises(ValueError, match=r"\['auc', 'pneumonia'\]"):
        bootstrap_table(NAMES, truth, score, resamples, {"x": ("pneumonia",)}, ("auc",))
    with pytest.raises(ValueError, match="1 scores of"):
        bootstrap_table(
            NAMES, truth, np.where(np.arange(score.size).reshape(score.shape) == 4, np.inf, score), resamples
        )
    with pytest.raises(ValueError, match="counts films that the denominator leaves out"):
        bootstrap_ratios({("ppv", "x"): (np.ones(len(truth)), np.zeros(len(truth)))}, resamples)
    with pytest.raises(ValueError, match="shapes"):
        bootstrap_ratios({("ppv", "x"): (np.ones(3), np.ones(3))}, resamples)
    figures = bootstrap_table(NAMES, truth, score, resamples, figures=("auroc",))
    with pytest.raises(ValueError, match=r"seed 0 against .* seed 1"):
        figures.minus(bootstrap_table(NAMES, truth, score, Resamples.of(patients, 5, seed=1), figures=("auroc",)))
    with pytest.raises(ValueError, match=r"level 95"):
        figures.interval(("auroc", "rare"), 95)
    with pytest.raises(ValueError, match=r"level 95"):
        delong(truth[:, 0], score[:, 0], 95)


def test_no_certainty_is_claimed_where_all_resamples_agree():
    patients = np.arange(50)
    parts = {("lost", "x"): (np.zeros(50), np.ones(50)), ("sensitivity", "x"): (np.ones(50), np.ones(50))}
    figures = bootstrap_ratios(parts, Resamples.of(patients, 100))
    for key, value in ((("lost", "x"), "0"), (("sensitivity", "x"), "1")):
        interval = figures.interval(key)
        assert (interval.low, interval.high) == (None, None)
        assert interval.undefined.startswith(f"{value} in every resample")
