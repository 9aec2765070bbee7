"""Dropout, abstention, heatmaps, and what the second stage is spared."""

import json
import math

import numpy as np
import pytest
from torch import nn

from hf_cxr.explain import look
from hf_cxr.uncertainty import mc_dropout
from tests.pipeline.helpers import (
    FEW,
    OPTIONS,
    SIZE,
    N,
    close,
    count_films,
    entropy,
    every_node,
    figures,
    flat,
    lively,
    operating_points,
    pixels,
    processed,
    reader,
    table,
)


@pytest.mark.parametrize("which", ["model", "two_stage"])
def test_without_heatmaps_the_result_is_json(which, request, films):
    own = request.getfixturevalue(which)
    own.config.operating_points = operating_points(dict.fromkeys(own.config.label_names, 0.3), 0.4)
    rows = reader(own)(films, batch_size=3, n_passes=5, max_entropy=0.4)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    kinds = {type(value) for row in rows for value in flat(row).values()}
    assert kinds <= {str, float, bool, type(None)}


@pytest.mark.parametrize("which", ["model", "ensemble"])
def test_dropout_is_mc_dropout_and_the_plain_probability_stays(which, request, films):
    model = request.getfixturevalue(which)
    names = model.config.label_names
    rows = reader(model)(films, batch_size=4, n_passes=6, seed=5)
    expected = mc_dropout(model, processed(model, films), 6, seed=5)
    for figure in ("mean", "deviation", "entropy", "mutual_information"):
        close(figures(rows, names, figure), getattr(expected, figure))
    assert figures(rows, names, "deviation").min() > 1e-3
    close(table(rows, names), model(processed(model, films)).logits.sigmoid())
    assert (table(rows, names) - figures(rows, names, "mean")).abs().max() > 1e-3
    other = reader(model)(films, n_passes=6, seed=6)
    assert (figures(other, names, "mean") - figures(rows, names, "mean")).abs().max() > 1e-3


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_pass_through_each_members_backbone(ensemble, films, options, monkeypatch):
    first, second = (member.backbone for member in ensemble.members)
    seen = count_films(monkeypatch, first=first, second=second)
    reader(ensemble)(films, batch_size=3, **options)
    assert seen == {"first": [3, 3, 1], "second": [3, 3, 1]}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_pass_through_the_backbone(model, films, options, monkeypatch):
    seen = count_films(monkeypatch, own=model.backbone)
    reader(model)(films, batch_size=3, **options)
    assert seen == {"own": [3, 3, 1]}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_two_stages_skip_what_the_gate_clears(two_stage, films, options, monkeypatch):
    read = reader(two_stage)
    expected = two_stage(processed(two_stage, films))
    seen = count_films(monkeypatch, gate=two_stage.gate.backbone, findings=two_stage.findings.backbone)
    rows = read(films, batch_size=N, **options)
    assert seen == {"gate": [N], "findings": [4]}
    assert [row["gate"]["finding_model_ran"] for row in rows] == expected.finding_model_ran.tolist()
    assert expected.finding_model_ran.sum() == 4
    close(table(rows, two_stage.config.label_names), expected.logits.sigmoid())

    two_stage.config.gate_threshold = 1.1
    seen["findings"].clear()
    cleared = read(films, batch_size=3, **options)
    assert seen["findings"] == []
    assert [row["gate"]["finding_model_ran"] for row in cleared] == [False] * N
    for row in cleared:
        p = row["probabilities"]
        assert p["Cardiomegaly"] == pytest.approx(0.2 * p["Abnormal"], abs=1e-6)  # what is known without looking


def test_two_stages_with_passes_are_mc_dropout(two_stage, films):
    names = two_stage.config.label_names
    rows = reader(two_stage)(films, batch_size=N, n_passes=6, seed=5)
    expected = mc_dropout(two_stage, processed(two_stage, films), 6, seed=5)
    for figure in ("mean", "deviation", "entropy", "mutual_information"):
        close(figures(rows, names, figure), getattr(expected, figure))


def test_a_cleared_film_is_decided_negative(two_stage, films):
    below = FEW[1:]
    two_stage.config.operating_points = operating_points(dict.fromkeys(below, 0.0), two_stage.config.gate_threshold)
    rows = reader(two_stage)(films, batch_size=3)
    for row in rows:
        nodes = dict(every_node(row["findings"]))
        ran = row["gate"]["finding_model_ran"]
        assert row["gate"]["cleared"] is not ran
        assert nodes["Abnormal"]["decision"] is ran
        assert [nodes[name]["decision"] for name in below] == [ran] * len(below)  # 0 is a threshold all reach
    assert {row["gate"]["cleared"] for row in rows} == {True, False}


def test_the_gates_own_decision_shows_whatever_the_finding_model_did(two_stage, films):
    two_stage.config.operating_points = operating_points({}, 0.0)
    two_stage.config.gate_threshold = 1.1
    gate = reader(two_stage)(films[0])["gate"]
    assert (gate["cleared"], gate["finding_model_ran"]) == (False, False)


def test_heatmaps_are_looks(model, films):
    names = model.config.label_names
    rows = reader(model)(films, batch_size=3, heatmaps=True)
    expected = look(model, processed(model, films), n_passes=None).heatmaps.numpy()
    assert len({heat.tobytes() for heat in expected}) == N  # so that another film's map would show
    for row, maps in zip(rows, expected, strict=True):
        assert list(row["heatmaps"]) == names
        for name, heat in row["heatmaps"].items():
            assert heat.shape == (SIZE, SIZE)
            assert heat.dtype == np.float32
            assert heat.flags.owndata
            assert heat.min() >= 0
            assert heat.max() <= 1
            np.testing.assert_allclose(heat, maps[names.index(name)], atol=2e-3)


def test_heatmaps_of_some_labels(model, films):
    read = reader(model)
    every = read(films[0], heatmaps=True)["heatmaps"]
    some = read(films[0], heatmaps=["Mass", "Abnormal", "Mass"])["heatmaps"]
    assert list(some) == ["Mass", "Abnormal"]
    assert not np.array_equal(some["Mass"], some["Abnormal"])
    for name in some:
        np.testing.assert_array_equal(some[name], every[name])
    assert list(read(films[0], heatmaps="Mass")["heatmaps"]) == ["Mass"]
    assert read(films[0], heatmaps=False)["heatmaps"] is read(films[0], heatmaps=[])["heatmaps"] is None


def test_no_heatmap_where_nobody_looked(two_stage, films):
    rows = reader(two_stage)(films, batch_size=4, heatmaps=True)
    for row in rows:
        looked = [name for name, heat in row["heatmaps"].items() if heat is not None]
        assert looked == (two_stage.config.label_names if row["gate"]["finding_model_ran"] else ["Abnormal"])
        assert all(np.isfinite(row["heatmaps"][name]).all() for name in looked)


@pytest.mark.parametrize("n_passes", [None, 5])
def test_a_doubtful_film_is_left_to_a_reader(model, films, n_passes):
    read = reader(model, n_passes=n_passes)
    p = [row["gate"]["probability"] for row in read(films)]
    if n_passes:
        p = mc_dropout(model, processed(model, films), n_passes).mean[:, 0].double().tolist()
    between = sorted(entropy(each) for each in p)
    limit = (between[3] + between[4]) / 2
    rows = read(films, max_entropy=limit)
    assert [row["abstained"] for row in rows] == [entropy(each) > limit for each in p]
    assert sum(row["abstained"] for row in rows) == 3
    assert [row["abstained"] for row in read(films)] == [None] * N


@pytest.mark.parametrize("n_passes", [None, 5])
def test_even_odds_are_not_above_ln_2(model, films, n_passes):
    model.config.calibration = None
    nn.init.zeros_(model.head.trunk.classifier.weight)
    nn.init.zeros_(model.head.trunk.classifier.bias)
    read = reader(model, n_passes=n_passes)
    assert read(films[0], max_entropy=math.log(2))["abstained"] is False
    assert read(films[0], max_entropy=0.6931)["abstained"] is True
    if n_passes:
        assert dict(every_node(read(films[0])["findings"]))["Abnormal"]["entropy"] == math.log(2)


def test_without_a_gate_any_root_may_be_doubtful(make_model, nih):
    model = lively(make_model(hierarchy=nih.subset(["Opacity", "Mass", "Cardiac", "Other"])))
    read = reader(model)
    p = read(pixels()[0])["probabilities"]
    roots = sorted(entropy(p[name]) for name in ("Opacity", "Cardiac", "Other"))
    assert read(pixels()[0], max_entropy=roots[-1] - 1e-4)["abstained"] is True
    assert read(pixels()[0], max_entropy=min(roots[-1] + 1e-4, math.log(2)))["abstained"] is False


def test_a_leafs_doubt_is_not_the_films(model, films):
    model.head.trunk.classifier.bias.data[0] = 4  # sure of the gate, and of nothing else
    p = reader(model)(films[0])["probabilities"]
    assert max(entropy(each) for each in p.values()) > entropy(p["Abnormal"]) + 1e-3
    assert reader(model)(films[0], max_entropy=entropy(p["Abnormal"]) + 1e-4)["abstained"] is False
