"""A hospital that labels one finding, and never says that a film is normal: its gate has one class at the most."""

import json
import runpy
import sys
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hf_cxr.data.phantom import Patient, render_film
from hf_cxr.gating import SingleClassGateError
from hf_cxr.loading import load_model
from hf_cxr.losses import MaskedBCELoss
from hf_cxr.models import CXRImageProcessor
from hf_cxr.trainer import CXRTrainer
from hf_cxr.training_arguments import CXRTrainingArguments
from tests.conftest import REPO

ONE_FINDING = """
    hospital: one_finding
    taxonomy: nih
    table: films.csv
    images: films
    columns: {image: file, patient: patient}
    labels: {coding: yes_no, columns: {Fluid: Effusion}}
"""
ABNORMAL = {"threshold": 0.3, "criterion": "sensitivity >= 0.95"}


@pytest.fixture
def trainer(make_model, make_films, tmp_path):
    def make(**arguments):
        films = make_films()
        films.labels[:, 0] = 1
        model = make_model(link="conditional")
        given = {"use_cpu": True, "disable_tqdm": True, "metric_for_best_model": "loss"} | arguments
        settings = CXRTrainingArguments(output_dir=str(tmp_path / "run"), **given)
        return CXRTrainer(model, settings, MaskedBCELoss(), make_films(), films)

    return make


def test_training_without_a_base_stops_at_once(trainer):
    with pytest.raises(SingleClassGateError, match="split 'validation': no negative film"):
        trainer().evaluate()


def test_an_adaptation_goes_on_without_the_gates_figures(trainer):
    adapted = trainer()
    adapted.model.config.adapted_from = {"name": "base", "config": "0", "weights": "0"}
    figures = adapted.evaluate()
    assert {"eval_loss", "eval_macro_auroc"} < figures.keys()
    assert not [name for name in figures if name.startswith("eval_gate_")]
    adapted.args.metric_for_best_model = "gate_auroc"
    with pytest.raises(RuntimeError, match="'gate_auroc' is undefined on the validation split"):
        adapted.evaluate()


@pytest.mark.slow
def test_a_hospital_with_one_finding_keeps_the_threshold_of_the_base(make_model, nih, tmp_path, monkeypatch):
    (tmp_path / "films").mkdir()
    rows = []
    for number in range(24):
        fluid = number % 2
        image = render_film(Patient(number + 1, "F", 50), 0, "PA", ("Effusion",) * fluid, image_size=64).image
        Image.fromarray(np.asarray(image)).save(tmp_path / "films" / f"{number}.png")
        rows.append({"file": f"{number}.png", "patient": number, "Fluid": ("no", "yes")[fluid]})
    pd.DataFrame(rows).to_csv(tmp_path / "films.csv", index=False)
    (tmp_path / "map.yaml").write_text(dedent(ONE_FINDING))
    base = make_model(link="conditional", image_size=48).eval()
    base.config.operating_points = {
        "split": "validation", "gate_threshold": ABNORMAL["threshold"], "gate_criterion": ABNORMAL["criterion"],
        "criterion": "highest F1", "thresholds": dict.fromkeys(nih.names, 0.5),
    }  # fmt: skip
    base.save_pretrained(tmp_path / "base")
    CXRImageProcessor.for_model(base.config).save_pretrained(tmp_path / "base")
    given = [
        "--base", tmp_path / "base", "--hospital", tmp_path / "map.yaml", "--output_dir", tmp_path / "run",
        "--cache_dir", tmp_path / "cache", "--num_train_epochs", 1, "--epoch_films", 16, "--metric_for_best_model",
        "loss", "--lora_rank", 2, "--disable_tqdm", "true", "--use_cpu", "true",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["recipes/finetune_lora.py", *map(str, given)])
    runpy.run_path(str(REPO / "recipes" / "finetune_lora.py"), run_name="__main__")
    gate = json.loads((tmp_path / "run" / "eval_report.json").read_text())["gate"]
    assert (gate["threshold"], gate["auroc"], gate["specificity"]) == (ABNORMAL["threshold"], None, None)
    assert gate["undefined"]["auroc"] == "no negative film"
    assert gate["threshold_criterion"] == f"{ABNORMAL['criterion']} (before adaptation)"
    assert load_model(tmp_path / "run").config.operating_points["gate_threshold"] == ABNORMAL["threshold"]
    change = json.loads((tmp_path / "run" / "change.json").read_text())
    assert change["hospital"]["labels"]["Effusion"]["auroc"]["after"] is not None
    assert (tmp_path / "run" / "change.html").is_file()
