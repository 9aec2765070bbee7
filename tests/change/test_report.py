import json
import re

import numpy as np
import pytest

from hf_cxr.change import ChangeError, ChangeReport, Cost, compare_models, write_change
from hf_cxr.change import write as writing
from hf_cxr.change.words import verdict
from tests.change.films import GROWN, make_side, truths

COST = Cost("lora", 5_000, 100_000, 320, 4.0, 250.0, 1_500_000_000)
REASON = "the base's own films are not here"


def make_change(**gains):
    return compare_models("test films", make_side(), make_side(GROWN, 1.0, seed=1, **gains), n_resamples=200)


@pytest.fixture(scope="module")
def hospital():
    return make_change(Pneumonia=3.0)


@pytest.fixture(scope="module")
def worse():
    return make_change(Mass=0.0, Pneumonia=0.0)


@pytest.fixture
def report(hospital, worse):
    return ChangeReport(hospital, COST, worse, provenance={"seed": 0, "versions": {"torch": "2"}})


def test_it_is_read_back_equal(report, hospital, tmp_path):
    for each in (report, ChangeReport(hospital, COST, base_undefined=REASON)):
        each.to_json(tmp_path / "change.json")
        assert ChangeReport.from_json(tmp_path / "change.json") == each
        content = json.loads((tmp_path / "change.json").read_text())
        assert content["forgetting"] == each.forgetting
        assert content["cost"]["share"] == 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["change.json"]


def test_a_broken_file_is_refused(report, tmp_path):
    path = tmp_path / "change.json"
    report.to_json(path)
    whole = json.loads(path.read_text())
    for text, words in (
        (path.read_text()[:-5], "no JSON"),
        (json.dumps(whole | {"schema_version": 0}), "schema version 0, this program reads 1"),
        (json.dumps(whole | {"more": 1}), "not the keys"),
        (json.dumps({k: v for k, v in whole.items() if k != "cost"}), "not the keys"),
        ("[]", "schema version None"),
    ):
        path.write_text(text)
        with pytest.raises(ChangeError, match=words):
            ChangeReport.from_json(path)


def test_a_figure_that_is_nan_is_not_written(hospital, tmp_path):
    broken = ChangeReport(hospital | {"n_images": float("nan")}, COST, base_undefined=REASON)
    with pytest.raises(ValueError, match="JSON compliant"):
        broken.to_json(tmp_path / "change.json")
    assert not (tmp_path / "change.json").exists()


def test_base_or_its_reason(hospital):
    for wrong in ({}, {"base": hospital, "base_undefined": REASON}, {"base_undefined": ""}):
        with pytest.raises(ChangeError, match="base_undefined"):
            ChangeReport(hospital, COST, **wrong)
    with pytest.raises(ChangeError, match="3 trained parameters of 2"):
        Cost("lora", 3, 2, 1, 1, 1)


def test_forgetting_is_the_bases(report, worse):
    assert report.forgetting["macro_auroc"]["difference"] == worse["macro_auroc"]["shared"]["difference"]
    assert report.forgetting["worse"] == report.forgetting["told"] == ["Pneumonia", "Mass"]
    assert report.forgetting["better"] == []


def test_the_verdict_says_what_the_intervals_say(report, hospital, worse):
    row, macro = hospital["labels"]["Pneumonia"]["auroc"], worse["macro_auroc"]["shared"]
    first, second = verdict(report)[:2]
    assert f"of 2 findings that both models have, AUROC is better on 1 (Pneumonia +{row['difference']:.3f}" in first
    assert (
        "measurably worse on none. Not to be told apart, since the interval of the difference holds 0: Mass." in first
    )
    low, high = macro["difference_ci"]
    assert second.startswith(
        f"It lost {-macro['difference']:.3f} ({-high:.3f} to {-low:.3f}) macro AUROC on the base's"
    )
    assert "Worse there on 2 of 2 findings: Pneumonia" in second
    shared = hospital["macro_auroc"]["shared"]
    third = verdict(report)[2]
    assert third.startswith(f"Macro AUROC on the hospital's films over 2 findings: {shared['before']:.3f} before, ")


def test_no_better_or_worse_where_intervals_hold_0():
    same = compare_models("films", make_side(), make_side(seed=1), n_resamples=200)
    rows = [same["labels"][name]["auroc"] for name in ("Pneumonia", "Mass")]
    assert {row["outcome"] for row in rows} == {"open"}
    first, second = verdict(ChangeReport(same, COST, same))[:2]
    assert "measurably better on none and measurably worse on none" in first
    assert second.startswith("It forgot nothing measurable: macro AUROC on the base's own films changed by")
    assert re.search(r"a loss of 0\.\d{3} is not excluded", second)
    assert "orse there" not in second


def test_a_gain_with_a_worse_label_is_not_called_forgetting_nothing():
    before, after = make_side(Pneumonia=0.0, Mass=2.0), make_side(seed=1, Pneumonia=3.0, Mass=0.5)
    mixed = compare_models("films", before, after, n_resamples=200)
    second = verdict(ChangeReport(mixed, COST, mixed))[1]
    assert mixed["macro_auroc"]["shared"]["outcome"] == "higher"
    assert second.startswith("It forgot nothing measurable on the mean: it gained")
    assert "Worse there on 1 of 2 findings: Mass -0." in second


def test_an_unchanged_model():
    same = compare_models("films", make_side(), make_side(), n_resamples=50)
    first, second = verdict(ChangeReport(same, COST, same))[:2]
    assert "The same in every resample: Pneumonia, Mass." in first
    assert "better or worse cannot be said" in first
    assert "macro AUROC on the base's own films is the same in every resample (0." in second


def with_positives(n_films):
    """Truth in which the first films alone are positive, two films a patient."""
    truth = truths(60)
    return {name: (np.arange(60) < n_films).astype(float) for name in truth}


def test_too_few_films_to_say():
    truth = with_positives(2)
    few = compare_models("films", make_side(truth=truth), make_side(truth=truth, seed=1), n_resamples=50)
    first, second = verdict(ChangeReport(few, COST, few))[:2]
    assert "better or worse cannot be said" in first
    assert "Too few films to say: Pneumonia, Mass." in first
    assert second.startswith("Whether it lost macro AUROC on the base's own films cannot be said: undefined in")


def test_few_films_are_told_beside_a_difference():
    truth = with_positives(16)
    before, after = make_side(truth=truth, gain=0.0), make_side(truth=truth, gain=5.0)
    first = verdict(ChangeReport(compare_models("films", before, after), COST, base_undefined=REASON))[0]
    assert "AUROC is better on 2 (Pneumonia +0." in first
    assert first.count(", 16 positive films only") == 2


def test_the_rest_of_the_verdict(report, hospital):
    lines = verdict(report)
    row, gate = hospital["labels"]["Viral"]["auroc"], hospital["gate"]["counts"]
    assert any(line.startswith("New, which") and f"Viral {row['after']:.3f}" in line for line in lines)
    assert any(line.startswith("Telling Bacterial from Viral, where Pneumonia is present: AUROC 0.") for line in lines)
    assert any(
        f"misses {gate['after']['fn']} of " in line and f"(before: {gate['before']['fn']};" in line for line in lines
    )
    assert lines[-1] == (
        "Cost, by method “lora”: 320 labelled films, 4 epochs, 4 minutes, 1.50 GB of memory at the most; 5,000 of "
        "100,000 parameters trained (5.00%)."
    )
    unmeasured = ChangeReport(hospital, Cost("head", 5, 100, 10, 1, 20), base_undefined=REASON)
    assert f"What it forgot was not measured: {REASON}." in verdict(unmeasured)
    assert "20 seconds, memory not measured" in verdict(unmeasured)[-1]


def test_probabilities_of_a_label_of_one_class_are_no_verdict():
    truth = truths(400)
    truth["Mass"][:] = 0
    change = compare_models("films", make_side(truth=truth), make_side(truth=truth, Pneumonia=4.0), n_resamples=100)
    assert change["labels"]["Mass"]["brier"]["before"] is not None
    (line,) = [line for line in verdict(ChangeReport(change, COST, base_undefined=REASON)) if "Brier" in line]
    assert "by Brier score and of 1 finding, better for 1 (Pneumonia -0." in line


def test_new_findings_are_unknown_on_the_bases_films(hospital, tmp_path):
    truth = truths(400) | dict.fromkeys(("Bacterial", "Viral"), np.full(400, np.nan))
    base = compare_models("base films", make_side(truth=truth), make_side(GROWN, truth=truth, seed=1), n_resamples=50)
    assert base["siblings"][0]["auroc"]["undefined"]["after"] == "no film with known truth"
    write_change(tmp_path, ChangeReport(hospital, COST, base))
    text = (tmp_path / "change.md").read_text()
    where = text.index("## The base's own films")
    assert "Telling siblings apart" in text[:where]
    assert "Telling siblings apart" not in text[where:]
    assert "2 labels lack positive or negative films of known truth here" in text[where:]
    assert "AUROC after (no film with known truth): Bacterial, Viral, Bacterial against Viral." in text[where:]


PICTURES = {f"change_{w}_{what}.png" for w in ("hospital", "base") for what in ("auroc", "probabilities")}


def test_the_folder(report, hospital, tmp_path):
    (tmp_path / "figures").mkdir()
    for own in ("model.safetensors", "figures/auroc.png"):
        (tmp_path / own).write_text("the run's")
    write_change(tmp_path, report)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    own = {"model.safetensors", "figures/auroc.png"}
    assert files == own | {"change.json", "change.md", "change.html"} | {f"figures/{name}" for name in PICTURES}
    assert ChangeReport.from_json(tmp_path / "change.json") == report
    write_change(tmp_path, ChangeReport(hospital, COST, base_undefined=REASON))
    left = {path.name for path in (tmp_path / "figures").iterdir()}
    assert left == {"auroc.png", "change_hospital_auroc.png", "change_hospital_probabilities.png"}
    assert f"Not measured: {REASON}." in (tmp_path / "change.md").read_text()
    assert (tmp_path / "model.safetensors").read_text() == "the run's"


def test_a_failure_leaves_the_folder_as_it_was(report, tmp_path, monkeypatch):
    write_change(tmp_path, report)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail(*_):
        raise RuntimeError("drawn no further")

    monkeypatch.setitem(writing._DRAWN, "probabilities", (fail, ""))
    with pytest.raises(RuntimeError, match="no further"):
        write_change(tmp_path, report)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_file_in_the_way(report, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ChangeError, match="is a file"):
        write_change(tmp_path / "out", report)


def test_the_pages_say_what_the_json_says(report, hospital, tmp_path):
    write_change(tmp_path, report, "Change of <b>")
    text, page = ((tmp_path / f"change.{kind}").read_text() for kind in ("md", "html"))
    row = hospital["labels"]["Pneumonia"]["auroc"]
    for side in ("before", "after"):
        low, high = row[f"{side}_ci"]
        assert f"{row[side]:.3f} ({low:.3f}–{high:.3f})" in text
        assert f"{row[side]:.3f} ({low:.3f}–{high:.3f})" in page
    assert text.index("## Verdict") < text.index("## The hospital's films") < text.index("## How it was measured")
    for name in PICTURES:
        assert f"figures/{name}" in text
    assert page.count("data:image/png;base64,") == 4
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "<b>" not in page
    assert "film0" not in text + page + (tmp_path / "change.json").read_text()  # nobody's films by name


def test_names_do_not_break_the_tables(tmp_path):
    renamed = json.loads(json.dumps(make_change()).replace("Viral", "Vi|ral"))
    write_change(tmp_path, ChangeReport(renamed, COST, base_undefined=REASON))
    rows = [line for line in (tmp_path / "change.md").read_text().splitlines() if line.startswith("| Vi")]
    assert rows
    assert all(line.startswith("| Vi\\|ral |") for line in rows)
