"""The bootstrap of rankings against scikit-learn with weights, and by simulation."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import kstest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from hf_cxr import intervals, metrics
from hf_cxr.bootstrap import Resamples
from hf_cxr.intervals import bootstrap_table, compare
from tests.interval_films import NAMES, SUBSETS, film_counts, make_films


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


def test_errors_say_what_was_received():
    patients, truth, score = make_films()
    resamples = Resamples.of(patients, 5)
    with pytest.raises(ValueError, match=r"expected \(\d+, 3\)"):
        bootstrap_table(NAMES, truth, score[:, :2], resamples)
    with pytest.raises(ValueError, match=r"\['auc', 'pneumonia'\]"):
        bootstrap_table(NAMES, truth, score, resamples, {"x": ("pneumonia",)}, ("auc",))
    with pytest.raises(ValueError, match="1 scores of"):
        bootstrap_table(
            NAMES, truth, np.where(np.arange(score.size).reshape(score.shape) == 4, np.inf, score), resamples
        )
    figures = bootstrap_table(NAMES, truth, score, resamples, figures=("auroc",))
    with pytest.raises(ValueError, match=r"seed 0 against .* seed 1"):
        figures.minus(bootstrap_table(NAMES, truth, score, Resamples.of(patients, 5, seed=1), figures=("auroc",)))
    with pytest.raises(ValueError, match=r"level 95"):
        figures.interval(("auroc", "rare"), 95)
