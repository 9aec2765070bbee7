"""Finished runs joined by the recipe as a user runs it: figures, traces, and runs that are no ensemble."""

import json
import runpy
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from hf_cxr.ensemble import EnsembleError, energy_of, read_members
from hf_cxr.evaluation import EvalReport
from hf_cxr.hub.card import render_card
from hf_cxr.hub.verify import verify
from hf_cxr.loading import load_model
from hf_cxr.predictions import PredictionTable
from tests.conftest import REPO
from tests.test_train_recipe import check_run, phantom, train, words  # noqa: F401  (fixtures)


def ensemble(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recipes/ensemble.py", *map(str, arguments)])
        runpy.run_path(str(REPO / "recipes" / "ensemble.py"), run_name="__main__")


@pytest.fixture(scope="module")
def runs(words, tmp_path_factory):  # noqa: F811
    """Two of one recipe, and their folder."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        for seed in (1, 2):
            train(
                patch, words(folder / f"s{seed}", num_train_epochs=1, head_dropout=0.2, seed=seed, calibration="none")
            )
    return folder


@pytest.fixture(scope="module")
def joined(runs):
    ensemble(runs / "s1", runs / "s2", "--output_dir", runs / "both")
    return runs / "both"


@pytest.fixture
def copies(runs, tmp_path):
    for name in ("s1", "s2"):
        shutil.copytree(runs / name, tmp_path / name)
    return tmp_path


def merge(content, change):
    for key, value in change.items():
        if isinstance(value, dict) and key in content:
            merge(content[key], value)
        else:
            content[key] = value


def edit_settings(folder, change):
    run = yaml.safe_load((folder / "run.yaml").read_text())
    change(run)
    (folder / "run.yaml").write_text(yaml.safe_dump(run))


def test_it_is_a_run_whose_figures_are_the_members_mean(joined, runs):
    check_run(joined, "--expect_consistent")
    for split in ("validation", "test"):
        table, *members = (
            PredictionTable.read(each / f"predictions_{split}.csv") for each in (joined, runs / "s1", runs / "s2")
        )
        assert list(table.ids) == list(members[0].ids)
        each = np.stack([member.in_order(table.names).probability for member in members])
        assert np.ptp(each, axis=0).max() > 0.01
        np.testing.assert_allclose(table.probability, each.mean(0), atol=2e-6)
    points = load_model(joined).config.operating_points
    assert points["split"] == "validation"
    assert points != load_model(runs / "s1").config.operating_points


def test_its_report_says_what_each_member_took(joined, runs):
    traced = EvalReport.from_json(joined / "eval_report.json").provenance
    own = [EvalReport.from_json(runs / name / "eval_report.json").provenance for name in ("s1", "s2")]
    assert traced["training"] == {f"seed {i}": each["training"]["model"] for i, each in enumerate(own, start=1)}
    run = yaml.safe_load((joined / "run.yaml").read_text())
    assert [member["model"] for member in run["settings"]["ensemble"]["members"]] == [each["model"] for each in own]
    assert run["settings_hash"] not in {each["settings_hash"] for each in own}
    assert str(runs) not in (joined / "config.json").read_text()


def test_its_card_says_how_to_make_it_again(joined):
    card = " ".join(render_card(joined).split())
    assert "An ensemble of 2 models, a convolutional network (timm's `densenet121`) each" in card
    assert "its members' disagreement, each with Monte Carlo dropout" in card
    assert "Seeds 1, 2." in card
    assert "--seed 2 --output_dir RUN_2" in card
    assert "python recipes/ensemble.py RUN_1 RUN_2 --output_dir RUN" in card


def test_a_copy_gives_what_it_gave(joined):
    assert [each.difference for each in verify(joined)] == [0]


def test_a_finished_one_is_not_replaced_unasked(joined, runs):
    before = (joined / "eval_report.json").read_bytes()
    with pytest.raises(SystemExit, match="holds a finished run"):
        ensemble(runs / "s1", runs / "s2", "--output_dir", joined)
    assert (joined / "eval_report.json").read_bytes() == before


def test_films_of_other_splits_are_refused(copies):
    """What all members agree on, but what is not what lies at the place they name."""
    for name in ("s1", "s2"):
        edit_settings(copies / name, lambda run: run["settings"]["data"].update(split_seed=5))
    with pytest.raises(SystemExit, match="among the training films of the other"):
        ensemble(copies / "s1", copies / "s2", "--output_dir", copies / "both")
    assert not (copies / "both").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"training": {"learning_rate": 0.5}}}, r"more than their seed: .*learning_rate: 0\.001 and 0\.5"),
        ({"settings": {"training": {"seed": 1}}}, "seeds 1, 1: one is there twice"),
        ({"data": {"fingerprint": "other"}}, r"data of s1 and of s2 differ \(fingerprint"),
        ({"settings": {"adaptation": {}}}, "s2: was adapted from another model"),
    ],
)
def test_runs_that_are_no_ensemble_are_refused(copies, change, message):
    edit_settings(copies / "s2", lambda run: merge(run, change))
    with pytest.raises(EnsembleError, match=message):
        read_members([copies / "s1", copies / "s2"])


def test_models_that_are_no_members_are_refused(copies, joined, tmp_path):
    with pytest.raises(EnsembleError, match="1 run; an ensemble has two or more"):
        read_members([copies / "s1"])
    with pytest.raises(EnsembleError, match="both: is made of several models itself"):
        read_members([copies / "s1", joined])
    with pytest.raises(EnsembleError, match="nowhere holds no finished run"):
        read_members([copies / "s1", tmp_path / "nowhere"])
    shutil.copyfile(copies / "s2" / "model.safetensors", copies / "s1" / "model.safetensors")
    with pytest.raises(EnsembleError, match=r"s1: its eval_report\.json is of another model"):
        read_members([copies / "s1", copies / "s2"])


def test_members_that_began_elsewhere_are_refused(copies):
    for name, weights in (("s1", "a"), ("s2", "b")):
        path = copies / name / "config.json"
        content = json.loads(path.read_text()) | {"backbone_from": {"name": "phantoms", "weights": weights}}
        path.write_text(json.dumps(content))
    with pytest.raises(EnsembleError, match="s1 and s2 began with other weights"):
        read_members([copies / "s1", copies / "s2"])


def test_energy_is_the_members_sum_or_unknown():
    used = {"kwh": 0.25, "co2_kg": 0.1, "country": "DEU", "processor": "x", "measured_by": "y", "continued": False}

    def of(*energies):
        return energy_of([SimpleNamespace(provenance={"energy": each}) for each in energies])

    assert of(used, used | {"continued": True}) == used | {"kwh": 0.5, "co2_kg": 0.2, "continued": True}
    assert of(used, None) is None
    assert of(used, used | {"country": "FRA"}) is None
