"""Resamples of patients and the bootstrap of proportions, against slow loops."""

import dataclasses
import json

import numpy as np
import pytest

from hf_cxr import metrics
from hf_cxr.bootstrap import Resamples, bootstrap_ratios, decision_parts
from hf_cxr.intervals import bootstrap_table
from tests.interval_films import NAMES, SUBSETS, film_counts, make_films


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


def test_p_is_twice_the_smaller_tail():
    _, truth, score = make_films()
    figures = bootstrap_ratios({("x", "x"): (score[:, 0], np.ones(len(truth)))}, Resamples.of(np.arange(len(truth)), 9))
    draws = np.array([-3.0, -1, 0, 1, 2, 3, 4, 5, 6])
    crafted = dataclasses.replace(figures, draws={("x", "x"): draws})
    assert crafted.p_value(("x", "x")) == pytest.approx(2 * (1 + 3) / 10)  # three of nine are 0 or less


def test_no_certainty_is_claimed_where_all_resamples_agree():
    patients = np.arange(50)
    parts = {("lost", "x"): (np.zeros(50), np.ones(50)), ("sensitivity", "x"): (np.ones(50), np.ones(50))}
    figures = bootstrap_ratios(parts, Resamples.of(patients, 100))
    for key, value in ((("lost", "x"), "0"), (("sensitivity", "x"), "1")):
        interval = figures.interval(key)
        assert (interval.low, interval.high) == (None, None)
        assert interval.undefined.startswith(f"{value} in every resample")


def test_errors_say_what_was_received():
    patients, truth, _ = make_films()
    resamples = Resamples.of(patients, 5)
    with pytest.raises(ValueError, match=r"1 films of 3 have no patient; give ids and unit='image'"):
        Resamples.of(["a", float("nan"), "b"])
    with pytest.raises(ValueError, match="3 films have 2 ids; with patients give unit='patient'"):
        Resamples.of(["a", "a", "b"], unit="image")
    with pytest.raises(ValueError, match="unit 'study'"):
        Resamples.of(patients, unit="study")
    with pytest.raises(ValueError, match="0 distinct"):
        Resamples.of([])
    with pytest.raises(ValueError, match="counts films that the denominator leaves out"):
        bootstrap_ratios({("ppv", "x"): (np.ones(len(truth)), np.zeros(len(truth)))}, resamples)
    with pytest.raises(ValueError, match="shapes"):
        bootstrap_ratios({("ppv", "x"): (np.ones(3), np.ones(3))}, resamples)


def test_one_patient_gives_no_interval():
    parts = {("sensitivity", "x"): (np.array([1.0, 0]), np.ones(2))}
    interval = bootstrap_ratios(parts, Resamples.of(["a", "a"], 10)).interval(("sensitivity", "x"))
    assert (interval.low, interval.high) == (None, None)
    assert interval.undefined.startswith("0.5 in every resample")
