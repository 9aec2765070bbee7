"""The command line."""

from dataclasses import replace

import pytest

from hf_cxr.arguments import SettingsError
from hf_cxr.predict import (
    parse_predict_settings,
)
from tests.predict.films import recipe, settings


@pytest.mark.parametrize(
    ("words", "source", "heatmaps"),
    [
        ("--model m films", "films", False),
        ("films --model m", "films", False),
        ("--model m --heatmaps films --output_dir out", "films", True),
        ("--model=m --heatmaps true films", "films", True),
        ("--model m films --heatmaps", "films", True),
        ("--model m --heatmaps false --source films", "films", False),
        ("--heatmaps --model m films", "films", True),
    ],
)
def test_the_source_may_stand_anywhere(words, source, heatmaps):
    parsed = parse_predict_settings(words.split())
    assert (parsed.model, parsed.source, parsed.heatmaps) == ("m", [source], heatmaps)


def test_settings_may_come_from_a_file(tmp_path):
    (tmp_path / "s.yaml").write_text("model: m\nbatch_size: 8\n")
    parsed = parse_predict_settings([str(tmp_path / "s.yaml"), "films", "--batch_size", "4"])
    assert (parsed.model, parsed.source, parsed.batch_size) == ("m", ["films"], 4)


def test_several_films_may_be_named():
    parsed = parse_predict_settings(["a.png", "--model", "m", "--heatmaps", "b.dcm"])
    assert (parsed.source, parsed.heatmaps) == (["a.png", "b.dcm"], True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model m", "got model=m, source=None; give both"),
        ("films", "got model=None, source=films"),
        ("--model m a --format xlsx", "format: got 'xlsx', expected one of csv, parquet, jsonl"),
        ("--model m a --batch_size -1", "batch_size: got -1, expected 0 or more"),
        ("--model m a --precision fp16", "precision: got 'fp16', expected one of float32, bfloat16, int8"),
        ("--model m a --precision int8", "got precision=int8, int8=None; give both"),
        ("--model m a --int8 folder", "got precision=float32, int8=folder; give both"),
        ("--model m a --num_workers -1", "num_workers: got -1, expected 0 or more"),
        ("--model m a --dropout_passes 1", "dropout_passes: got 1"),
        ("--model m a --overwrite --resume", "exclude each other"),
        ("--model m a --heatmap", "did you mean 'heatmaps'"),
    ],
)
def test_settings_are_checked(words, message):
    with pytest.raises(SettingsError, match=message):
        parse_predict_settings(words.split())


def test_parts_are_whole_batches():
    assert replace(settings("m", "s", "o"), rows_per_part=256, batch_size=48).part_size == 288
    assert replace(settings("m", "s", "o"), rows_per_part=1, batch_size=48).part_size == 48
    assert replace(settings("m", "s", "o"), rows_per_part=100, batch_size=0).part_size == 100


def test_errors_are_one_line(model, folder, tmp_path, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        recipe(monkeypatch, "--model", model, tmp_path / "nowhere", "--output_dir", tmp_path / "out")
    assert stopped.value.code == f"predict.py: SourceError: {tmp_path / 'nowhere'}: no such file or folder"
    for broken in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(SystemExit) as stopped:
            recipe(monkeypatch, "--model", tmp_path / broken, folder, "--output_dir", tmp_path / "out")
        assert stopped.value.code.startswith(f"predict.py: ModelError: {tmp_path / broken}: cannot be used as a model")
        assert "\n" not in stopped.value.code
    assert not (tmp_path / "out").exists()
