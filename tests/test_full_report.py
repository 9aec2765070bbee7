import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import recall_score, roc_auc_score

from hf_cxr import reliability
from hf_cxr.calibration import Calibration
from hf_cxr.evaluation import EvalReport, evaluate_table
from hf_cxr.full_report import full_report
from hf_cxr.hierarchy import load_taxonomy
from hf_cxr.operating_points import choose_operating_points
from hf_cxr.subgroups import SubgroupError, groups_of
from tests.test_evaluation import make_table


@pytest.fixture(scope="module")
def made():
    nih = load_taxonomy("nih")
    random = np.random.default_rng(5)
    table = make_table(nih, seed=2)
    people = pd.DataFrame(
        {"sex": random.choice(["F", "M", None], 400, p=[0.45, 0.5, 0.05]), "age": random.integers(1, 95, 400)}
    )
    table = replace(table, metadata=people)
    points = choose_operating_points(make_table(nih, seed=1), nih, "validation")
    told_too_much = replace(table, probability=expit(3 * logit(table.probability)))
    report = full_report(
        table,
        nih,
        "test",
        operating_points=points,
        n_resamples=200,
        calibration=Calibration("platt", "validation", {"Mass": (3.0, 3.0, 0.0)}, pooled=("Hernia",)),
        uncalibrated=told_too_much,
        group_by=("sex", "age"),
    )
    return nih, table, points, report


def test_point_figures_are_those_of_the_plain_evaluation(made):
    nih, table, points, report = made
    plain = evaluate_table(table, nih, "test", operating_points=points)
    for name, row in plain.labels.items():
        assert {k: report.labels[name][k] for k in row if k != "undefined"} == {
            k: v for k, v in row.items() if k != "undefined"
        }
    assert plain.aggregate.items() <= report.aggregate.items()


def test_every_rate_has_an_interval_that_holds_it(made):
    report = made[-1]
    rows = [*report.labels.values(), report.aggregate, report.gate, *report.gate["lost"].values()]
    n_checked = 0
    for row in rows:
        for key in [k for k in row if k.endswith("_ci")]:
            if row[key] is None:
                assert row[key.removesuffix("_ci")] in (0, 1)
                assert "in every resample" in row["undefined"][key]
                continue
            low, high = row[key]
            assert 0 <= low <= row[key.removesuffix("_ci")] <= high <= 1, key
            assert high > low, key
            n_checked += 1
    assert n_checked > 21 * 8 + 14 * 5
    assert {"macro_auroc_ci", "weighted_auroc_ci", "micro_auroc_ci", "macro_auroc_all_ci"} <= report.aggregate.keys()
    assert {"auroc_ci", "sensitivity_ci", "npv_ci", "skip_rate_ci"} <= report.gate.keys()
    assert report.intervals["unit"] == "patient"
    assert report.intervals["n_units"] == 134


def test_the_patient_is_the_unit(made):
    nih, table, points, report = made
    by_image = replace(table, patients=table.ids, unit="image")
    other = full_report(by_image, nih, "test", operating_points=points, n_resamples=50)
    assert other.n_patients is None
    assert other.size == "400 films, patients unknown"
    assert other.intervals["unit"] == "image"
    assert other.intervals["method"] == "percentile bootstrap clustered by image"
    assert other.labels["Mass"]["auroc_ci"] != report.labels["Mass"]["auroc_ci"]


def test_calibration_before_and_after(made):
    nih, table, _, report = made
    before = [reliability.ece(table.column(n)[0], expit(3 * logit(table.column(n)[1]))) for n in nih.findings]
    section = report.calibration
    assert (section["method"], section["split"], section["pooled"]) == ("platt", "validation", ["Hernia"])
    assert section["before"]["mean_ece"] == pytest.approx(np.mean(before))
    bins = report.calibration["bins"]["Mass"]
    assert sum(row["n"] for row in bins) == 400 - report.labels["Mass"]["n_unknown"]
    assert report.calibration["mean_ece"] == pytest.approx(
        np.mean([report.labels[n]["ece"] for n in made[0].findings]), abs=1e-12
    )


def test_subgroup_figures_are_scikit_learns(made):
    _, table, points, report = made
    section = report.subgroups["sex"]
    groups = table.metadata["sex"]
    assert section["n_unknown"] == groups.isna().sum()
    assert section["reference"] == groups.value_counts().index[0]
    aurocs = {}
    for value, row in section["groups"].items():
        inside = (groups == value).to_numpy()
        assert row["n_images"] == inside.sum()
        truth, probability = (column[inside] for column in table.column("Effusion"))
        keep = ~np.isnan(truth)
        aurocs[value] = roc_auc_score(truth[keep], probability[keep])
        assert row["figures"]["auroc/Effusion"]["value"] == pytest.approx(aurocs[value], abs=1e-9)
        decided = probability[keep] >= points.thresholds["Effusion"]
        assert row["figures"]["sensitivity/Effusion"]["value"] == pytest.approx(recall_score(truth[keep], decided))
        truth, probability = (column[inside] for column in table.column("Abnormal"))
        missed = ((truth == 1) & (probability < points.gate_threshold)).sum() / (truth == 1).sum()
        assert row["figures"]["false_no_finding_rate"]["value"] == pytest.approx(missed)
    other = next(v for v in section["groups"] if v != section["reference"])
    gap = section["groups"][other]["gaps"]["auroc/Effusion"]
    assert gap["value"] == pytest.approx(aurocs[other] - aurocs[section["reference"]])
    assert gap["ci"][0] < gap["value"] < gap["ci"][1]
    assert 0 < gap["p"] <= 1


def test_a_group_that_is_served_worse_is_found(made):
    nih, table, points, _ = made
    sex = np.where(np.arange(400) % 6 < 3, "F", "M")  # whole patients
    probability = table.probability.copy()
    probability[sex == "F"] = np.random.default_rng(0).random(probability[sex == "F"].shape)
    worse = replace(table, probability=probability, metadata=pd.DataFrame({"sex": sex}))
    report = full_report(worse, nih, "test", operating_points=points, n_resamples=200, group_by=("sex",))
    section = report.subgroups["sex"]
    other = "F" if section["reference"] == "M" else "M"
    gap = section["groups"][other]["gaps"]["macro_auroc"]
    assert gap["p"] < 0.05
    assert (gap["value"] < 0) == (other == "F")


def test_groups():
    frame = pd.DataFrame({"age": [0, 17, 18, 79, 80, 94, np.nan], "view": ["PA", "", None, "AP", "AP", "PA", "PA"]})
    assert list(groups_of(frame, "age"))[:6] == ["0–17", "0–17", "18–39", "60–79", "80+", "80+"]
    assert groups_of(frame, "age").isna().sum() == 1
    assert groups_of(frame, "view").isna().sum() == 2
    assert list(groups_of(pd.DataFrame({"site": [1, 2, 1]}), "site")) == ["1", "2", "1"]
    with pytest.raises(SubgroupError, match=r"no column 'sex' to group by; the table has \['age', 'view'\]"):
        groups_of(frame, "sex")
    with pytest.raises(SubgroupError, match="30 values"):
        groups_of(pd.DataFrame({"id": np.arange(30)}), "id")


def test_groups_named_by_numbers_are_scored(made):
    _, table, points, _ = made
    site = pd.DataFrame({"site": np.where(np.arange(400) % 6 < 3, 1, 2)})
    report = full_report(
        replace(table, metadata=site), made[0], "test", operating_points=points, n_resamples=50, group_by=("site",)
    )
    groups = report.subgroups["site"]["groups"]
    assert groups.keys() == {"1", "2"}
    assert all(0 < row["figures"]["macro_auroc"]["value"] < 1 for row in groups.values())


def test_a_small_group_is_counted_but_not_scored(made):
    nih, table, _, _ = made
    metadata = pd.DataFrame({"view": ["lateral"] * 5 + ["PA"] * 395})
    report = full_report(replace(table, metadata=metadata), nih, "test", n_resamples=20, group_by=("view",))
    assert report.subgroups["view"]["groups"]["lateral"] == {
        "n_images": 5, "n_patients": 2, "undefined": "fewer than 20 films"
    }  # fmt: skip


def test_report_survives_json(made, tmp_path):
    report = made[-1]
    report.to_json(tmp_path / "r.json")
    assert EvalReport.from_json(tmp_path / "r.json") == report
    assert "NaN" not in json.dumps(json.loads((tmp_path / "r.json").read_text()))
