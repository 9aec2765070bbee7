"""The recipe as a user runs it: a hospital's pictures and words in, a model and an account of the change out."""

import json
import runpy
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from hf_cxr.change import ChangeReport
from hf_cxr.loading import load_model
from hf_cxr.models import CXRImageProcessor
from hf_cxr.trainer import CXRTrainer
from tests.conftest import REPO

CHECK = REPO.parent / "shared" / "acceptance" / "check_run.py"


@pytest.fixture
def base(make_model, tmp_path):
    """A model without a run: nothing says what it was trained on."""
    model = make_model(link="conditional", image_size=48, head_dropout=0.1).eval()
    model.save_pretrained(tmp_path / "base")
    CXRImageProcessor.for_model(model.config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapt(base, hospital, tmp_path, monkeypatch):
    def run(name, *words):
        given = [
            "--base", base, "--hospital", hospital, "--output_dir", tmp_path / name, "--cache_dir", tmp_path / "cache",
            "--num_train_epochs", 2, "--epoch_films", 32, "--metric_for_best_model", "loss", "--learning_rate", 1e-2,
            "--lora_rank", 2, "--disable_tqdm", "true", *words,
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["recipes/finetune_lora.py", *map(str, given)])
        runpy.run_path(str(REPO / "recipes" / "finetune_lora.py"), run_name="__main__")
        return tmp_path / name

    return run


@pytest.mark.slow
def test_an_adapter_its_report_and_the_change(adapt, base, tmp_path):
    run = adapt("adapter")
    change = ChangeReport.from_json(run / "change.json")
    assert change.base is None
    assert "has no run.yaml" in change.base_undefined
    assert change.cost.trained_parameters < change.cost.all_parameters / 2
    assert {row["outputs"] for row in change.hospital["labels"].values()} == {"both", "after"}
    assert change.hospital["labels"]["Effusion"]["auroc"]["difference"] is not None
    (pair,) = change.hospital["siblings"]
    assert (pair["first"], pair["second"]) == ("Big heart", "Huge heart")
    report = json.loads((run / "eval_report.json").read_text())
    assert report["provenance"]["data"]["hospital"]["new_nodes"] == ["Big heart", "Huge heart"]
    table = pd.read_csv(run / "predictions_test.csv")
    assert (table["Huge heart_prob"] <= table["Cardiomegaly_prob"]).all()
    assert table["Mass"].isna().all()
    model = load_model(run)
    assert model.config.adapted_from["name"] == "base"
    assert model.config.label_names[-2:] == ["Big heart", "Huge heart"]
    with pytest.raises(SystemExit, match="holds a finished run: --overwrite true"):
        adapt("adapter")
    # another base under the same name is noticed
    other = load_model(base)
    with torch.no_grad():
        other.head.trunk.classifier.bias += 0.1
    other.save_pretrained(base)
    with pytest.raises(ValueError, match="it was trained again since"):
        load_model(run)


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--merge", "true"), ("--method", "full"), ("--method", "head", "--n_films", 12)])
def test_a_whole_model_passes_the_acceptance_check(adapt, words):
    run = adapt("whole", *words)
    films = yaml.safe_load((run / "run.yaml").read_text())["data"]["splits"]["test"]["films"]
    if CHECK.is_file():
        done = subprocess.run(
            [sys.executable, CHECK, run, "--rows", str(films), "--expect_consistent"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    cost = ChangeReport.from_json(run / "change.json").cost
    assert (cost.films == 12) is ("--n_films" in words)
    assert np.isfinite(pd.read_csv(run / "predictions_test.csv").filter(like="_prob").to_numpy()).all()


@pytest.mark.slow
def test_an_interrupted_adaptation_goes_on_to_the_same_figures(adapt, monkeypatch):
    whole = adapt("whole")
    kept = CXRTrainer._save_checkpoint

    def interrupted(self, *args):
        kept(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(CXRTrainer, "_save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapt("run")
    monkeypatch.setattr(CXRTrainer, "_save_checkpoint", kept)
    run = adapt("run", "--resume", "true")
    assert (run / "predictions_test.csv").read_bytes() == (whole / "predictions_test.csv").read_bytes()
    assert not list(run.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--base", ""], "base is missing"),
        (["--data_dir", "x"], "one of them"),
        (["--n_films", "1000"], "n_films is 1000; there are"),
        (["--base", "nowhere/at/all"], "nowhere/at/all: cannot be used as a model"),
        (["--lora_targets", "nothing"], "fits no layer"),
        (["--distillation", "-1"], r"expected 0 \(none\) or more"),
    ],
)
def test_what_cannot_be_done_is_said(adapt, words, message):
    with pytest.raises(SystemExit, match=message):
        adapt("refused", *words)
