"""Parquet shards: written and read back, and streamed in an order that gives each film once."""

import json
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import SkipBatchSampler
from torch.utils.data import BatchSampler, DataLoader, default_collate

from hf_cxr.data import (
    FilmDataset,
    FilmStream,
    ShardError,
    Shards,
    decode,
    load_splits,
    streaming,
    write_shards,
)
from hf_cxr.data.problems import DataProblems
from hf_cxr.models import CXRImageProcessor

SIZE = 16
READ = CXRImageProcessor(size={"height": SIZE, "width": SIZE}).read


@pytest.fixture
def shards(nih, tmp_path):
    """26 training films of 14 patients in shards of 10, row groups of 4."""
    splits, provenance = load_splits("nih", nih(), tmp_path / "cache")
    folder = write_shards(splits, provenance, tmp_path / "shards", films_per_shard=10, films_per_row_group=4)
    return folder, splits


def stream_of(folder, cache, **options):
    rows = load_splits("shards", folder, cache, streaming=True)[0]["train"]
    labels = np.arange(len(rows) * 2, dtype=np.float32).reshape(-1, 2) / (2 * len(rows))
    return rows, FilmStream(rows, labels, str(folder), READ, SIZE, **{"window": 8} | options)


def change(shard: Path, column: str, value: pa.Array):
    """Rewrite a shard with another column in place of one; its row groups stay."""
    table = pq.read_table(shard)
    n_rows = pq.ParquetFile(shard).metadata.row_group(0).num_rows
    pq.write_table(table.set_column(table.schema.names.index(column), column, value), shard, row_group_size=n_rows)


# ---- written and read ----


def test_shards_hold_what_was_written(shards, cache):
    folder, splits = shards
    assert json.loads((folder / "provenance.json").read_text())["dataset"] == "nih"
    files = [pq.ParquetFile(path).metadata for path in sorted(folder.glob("train-*.parquet"))]
    assert [files[0].row_group(i).num_rows for i in range(files[0].num_row_groups)] == [4, 4, 2]
    back, provenance = load_splits("shards", folder, cache)
    assert provenance["source"]["dataset"] == "nih"
    assert provenance["synthetic"] is False
    for split, films in splits.items():
        assert len(films) == len(back[split]) > 0
        for before, after in zip(films, back[split], strict=True):
            assert before.pop("image").tobytes() == after.pop("image").tobytes()
            assert before == after
    with pytest.raises(ShardError, match="not empty"):
        write_shards(splits, provenance, folder)


def test_a_write_that_fails_leaves_nothing(nih, tmp_path):
    splits, provenance = load_splits("nih", source := nih(), tmp_path / "cache")
    next((source / "images").glob("*")).unlink()
    with pytest.raises(FileNotFoundError):
        write_shards(splits, provenance, tmp_path / "shards")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("shards")]


def test_without_validation_shards_patients_are_cut(shards, cache):
    folder, splits = shards
    for path in folder.glob("validation-*"):
        path.unlink()
    for streamed in (False, True):
        back, provenance = load_splits("shards", folder, cache, validation_fraction=0.3, streaming=streamed)
        assert not set(back["train"]["patient"]) & set(back["validation"]["patient"])
        assert len(back["train"]) + len(back["validation"]) == len(splits["train"])
        assert provenance["splits"]["train"]["films"] == len(back["train"])


def test_an_address_is_read_like_a_folder(shards, cache):
    folder, _ = shards
    fsspec.filesystem("memory").put(str(folder), "/org/films", recursive=True)
    _, local = stream_of(folder, cache)
    back, provenance = load_splits("shards", "memory://org/films", cache, streaming=True)
    assert provenance["data_dir"] == "films"
    remote = FilmStream(back["train"], local.labels.numpy(), "memory://org/films", READ, SIZE)
    assert len(remote) == len(local)
    for ours, theirs in zip(local, remote, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def _overlap(folder):
    train, test = (pq.read_table(folder / f"{s}-00000-of-0000{n}.parquet") for s, n in (("train", 3), ("test", 1)))
    patients = pa.array([train["patient"][0].as_py()] * len(test))
    change(folder / "test-00000-of-00001.parquet", "patient", patients)


def _no_split(folder):
    (folder / "train-00000-of-00003.parquet").rename(folder / "trainees.parquet")


def _no_column(folder):
    shard = folder / "train-00000-of-00003.parquet"
    pq.write_table(pq.read_table(shard).drop_columns("patient"), shard)


def _other_findings(folder):
    shard = folder / "train-00000-of-00003.parquet"
    change(shard, "findings", pa.array([{"Mass": 1}] * pq.read_metadata(shard).num_rows))


def _malformed_findings(folder):
    shard = folder / "train-00000-of-00003.parquet"
    change(shard, "findings", pa.array([{"Mass": 300}] * pq.read_metadata(shard).num_rows))


def _blank_patient(folder):
    shard = folder / "train-00000-of-00003.parquet"
    change(shard, "patient", pa.array([None] * pq.read_metadata(shard).num_rows, pa.string()))


def _id_twice(folder):
    shard = folder / "train-00000-of-00003.parquet"
    change(shard, "id", pa.array(["same"] * pq.read_metadata(shard).num_rows))


def _cut_short(folder):
    shard = folder / "train-00000-of-00003.parquet"
    shard.write_bytes(shard.read_bytes()[:500])


def _no_train(folder):
    for path in folder.glob("train-*"):
        path.unlink()


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        (_overlap, ValueError, "are in both train and test"),
        (_no_split, ShardError, "trainees.parquet says of no split; expected names such as train-00000"),
        (_no_column, ShardError, "train-00000-of-00003.parquet lacks columns patient"),
        (_other_findings, ShardError, "differ in their findings.*write them together"),
        (_malformed_findings, ShardError, "findings: .*300.*expected 1, 0, -1 or null"),
        (_blank_patient, DataProblems, "train-00000-of-00003.parquet, row 1: patient is blank"),
        (_id_twice, DataProblems, "'same' is already the id"),
        (_cut_short, ShardError, "train-00000-of-00003.parquet cannot be read"),
        (_no_train, ShardError, "none of a split train"),
    ],
)
def test_broken_shards_are_refused(shards, cache, break_it, error, message):
    folder, _ = shards
    break_it(folder)
    with pytest.raises(error, match=message):
        load_splits("shards", folder, cache, streaming=True)


def test_there_are_no_image_files_to_check(shards):
    with pytest.raises(ShardError, match="no image files to look at; check the data set"):
        Shards.read_index(shards[0])
    assert len(Shards.read_index(shards[0], check_images=False)) == sum(map(len, shards[1].values()))


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_splits("shards", tmp_path / "nothing")


# ---- films ----


@pytest.mark.parametrize("chosen", [None, np.array([0, 3, 4, 11, 19])])
def test_streamed_films_are_those_of_the_cache(shards, cache, chosen):
    folder, _ = shards
    rows, stream = stream_of(folder, cache, chosen=chosen)
    whole = load_splits("shards", folder, cache)[0]["train"]
    decoded, _ = decode(whole, READ, image_size=SIZE, fingerprint_of_read="test")
    assert decoded["id"][:] == rows["id"][:]
    labels = np.arange(len(rows) * 2, dtype=np.float32).reshape(-1, 2) / (2 * len(rows))
    of_cache = FilmDataset(
        decoded if chosen is None else decoded.select(chosen), labels if chosen is None else labels[chosen]
    )
    assert len(stream) == len(of_cache)
    assert torch.equal(stream.labels, of_cache.labels)
    indices = np.random.default_rng(0).permutation(len(stream)).tolist()
    for ours, theirs in zip(stream.__getitems__(indices), of_cache.__getitems__(indices), strict=True):
        assert set(ours) == set(theirs)
        for key in ours:
            assert ours[key].dtype == theirs[key].dtype
            assert torch.equal(ours[key], theirs[key])


def break_films(folder, n_films):
    """Overwrite the first films of the first row group, one of them with nothing."""
    shard = folder / "train-00000-of-00003.parquet"
    films = pq.read_table(shard)["image"].to_pylist()
    for i in range(n_films):
        films[i]["bytes"] = b"no film" if i else None
    change(shard, "image", pa.array(films))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_an_unreadable_film_is_named_or_left_out(shards, cache, n_workers):
    folder, _ = shards
    break_films(folder, 2)
    rows, stream = stream_of(folder, cache)
    loader = DataLoader(stream, batch_sampler=[[5, 1, 6]], num_workers=n_workers, collate_fn=default_collate)
    with pytest.raises(ShardError, match=f"train-00000-of-00003.parquet, film '{rows['id'][1]}' cannot be read"):
        next(iter(loader))
    with pytest.raises(ShardError, match=r"has no bytes of it; write films into the shards"):
        stream[0]
    _, stream = stream_of(folder, cache, skip_unreadable=True)
    batches = [[5, 1, 6], [0, 1, 7]]
    loader = DataLoader(stream, batch_sampler=batches, num_workers=n_workers, collate_fn=default_collate)
    assert [batch["index"].tolist() for batch in loader] == [[5, 6], [7]]
    assert np.flatnonzero(stream.unreadable).tolist() == [0, 1]
    with pytest.raises(ShardError, match="none of the 2 films of a batch"):
        stream.__getitems__([0, 1])


def test_what_films_must_be(shards, cache):
    folder, _ = shards
    rows, stream = stream_of(folder, cache)
    with pytest.raises(ValueError, match=r"labels are float32 \(1, 2\) for"):
        FilmStream(rows, np.zeros((1, 2), np.float32), str(folder), READ, SIZE)
    with pytest.raises(ValueError, match="do not rise"):
        stream_of(folder, cache, chosen=np.array([3, 1]))
    with pytest.raises(ValueError, match=r"expected uint8 \(1, 8, 8\)"):
        FilmStream(rows, stream.labels.numpy(), str(folder), READ, 8)[0]


def test_a_sample_is_of_few_row_groups(shards, cache):
    _, stream = stream_of(shards[0], cache)
    films = stream.spread(8)
    assert len(films) == len(set(films)) == 8
    assert len({int(np.searchsorted(stream.starts, i, side="right")) for i in films}) <= 3
    assert stream.spread(10_000) == list(range(len(stream)))


# ---- in the order of training ----


@pytest.mark.parametrize(("n_parts", "n_workers"), [(1, 0), (2, 2), (3, 2)])
def test_row_groups_are_read_once_and_not_kept(shards, cache, monkeypatch, n_parts, n_workers):
    """With as many parts as workers; otherwise the films are the same, and more is held at a time."""
    folder, _ = shards
    _, stream = stream_of(folder, cache, window=4)
    read, held = [], []

    def counted(*args):
        read.append(args[1:3])
        held.append(sum(map(len, stream._held.values())))
        return film_bytes(*args)

    film_bytes = streaming.film_bytes
    monkeypatch.setattr(streaming, "film_bytes", counted)
    stream.n_parts = n_parts
    sampler = stream.order(0, lambda: 0, batch_size=3, n_workers=n_workers)
    expected = list(sampler)
    if not n_workers:  # in this process, where it can be seen
        films = [film["index"].item() for film in stream.__getitems__(expected)]
        assert films == expected
        assert len(read) == len(set(read)) == len(stream.starts) - 1
        assert max(held) <= 4 + 3 * 4
        return
    loader = DataLoader(stream, batch_sampler=BatchSampler(sampler, 3, False), num_workers=n_workers)
    assert torch.cat([batch["index"] for batch in loader]).tolist() == expected


def test_skipped_batches_are_neither_read_nor_decoded(shards, cache, monkeypatch):
    folder, _ = shards
    _, stream = stream_of(folder, cache, window=4)
    sampler = BatchSampler(stream.order(0, lambda: 3, batch_size=2), 2, False)
    whole = list(sampler)
    read = []
    film_bytes = streaming.film_bytes
    monkeypatch.setattr(streaming, "film_bytes", lambda *args: read.append(args[1:3]) or film_bytes(*args))
    rest = list(DataLoader(stream, batch_sampler=SkipBatchSampler(sampler, len(whole) - 2)))
    assert [batch["index"].tolist() for batch in rest] == whole[-2:]
    assert len(read) <= 3
