"""No film is lost, none doubled, on any number of processes."""

import os
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hf_cxr.predict import (
    LostFilmsError,
    SourceError,
    predict,
)
from hf_cxr.predict.writing import OutputFolder
from tests.conftest import REPO
from tests.predict.films import Stopped, contents, settings, stop_after


@pytest.mark.parametrize("fault", ["lost", "doubled", "swapped", "short"])
def test_parts_that_do_not_hold_every_film_once(fault, model, folder, once, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 0, "join")
        with pytest.raises(Stopped):
            predict(settings(model, folder, tmp_path / "out"))
    parts = sorted((tmp_path / "out" / "parts").iterdir())
    first, second = (pq.read_table(path) for path in parts[:2])
    if fault == "lost":
        monkeypatch.setattr(OutputFolder, "write_part", lambda *_: None)
        parts[1].unlink()
    elif fault == "doubled":
        pq.write_table(pa.concat_tables([first, first]), parts[0])
    elif fault == "swapped":
        pq.write_table(first, parts[1])
        pq.write_table(second, parts[0])
    else:
        pq.write_table(second[:-1], parts[1])
    with pytest.raises(LostFilmsError, match=r"00000[01].parquet: (missing|\d rows from .*, expected exactly)"):
        predict(settings(model, folder, tmp_path / "out", resume=True))
    assert not (tmp_path / "out" / "predictions.csv").exists()


@pytest.mark.parametrize("change", ["swapped", "gone"])
def test_films_that_change_while_they_are_read(change, model, folder, tmp_path, monkeypatch):
    films = tmp_path / "films"
    shutil.copytree(folder, films)
    real = OutputFolder.claim

    def changing(self, *args):
        (films / "e.png").rename(films / "y.png") if change == "swapped" else (films / "e.png").unlink()
        return real(self, *args)

    monkeypatch.setattr(OutputFolder, "claim", changing)
    expected_error = LostFilmsError if change == "swapped" else SourceError
    with pytest.raises(
        expected_error, match="changed while they were read" if change == "swapped" else "ended after 2"
    ):
        predict(settings(model, films, tmp_path / "out"))
    assert not (tmp_path / "out" / "predictions.csv").exists()


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(model, spoiled, tmp_path):
    where, _ = spoiled
    predict(settings(model, where, tmp_path / "one", heatmaps=True))

    def launch():
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
        words = [*launcher, REPO / "recipes" / "accelerate" / "two_cpu_processes.yaml", REPO / "recipes" / "predict.py"]
        words += ["--model", model, where, "--output_dir", tmp_path / "two", "--heatmaps"]
        words += ["--batch_size", 2, "--rows_per_part", 3]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run([*map(str, words)], capture_output=True, text=True, env=environment, check=False)

    done = launch()
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("18 films, 3 of them cleared by the gate; 7 errors") == 1
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    described = [yaml.safe_load(each.pop("predict.yaml")) for each in (one, two)]
    assert two == one
    assert [each.pop("processes") for each in described] == [1, 2]
    assert described[0] == described[1]
    refused = launch()
    assert refused.returncode != 0
    assert "OutputFolderError" in refused.stderr
    assert contents(tmp_path / "two").keys() == two.keys() | {"predict.yaml"}
