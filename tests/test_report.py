import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from hf_cxr.arguments import SettingsError
from hf_cxr.calibration import calibrated, fit_table
from hf_cxr.evaluation import EvalReport, EvaluationError
from hf_cxr.full_report import full_report
from hf_cxr.hierarchy import load_taxonomy
from hf_cxr.operating_points import choose_operating_points
from hf_cxr.predictions import PredictionTable, PredictionTableError
from hf_cxr.report import ReportFolderError, write_report
from hf_cxr.report.arguments import parse_report_settings
from hf_cxr.report.inputs import gather
from hf_cxr.report.layout import number, with_interval
from tests.conftest import TEST_DATA
from tests.test_evaluation import make_table

ROOT = Path(__file__).parent.parent
R1 = TEST_DATA / "chexpert_test_predictions" / "cihmlc_densenet121.csv"


def evaluate(*words):
    command = [sys.executable, str(ROOT / "recipes" / "evaluate.py"), *map(str, words), "--n_resamples", "100"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Two systems on the same films, in different order, and the first one's validation."""
    folder, nih = tmp_path_factory.mktemp("tables"), load_taxonomy("nih")
    make_table(nih, seed=2).to_csv(folder / "a.csv")
    validation = make_table(nih, seed=1)
    replace(validation, patients="v" + validation.patients.astype(object)).to_csv(folder / "validation.csv")
    (folder / "readers.csv").write_text("reader,label,sensitivity,specificity\nA,Mass,0.1,0.1\nB,Mass,1.0,1.0\n")
    frame = pd.read_csv(folder / "a.csv")
    frame[[c for c in frame if c.endswith("_prob")]] = np.random.default_rng(0).random((400, len(nih.names)))
    frame.sample(frac=1, random_state=0).to_csv(folder / "b.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def written(tables):
    done = evaluate(
        "--predictions", tables / "a.csv", "--compare", tables / "b.csv", "--validation", tables / "validation.csv",
        "--taxonomy", "nih", "--gate_criterion", "miss_rate:0.1@0.9", "--readers", tables / "readers.csv",
        "--output_dir", tables / "report",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return tables / "report", done.stdout


def test_the_recipe_writes_a_whole_report(written):
    folder, printed = written
    assert {p.name for p in folder.iterdir()} == {"eval_report.json", "report.html", "report.md", "figures"}
    assert {p.stem for p in (folder / "figures").iterdir()} == {
        "auroc", "tree", "roc", "pr", "co_occurrence", "reliability", "gate"
    }  # fmt: skip
    assert "macro AUROC" in printed
    assert str(folder / "report.html") in printed
    report = EvalReport.from_json(folder / "eval_report.json")
    assert report.operating_points["gate_criterion"] == "miss rate <= 0.1 with confidence 0.9"
    assert report.subgroups.keys() == {"view"}
    assert report.labels["Mass"]["readers"] == {"n": 2, "covered": 1}
    assert "Against readers" in (folder / "report.md").read_text()
    assert report.hierarchy["projected"]["images_out_of_order"] == 0


def test_the_page_stands_alone_and_says_what_the_json_says(written):
    folder, _ = written
    report = EvalReport.from_json(folder / "eval_report.json")
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page)  # nothing is fetched from elsewhere
    assert page.count("data:image/png;base64,") == 7
    for shown in (
        with_interval(report.aggregate, "macro_auroc"),
        with_interval(report.labels["Mass"], "auroc"),
        with_interval(report.gate, "npv"),
        number(report.calibration["mean_ece"], 4),
    ):
        assert shown in page
        assert shown in text
    for picture in re.findall(r"\]\((figures/[^)]+)\)", text):
        assert (folder / picture).is_file()


def test_the_comparison_is_paired_by_film(written, tables):
    """The second table came in another order: the difference is that of the two systems' own AUROCs."""
    report = EvalReport.from_json(written[0] / "eval_report.json")
    row = report.comparison["figures"]["auroc/Mass"]
    assert row["first"] == pytest.approx(report.labels["Mass"]["auroc"], abs=1e-12)
    nih = load_taxonomy("nih")
    other = full_report(PredictionTable.read(tables / "b.csv"), nih, "test", n_resamples=100)
    assert row["second"] == pytest.approx(other.labels["Mass"]["auroc"], abs=1e-12)
    assert row["difference"] == pytest.approx(row["first"] - row["second"])
    assert row["p"] < 0.05


def test_a_report_is_not_replaced_unasked(written, tables):
    folder, _ = written
    before = (folder / "eval_report.json").read_bytes()
    words = ("--predictions", tables / "b.csv", "--taxonomy", "nih", "--output_dir", folder)
    refused = evaluate(*words)
    assert refused.returncode == 1
    assert "--overwrite true replaces it" in refused.stderr
    assert (folder / "eval_report.json").read_bytes() == before
    other = tables / "something"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with pytest.raises(ReportFolderError, match="holds no report"):
        write_report(other, None, None, None, "", overwrite=True)
    assert (other / "mine.txt").read_text() == "mine"


def test_thresholds_never_come_from_the_reported_patients(tables):
    words = ["--predictions", str(tables / "b.csv"), "--validation", str(tables / "a.csv"), "--taxonomy", "nih"]
    with pytest.raises(PredictionTableError, match="134 patients are in the reported table and in the one"):
        gather(*parse_report_settings(words))


def test_calibration_is_fitted_on_the_other_table(tables, tmp_path, nih):
    """A table of log-odds three times too large: calibrated before thresholds are chosen, shown before and after."""
    for name in ("a", "validation"):
        table = PredictionTable.read(tables / f"{name}.csv")
        replace(table, probability=expit(3 * logit(table.probability))).to_csv(tmp_path / f"{name}.csv")
    done = evaluate(
        "--predictions", tmp_path / "a.csv", "--validation", tmp_path / "validation.csv", "--taxonomy", "nih",
        "--calibration", "temperature", "--output_dir", tmp_path / "report",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = EvalReport.from_json(tmp_path / "report" / "eval_report.json")
    raw = full_report(PredictionTable.read(tmp_path / "a.csv"), nih, "test", n_resamples=100)
    assert report.calibration["before"]["mean_ece"] == pytest.approx(raw.calibration["mean_ece"], abs=1e-12)
    assert report.calibration["mean_ece"] < raw.calibration["mean_ece"]
    assert report.aggregate["macro_auroc"] == pytest.approx(raw.aggregate["macro_auroc"], abs=1e-12)
    fitted = fit_table(PredictionTable.read(tmp_path / "validation.csv"), "temperature", "validation")
    validation = calibrated(PredictionTable.read(tmp_path / "validation.csv"), fitted, nih)
    points = choose_operating_points(validation, nih, "validation")
    assert report.operating_points["thresholds"] == points.thresholds
    assert "Calibrated by temperature, fitted on validation" in (tmp_path / "report" / "report.md").read_text()
    assert len(report.provenance["table"].split("sha256 ")[1]) == 64


def test_a_leak_is_seen_without_patients(tables, tmp_path):
    """The same films as validation, once without their patients: ids tell, and half a tell is not enough."""
    bare = pd.read_csv(tables / "a.csv").drop(columns="patient")
    bare.to_csv(tmp_path / "bare.csv", index=False)
    words = ["--predictions", str(tables / "a.csv"), "--validation", str(tmp_path / "bare.csv"), "--taxonomy", "nih"]
    with pytest.raises(PredictionTableError, match="whether they share patients cannot be told"):
        gather(*parse_report_settings(words))
    bare.to_csv(tmp_path / "again.csv", index=False)
    words = ["--predictions", str(tmp_path / "again.csv"), "--validation", str(tmp_path / "bare.csv")]
    with pytest.raises(PredictionTableError, match="400 images are in the reported table"):
        gather(*parse_report_settings([*words, "--taxonomy", "nih"]))


def test_what_an_interruption_left_is_no_obstacle(written, tables):
    folder, _ = written
    left = folder.with_name(f".{folder.name}.before")
    left.mkdir()
    (left / "old.txt").write_text("old")
    report, table = EvalReport.from_json(folder / "eval_report.json"), PredictionTable.read(tables / "a.csv")
    nih = load_taxonomy("nih")
    write_report(folder, report, table, nih, "again", overwrite=True)
    assert not left.exists()
    with pytest.raises(KeyError):  # a figure that is not there, half-way through
        write_report(folder, replace(report, calibration={}), table, nih, "broken", overwrite=True)
    assert not folder.with_name(f".{folder.name}.partial").exists()
    assert "again" in (folder / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--predictions", "t.csv", "--compare", "b.csv", "--validation", "v.csv", "--calibration", "platt"],
            "only the first table would be calibrated",
        ),
        (["--predictions", "t.csv", "--patient_pattern", "("], "patient_pattern '\\('"),
        (["--predictions", "t.csv", "--heatmap_films", "2"], "need --model"),
        (["--model", "m", "--split", "validation", "--abstain_coverage", "0.8"], "chosen on validation"),
        (["--model", "m", "--dropout_passes", "1"], "passes of 2 or more"),
        (["--predictions", "t.csv", "--calibration", "platt"], "nothing to fit on; give --validation"),
        (["--predictions", "t.csv", "--calibration", "isotonic"], "expected one of none, temperature"),
        ([], "give one of the two"),
        (["--model", "m", "--predictions", "t.csv"], "give one of the two"),
        (["--predictions", "t.csv", "--validation", "t.csv"], "never chooses its own thresholds"),
        (["--predictions", "t.csv", "--n_resamples", "10"], "at least 100"),
        (["--predictions", "t.csv", "--projection", "left"], "expected one of up"),
        (["--predictions", "t.csv", "--criterion", "best"], "expected one of f1"),
        (["--predictions", "t.csv", "--gate_criterion", "sensitivity:0.9"], "nothing to choose on; give --validation"),
        (["--predictions", "t.csv", "--taxonmy", "nih"], "did you mean 'taxonomy'"),
    ],
)
def test_settings_are_checked(words, message):
    with pytest.raises((SettingsError, ValueError), match=message):
        parse_report_settings(words)


def test_tables_with_other_films_are_not_compared(nih):
    table, fewer = make_table(nih), make_table(nih, n=399)
    with pytest.raises(EvaluationError, match=r"1 only in the first, e.g. \['399'\], 0 only in the second"):
        full_report(table, nih, "test", n_resamples=100, second=fewer)
    with pytest.raises(EvaluationError, match="disagree on the truth"):
        full_report(table, nih, "test", n_resamples=100, second=make_table(nih, seed=9))


@pytest.mark.skipif(not R1.exists(), reason=f"{R1} is not there (HF_CXR_TEST_DATA)")
def test_the_published_figures_of_r1_come_out(tmp_path):
    done = evaluate(
        "--predictions", R1, "--taxonomy", "chexpert", "--truth_suffix", "_GT", "--prob_suffix", "_Pred",
        "--patient_pattern", r"(patient\d+)", "--output_dir", tmp_path / "report",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report" / "eval_report.json").read_text())
    aggregate, order = report["aggregate"], report["hierarchy"]
    assert aggregate["macro_auroc_all"] == pytest.approx(0.880383, abs=5e-7)
    assert aggregate["weighted_auroc_all"] == pytest.approx(0.898002, abs=5e-7)
    assert aggregate["macro_auroc_competition"] == pytest.approx(0.868880, abs=5e-7)
    assert order["flat"]["images_out_of_order"] == 248
    assert (order["flat"]["edges_violated"], order["flat"]["images_violated"]) == (10, 8)
    five = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    assert np.mean([report["labels"][n]["ece"] for n in five]) == pytest.approx(0.166, abs=5e-4)
    projected = order["projected"]
    assert projected["images_out_of_order"] == projected["edges_violated"] == 0
    for figure in ("macro_auroc_all", "weighted_auroc_all", "macro_auroc_competition", "micro_auroc"):
        assert projected["aggregate"][figure] >= aggregate[figure] - 0.001
    assert report["intervals"]["n_units"] == 250
    assert aggregate["macro_auroc_all_ci"] is not None
