"""Memory that is only wanted for a while, and given back afterwards."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

import pyarrow as pa

P = ParamSpec("P")
T = TypeVar("T")


def in_a_child(work: Callable[P, T], *given: P.args, **how: P.kwargs) -> T:
    """Do some work in a process of its own, whose memory goes with it.

    An allocator keeps much of what it once had: the tables of 136,000 films leave 50 MB behind in each process of a
    run, for all its epochs. Where processes cannot be forked (Windows, macOS, a daemon) the work is done here.

    Returns, raises:
        what `work` does, pickled; films come as the names of their files.
    """
    forks = sys.platform == "linux" and not multiprocessing.current_process().daemon
    if not forks:
        return work(*given, **how)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as child:
        return child.submit(work, *given, **how).result()


def give_back() -> None:
    """Hand what is free in the allocators' pools back to the system.

    Where the C library is not GNU's, Arrow's pool alone is emptied.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux" and hasattr(c_library := ctypes.CDLL(None), "malloc_trim"):  # musl has none
        c_library.malloc_trim(0)
