"""What of a run is published, what stays, and what must not be there."""

import json

import pytest

from hf_cxr.hub.contents import ContentsError, check_anonymous, survey


def test_tables_and_settings_of_a_run_stay(finished):
    (finished / "checkpoint-10").mkdir()
    (finished / "checkpoint-10" / "optimizer.pt").write_bytes(b"x")
    contents = survey(finished)
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "eval_report.json"} <= set(
        contents.published
    )
    assert "figures/auroc_test.png" in contents.published
    assert {"run.yaml", "predictions_test.csv", "checkpoint-10/optimizer.pt"} <= set(contents.kept)


@pytest.mark.parametrize(
    "name",
    [
        "film.png",
        "figures/00000001_000.png",
        "patients.csv",
        "notes.txt",
        ".DS_Store",
        "config.json.bak",
        "a/config.json",
    ],
)
def test_what_no_run_writes_is_refused(finished, name):
    (finished / name).parent.mkdir(exist_ok=True)
    (finished / name).write_bytes(b"x")
    with pytest.raises(ContentsError, match=rf"no training run writes: {name};"):
        survey(finished)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ContentsError, match="is no folder; expected that of a finished run"):
        survey(tmp_path / "nowhere")


def test_a_link_is_refused(finished, tmp_path):
    (tmp_path / "elsewhere.json").write_text("{}")
    (finished / "eval_report.json").unlink()
    (finished / "eval_report.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ContentsError, match=r"eval_report\.json \(a link\)"):
        survey(finished)


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("trained on 00000042_001.png", "00000042_001.png"),
        ("film 00000042_001", "00000042_001"),
        ("patient PAT-778812 among others", "PAT-778812"),
        ("from /home/anna/cxr/films", "/home/anna/cxr/films"),
        ("from C:\\\\Users\\\\anna", "C:"),
        ("ask anna.meyer@clinic.example", "anna.meyer@clinic.example"),
        ("in /archive/radiology/2026", "/archive/radiology/2026"),
    ],
)
def test_identifiers_are_found_wherever_they_stand(tmp_path, planted, found):
    run, staged = tmp_path / "run", tmp_path / "staged"
    run.mkdir()
    staged.mkdir()
    (run / "predictions_test.csv").write_text("id,patient,Mass\n00000042_001.png,PAT-778812,1\n13,7,0\n")
    (run / "run.yaml").write_text("settings: {data: {data_dir: /archive/radiology/2026}}\n")
    (staged / "config.json").write_text(json.dumps({"image_size": 13, "note": "13 films, 7 patients"}))
    (staged / "README.md").write_text("Nothing.")
    check_anonymous(staged, run)
    (staged / "eval_report.json").write_text(json.dumps({"provenance": {"note": planted}}))
    with pytest.raises(ContentsError, match="name patients or this machine") as caught:
        check_anonymous(staged, run)
    assert f"eval_report.json: {found}" in str(caught.value)
