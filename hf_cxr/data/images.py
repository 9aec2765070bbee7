"""Image files, looked at without decoding them: present, not empty, header readable."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import PIL.Image
from datasets.utils import tqdm

THREADS = 16
CHUNK = 512
MISSING = -1
DICOM_SUFFIXES = (".dcm", ".dicom")

R = TypeVar("R")


def _in_threads(look: Callable[[str], R], paths: Sequence[str], desc: str) -> list[R]:
    def look_at(chunk: Sequence[str]) -> list[R]:
        return [look(path) for path in chunk]

    chunks: Iterator[Sequence[str]] = (paths[i : i + CHUNK] for i in range(0, len(paths), CHUNK))
    found: list[R] = []
    with ThreadPoolExecutor(THREADS) as pool, tqdm(total=len(paths), desc=desc, unit=" files") as bar:
        for part in pool.map(look_at, chunks):
            found += part
            bar.update(len(part))
    return found


def stat_images(paths: Sequence[str]) -> np.ndarray:
    """Size in bytes and modification time in ns of each file.

    Returns:
        (N, 2) int64; size -1 and time 0 where there is no such file.
    """

    def look(path: str) -> tuple[int, int]:
        try:
            info = os.stat(path)
        except OSError:
            return MISSING, 0
        return (info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else (MISSING, 0)

    return np.asarray(_in_threads(look, paths, "Finding images"), dtype=np.int64).reshape(-1, 2)


def header_faults(paths: Sequence[str]) -> list[str]:
    """Why each file's header cannot be read; an empty string where it can. Pixels are not decoded.

    DICOM is known by its first bytes or its suffix; what its header says against the film is for whoever decodes it.
    """

    def look(path: str) -> str:
        try:
            with open(path, "rb") as file:
                if file.read(132)[128:] == b"DICM" or path.lower().endswith(DICOM_SUFFIXES):
                    return ""
            with PIL.Image.open(path):
                return ""
        except Exception as error:  # Pillow's plug-ins raise SyntaxError, struct.error, … on broken headers
            return f"{type(error).__name__}: {error}"

    return _in_threads(look, paths, "Checking image headers")


def images_digest(paths: Sequence[str], stats: np.ndarray) -> str:
    """SHA-256 over every path and what is known of its file, so that any changed, added or lost file shows."""
    digest = hashlib.sha256("\0".join(paths).encode())
    digest.update(np.ascontiguousarray(stats).tobytes())
    return digest.hexdigest()
