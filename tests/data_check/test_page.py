"""How the check is written and how the recipe ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hf_cxr.arguments import SettingsError
from hf_cxr.data.phantom import generate
from hf_cxr.data_check import (
    NOTE,
    WARNING,
    Check,
    CheckFolderError,
    Finding,
    check,
    page_text,
    parse_check_settings,
    write_check,
)
from tests.data_check.hospitals import whole

REPO = Path(__file__).parents[2]


def test_verdicts():
    note, warning, error = (Finding(level, "code", "what", 1, "films") for level in (NOTE, WARNING, "error"))
    verdicts = [Check("x", found, {}).exit_code for found in ((), (note,), (note, warning), (warning, error, note))]
    assert verdicts == [0, 0, 1, 2]
    with pytest.raises(ValueError, match="expected one of error, warning, note"):
        Finding("fatal", "code", "what", 1, "films")


def test_the_page_has_everything(tmp_path, base_folder):
    hospital = whole()
    hospital.rows[4].picture = None
    outcome, _ = check(parse_check_settings([str(hospital.write(tmp_path / "data")), "--base", str(base_folder)]))
    write_check(tmp_path / "page", outcome)
    page = (tmp_path / "page" / "check.html").read_text()
    assert page.count("data:image/png;base64,") == 3 == len(list((tmp_path / "page" / "figures").iterdir()))
    assert "http" not in page
    text = (tmp_path / "page" / "check.md").read_text()
    assert "Warning, 1 film: films without a file. Where: films.csv, row 6. What to do: " in text
    for section in ("Films", "Patients", "Findings", "Looks", "How this was found out"):
        assert f"## {section}" in text
        assert f"## {section}" in page_text(outcome)
    plain = json.loads((tmp_path / "page" / "check.json").read_text())
    assert plain["findings"][0] == {
        "level": "warning", "code": "missing", "what": "films without a file", "count": 1, "of": "films",
        "examples": ["films.csv, row 6"], "remedy": plain["findings"][0]["remedy"],
    }  # fmt: skip
    assert plain["counts"]["looks"]["films"] == 59
    assert plain["schema_version"] == 1


def test_a_page_shows_the_first_places_and_the_json_all(tmp_path):
    hospital = whole()
    for row in hospital.rows[:7]:
        row.picture = None
    outcome, _ = check(parse_check_settings([str(hospital.write(tmp_path))]))
    places = [f"films.csv, row {row}" for row in range(2, 9)]
    assert outcome.to_plain()["findings"][0]["examples"] == places
    assert f"First: {'; '.join(places[:5])}; … (all are in check.json)." in page_text(outcome)


def test_of_a_tables_problems_the_json_has_the_first_ten_and_the_page_says_so(tmp_path):
    hospital = whole()
    for row in hospital.rows[:14]:
        row.age = "fourty"
    outcome, _ = check(parse_check_settings([str(hospital.write(tmp_path))]))
    (finding,) = (f for f in outcome.findings if f.code == "malformed_cell")
    assert (finding.count, len(finding.examples)) == (14, 10)
    assert "… (the first 10 are in check.json)." in page_text(outcome)


def test_a_folder_is_replaced_only_if_asked_and_only_if_it_is_a_check(tmp_path):
    outcome = Check("small", (), {}, {"films": "none"})
    write_check(tmp_path / "page", outcome)
    with pytest.raises(CheckFolderError, match="--overwrite true"):
        write_check(tmp_path / "page", outcome)
    write_check(tmp_path / "page", Check("other", (), {}), overwrite=True)
    assert "Check of other" in (tmp_path / "page" / "check.html").read_text()
    # what else lies there stays
    (tmp_path / "page" / "notes.txt").write_text("ask the radiologist")
    (tmp_path / "page" / "figures" / "mine.png").write_bytes(b"mine")
    write_check(tmp_path / "page", outcome, overwrite=True)
    assert (tmp_path / "page" / "notes.txt").read_text() == "ask the radiologist"
    assert (tmp_path / "page" / "figures" / "mine.png").read_bytes() == b"mine"
    assert "Check of small" in (tmp_path / "page" / "check.html").read_text()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckFolderError, match="holds no check"):
        write_check(tmp_path / "mine", outcome, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "page"]


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path):
    write_check(tmp_path / "page", Check("before", (), {}))
    with pytest.raises(ValueError, match="JSON"):
        write_check(tmp_path / "page", Check("after", (), {}, {"x": float("nan")}), overwrite=True)
    assert "Check of before" in (tmp_path / "page" / "check.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "no data"),
        (["a.yaml", "--dataset", "mri"], "expected one of"),
        (["a.yaml", "--num_proc", "0"], "1 or more"),
        (["a.yaml", "--base_data_dir", "x"], "give --base"),
        (["a.yaml", "--base", "x", "--taxonomy", "nih"], "one of the two"),
        (["a.yaml", "--cache_dir", "x"], "base_data_dir"),
        (["a.yaml", "--data_options", "[1]"], "JSON object"),
        (["a.yaml", "--shw_cells", "true"], "did you mean 'show_cells'"),
    ],
)
def test_settings_that_cannot_be_used(words, why):
    with pytest.raises(SettingsError, match=why):
        parse_check_settings(words)


def recipe(*words):
    command = [sys.executable, str(REPO / "recipes" / "check_data.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_recipe_and_its_exit_codes(tmp_path):
    good = whole(40)
    done = recipe(good.write(tmp_path / "good"), "--output_dir", tmp_path / "page")
    assert done.returncode == 0, done.stderr
    assert "Verdict: usable." in done.stdout
    assert str(tmp_path / "page" / "check.html") in done.stdout
    good.rows[0].patient = good.rows[-1].patient
    good.rows[1].age = "fourty"
    done = recipe(good.write(tmp_path / "bad"), "--show_cells", "true")
    assert done.returncode == 2
    assert "Not for showing around" in done.stdout
    assert "fourty" in done.stdout
    (tmp_path / "bad" / "films.csv").unlink()
    done = recipe(tmp_path / "bad" / "elsewhere.yaml")
    assert done.returncode == 3
    assert done.stderr.strip().splitlines()[-1].startswith("check_data.py: FileNotFoundError")
    done = recipe(tmp_path / "good" / "elsewhere.yaml", "--base", "runs/typo")
    assert (done.returncode, "ModelError" in done.stderr) == (3, True)


def test_a_built_in_data_set(tmp_path):
    generate(tmp_path, n_images=120, image_size=64, progress=False)
    outcome, _ = check(parse_check_settings(["--dataset", "nih", "--data_dir", str(tmp_path)]))
    assert outcome.title == "nih"
    assert outcome.counts["films"]["films"] == 120
    assert {finding.level for finding in outcome.findings} <= {NOTE}
    assert outcome.counts["labels"]["words"] is None
    listed = len((tmp_path / "test_list.txt").read_text().split())
    assert outcome.counts["splits"]["test"]["films"] == listed


def test_the_map_may_come_first_or_by_its_option():
    assert parse_check_settings(["a.yaml"]) == parse_check_settings(["--data_dir", "a.yaml"])
