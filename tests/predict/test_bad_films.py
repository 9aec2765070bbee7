"""A film that cannot be read keeps its row and stops nothing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from hf_cxr.models import CXRImageProcessor
from hf_cxr.predict import (
    predict,
)
from hf_cxr.predict import run as running
from hf_cxr.predict.sources import FolderSource
from tests.conftest import REPO
from tests.predict.films import N, expected, figures, film, made, read, recipe, settings, write_list


@pytest.mark.parametrize("num_workers", [0, 3])
def test_bad_films_keep_their_rows_and_spoil_nothing_else(
    num_workers, model, spoiled, once, nih, tmp_path, monkeypatch
):
    where, bad = spoiled
    recipe(monkeypatch, "--model", model, where, "--output_dir", tmp_path / "out", "--num_workers", num_workers)
    frame = read(tmp_path / "out" / "predictions.csv")
    assert list(frame.id) == list(FolderSource(where).ids())
    assert set(frame.id[frame.error.notna()]) == bad.keys()
    for name, message in bad.items():
        row = frame[frame.id == name].iloc[0]
        assert pd.Series([row.error]).str.contains(message).all(), row.error
        assert row[[*(f"{n}_prob" for n in nih.names), "Mass_decision", "gate_cleared"]].isna().all()
    good = frame[frame.error.isna()]
    np.testing.assert_allclose(figures(good, nih.names), expected(model), rtol=0, atol=1e-6)
    listed = pd.read_csv(tmp_path / "out" / "errors.csv")
    pd.testing.assert_frame_equal(listed, frame[frame.error.notna()][["id", "error"]].reset_index(drop=True))
    counts = yaml.safe_load((tmp_path / "out" / "predict.yaml").read_text())["counts"]
    assert counts == {"films": N + 7, "errors": 7, "cleared": 3}


def test_no_output_tells_of_this_machines_folders(model, spoiled, tmp_path, monkeypatch):
    where, _ = spoiled
    monkeypatch.chdir(tmp_path)
    for out, source in (("out", where), ("listed", tmp_path / "list.csv")):
        paths = [where / name for name in (*FolderSource(where).ids(), "a")]  # the last is a folder
        write_list(tmp_path / "list.csv", [{"path": path, "id": i} for i, path in enumerate(paths)])
        predict(settings(model, source, tmp_path / out, heatmaps=True))
        for path in (tmp_path / out).rglob("*"):
            content = b"" if path.is_dir() else path.read_bytes()
            for told in (where, tmp_path, model, Path.home(), REPO):
                assert str(told).encode() not in content, path
            assert b" at 0x" not in content
    assert (
        read(tmp_path / "listed" / "predictions.csv").error.iloc[-1]
        == "IsADirectoryError: [Errno 21] Is a directory: '18'"
    )


def test_bytes_that_are_no_picture(model, nih, tmp_path):
    image = pa.array([{"bytes": b"nothing", "path": None}, {"bytes": b"", "path": None}])
    pq.write_table(pa.table({"image": image, "id": ["x", "y"]}), tmp_path / "x.parquet")
    errors = [list(made(model, tmp_path / "x.parquet", tmp_path / f"out{i}", num_workers=i).error) for i in range(2)]
    assert errors[0] == errors[1]  # no address in memory
    assert errors[0] == [
        "UnidentifiedImageError: neither DICOM nor a picture in a format that Pillow reads",
        "FilmError: no file is named, and no bytes are given",
    ]


def test_a_model_that_gives_no_number_for_a_film(model, folder, nih, tmp_path, monkeypatch):
    once = figures(made(model, folder, tmp_path / "good"), nih.names)
    real = running.Reader._run

    def spoil_one(self, pixels):
        outputs = real(self, pixels)
        here = [i for i in range(len(pixels)) if (pixels[i].numpy() == prepared).all()]
        outputs["logits"][here, 3] = torch.nan
        return outputs

    prepared = CXRImageProcessor.from_pretrained(model).prepare(film(5))
    monkeypatch.setattr(running.Reader, "_run", spoil_one)
    frame = made(model, folder, tmp_path / "out")
    assert list(np.flatnonzero(frame.error.notna())) == [5]
    assert "not finite" in frame.error[5]
    np.testing.assert_array_equal(np.delete(figures(frame, nih.names), 5, 0), np.delete(once, 5, 0))
    assert np.isnan(figures(frame, nih.names)[5]).all()


def test_the_recipe_fails_if_every_film_does(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "films").mkdir()
    for i in range(3):
        (tmp_path / "films" / f"{i}.png").write_text("no film")
    with pytest.raises(SystemExit) as stopped:
        recipe(monkeypatch, "--model", model, tmp_path / "films", "--output_dir", tmp_path / "out")
    assert stopped.value.code == "predict.py: no film could be read, see errors.csv"
    assert "3 films, 0 of them cleared by the gate; 3 errors" in capsys.readouterr().out
    assert len(read(tmp_path / "out" / "predictions.csv")) == 3
