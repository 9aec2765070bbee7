"""The recipe as a user runs it, on a small phantom: files, refusals, resume, two stages, two processes."""

import json
import os
import runpy
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForImageClassification

from hf_cxr.calibration import Calibration
from hf_cxr.data.phantom import generate
from hf_cxr.evaluation import EvalReport
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.predictions import PredictionTable
from tests.conftest import REPO, TEST_DATA

TINY = {
    "dataset": "phantom", "image_size": 64, "validation_fraction": 0.25, "num_train_epochs": 2,
    "per_device_train_batch_size": 16, "learning_rate": 1e-3, "disable_tqdm": True,
    "backbone": "densenet121", "backbone_kwargs": {"growth_rate": 8, "block_config": [1, 1]}, "flip": 0.5,
    "rotation": 10,
}  # fmt: skip
VIT = {"model": "vit", "backbone": "test_vit", "backbone_kwargs": {}}


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data") / "phantom", n_images=400, image_size=64, progress=False)


@pytest.fixture(scope="module")
def words(phantom, tmp_path_factory):
    """Command line words of a tiny run."""
    cache = tmp_path_factory.mktemp("cache")

    def make(out, *extra, **settings):
        file = out.parent / f"{out.name}.yaml"
        file.write_text(yaml.safe_dump(TINY | settings))
        return [str(file), "--data_dir", str(phantom), "--cache_dir", str(cache), "--output_dir", str(out), *extra]

    return make


def train(monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["recipes/train.py", *words])
    runpy.run_path(str(REPO / "recipes" / "train.py"), run_name="__main__")


def evaluate(monkeypatch, model, report, *words):
    own = ["--model", str(model), "--output_dir", str(report), "--n_resamples", "100"]
    monkeypatch.setattr(sys, "argv", ["recipes/evaluate.py", *own, *words])
    runpy.run_path(str(REPO / "recipes" / "evaluate.py"), run_name="__main__")


def check_run(folder, *extra):
    script = TEST_DATA.parent / "acceptance" / "check_run.py"
    if not script.exists():
        pytest.skip(f"the acceptance check is not at {script}")
    done = subprocess.run([sys.executable, script, folder, *extra], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        train(patch, words(folder, ema_decay=0.9, head_dropout=0.2))
    return folder


def test_a_run_leaves_everything_named(finished, capsys):
    names = {path.name for path in finished.iterdir()}
    assert {
        "config.json", "model.safetensors", "preprocessor_config.json", "run.yaml", "predictions_validation.csv",
        "predictions_test.csv", "eval_report.json", "eval_report_validation.json", "figures",
    } <= names  # fmt: skip
    assert not [n for n in names if n.startswith("checkpoint") or n.endswith((".bin", ".partial"))]
    figures = {path.name for path in (finished / "figures").iterdir()}
    assert figures == {"learning_curves.png", "auroc_test.png", "auroc_validation.png"}
    assert all((finished / "figures" / name).stat().st_size > 10_000 for name in figures)


def test_the_acceptance_check_passes(finished):
    check_run(finished, "--expect_consistent")


def test_run_yaml_has_what_is_needed_to_repeat_it(finished):
    run = yaml.safe_load((finished / "run.yaml").read_text())
    assert run["settings"]["training"]["learning_rate"] == 1e-3
    assert run["settings"]["augmentation"]["flip"] == 0.5
    assert run["settings"]["labels"]["conflict"] == "child_wins"  # a default
    assert run["seed"] == 42
    assert run["data"]["fingerprint"]
    assert {"torch", "transformers", "hf_cxr"} <= set(run["versions"])
    counts = run["labels"]["train"]["counts"]["Abnormal"]
    assert counts["positive"] + counts["negative"] == run["data"]["splits"]["train"]["films"]


def test_reported_figures_are_those_of_the_saved_model(finished, phantom):
    """Loaded by name alone, on one film at a time, through the processor: the table's probabilities."""
    from transformers import AutoImageProcessor

    model = AutoModelForImageClassification.from_pretrained(finished).eval()
    processor = AutoImageProcessor.from_pretrained(finished)
    table = PredictionTable.read(finished / "predictions_test.csv")
    for row in range(0, len(table), 25):
        inputs = processor(phantom / "images" / table.ids[row], return_tensors="pt")
        with torch.no_grad():
            probability = model(**inputs).logits.double().sigmoid()[0]
        at = [table.names.index(name) for name in model.config.label_names]
        np.testing.assert_allclose(table.probability[row, at], probability, atol=1e-5)


def test_best_metric_of_training_is_that_of_the_saved_model(finished):
    report = EvalReport.from_json(finished / "eval_report_validation.json")
    best = report.provenance["training"]["model"]["best_metric"]
    assert report.aggregate["macro_auroc"] == pytest.approx(best, abs=1e-6)


def test_a_report_on_the_model_has_its_doubt_and_its_heatmaps(finished, tmp_path, monkeypatch):
    looks = ["--abstain_coverage", "0.8", "--heatmap_films", "2", "--dropout_passes", "5"]
    evaluate(monkeypatch, finished, tmp_path / "report", *looks)
    report = EvalReport.from_json(tmp_path / "report" / "eval_report.json")
    own = EvalReport.from_json(finished / "eval_report.json")
    assert report.aggregate["macro_auroc"] == pytest.approx(own.aggregate["macro_auroc"], abs=1e-9)
    assert report.calibration["method"] == own.calibration["method"]
    assert report.provenance["trained"]["settings_hash"] == own.provenance["settings_hash"]
    doubt = report.uncertainty
    assert (doubt["n_passes"], doubt["coverage_wished"]) == (5, 0.8)
    assert set(doubt["labels"]) == {n for n, row in report.labels.items() if row["threshold"] is not None}
    assert doubt["labels"]["Abnormal"]["abstain"]["split"] == "validation"
    assert report.localisation["source"] == "the phantom's masks"
    scores = report.localisation["trained"]["Cardiomegaly"]
    assert scores["n"] == report.labels["Cardiomegaly"]["n_positive"]
    assert report.localisation["untrained"]["Cardiomegaly"]["n"] == 3 * scores["n"]
    drawn = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert {"risk_coverage.png", "heatmaps.png"} <= drawn
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Doubt" in text
    assert "## Heatmaps" in text


def test_operating_points_come_from_validation_and_are_in_the_config(finished):
    report = json.loads((finished / "eval_report.json").read_text())
    config = json.loads((finished / "config.json").read_text())
    assert config["operating_points"] == report["operating_points"]
    assert report["operating_points"]["split"] == "validation"
    assert report["gate"]["definition"] == config["gate"]["definition"] == "any_finding"


def test_a_model_that_overstates_is_calibrated(words, tmp_path, monkeypatch):
    """Positive weights make every finding too likely; the checkpoint's probabilities are mended."""
    train(
        monkeypatch,
        words(tmp_path / "run", balanced_pos_weight=True, learning_rate=1e-2, ema_decay=0.5, calibration="beta"),
    )
    report = EvalReport.from_json(tmp_path / "run" / "eval_report.json")
    section = report.calibration
    assert section["method"] == "beta"
    excess, before = (part["mean_ece"] - part["mean_ece_if_perfect"] for part in (section, section["before"]))
    assert excess < 0.75 * before  # 85 films: most of either ECE is chance
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert model.config.calibration["method"] == section["method"]
    check_run(tmp_path / "run", "--expect_consistent")


def test_a_second_run_refuses_and_says_how(finished, words, monkeypatch):
    before = (finished / "eval_report.json").read_bytes()
    with pytest.raises(SystemExit, match="holds a finished run: --overwrite true replaces it"):
        train(monkeypatch, words(finished))
    assert (finished / "eval_report.json").read_bytes() == before


def test_an_interrupted_run_goes_on_to_the_same_figures(finished, words, tmp_path, monkeypatch):
    from hf_cxr.trainer import CXRTrainer

    save = CXRTrainer._save_checkpoint

    def interrupted(self, *args):
        save(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(CXRTrainer, "_save_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(monkeypatch, words(tmp_path / "run", ema_decay=0.9, head_dropout=0.2))
    monkeypatch.setattr(CXRTrainer, "_save_checkpoint", save)
    with pytest.raises(SystemExit, match="an unfinished run"):
        train(monkeypatch, words(tmp_path / "run", ema_decay=0.9, head_dropout=0.2))
    train(monkeypatch, words(tmp_path / "run", "--resume", "true", ema_decay=0.9, head_dropout=0.2))
    for name in ("predictions_test.csv", "predictions_validation.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


def test_unreadable_films_stop_before_training_or_are_counted(phantom, words, tmp_path, monkeypatch):
    import shutil

    folder = tmp_path / "phantom"
    shutil.copytree(phantom, folder)
    film = sorted((folder / "images").iterdir())[3]
    film.write_bytes(film.read_bytes()[:600])
    arguments = ["--data_dir", str(folder), "--dataset", "nih", "--num_train_epochs", "1"]
    with pytest.raises(SystemExit, match=film.name):
        train(monkeypatch, words(tmp_path / "run", *arguments))
    assert not (tmp_path / "run").exists()
    train(monkeypatch, words(tmp_path / "run", *arguments, "--skip_missing", "true"))
    provenance = json.loads((tmp_path / "run" / "eval_report.json").read_text())["provenance"]["data"]
    assert sum(provenance["unreadable"].values()) + sum(provenance["skipped"].values()) == 1


def test_r2s_two_stages(words, tmp_path, monkeypatch):
    settings = VIT | {"two_stage": True, "link": "conditional", "report_to": "tensorboard", "calibration": "platt"}
    train(monkeypatch, words(tmp_path / "run", **settings))
    assert list((tmp_path / "run" / "stages" / "gate").rglob("events.out.tfevents.*"))
    report = EvalReport.from_json(tmp_path / "run" / "eval_report.json")
    assert 0 < report.gate["auroc"] < 1
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert model.gate.config.label_names == ["Abnormal"]
    assert list(report.labels) == list(Hierarchy.from_config(model.config).names)
    assert set(report.provenance["training"]) == {"gate", "findings"}
    # The gate model decides by its own probability; the report, by the calibrated one: the same films.
    threshold = np.array([[model.config.gate_threshold]])
    calibrated = Calibration(**model.config.calibration).apply(("Abnormal",), threshold)
    assert calibrated == pytest.approx(report.gate["threshold"], abs=1e-6)
    evaluate(monkeypatch, tmp_path / "run", tmp_path / "report", "--heatmap_films", "40")
    again = EvalReport.from_json(tmp_path / "report" / "eval_report.json")
    assert again.aggregate["macro_auroc"] == pytest.approx(report.aggregate["macro_auroc"], abs=1e-9)
    assert 0 < again.gate["compute"]["flops_gate"] < again.gate["compute"]["flops"]
    assert "head_dropout" in again.uncertainty["undefined"]
    check_run(tmp_path / "run", "--expect_consistent")


SMALL = ["--num_train_epochs", "1", "--image_size", "64", "--dataloader_num_workers", "0", "--disable_tqdm", "true"]


def test_r1s_config_as_shipped_on_films_in_chexperts_layout(tmp_path, monkeypatch):
    """The shipped settings, but for size: head, HBCE step with data-driven weights, plateau, Uncertain node."""
    data = generate(tmp_path / "chexpert", n_images=300, image_size=64, layout="chexpert", progress=False)
    config = REPO / "recipes" / "configs" / "chexpert_densenet121_hbce.yaml"
    tiny = ["--backbone_kwargs", '{"growth_rate": 8, "block_config": [1, 1]}']
    folders = ["--data_dir", str(data), "--cache_dir", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "run")]
    train(monkeypatch, [str(config), *folders, *SMALL, *tiny])
    report = EvalReport.from_json(tmp_path / "run" / "eval_report.json")
    assert len(report.labels) == 21
    assert report.hierarchy["flat"]["n_edges"] == 20
    assert report.aggregate["macro_auroc_competition"] is not None
    assert report.provenance["data"]["test_source"] == "test.csv"
    assert "Uncertain" in report.labels
    run = yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())
    assert run["labels"]["train"]["n_uncertain"]["Atelectasis"] > 0
    assert run["labels"]["train"]["n_closed"]["Enlarged Cardiomediastinum"] > 0
    check_run(tmp_path / "run", "--findings", "Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion")


def test_r2s_config_as_shipped(phantom, tmp_path, monkeypatch):
    config = REPO / "recipes" / "configs" / "nih_vit_two_stage.yaml"
    folders = [
        "--data_dir",
        str(phantom),
        "--cache_dir",
        str(tmp_path / "cache"),
        "--output_dir",
        str(tmp_path / "run"),
    ]
    train(monkeypatch, [str(config), *folders, *SMALL, "--backbone", "test_vit", "--backbone_weights", "none"])
    report = EvalReport.from_json(tmp_path / "run" / "eval_report.json")
    assert report.gate["auroc"] is not None
    assert report.hierarchy["flat"]["images_out_of_order"] == 0


@pytest.mark.slow
def test_two_processes_write_the_report_of_one(finished, tmp_path, monkeypatch):
    evaluate(monkeypatch, finished, tmp_path / "one", "--dropout_passes", "5", "--heatmap_films", "3")
    own = ["--model", str(finished), "--output_dir", str(tmp_path / "two"), "--n_resamples", "100"]
    launch([*own, "--dropout_passes", "5", "--heatmap_films", "3"], 2, recipe="evaluate.py")
    one, two = (json.loads((tmp_path / name / "eval_report.json").read_text()) for name in ("one", "two"))
    assert two["n_images"] == one["n_images"]
    assert two["aggregate"] == one["aggregate"]
    for name, row in one["uncertainty"]["labels"].items():
        assert two["uncertainty"]["labels"][name]["measures"]["entropy"] == pytest.approx(
            row["measures"]["entropy"], abs=1e-5
        )
    for name, score in one["localisation"]["trained"].items():
        assert two["localisation"]["trained"][name] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("words", [["--model", "nowhere/at/all"], ["--model", str(REPO / "tests")]])
def test_a_model_that_is_none_is_said_so(words, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="ModelError: "):
        evaluate(monkeypatch, words[1], tmp_path / "report", "--dataset", "phantom")


def test_boxes_are_found_matched_or_refused(finished, phantom, tmp_path, monkeypatch):
    films = pd.read_csv(finished / "predictions_test.csv")["id"]
    header = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
    (tmp_path / "boxes.csv").write_text(header + f"{films[0]},Mass,100,100,200,300,,,\n")
    evaluate(monkeypatch, finished, tmp_path / "report", "--boxes", str(tmp_path / "boxes.csv"))
    part = EvalReport.from_json(tmp_path / "report" / "eval_report.json").localisation
    assert part["source"] == "1 boxes of boxes.csv"
    assert list(part["trained"]) == ["Mass"]
    assert part["trained"]["Mass"]["area"] == pytest.approx(0.2 * 0.3, abs=0.01)
    (tmp_path / "other.csv").write_text(header + "elsewhere.png,Mass,100,100,200,300,,,\n")
    with pytest.raises(SystemExit, match=r"BoxError: .*no box is of a film of this split"):
        evaluate(monkeypatch, finished, tmp_path / "second", "--boxes", str(tmp_path / "other.csv"))
    assert not (tmp_path / "second").exists()


def launch(words, processes, recipe="train.py"):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if processes > 1:
        command += ["--config_file", str(REPO / "recipes" / "accelerate" / "two_cpu_processes.yaml")]
    done = subprocess.run(
        [*command, str(REPO / "recipes" / recipe), *words], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["vit", "densenet"])
def test_two_processes_train_and_evaluate_like_one(architecture, words, tmp_path):
    """Same films a step: 1 × 16 and 2 × 8. A ViT gives the same model; batch norm sees other batches."""
    settings = (VIT if architecture == "vit" else {}) | {"ema_decay": 0.9, "num_train_epochs": 1}
    tables = []
    for processes in (1, 2):
        folder = tmp_path / f"p{processes}"
        launch(words(folder, per_device_train_batch_size=16 // processes, **settings), processes)
        report = EvalReport.from_json(folder / "eval_report_validation.json")
        stage = report.provenance["training"]["model"]
        assert stage["processes"] == processes
        # evaluated during training on all processes, and alone from the disk: the same figure
        assert report.aggregate["macro_auroc"] == pytest.approx(stage["best_metric"], abs=1e-6)
        tables.append(PredictionTable.read(folder / "predictions_test.csv"))
    assert list(tables[0].ids) == list(tables[1].ids)
    np.testing.assert_array_equal(tables[0].truth, tables[1].truth)
    if architecture == "vit":
        np.testing.assert_allclose(tables[0].probability, tables[1].probability, atol=1e-4)
    if processes == 2:
        check_run(folder, "--expect_consistent")


def test_predictions_cover_every_test_film_once(finished, phantom):
    listed = (phantom / "test_list.txt").read_text().split()
    table = pd.read_csv(finished / "predictions_test.csv")
    assert sorted(table["id"]) == sorted(listed)
