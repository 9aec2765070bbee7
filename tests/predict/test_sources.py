"""Folders, lists and Parquet files: which films, in which order, under which names."""

import gc
import io
import json
import shutil
import threading
from datetime import date

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from hf_cxr.predict import (
    SourceError,
    predict,
)
from hf_cxr.predict import shards as shards_module
from hf_cxr.predict.lists import CsvSource
from hf_cxr.predict.reading import in_order
from hf_cxr.predict.shards import ParquetSource
from hf_cxr.predict.sources import FolderSource, within
from hf_cxr.predictions import PredictionTable
from tests.predict.films import (
    NAMES,
    N,
    expected,
    figures,
    film,
    listed,
    made,
    put,
    read,
    settings,
    write_list,
)


def test_a_list_is_carried_and_can_be_evaluated(model, folder, nih, tmp_path, monkeypatch):
    films = tmp_path / "sub" / "films"
    shutil.copytree(folder, films)
    rows = listed(nih, [f"films/{name}" for name in NAMES])
    rows.insert(3, rows[0] | {"path": "films/gone.png", "patient": "x"})
    write_list(tmp_path / "sub" / "list.csv", rows)
    monkeypatch.chdir(folder)  # paths are relative to the list, not to here
    frame = made(model, tmp_path / "sub" / "list.csv", tmp_path / "out")
    assert list(frame.columns[:5]) == ["id", "view", "patient", "sex", "age"]
    assert list(frame.id) == [row["path"] for row in rows]
    text = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str, keep_default_na=False)
    for name in ("patient", "sex", "age", "view"):
        assert list(text[name]) == [row[name] for row in rows]
    with pytest.raises(ValueError, match="probability nan"):
        PredictionTable.read(tmp_path / "out" / "predictions.csv")
    frame[frame.error.isna()].to_csv(tmp_path / "read.csv", index=False)
    table = PredictionTable.read(tmp_path / "read.csv")
    good = [row for row in rows if row["path"] != "films/gone.png"]
    assert table.names == nih.names
    assert table.n_patients == N
    assert list(table.patients) == [row["patient"] for row in good]
    truth = [[float(row[name]) if row[name] else np.nan for name in nih.names] for row in good]
    np.testing.assert_array_equal(table.truth, truth)
    np.testing.assert_allclose(table.probability, expected(model)[::-1], rtol=0, atol=1e-6)


def test_an_evaluated_table_in_every_format(model, folder, nih, tmp_path):
    rows = listed(nih)
    source = write_list(folder / "list.csv", rows)
    try:
        tables = {}
        for form in ("csv", "parquet", "jsonl"):
            done = predict(settings(model, source, tmp_path / form, format=form))
            tables[form] = done.table
    finally:
        source.unlink()
    first, second = PredictionTable.read(tables["csv"]), PredictionTable.read(tables["parquet"])
    assert list(first.ids) == list(second.ids)
    assert list(first.patients) == list(second.patients)
    np.testing.assert_array_equal(first.truth, second.truth)
    np.testing.assert_array_equal(first.probability, second.probability)  # no digit lost in CSV
    lines = [json.loads(line) for line in tables["jsonl"].read_text().splitlines()]
    columns = pq.read_schema(tables["parquet"]).names
    assert list(lines[0]) == columns == list(read(tables["csv"]).columns)
    assert lines == pq.read_table(tables["parquet"]).to_pylist()
    assert [line["age"] for line in lines] == [row["age"] or None for row in rows]


def test_columns_of_paths_and_ids(model, folder, tmp_path):
    names = NAMES[:5]
    rows = [{"File": folder / name, "Number": f"{i:04d}", "note": 'a, "b"\nc'} for i, name in enumerate(names)]
    source = write_list(tmp_path / "list.csv", rows)
    with pytest.raises(SourceError, match=r"no column 'path' .*it has \['File', 'Number', 'note'\]"):
        predict(settings(model, source, tmp_path / "out"))
    with pytest.raises(SourceError, match="data row 1 would be called by an absolute path"):
        predict(settings(model, source, tmp_path / "out", path_column="File"))
    frame = made(model, source, tmp_path / "out", path_column="File", id_column="Number")
    assert list(frame.id) == ["0000", "0001", "0002", "0003", "0004"]
    assert list(frame.note) == ['a, "b"\nc'] * 5
    assert "File" not in frame  # absolute paths
    assert str(folder) not in (tmp_path / "out" / "predictions.csv").read_text()
    # an absolute path below the list's own folder has a name relative to it
    inside = write_list(folder / "inside.csv", [{"path": str(folder / names[0])}])
    assert [row.id for row in CsvSource(inside, (), "path", None).rows([range(1)])] == [names[0]]
    inside.unlink()


def shards(folder, numbers, paths=True, **other):
    """A Parquet file as `datasets` writes it, bytes and all."""
    rows = []
    for i in numbers:
        content = io.BytesIO()
        Image.fromarray(film(i)).save(content, "png")
        rows.append({"bytes": content.getvalue(), "path": NAMES[i] if paths else None})
    features = datasets.Features({"image": datasets.Image()}) if not other else None
    columns = {"image": rows, **{name: [make(i) for i in numbers] for name, make in other.items()}}
    return datasets.Dataset.from_dict(columns, features=features).cast_column("image", datasets.Image())


def test_parquet_files_of_datasets(model, nih, tmp_path):
    source = tmp_path / "shards" / "deep"
    source.mkdir(parents=True)
    columns = {
        "age": lambda i: 20 + i if i % 2 else None,
        "day": lambda i: date(2020, 1, 1 + i),
        "boxes": lambda i: [i, i],
        "Mass": lambda i: i % 2,
    }
    shards(tmp_path, range(7), **columns).to_parquet(source / "train-00000.parquet", batch_size=2)  # row groups of two
    shards(tmp_path, range(7, N), **columns).to_parquet(source / "train-00001.parquet", batch_size=3)
    assert pq.ParquetFile(source / "train-00000.parquet").num_row_groups == 4
    frame = made(model, tmp_path / "shards", tmp_path / "out")
    assert list(frame.id) == NAMES
    np.testing.assert_allclose(figures(frame, nih.names), expected(model), rtol=0, atol=1e-6)
    assert list(frame.columns[:4]) == ["id", "age", "day", "Mass"]
    ages = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype=str, keep_default_na=False).age
    assert list(ages) == [str(20 + i) if i % 2 else "" for i in range(N)]  # no 21.0
    assert frame.day[3] == "2020-01-04"
    described = yaml.safe_load((tmp_path / "out" / "predict.yaml").read_text())
    assert described["source"]["left_out"] == ["boxes"]
    assert described["source"]["kind"] == "parquet"
    # one file alone
    alone = made(model, source / "train-00001.parquet", tmp_path / "alone")
    pd.testing.assert_frame_equal(alone[["id", "age"]], frame[7:][["id", "age"]].reset_index(drop=True))


@pytest.mark.parametrize("at_a_time", [2, 16])
@pytest.mark.parametrize("group", [2, 7])
def test_parquet_ids_and_rows_anywhere(at_a_time, group, tmp_path, monkeypatch):
    monkeypatch.setattr(shards_module, "_ROWS", at_a_time)
    columns = {"name": lambda i: f"film {i}", "sex": lambda i: "FM"[i % 2]}
    named = shards(tmp_path, range(7), paths=False, **columns)
    named.to_parquet(tmp_path / "a.parquet", batch_size=group)
    shards(tmp_path, range(7, N), paths=False, **columns).to_parquet(tmp_path / "b.parquet", batch_size=3)
    every = [f"a.parquet:{i}" for i in range(7)] + [f"b.parquet:{i}" for i in range(N - 7)]
    source = ParquetSource(tmp_path, "image", None)
    assert list(source.ids()) == every
    for ranges in ([range(N)], [range(0, 1), range(3, 5), range(6, 9)], [range(1, 2), range(10, 11)], []):
        rows = list(source.rows(ranges))
        assert [row.number for row in rows] == [n for each in ranges for n in each]
        assert [row.id for row in rows] == [every[n] for each in ranges for n in each]
        for row in rows:
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row.image))), film(row.number))
            assert row.metadata == {"name": f"film {row.number}", "sex": "FM"[row.number % 2]}
    assert list(ParquetSource(tmp_path, "image", "name").ids()) == [f"film {i}" for i in range(N)]


def test_parquet_without_bytes_and_with_categories(model, folder, nih, tmp_path):
    """`to_parquet` of a data set that was not embedded stores paths; pandas stores categories as dictionaries."""
    shutil.copytree(folder, tmp_path / "in")
    image = pa.array([{"bytes": None, "path": name} for name in NAMES[:3]] + [None])
    view = pa.array(["PA", "AP", "PA", None]).dictionary_encode()
    pq.write_table(pa.table({"image": image, "view": view}), tmp_path / "in" / "x.parquet")
    frame = made(model, tmp_path / "in" / "x.parquet", tmp_path / "out")
    assert list(frame.id) == [*NAMES[:3], "x.parquet:3"]
    np.testing.assert_allclose(figures(frame, nih.names)[:3], expected(model, range(3)), rtol=0, atol=1e-6)
    assert list(frame["view"][:3]) == ["PA", "AP", "PA"]
    assert frame.error[3] == "FilmError: no file is named, and no bytes are given"


def test_folders_are_walked_without_circles_and_hidden_files(tmp_path):
    put(tmp_path, ["b/1.png", "a/2.JPG", "c.png", "a.png"])
    (tmp_path / "a" / "notes.txt").write_text("no film")
    (tmp_path / ".hidden").mkdir()
    for hidden in (".hidden/x.png", "b/._1.png"):
        (tmp_path / hidden).write_bytes(b"")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "b")
    assert list(FolderSource(tmp_path).ids()) == ["a/2.JPG", "a.png", "b/1.png", "c.png", "linked/1.png"]


def bad_lists(folder, nih):
    good = {"path": "a.png", "patient": "1"}
    return {
        "no header": ("", "no column 'path'"),
        "no rows": ("path\n", "no film in it; expected at least one row"),
        "blank path": ("path,patient\na.png,1\n,2\n", "data row 2 has no id"),
        "twice": ("path\na.png\nb.png\na.png\n", "id 'a.png' in data rows 1 and 3"),
        "cells": ("path,patient\na.png,1\nb.png\n", "data row 2 has 1 cells, the header 2"),
        "truth": ("path,Mass\na.png,1\nb.png,often\n", "data row 2, label 'Mass': 'often'; expected 1, 0, -1 or blank"),
        "soft truth": ("path,Mass\na.png,0.5\n", "'0.5'"),
        "column twice": ("path,a,a\na.png,1,2\n", r"several columns are called \['a'\]"),
        "ours": ("path,error,Mass_prob\na.png,1,2\n", r"\['Mass_prob', 'error'\], which the table makes itself"),
        "not UTF-8": ("path,name\na.png,M\udcfcller\n", "cannot be read as CSV in UTF-8"),
        "quotes": ('path\n"a.png\n', "cannot be read as CSV"),
        "absolute": (f"path\n{good['path']}\n/data/b.png\n", "data row 2 would be called by an absolute path"),
    }


@pytest.mark.parametrize("which", bad_lists(None, None))
def test_lists_that_cannot_be_used(which, model, nih, tmp_path):
    text, message = bad_lists(None, None)[which]
    (tmp_path / "list.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(SourceError, match=message) as caught:
        predict(settings(model, tmp_path / "list.csv", tmp_path / "out"))
    assert "list.csv" in str(caught.value) or which == "ours"
    assert not (tmp_path / "out").exists()


def test_sources_that_cannot_be_used(model, folder, tmp_path):
    def refused(source, message, **other):
        with pytest.raises(SourceError, match=message):
            predict(settings(model, source, tmp_path / "out", **other))
        assert not (tmp_path / "out").exists()

    refused(tmp_path / "nowhere", "no such file or folder")
    (tmp_path / "list.txt").write_text("a.png")
    refused(tmp_path / "list.txt", "expected films, a folder, a .csv or a .parquet")
    (tmp_path / "films").mkdir()
    refused(tmp_path / "films", "no film in it; expected files that end in .png")
    refused(tmp_path / "x.csv", "no such file")
    mixed = tmp_path / "mixed"
    shutil.copytree(folder, mixed)
    pq.write_table(pa.table({"image": [b""]}), mixed / "a.parquet")
    refused(mixed, "holds films and Parquet files besides, first a.parquet")
    put(mixed, ["z.png"])
    pq.write_table(pa.table({"image": [b""]}), mixed / "0.parquet")
    refused(mixed, "holds films and Parquet files besides, first 0.parquet")
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    pq.write_table(pa.table({"image": [b"x"], "age": [1]}), parquet / "a.parquet")
    refused(parquet, r"no column 'film' with films \(--image_column\); it has \['image', 'age'\]", image_column="film")
    refused(parquet, "column 'age' is int64; expected struct<bytes, path>", image_column="age")
    refused(parquet, "no column 'no'", id_column="no")
    pq.write_table(pa.table({"image": [b"x"], "age": ["1"]}), parquet / "b.parquet")
    refused(parquet, r"b.parquet has other columns than a.parquet: \[\('age', 'string'\)\] against")
    (parquet / "b.parquet").write_bytes(b"PAR1 no more")
    refused(parquet, "b.parquet cannot be read as Parquet")
    with pytest.raises(SourceError, match="lies in the source"):
        predict(settings(model, folder, folder / "out"))


def test_ranges_in_a_span():
    """No empty one, for which a row group would be read in vain."""
    wanted = [range(0, 4), range(8, 12), range(12, 16)]
    spans = {(4, 8): [], (3, 9): [range(3, 4), range(8, 9)], (12, 14): [range(12, 14)], (16, 20): [], (0, 20): wanted}
    for span, inside in spans.items():
        assert shards_module._overlaps(wanted, range(*span)) == inside


def test_ranges_of_a_stream():
    assert list(within("abcdefgh", [range(1, 3), range(3, 4), range(6, 9)])) == [
        (1, "b"), (2, "c"), (3, "d"), (6, "g"), (7, "h"),
    ]  # fmt: skip


@pytest.mark.parametrize("n_threads", [0, 1, 3])
def test_no_more_is_taken_than_is_needed_soon(n_threads):
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield taken[-1]

    results = in_order(lambda i: i * i, endless(), n_threads, ahead=4)
    for i in range(50):
        assert next(results) == i * i
        assert len(taken) <= i + 6
    before = threading.active_count()
    results.close()
    assert threading.active_count() <= before


def test_rows_are_read_as_they_are_needed(folder, tmp_path):
    """What is alive of a list of 20,000 rows while one goes through it is a few rows."""
    source = CsvSource(write_list(tmp_path / "l.csv", [{"path": f"{i}.png"} for i in range(20_000)]), (), "path", None)
    rows = source.rows([range(20_000)])
    for _ in range(10_000):
        row = next(rows)
    assert sum(type(each) is type(row) for each in gc.get_objects()) < 5
