"""Films decoded piece by piece, by as many processes as there are cores; other runs may work on the same pieces."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets.arrow_writer import ArrowWriter
from filelock import Timeout

from hf_cxr.data.pieces import FAULT, CacheError, Pieces, writing_to

BATCH_BYTES = 32 * 2**20  # held in memory by each process before they go to disk
LOOK_AGAIN = 0.5  # seconds between looks at pieces that other runs work on, and at the progress
ORPHANED = 1.0  # seconds between a worker's looks at whether it still has a parent

Read = Callable[[str | bytes], tuple[npt.NDArray[np.uint8], str | None]]


class _StoppedError(Exception):
    """The run has failed elsewhere: what this process does is in vain."""


@dataclass(frozen=True)
class Work:
    """What a worker needs to know.

    Attributes:
        films: undecoded rows, whose format is Arrow. read: see `cache.decode`. size: in pixels. pieces: their files.
    """

    films: datasets.Dataset
    read: Read
    size: int
    pieces: Pieces


def default_processes() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def finish(work: Work, pieces: Sequence[int], processes: int, seen: Callable[[int], Any]) -> Iterator[tuple[int, int]]:
    """Decode these pieces, or wait until others have; those that nobody works on come first.

    Args:
        pieces: numbers of pieces that are not there yet. processes: 1 decodes in this one.
        seen: gets the number of films decoded since the last call.

    Yields:
        each piece that is whole, and how many films were decoded here for it (0 if another run did).

    Raises:
        CacheError: the disk is full, or a worker was killed. ValueError: see `cache.decode`. All finished pieces stay.
    """
    processes = min(processes, len(pieces))
    if processes <= 1:
        yield from _taking_turns(deque(pieces), lambda piece: _done(take(work, piece, seen)), 1, lambda: None)
        return
    # Linux forks, so that neither the films' table nor torch are loaded once a worker; elsewhere forking is not safe
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    count, stop, told = context.Value("q", 0), context.Event(), 0

    def tell() -> None:
        nonlocal told
        now = count.value
        seen(now - told)
        told = now

    pool = ProcessPoolExecutor(processes, context, _start_worker, (work, count, stop, os.getpid()))
    try:
        yield from _taking_turns(deque(pieces), lambda piece: pool.submit(_take_in_worker, piece), processes, tell)
    except BrokenProcessPool:
        raise CacheError(
            "a process that decoded films was killed, perhaps for want of memory. What is decoded is kept: run again, "
            "with fewer processes (num_proc)"
        ) from None
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    tell()


def _taking_turns(
    queue: deque[int], submit: Callable[[int], Future[int | None]], processes: int, tell: Callable[[], None]
) -> Iterator[tuple[int, int]]:
    running: dict[Future[int | None], int] = {}
    busy: list[int] = []
    while queue or running or busy:
        if not queue and not running:
            time.sleep(LOOK_AGAIN)
            queue.extend(busy)
            busy.clear()
        while queue and len(running) < 2 * processes:
            piece = queue.popleft()
            running[submit(piece)] = piece
        finished, _ = wait(running, timeout=LOOK_AGAIN, return_when=FIRST_COMPLETED)
        tell()
        for future in finished:
            piece, decoded = running.pop(future), future.result()
            if decoded is None:
                busy.append(piece)
            else:
                yield piece, decoded


def _done(result: int | None) -> Future[int | None]:
    future: Future[int | None] = Future()
    future.set_result(result)
    return future


def take(work: Work, piece: int, seen: Callable[[int], Any], stopped: Callable[[], bool] = lambda: False) -> int | None:
    """Decode a piece, unless it is there or another process is at it.

    Returns:
        how many films were decoded; None if another process is at it.
    """
    with writing_to(work.pieces.folder):
        try:
            with work.pieces.lock(piece).acquire(timeout=0):
                if work.pieces.open(piece) is not None:
                    return 0
                _write(work, piece, seen, stopped)
                return len(work.pieces.rows(piece))
        except Timeout:
            return None


def _write(work: Work, piece: int, seen: Callable[[int], Any], stopped: Callable[[], bool]) -> None:
    path, rows = work.pieces.path(piece), work.pieces.rows(piece)
    partial = path.with_suffix(".partial")
    step = min(max(BATCH_BYTES // work.size**2, 16), 1000)
    try:
        with open(partial, "wb") as file:
            writer = ArrowWriter(stream=file, features=work.pieces.features, writer_batch_size=step)
            for start in range(rows.start, rows.stop, step):
                writer.write_table(_decoded(work, range(start, min(start + step, rows.stop)), seen, stopped))
            writer.finalize(close_stream=False)
            file.flush()
            os.fsync(file.fileno())  # a name must not survive a power cut that the bytes do not
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _decoded(work: Work, rows: range, seen: Callable[[int], Any], stopped: Callable[[], bool]) -> pa.Table:
    films = work.films[rows.start : rows.stop]
    views = films["view"].to_pylist() if "view" in films.column_names else None
    pixels: list[bytes | None] = []
    faults: list[str | None] = []
    for i, (image, name) in enumerate(zip(films["image"], films["id"], strict=True)):
        if stopped():
            raise _StoppedError
        film, view, fault = _read(work, image.as_py(), name)
        pixels.append(film)
        faults.append(fault)
        if views is not None:
            views[i] = views[i] or view
        seen(1)
    if views is not None:
        column = films.column_names.index("view")
        films = films.set_column(column, "view", pa.array(views, films.schema.field("view").type))
    films = films.drop_columns(["image"]).append_column("pixels", pa.array(pixels, pa.binary()))
    return films.append_column(FAULT, pa.array(faults, pa.string()))


def _read(work: Work, image: dict[str, Any], name: Any) -> tuple[bytes | None, str | None, str | None]:
    """The pixels and the view that the file states, or what is wrong with it."""
    try:
        pixels, view = work.read(image["path"] if image["bytes"] is None else image["bytes"])
    except (ValueError, OSError) as error:
        return None, None, f"{type(error).__name__}: {error}"
    if pixels.dtype != np.uint8 or pixels.shape != (work.size, work.size):
        received = f"{pixels.dtype} {pixels.shape}"
        raise ValueError(f"read gave {received} for {name}, expected uint8 ({work.size}, {work.size})")
    return pixels.tobytes(), view, None


_worker: dict[str, Any] = {}


def _start_worker(work: Work, count: Any, stop: Any, parent: int) -> None:
    def add(films: int) -> None:
        with count.get_lock():
            count.value += films

    def watch() -> None:  # a parent that is killed tells nobody; its workers would wait for it for ever
        while os.getppid() == parent:
            time.sleep(ORPHANED)
        os._exit(1)

    _worker.update(work=work, seen=add, stopped=stop.is_set)
    threading.Thread(target=watch, daemon=True).start()


def _take_in_worker(piece: int) -> int | None:
    return take(_worker["work"], piece, _worker["seen"], _worker["stopped"])
