"""The benchmarks of growth measure what they say, and the document on scaling holds what its program prints."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import growing, growth, held_memory, many_films, scaling
from benchmarks.growing import Grown
from hf_cxr.data.nih import NIHChestXray14
from hf_cxr.data.phantom.generation import generate
from hf_cxr.predictions import PredictionTable

N = 240


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("drawn") / "films", n_images=N, image_size=64, progress=False)


@pytest.fixture(scope="module")
def twice(drawn, tmp_path_factory):
    folder = tmp_path_factory.mktemp("twice") / "films"
    assert many_films.repeat(drawn, 2, folder) == 2 * N
    return folder


def test_repeated_films_are_as_many_new_films_of_new_patients(drawn, twice):
    once, again = (NIHChestXray14.read_index(folder) for folder in (drawn, twice))
    assert again.counts()["test"] == {key: 2 * value for key, value in once.counts()["test"].items()}
    assert again.films["patient"].nunique() == 2 * once.films["patient"].nunique()
    np.testing.assert_array_equal(again.findings, np.tile(once.findings, (2, 1)))
    pictures = [Path(path).read_bytes() for path in again.films["image"]]
    assert pictures == 2 * [Path(path).read_bytes() for path in once.films["image"]]


def test_repeated_predictions_are_a_table_of_as_many_films(drawn, tmp_path):
    assert many_films.repeat_predictions(drawn, 3, tmp_path / "table.csv") == 3 * N
    table = PredictionTable.read(tmp_path / "table.csv")
    one, last = table.truth[:N], table.truth[-N:]
    np.testing.assert_array_equal(one, last)
    assert len(table) == 3 * N
    assert (table.probability[:N] != table.probability[-N:]).all()
    assert table.n_patients == 3 * NIHChestXray14.read_index(drawn).films["patient"].nunique()


def test_held_memory_sees_what_was_held_for_a_moment_also_by_a_child():
    with held_memory.HeldMemory() as held:
        block = np.ones(100 * 2**20, np.uint8)
        time.sleep(0.2)
        del block
        own = held.restart()
        assert held.peak < own - 90 * 2**20
        with subprocess.Popen(
            [sys.executable, "-c", "block = bytearray(200 * 2**20); print(flush=True); input()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as child:  # fmt: skip
            child.stdout.readline()
            assert held_memory.held_bytes(child.pid) > 200 * 2**20
            assert child.pid in held_memory.family(os.getpid())
            time.sleep(2)
            child.communicate(b"\n")
    assert held.peak > own + 90 * 2**20
    assert held_memory.held_bytes(child.pid) == 0


def test_a_mapped_file_is_not_held(tmp_path):
    file = tmp_path / "mapped"
    file.write_bytes(bytes(50 * 2**20))
    before = held_memory.held_bytes(os.getpid())
    mapped = np.memmap(file, np.uint8, mode="r")
    assert mapped.sum() == 0
    assert held_memory.held_bytes(os.getpid()) - before < 20 * 2**20


def test_preparation_and_epoch_meet_every_film(twice, tmp_path):
    prepared = growing.preparation(str(twice), str(tmp_path / "cache"))
    assert prepared.films == 2 * N
    written = sum(file.stat().st_size for file in (tmp_path / "cache").rglob("*.arrow"))
    assert written > 2 * N * growing.SIZE**2  # decoded here, not found where another run left them
    trained = growing.epoch(str(twice), str(tmp_path / "cache"))
    splits = NIHChestXray14.read_index(twice).films["split"].value_counts()
    assert trained.films == splits["train"]
    for grown in (prepared, trained):
        assert 0 < grown.cpu_seconds < 60
        assert grown.peak_bytes > 0 < grown.before_bytes


def test_evaluation_and_bootstrap_meet_every_film(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(growing, "RESAMPLES", 20)
    monkeypatch.setattr(growing, "RESAMPLES_OF_REPORT", 5)
    many_films.repeat_predictions(drawn, 2, tmp_path / "table.csv")
    for work in (growing.evaluation, growing.bootstrap):
        assert work(str(tmp_path / "table.csv")).films == 2 * N


def test_prediction_meets_every_film(twice, tmp_path):
    growing.save_tiny_model(tmp_path / "model")
    assert growing.prediction(str(twice), str(tmp_path / "model")).films == 2 * N


@pytest.mark.slow
def test_a_growth_is_measured_in_processes_of_their_own(drawn, monkeypatch):
    monkeypatch.setattr(growth, "ROUNDS", 1)
    row = growth.growth_bootstrap((1, 2), drawn)
    assert row["films"] == [N, 2 * N]
    assert [len(runs) for runs in row["seconds_of_each_run"]] == [1, 1]
    assert min(row["peak_bytes"]) > 0 < min(row["seconds"])


def test_what_fails_apart_is_told(tmp_path):
    with pytest.raises(RuntimeError, match=r"exit code 1[\s\S]*no such table"):
        growth.apart("bootstrap", tmp_path / "none.csv")


def test_the_summary_has_medians_slopes_and_what_a_film_adds():
    def runs(films, *seconds):
        return [Grown(films, each, 2 * each**2, 5, 1000 + 3 * films) for each in seconds]

    row = growth.summary("title", [runs(100, 1, 9, 1.5), runs(200, 3), runs(400, 6)], "a note")
    assert row["films"] == [100, 200, 400]
    assert row["seconds"] == [1.5, 3, 6]
    assert row["slope"] == pytest.approx(1)
    assert row["cpu_slope"] == pytest.approx(2, abs=0.3)
    assert row["bytes_a_film"] == pytest.approx(3)
    assert row["peak_bytes"] == [1300, 1600, 2200]
    assert row["note"].startswith("a note; slope of the three largest sizes 1.00")


def test_the_largest_sizes_run_fewer_times():
    met = []

    def run(factor):
        met.append(factor)
        return Grown(factor, 1, 1, 1, 1)

    assert [len(size) for size in growth._rounds(growth.FACTORS, run)] == [3, 3, 3, 2, 1]
    assert met == [1, 2, 4, 8, 16, 8, 4, 2, 1, 1, 2, 4]


def test_the_document_holds_the_tables_as_printed():
    document = (Path(scaling.__file__).parent / "SCALING.md").read_text(encoding="utf-8")
    for title in scaling.TABLES:
        assert scaling.markdown(title) in document, f"{title}: python -m benchmarks.scaling prints another table"


def test_figures_are_rounded_as_they_are_known():
    assert [scaling._figure(value) for value in (0.0123, 4.44, 31.2, 12_345.0)] == ["0.012", "4.4", "31", "12,000"]


def test_tables_follow_from_their_formulas():
    rows = {row[0]: row for row in scaling.storage()[1]}
    assert rows["cache, 320²"][-1] == "10"  # 320² × 10⁸ bytes = 10.24 TB
    rows = {row[0]: row for row in scaling.epochs()[1]}
    assert rows["320², two CPU cores"][2:4] == ("5.1", "54")  # 10⁶ / 5.1 / 3600
    columns, kinds = scaling.decoding()
    assert all(len(row) == len(columns) for row in kinds)
