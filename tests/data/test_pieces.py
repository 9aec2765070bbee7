"""Decoding in pieces: several runs at once, runs that are killed, disks that are full."""

import errno
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import time
from collections import Counter

import datasets
import numpy as np
import pyarrow as pa
import pytest

from hf_cxr.data import CacheError, DataProblems, FilmDataset, cache, decode, decode_part, decoding
from hf_cxr.data.pieces import MOST_PIECES, PIECE_BYTES, PIECE_FILMS, Pieces, films_a_piece
from hf_cxr.models import CXRImageProcessor

SIZE = 16
EACH = 64  # films a piece in small data sets
FORK = multiprocessing.get_context("fork")


def make_films(folder, count, id_of=str):
    """Films whose file is their pixels, of which the first four bytes say which film it is."""
    random = np.random.default_rng(0)
    names = [np.array(i, "<u4").tobytes() + random.bytes(SIZE**2 - 4) for i in range(count)]
    images = [{"bytes": name, "path": None} for name in names]
    features = {"image": datasets.Image(decode=False), "id": datasets.Value("string"), "view": datasets.Value("string")}
    rows = {"image": images, "id": [id_of(i) for i in range(count)], "view": [None] * count}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).save_to_disk(folder)
    return datasets.load_from_disk(folder), names


def number_of(raw):
    return int(np.frombuffer(raw[:4], "<u4")[0])


class Logging:
    """A `read` that notes each film in a file, whichever process it runs in."""

    def __init__(self, log, seconds=0.0, bad=()):
        self.log, self.seconds, self.bad = log, seconds, set(bad)
        log.touch()

    def __call__(self, raw):
        with self.log.open("ab", buffering=0) as file:
            file.write(b"%d\n" % number_of(raw))
        time.sleep(self.seconds)
        if number_of(raw) in self.bad:
            raise OSError("a hole in the disk")
        return np.frombuffer(raw, np.uint8).reshape(SIZE, SIZE), "PA"

    def films(self):
        return [int(line) for line in self.log.read_text().split()]


def run(films, read, **options):
    return decode(films, read, **{"image_size": SIZE, "fingerprint_of_read": "raw", **options})


def run_part(films, read, part, parts, **options):
    return decode_part(films, read, image_size=SIZE, fingerprint_of_read="raw", part=part, parts=parts, **options)


def files(folder, suffix=".arrow"):
    return sorted(folder.glob(f"cache-*/*{suffix}"))


def whole_pieces(folder):
    return {int(path.name.split("-")[0]) for path in files(folder)}


@pytest.mark.parametrize("n_films", [1, 100, 7_084, 112_120, 1_000_000, 100_000_000])
@pytest.mark.parametrize("size", [128, 320, 1024, 4096])
def test_pieces_are_neither_large_nor_too_many(n_films, size):
    each = films_a_piece(n_films, size)
    assert each >= 1
    assert -(-n_films // each) <= MOST_PIECES
    assert each <= max(PIECE_FILMS, n_films / MOST_PIECES + 1)
    assert each * size**2 <= max(PIECE_BYTES, (n_films / MOST_PIECES + 1) * size**2)
    if n_films < 10_000_000:
        assert -(-n_films // each) >= min(50, n_films // EACH)  # work for many cores


def test_pieces_hold_every_film_once(tmp_path):
    pieces = Pieces(tmp_path, 1000, SIZE, datasets.Features())
    assert [row for piece in range(len(pieces)) for row in pieces.rows(piece)] == list(range(1000))
    assert pieces.films(range(len(pieces))) == 1000


@pytest.mark.parametrize("num_proc", [1, 2])
def test_the_result_is_memory_mapped_whole_and_has_one_fingerprint(tmp_path, num_proc):
    films, names = make_films(tmp_path / "set", 300)
    read = Logging(tmp_path / "log")
    before = pa.total_allocated_bytes()
    decoded, left_out = run(films, read, num_proc=num_proc)
    again, _ = run(films, read, num_proc=num_proc)
    assert (left_out, sorted(read.films())) == (0, list(range(300)))
    assert decoded["pixels"][:] == names
    assert decoded["view"][:] == ["PA"] * 300
    assert decoded._fingerprint == again._fingerprint
    assert [file["filename"] for file in again.cache_files] == [str(path) for path in files(tmp_path / "set")]
    assert len(again.cache_files) == -(-300 // EACH)
    assert pa.total_allocated_bytes() - before < sum(map(len, names)) // 10
    assert not files(tmp_path / "set", ".partial")


def test_a_killed_run_is_continued(tmp_path):
    films, names = make_films(tmp_path / "set", 1280)
    killed = Logging(tmp_path / "killed", seconds=0.002)
    child = FORK.Process(target=run, args=(films, killed), kwargs={"num_proc": 2})
    child.start()
    while len(whole_pieces(tmp_path / "set")) < 5:
        assert child.is_alive()
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    kept = whole_pieces(tmp_path / "set")
    assert 5 <= len(kept) < 20

    second = Logging(tmp_path / "second")
    decoded, _ = run(films, second, num_proc=1)
    assert decoded["pixels"][:] == names
    missed = [row for piece in range(20) if piece not in kept for row in range(piece * EACH, (piece + 1) * EACH)]
    # a worker that was not killed with its parent may have finished its piece before it noticed
    assert set(second.films()) <= set(missed)
    assert set(second.films()) | set(killed.films()) == set(range(1280))
    assert max(Counter(second.films()).values()) == 1
    seen = len(killed.films())
    time.sleep(2 * decoding.ORPHANED)
    assert len(killed.films()) == seen  # no worker outlives its parent


def test_runs_at_once_share_the_work(tmp_path):
    films, names = make_films(tmp_path / "set", 640)
    reads = [Logging(tmp_path / f"log{i}", seconds=0.002) for i in range(3)]
    start, results = FORK.Barrier(3), FORK.Queue()

    def one(read, num_proc):
        start.wait()
        decoded, left_out = run(films, read, num_proc=num_proc)
        results.put((decoded._fingerprint, decoded["pixels"][:] == names, left_out))

    children = [FORK.Process(target=one, args=(read, n)) for read, n in zip(reads, (1, 1, 2), strict=True)]
    for child in children:
        child.start()
    told = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert sorted(row for read in reads for row in read.films()) == list(range(640))
    assert all(read.films() for read in reads)
    assert len(set(told)) == 1
    assert told[0][1:] == (True, 0)


def test_a_piece_of_a_killed_run_becomes_free(tmp_path, monkeypatch):
    films, names = make_films(tmp_path / "set", 2 * EACH)
    monkeypatch.setattr(decoding, "LOOK_AGAIN", 0.05)
    stuck = Logging(tmp_path / "stuck", seconds=60)
    child = FORK.Process(target=run, args=(films, stuck), kwargs={"num_proc": 1})
    child.start()
    while not stuck.films():
        time.sleep(0.01)
    read = Logging(tmp_path / "log")

    def kill_once_waiting(raw):  # the second piece is free, the first one not before its holder is dead
        if number_of(raw) == 2 * EACH - 1:
            os.kill(child.pid, signal.SIGKILL)
            child.join()
        return read(raw)

    decoded, _ = run(films, kill_once_waiting, num_proc=1)
    assert read.films() == [*range(EACH, 2 * EACH), *range(EACH)]
    assert decoded["pixels"][:] == names


def test_parts_make_a_whole(tmp_path):
    films, names = make_films(tmp_path / "set", 300)
    read = Logging(tmp_path / "log")
    done = [run_part(films, read, part, 3) for part in (2, 0, 1)]
    assert sorted(read.films()) == list(range(300))
    assert sum(part.films for part in done) == sum(part.decoded for part in done) == 300
    assert sum(part.n_bytes for part in done) == sum(path.stat().st_size for path in files(tmp_path / "set"))
    assert run_part(films, read, 0, 3).decoded == 0
    decoded, _ = run(films, read)
    assert decoded["pixels"][:] == names
    assert len(read.films()) == 300
    empty = run_part(films, read, 6, 7)
    assert (empty.films, empty.decoded, empty.n_bytes) == (0, 0, 0)
    with pytest.raises(ValueError, match="part 3 of 3, expected 0 to 2"):
        run_part(films, read, 3, 3)


@pytest.mark.parametrize("content", [b"", b"no Arrow at all", None])
def test_a_file_that_is_no_whole_piece_is_made_anew(tmp_path, content):
    films, names = make_films(tmp_path / "set", 200)
    run(films, Logging(tmp_path / "first"))
    spoilt = files(tmp_path / "set")[1]
    whole = spoilt.read_bytes()
    spoilt.write_bytes(whole[: len(whole) // 2] if content is None else content)
    read = Logging(tmp_path / "second")
    assert run(films, read)[0]["pixels"][:] == names
    assert read.films() == list(range(EACH, 2 * EACH))


def test_only_pieces_with_faults_are_not_kept(tmp_path):
    films, names = make_films(tmp_path / "set", 300)
    with pytest.raises(DataProblems) as caught:
        run(films, Logging(tmp_path / "bad", bad=(3, 70, 71)), num_proc=2)
    assert caught.value.totals == {"unreadable image": 3}
    assert [problem.file for problem in caught.value.problems] == ["3", "70", "71"]
    assert whole_pieces(tmp_path / "set") == {2, 3, 4}
    mended = Logging(tmp_path / "mended")
    assert run(films, mended)[0]["pixels"][:] == names
    assert sorted(mended.films()) == list(range(2 * EACH))


def test_what_was_left_out_is_tried_again_by_a_run_that_leaves_nothing_out(tmp_path):
    films, names = make_films(tmp_path / "set", 200)
    decoded, left_out = run(films, Logging(tmp_path / "bad", bad=(5,)), skip_unreadable=True)
    assert (left_out, decoded["pixels"][:]) == (1, names[:5] + names[6:])
    assert run_part(films, Logging(tmp_path / "none"), 0, 1, skip_unreadable=True).left_out == 1
    mended = Logging(tmp_path / "mended")
    assert run(films, mended)[0]["pixels"][:] == names
    assert mended.films() == list(range(EACH))


def test_a_disk_too_small_is_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    films, _ = make_films(tmp_path / "set", 200)
    read = Logging(tmp_path / "log")
    run_part(films, read, 0, 2)
    space = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: space._replace(free=10_000))
    with pytest.raises(CacheError, match=r"need \d+ kB in .*cache-.*; 10 kB are free") as caught:
        run(films, read)
    assert "--cache_dir" in str(caught.value)
    assert len(read.films()) == 2 * EACH
    written = sum(path.stat().st_size for path in files(tmp_path / "set"))
    needed = int(str(caught.value).split("need ")[1].split()[0]) * 1000
    assert needed == pytest.approx(written / (2 * EACH) * (200 - 2 * EACH), rel=0.2)


@pytest.mark.parametrize("num_proc", [1, 2])
def test_a_disk_that_fills_up(tmp_path, num_proc):
    films, names = make_films(tmp_path / "set", 3 * EACH, id_of=lambda i: str(i) * (1 if i < 2 * EACH else 2000))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CacheError, match=rf"no room for decoded films in .*cache-.*: {os.strerror(errno.EFBIG)}"):
            run(films, Logging(tmp_path / "log"), num_proc=num_proc)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = whole_pieces(tmp_path / "set")
    assert kept == {0, 1} or (num_proc == 2 and kept and 2 not in kept)  # what a second worker was at is dropped
    assert not files(tmp_path / "set", ".partial")
    read = Logging(tmp_path / "second")
    assert run(films, read, num_proc=1)[0]["pixels"][:] == names
    assert read.films() == [row for row in range(3 * EACH) if row // EACH not in kept]


def test_a_folder_that_cannot_be_made(tmp_path):
    films, _ = make_films(tmp_path / "set", 10)
    run(films, Logging(tmp_path / "log"))
    (folder,) = (tmp_path / "set").glob("cache-*")
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(CacheError, match=r"cannot write decoded films to .*: File exists"):
        run(films, Logging(tmp_path / "log"))


def test_a_worker_that_is_killed_ends_the_run(tmp_path):
    films, names = make_films(tmp_path / "set", 4 * EACH)
    log = Logging(tmp_path / "log")

    def deadly(raw):
        if number_of(raw) == 3 * EACH:
            os.kill(os.getpid(), signal.SIGKILL)
        return log(raw)

    with pytest.raises(CacheError, match="fewer processes"):
        run(films, deadly, num_proc=2)
    kept = whole_pieces(tmp_path / "set")
    read = Logging(tmp_path / "second")
    assert run(films, read)[0]["pixels"][:] == names
    assert kept
    assert not {row // EACH for row in read.films()} & kept


def test_a_defect_in_a_worker_stops_the_others(tmp_path):
    films, _ = make_films(tmp_path / "set", 20 * EACH)
    log = Logging(tmp_path / "log", seconds=0.002)

    def broken(raw):
        if number_of(raw) == 1:
            raise RuntimeError("my own")
        return log(raw)

    with pytest.raises(RuntimeError, match="my own"):
        run(films, broken, num_proc=2)
    assert len(log.films()) < 5 * EACH
    assert not files(tmp_path / "set", ".partial")


def test_ranks_of_a_machine_share_its_processes(monkeypatch):
    monkeypatch.setattr(cache, "default_processes", lambda: 12)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (cache._processes(None), cache._processes(5)) == (12, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert (cache._processes(None), cache._processes(17), cache._processes(1)) == (1, 2, 1)


def test_workers_that_are_not_forked_can_be_told_what_to_do(tmp_path):
    films, _ = make_films(tmp_path / "set", 10)
    read = CXRImageProcessor(size={"height": SIZE, "width": SIZE}).read
    work = decoding.Work(films.with_format("arrow"), read, SIZE, Pieces(tmp_path, 10, SIZE, films.features))
    again = pickle.loads(pickle.dumps(work))
    assert (len(again.films), len(again.pieces), again.size) == (10, 1, SIZE)
    assert again.read.__self__.fingerprint == read.__self__.fingerprint


def test_film_dataset_is_sent_by_the_names_of_its_files(tmp_path):
    films, names = make_films(tmp_path / "set", 300)
    data = FilmDataset(run(films, Logging(tmp_path / "log"))[0], np.zeros((300, 1), np.float32))
    rows = [299, 0, 64, 63, 0]
    before = data.__getitems__(rows)
    sent = pickle.dumps(data)
    assert len(sent) < sum(map(len, names)) // 4
    for row, item, again in zip(rows, before, pickle.loads(sent).__getitems__(rows), strict=True):
        assert item["pixel_values"].numpy().tobytes() == again["pixel_values"].numpy().tobytes() == names[row]
    for row in (300, -1):
        with pytest.raises(IndexError, match="of 300 films"):
            data[row]
