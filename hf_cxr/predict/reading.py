"""Rows to films of the model's size, by several threads and in order; a bad film is a film with an error."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from hf_cxr.models import CXRImageProcessor, FilmError
from hf_cxr.predict.sources import Row

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Film:
    """A row that was read.

    Attributes:
        row: without its image's bytes.
        pixels: uint8 (S, S); None of a bad film.
        error: why, None of a good one. It names no folder and is the same each time.
    """

    row: Row
    pixels: NDArray[np.uint8] | None
    error: str | None = None


def read_film(row: Row, processor: CXRImageProcessor) -> Film:
    """Decode a film as in training. Never raises on what is wrong with the film."""
    bare = Row(row.number, row.id, None, row.metadata)
    try:
        if row.image is None:
            raise FilmError("no file is named, and no bytes are given")
        with ExitStack() as stack:
            image: Any = processor.open(row.image)
            if isinstance(image, PIL.Image.Image):
                stack.enter_context(image)  # a broken film would keep its file open
                image.load()
            return Film(bare, np.array(processor.prepare(image)))
    except Exception as error:  # Pillow's plug-ins raise more than OSError on broken data
        return Film(bare, None, _reason(error, row))


def _reason(error: Exception, row: Row) -> str:
    """One line without the user's folders, nor addresses in memory, which differ each time."""
    if isinstance(error, FileNotFoundError):
        return "FileNotFoundError: no such file"
    if isinstance(error, PIL.UnidentifiedImageError):
        return "UnidentifiedImageError: neither DICOM nor a picture in a format that Pillow reads"
    text = str(error)
    if isinstance(row.image, Path):
        for folder in (str(row.image.absolute()), str(row.image)):
            text = text.replace(folder, row.id).replace(repr(folder)[1:-1], row.id)
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text.split()))
    return f"{type(error).__name__}: {text[:300]}"


def in_order(function: Callable[[T], R], items: Iterable[T], n_threads: int, ahead: int) -> Iterator[R]:
    """`map` by threads: results in the order of the items, of which at most `ahead` + 1 are taken in advance.

    Decoding leaves Python's lock, so that threads suffice; a film that breaks can then break no worker. With
    `n_threads` 0 nothing is taken in advance.
    """
    if not n_threads:
        yield from map(function, items)
        return
    pool, waiting = ThreadPoolExecutor(n_threads), deque[Future[R]]()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
