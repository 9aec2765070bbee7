"""Every film opened once, and all that is looked at in it, in one pass of bounded memory."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import imagehash
import numpy as np
from datasets.utils import tqdm
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from hf_cxr.data.decoding import default_processes
from hf_cxr.data_check.exposure import Exposure, exposure
from hf_cxr.models import CXRImageProcessor, DicomRefusedError, FilmError, read_dicom
from hf_cxr.models.dicom import is_dicom
from hf_cxr.models.processing import film_to_gray, fit_to_square

HASH_SIDE = 16
"""64 bits (a side of 8) are too few: within 4 of them lie 330 pairs of `nih128`'s films of different patients."""
AHEAD = 8  # films each thread may be ahead of whoever takes them
MISSING, EMPTY, NO_PICTURE, BROKEN, CLOSED = (
    "no such file", "the file is empty", "no picture that can be read", "damaged, or of a form that no film has",
    "cannot be opened",
)  # fmt: skip
REFUSED = {
    "modality": "DICOM of another modality than radiography",
    "body_part": "DICOM of another body part",
    "view": "DICOM of another view",
    "no_pixels": "DICOM without pixels",
    "multi_frame": "DICOM of several frames",
    "photometric": "DICOM with pixels that films do not have",
    "too_large": "DICOM too large",
    "syntax": "DICOM in a transfer syntax that is not installed",
    "broken": "DICOM that is damaged",
    "blank": "",  # counted as blank
}
GOOD = Exposure()
_BITS = {"1": 1, "F": 32}


@dataclass(frozen=True)
class Film:
    """One film.

    Attributes:
        fault: why it cannot be read, in fixed words: an error's own may hold a path. Empty where it can.
        view: that its header states. width, height, bits: as stored.
        content: 16 bytes of SHA-256 of its 8-bit grays. alike: (4,) uint64, the perceptual hash.
        pixels: (S, S) uint8 for a model, None where none is asked.
    """

    fault: str = ""
    view: str | None = None
    width: int = 0
    height: int = 0
    bits: int = 0
    exposure: Exposure = GOOD
    content: bytes = b""
    alike: NDArray[np.uint64] | None = None
    pixels: NDArray[np.uint8] | None = None

    def without_pixels(self) -> Film:
        """The same, for keeping."""
        return replace(self, pixels=None)


def look_at(path: str, processor: CXRImageProcessor, size: int | None) -> Film:
    """Open, decode and describe one film. `size`: side of `pixels`, None for none."""
    try:
        if os.path.getsize(path) == 0:
            return Film(EMPTY)
        with open(path, "rb") as file:
            if is_dicom(file, path):
                stored = read_dicom(file, lateral=processor.lateral)
                return _described(stored.image, _bits_stored(path), processor, size, stored.view)
        with processor.open(path) as picture:
            bits = 16 if picture.mode.startswith("I") else _BITS.get(picture.mode, 8)
            return _described(picture, bits, processor, size)
    except FileNotFoundError:
        return Film(MISSING)
    except UnidentifiedImageError:
        return Film(NO_PICTURE)
    except DicomRefusedError as error:
        return Film(exposure=Exposure(blank=True)) if error.code == "blank" else Film(REFUSED[error.code])
    except OSError as error:
        return Film(BROKEN if error.errno is None else MISSING if os.path.isdir(path) else CLOSED)
    except MemoryError:
        raise
    except Exception:  # Pillow's plug-ins raise SyntaxError, struct.error, … on broken headers
        return Film(BROKEN)


def _described(
    opened: Image.Image, bits: int, processor: CXRImageProcessor, size: int | None, view: str | None = None
) -> Film:
    width, height = opened.size
    try:
        gray = film_to_gray(opened, processor.lateral)
    except FilmError:
        if _is_uniform(opened):
            return Film("", view, width, height, bits, Exposure(blank=True))
        raise
    judged = exposure(gray)
    return Film(
        view=view,
        width=width,
        height=height,
        bits=bits,
        exposure=judged,
        content=hashlib.sha256(f"{gray.size}".encode() + gray.tobytes()).digest()[:16],
        alike=None if judged.blank else _hash(gray),  # a blank film's is noise
        pixels=None if size is None else fit_to_square(gray, size, processor.fit),
    )


def _hash(gray: Image.Image) -> NDArray[np.uint64]:
    return np.packbits(imagehash.phash(gray, hash_size=HASH_SIDE).hash.ravel()).view(np.uint64)


def _is_uniform(opened: Image.Image) -> bool:
    try:
        extrema = np.atleast_2d(opened.getextrema())
    except (OSError, ValueError):  # that is why it is no film, then
        return False
    return bool((extrema[:, 0] == extrema[:, 1]).all())


def _bits_stored(path: str) -> int:
    import pydicom  # an extra, which is there where the film was read

    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["BitsStored"], force=True)
    return int(header.get("BitsStored", 0))


def films(
    paths: Sequence[str], processor: CXRImageProcessor, size: int | None, threads: int | None = None
) -> Iterator[Film]:
    """The films in order, decoded by several threads, of which each is a few films ahead and no more."""
    threads = threads or default_processes()
    waiting: deque[Future[Film]] = deque()
    with ThreadPoolExecutor(threads) as pool, tqdm(total=len(paths), desc="Looking at films", unit=" films") as bar:
        for path in paths:
            if len(waiting) >= threads * AHEAD:
                yield waiting.popleft().result()
                bar.update()
            waiting.append(pool.submit(look_at, path, processor, size))
        while waiting:
            yield waiting.popleft().result()
            bar.update()
