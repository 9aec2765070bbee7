"""Memory that a process really holds: what the kernel could not take back."""

from __future__ import annotations

import os
import threading
from itertools import count
from pathlib import Path
from typing import Any

import psutil

INTERVAL = 0.02
"""Seconds between two looks."""
LOOKS_A_FAMILY = 50
"""Looks after which children are searched anew: the search reads `/proc` of every process of the machine."""


class HeldMemory:
    """The most that this process and its children held at once, as a thread sees it every 20 ms.

    Counted are `RssAnon` and `RssShmem` of `/proc/PID/status`. Pages of mapped files (`RssFile`: the film cache,
    libraries) are not: the kernel takes them back when it needs them, whereas `ru_maxrss` has all that were looked at.
    Pages that a forked child shares with its parent are counted for both, so that the sum is never too small.

    Attributes:
        peak: bytes, since the last `restart`.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._processes = [os.getpid()]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> HeldMemory:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def restart(self) -> int:
        """The peak so far; from here on it counts anew."""
        self._look()
        peak, self.peak = self.peak, 0
        self._look()
        return peak

    def _watch(self) -> None:
        for look in count(1):
            if self._done.wait(INTERVAL):
                return
            if look % LOOKS_A_FAMILY == 0:
                self._processes = family(os.getpid())
            self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, sum(map(held_bytes, self._processes)))


def held_bytes(process: int) -> int:
    """Bytes of a process that are no mapped file's; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    return [process, *(child.pid for child in psutil.Process(process).children(recursive=True))]
