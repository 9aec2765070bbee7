"""Work in a child process: what it returns and raises, and that its memory goes with it."""

import multiprocessing
import os

import numpy as np
import pytest

from benchmarks.held_memory import held_bytes
from hf_cxr.data import DataProblems
from hf_cxr.data.problems import Problem
from hf_cxr.memory import give_back, in_a_child


def process_and(*given, **how):
    return os.getpid(), given, how


def refuse():
    raise DataProblems([Problem("malformed cell", "table.csv", 3, "age is 'old'")], {"malformed cell": 12}, "mend it")


def in_another_process(answers):
    answers.put(in_a_child(process_and, 1)[0] == os.getpid())


def test_it_is_another_process_with_the_same_answer():
    process, given, how = in_a_child(process_and, 1, "two", three=3)
    assert process != os.getpid()
    assert (given, how) == ((1, "two"), {"three": 3})


def test_problems_come_back_whole():
    with pytest.raises(DataProblems) as found:
        in_a_child(refuse)
    with pytest.raises(DataProblems) as here:
        refuse()
    assert str(found.value) == str(here.value)
    assert found.value.problems == here.value.problems
    assert (found.value.totals, found.value.remedy) == ({"malformed cell": 12}, "mend it")


def test_a_daemon_has_no_children_and_works_itself():
    forking = multiprocessing.get_context("fork")
    answers = forking.Queue()
    daemon = forking.Process(target=in_another_process, args=(answers,), daemon=True)
    daemon.start()
    assert answers.get(timeout=30) is True
    daemon.join()


def scatter():
    """80 MB in small pieces, of which every fiftieth stays."""
    return [np.ones(1000) for _ in range(10_000)][::50]


def test_free_pieces_go_back():
    kept = scatter()
    before = held_bytes(os.getpid())
    give_back()
    assert held_bytes(os.getpid()) < before - 30 * 2**20
    assert len(kept) == 200
