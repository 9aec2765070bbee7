"""Ablation plans: arms and errors before any run, resuming, and figures paired on the same films."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from hf_cxr.ablation import AblationError, Plan, check
from hf_cxr.ablation_results import markdown, summarise
from hf_cxr.arguments import SettingsError
from hf_cxr.data.phantom import generate
from hf_cxr.predictions import PredictionTable
from tests.conftest import REPO
from tests.test_train_recipe import TINY

GRIDS = [
    {"loss": ["bce"], "link": ["flat", "conditional"]},
    {"loss": ["hbce_soft"], "link": ["flat"], "penalty_scale": [0.5, 1.0]},
]


def write_plan(folder, **changes):
    (folder / "base.yaml").write_text(yaml.safe_dump(TINY | {"num_train_epochs": 1, "link": "flat"}))
    plan = {
        "base": "base.yaml",
        "grids": GRIDS,
        "reference": {"loss": "bce", "link": "flat"},
        "seeds": [0, 1],
    } | changes
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    return folder / "plan.yaml"


def test_arms_are_the_combinations_of_each_grid(tmp_path):
    plan = Plan.read(write_plan(tmp_path))
    assert list(plan.arms) == [
        "link=flat+loss=bce", "link=conditional+loss=bce", "link=flat+loss=hbce_soft+penalty_scale=0.5",
        "link=flat+loss=hbce_soft+penalty_scale=1.0",
    ]  # fmt: skip
    runs = plan.runs(tmp_path / "out", ["--learning_rate", "0.5"])
    assert len({run.folder for run in runs}) == 8
    assert [run.seed for run in runs] == [0] * 4 + [1] * 4
    settings = runs[-1].settings()
    assert (settings.loss.loss, settings.loss.penalty_scale) == ("hbce_soft", 1.0)
    assert (settings.training.seed, settings.training.learning_rate) == (1, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": {"loss": "bce"}}, r"fits \['link=flat\+loss=bce', 'link=conditional"),
        ({"reference": {"loss": "focal"}}, "fits no arm"),
        ({"grid": []}, "expected the keys base"),
        ({"seeds": 3}, "seeds must be a list"),
        ({"seeds": [0, 0]}, "of different numbers"),
        ({"split": "tets"}, "validation or test, got 'tets'"),
        ({"settings": [1]}, "must be mappings"),
        ({"grids": [{"link": "flat", "loss": ["bce"]}]}, "from an option to a list of values"),
        ({"grids": [{"link": ["flat"], "loss": ["bce"], "seed": [1]}]}, "set by the ablation itself"),
        ({"grids": [*GRIDS, {"loss": ["hbce_soft"]}]}, r"arm loss=hbce_soft lacks \['link'\]"),
    ],
)
def test_a_bad_plan_is_refused(tmp_path, changes, message):
    with pytest.raises(AblationError, match=message):
        Plan.read(write_plan(tmp_path, **changes))
    with pytest.raises(AblationError, match="does not exist"):
        Plan.read(tmp_path / "other.yaml")


@pytest.mark.parametrize("path", sorted((REPO / "recipes" / "configs").glob("ablation_*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_plan_can_be_run(path, tmp_path):
    plan = Plan.read(path)
    runs = plan.runs(tmp_path)
    check(runs)
    assert len(runs) == len(plan.arms) * len(plan.seeds) > 1
    assert f"recipes/ablate.py recipes/configs/{path.name}" in path.read_text(), "each plan says its command"


def test_every_arm_is_checked_before_any_is_run(tmp_path):
    plan = Plan.read(write_plan(tmp_path, grids=[{"loss": ["bce", "focal"], "link": ["flat"]}]))
    with pytest.raises(SettingsError, match=r"arm link=flat\+loss=focal: loss: got 'focal'"):
        check(plan.runs(tmp_path / "out"))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation")
    data = generate(folder / "phantom", n_images=400, image_size=64, progress=False)
    plan = write_plan(folder, grids=[{"loss": ["bce"], "link": ["flat", "conditional"]}])

    def ablate(*words, plan=plan, out=folder / "out"):
        return subprocess.run(
            [sys.executable, REPO / "recipes" / "ablate.py", plan, "--output_dir", out, "--data_dir", data,
             "--cache_dir", folder / "cache", "--jobs", "2", "--n_resamples", "200", *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    first = ablate()
    assert first.returncode == 0, first.stderr
    return folder, ablate, first


def test_figures_are_means_over_seeds_of_the_same_films(done):
    folder, _, first = done
    summary = json.loads((folder / "out" / "ablation.json").read_text())
    assert summary["reference"] == "link=flat+loss=bce"
    values = {}
    for arm in summary["arms"]:
        tables = [PredictionTable.read(folder / "out" / arm / f"s{s}" / "predictions_test.csv") for s in (0, 1)]
        values[arm] = [np.mean([roc_auc_score(*t.column(n)) for n in summary["findings"]]) for t in tables]
        row = summary["arms"][arm]["macro_auroc"]
        assert row["mean"] == pytest.approx(np.mean(values[arm]), abs=1e-9)
        assert row["spread"] == pytest.approx(np.std(values[arm], ddof=1), abs=1e-9)
        assert row["ci"][0] < row["mean"] < row["ci"][1]
    conditional = summary["arms"]["link=conditional+loss=bce"]
    gap = np.mean(values["link=conditional+loss=bce"]) - np.mean(values["link=flat+loss=bce"])
    assert conditional["macro_auroc"]["difference"] == pytest.approx(gap, abs=1e-9)
    low, high = conditional["macro_auroc"]["difference_ci"]
    assert low < gap < high
    assert conditional["share_out_of_order"] == 0
    assert summary["arms"][summary["reference"]]["macro_auroc"]["difference"] == 0
    assert [row["label"] for row in summary["arms"].values()] == ["link flat, loss bce", "link conditional"]
    text = (folder / "out" / "ablation.md").read_text()
    assert text.strip() in first.stdout
    assert f"{conditional['macro_auroc']['mean']:.4f}" in text
    assert (folder / "out" / "ablation.png").stat().st_size > 10_000


def test_it_goes_on_where_it_stopped(done):
    folder, ablate, _ = done
    kept, lost = folder / "out" / "link=flat+loss=bce" / "s0", folder / "out" / "link=flat+loss=bce" / "s1"
    before = (kept / "model.safetensors").stat().st_mtime_ns
    predictions = (lost / "predictions_test.csv").read_bytes()
    (lost / "eval_report.json").unlink()  # as if killed before the end
    again = ablate()
    assert again.returncode == 0, again.stderr
    assert "4 runs, 3 finished" in again.stdout
    assert (kept / "model.safetensors").stat().st_mtime_ns == before
    assert (lost / "predictions_test.csv").read_bytes() == predictions


def test_runs_with_other_settings_are_not_taken_for_the_plans(done):
    _, ablate, _ = done
    refused = ablate("--learning_rate", "0.01")
    assert refused.returncode == 1
    assert "holds a run with other settings than the plan's" in refused.stderr


def test_other_seeds_than_the_plans(tmp_path):
    plan = Plan.read(write_plan(tmp_path)).with_seeds([5, 7, 9])
    assert {run.settings().training.seed for run in plan.runs(tmp_path / "out")} == {5, 7, 9}
    with pytest.raises(AblationError, match=r"seeds \[5, 5\]: expected different numbers"):
        plan.with_seeds([5, 5])


def test_one_arm_has_a_spread_and_nothing_to_compare(done, tmp_path):
    folder, ablate, _ = done
    arm = "link=conditional+loss=bce"
    shutil.copytree(folder / "out" / arm, tmp_path / "out" / arm)  # whole runs, so that nothing is trained
    alone = {"loss": "bce", "link": "conditional"}
    plan = write_plan(tmp_path, grids=[{k: [v] for k, v in alone.items()}], reference=alone, seeds=[8, 9])
    shutil.copy(folder / "base.yaml", tmp_path)
    said = ablate("--seeds", "0", "1", plan=plan, out=tmp_path / "out")
    assert said.returncode == 0, said.stderr
    assert "2 runs, 2 finished" in said.stdout
    row = json.loads((tmp_path / "out" / "ablation.json").read_text())["arms"][arm]["macro_auroc"]
    tables = [PredictionTable.read(tmp_path / "out" / arm / f"s{seed}" / "predictions_test.csv") for seed in (0, 1)]
    findings = json.loads((tmp_path / "out" / "ablation.json").read_text())["findings"]
    assert row["mean"] == pytest.approx(np.mean([roc_auc_score(*t.column(n)) for t in tables for n in findings]))
    assert row["spread"] > 0
    assert not (tmp_path / "out" / "ablation.png").exists()
    assert "ablation.png" not in said.stdout


def test_seed_is_not_taken_for_seeds(done):
    _, ablate, _ = done
    refused = ablate("--seed", "3")
    assert refused.returncode == 1
    assert "['seed'] on the command line" in refused.stderr


def test_words_do_not_contradict_the_arms(tmp_path):
    plan = Plan.read(write_plan(tmp_path))
    for word in ("--link", "--penalty_scale=1", "--seed"):
        with pytest.raises(AblationError, match="on the command line"):
            plan.runs(tmp_path / "out", [word, "1"])


def test_other_films_or_truth_are_not_compared(done):
    folder, _, _ = done
    plan = Plan.read(folder / "plan.yaml")
    runs = plan.runs(folder / "out")
    table = folder / "out" / "link=conditional+loss=bce" / "s1" / "predictions_test.csv"
    whole = table.read_text()
    rows = pd.read_csv(table)
    other = {"films": rows.iloc[:-1], "truth": rows.assign(Mass=1 - rows["Mass"])}
    try:
        for what, changed in other.items():
            changed.to_csv(table, index=False)
            with pytest.raises(AblationError, match=f"other {what} than"):
                summarise(plan, runs, 100)
    finally:
        table.write_text(whole)
    assert "reference" in markdown(summarise(plan, runs, 100))


@pytest.mark.slow
def test_taxonomies_are_compared_on_the_findings_they_share(tmp_path):
    """R1's tree, the data set paper's own and none, on films in CheXpert's layout."""
    data = generate(tmp_path / "chexpert", n_images=300, image_size=64, layout="chexpert", progress=False)
    grids = [
        {"taxonomy": ["chexpert", "chexpert_irvin"], "flat_taxonomy": [False]},
        {"taxonomy": ["chexpert"], "flat_taxonomy": [True]},
    ]
    reference = {"taxonomy": "chexpert", "flat_taxonomy": False}
    settings = {"dataset": "chexpert", "allow_empty_labels": True, "uncertain": "zeros", "blank": "zeros"}
    path = write_plan(tmp_path, grids=grids, reference=reference, seeds=[0], settings=settings)
    done = subprocess.run(
        [sys.executable, REPO / "recipes" / "ablate.py", path, "--output_dir", tmp_path / "out", "--data_dir", data,
         "--cache_dir", tmp_path / "cache", "--jobs", "2", "--n_resamples", "100"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert len(summary["arms"]) == 3
    assert {"Atelectasis", "Cardiomegaly", "Pleural Effusion"} <= set(summary["findings"])
    assert not set(summary["findings"]) & set(summary["left_out"])
    shares = [row["share_out_of_order"] for row in summary["arms"].values()]
    assert shares.count(None) == 1  # no edges, nothing to be out of order


def test_what_cannot_be_had_is_null(done):
    """A finding-free gate of one class, and a taxonomy without edges: null with its reason, never 0 or NaN."""
    folder, _, _ = done
    plan = Plan.read(folder / "plan.yaml")
    runs = plan.runs(folder / "out")
    summary = summarise(plan, runs, 100)
    one_class = {}
    for run in runs:
        table = run.folder / "predictions_test.csv"
        one_class[table] = table.read_text()
        pd.read_csv(table).assign(Abnormal=1).to_csv(table, index=False)
    try:
        gate = summarise(plan, runs, 100)["arms"][plan.reference]["gate_auroc"]
    finally:
        for table, text in one_class.items():
            table.write_text(text)
    assert gate["mean"] is None
    assert gate["undefined"] == "no negative film"
    edgeless = {k: v | {"share_out_of_order": None} for k, v in summary["arms"].items()}
    assert markdown(summary | {"arms": edgeless}).count("no edges") == 2
    json.dumps(summary, allow_nan=False)
