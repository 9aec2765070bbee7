"""Stopped runs go on to the same bytes; what does not belong together is refused."""

import json
import os
import shutil

import pytest
import torch

from hf_cxr.predict import (
    OutputFolderError,
    SourceError,
    predict,
)
from hf_cxr.predict import run as running
from tests.predict.films import (
    NAMES,
    N,
    Stopped,
    contents,
    loaded,
    put,
    settings,
    stop_after,
    write_list,
)


@pytest.mark.parametrize("form", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("parts", [0, 1, 3])
def test_a_stopped_run_goes_on_to_the_same_bytes(form, parts, model, spoiled, tmp_path, monkeypatch):
    where, _ = spoiled
    shared = {"format": form, "heatmaps": form == "csv"}
    predict(settings(model, where, tmp_path / "whole", **shared))
    with monkeypatch.context() as patch:
        stop_after(patch, parts)
        with pytest.raises(Stopped):
            predict(settings(model, where, tmp_path / "out", **shared))
    assert len(list((tmp_path / "out" / "parts").glob("*.parquet"))) == parts
    assert not (tmp_path / "out" / f"predictions.{form}").exists()
    (tmp_path / "out" / "parts" / f"{parts:06d}.parquet.partial").write_bytes(b"cut off")
    read_again = []
    real = running.read_film
    monkeypatch.setattr(
        running, "read_film", lambda row, processor: read_again.append(row.number) or real(row, processor)
    )
    predict(settings(model, where, tmp_path / "out", resume=True, **shared))
    assert sorted(read_again) == list(range(4 * parts, N + 7))  # what was complete is not read again
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("where_stopped", ["join", "finish"])
def test_a_run_stopped_at_its_end(where_stopped, model, folder, once, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 0, where_stopped)
        with pytest.raises(Stopped):
            predict(settings(model, folder, tmp_path / "out"))
    predict(settings(model, folder, tmp_path / "out", resume=True))
    assert contents(tmp_path / "out") == contents(once)


def test_resume_of_nothing_begins(model, folder, once, tmp_path):
    predict(settings(model, folder, tmp_path / "out", resume=True, num_workers=0))
    assert contents(tmp_path / "out") == contents(once)


def test_going_on_with_something_else_is_refused(model, folder, unfinished, tmp_path, nih):
    before = contents(unfinished)

    def refused(message, source=folder, own=model, **other):
        with pytest.raises(OutputFolderError, match=message):
            predict(settings(own, source, unfinished, **{"resume": True} | other))
        assert contents(unfinished) == before

    refused("unfinished predictions: --resume true goes on, --overwrite true begins", resume=False)
    refused("settings.batch_size: was 2, is 4", batch_size=4)
    refused("settings.rows_per_part: was 3, is 9", rows_per_part=9)
    refused("settings.format: was 'csv', is 'jsonl'", format="jsonl")
    refused("settings.heatmaps: was False, is True", heatmaps=True)
    refused("settings.dropout_passes: was 0, is 4", dropout_passes=4)
    more = tmp_path / "more"
    shutil.copytree(folder, more)
    put(more, ["a/new.png"])
    refused("source.n_films: was 11, is 12", more)
    (more / "a" / "00.png").unlink()
    refused("source.ids_sha256", more)
    other = tmp_path / "other_model"
    shutil.copytree(model, other)
    changed = loaded(other)
    with torch.no_grad():
        changed.head.trunk.classifier.bias[0] += 1e-3
    changed.save_pretrained(other)
    refused("model.sha256", own=other)
    shutil.copytree(model, other, dirs_exist_ok=True)
    config = json.loads((other / "config.json").read_text())
    config["operating_points"]["gate_threshold"] = 0.123
    (other / "config.json").write_text(json.dumps(config))
    refused("model.sha256", own=other)
    # the same model and films elsewhere are the same
    shutil.copytree(folder, tmp_path / "moved")
    shutil.copytree(model, tmp_path / "moved_model")
    predict(settings(tmp_path / "moved_model", tmp_path / "moved", unfinished, resume=True))


def test_a_list_that_changed_is_not_gone_on_with(model, folder, nih, tmp_path, monkeypatch):
    """Its films are the same, but not what is said of them."""
    rows = [{"path": os.path.relpath(folder / name, tmp_path), "sex": "F"} for name in NAMES]
    source = write_list(tmp_path / "list.csv", rows)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(Stopped):
            predict(settings(model, source, tmp_path / "out"))
    write_list(source, [row | {"sex": "M"} for row in rows])
    with pytest.raises(OutputFolderError, match=r"source\.stamp: was"):
        predict(settings(model, source, tmp_path / "out", resume=True))


def test_finished_tables_are_replaced_only_on_demand(model, spoiled, folder, once, tmp_path):
    where, out = spoiled[0], tmp_path / "out"
    predict(settings(model, where, out, format="jsonl", heatmaps=True))
    before = contents(out)
    for choice, message in (({}, "--overwrite true replaces it"), ({"resume": True}, "nothing to resume")):
        with pytest.raises(OutputFolderError, match=message):
            predict(settings(model, folder, out, **choice))
        assert contents(out) == before
    with pytest.raises(OutputFolderError):  # said before the model is loaded
        predict(settings(tmp_path / "no_model", folder, out))
    (out / "mine.txt").write_text("mine")
    with pytest.raises(SourceError):  # nothing is thrown away for a run that cannot begin
        predict(settings(model, tmp_path / "nowhere", out, overwrite=True))
    assert (out / "predictions.jsonl").exists()
    predict(settings(model, folder, out, overwrite=True))
    assert contents(out) == contents(once) | {"mine.txt": b"mine"}


def test_foreign_folders_are_left_alone(model, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.csv").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputFolderError, match="is not empty and holds no predictions"):
            predict(settings(model, folder, out, overwrite=overwrite))
    with pytest.raises(OutputFolderError, match="is a file"):
        predict(settings(model, folder, out / "predictions.csv"))
    assert contents(out) == {"predictions.csv": b"mine"}
