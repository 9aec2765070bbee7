"""Processes that `accelerate launch` starts know of each other, and leave in order."""

import os
import subprocess
import sys

import pytest
import torch

from hf_cxr import processes
from hf_cxr.arguments import SettingsError
from hf_cxr.processes import start_processes
from tests.conftest import REPO

PROGRAM = """
import atexit, os, pathlib, torch.distributed
said = pathlib.Path(__file__).with_name(os.environ["RANK"])
# Said last of all that is registered, thus after start_processes has tidied up.
atexit.register(lambda: said.write_text(f"{joined}, then {torch.distributed.is_initialized()}"))
from accelerate.utils import gather_object
from hf_cxr.processes import start_processes
state = start_processes()
joined = f"{sorted(gather_object([state.process_index]))} {torch.distributed.is_initialized()}"
"""


@pytest.mark.slow
def test_the_group_is_left_before_python_ends(tmp_path):
    """Otherwise about every sixth pair of processes was aborted after all its work was done."""
    (tmp_path / "program.py").write_text(PROGRAM)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    done = subprocess.run(
        [*launcher, REPO / "recipes" / "accelerate" / "two_cpu_processes.yaml", tmp_path / "program.py"],
        capture_output=True, text=True, check=False, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["[0, 1] True, then False"] * 2


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    start_processes(use_cpu=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="2 processes were started, but each knows of 1"):
        start_processes(use_cpu=True)


@pytest.mark.parametrize(("threads", "launched", "said"), [(1, True, True), (1, False, False), (4, True, False)])
def test_idle_cores_are_spoken_of(monkeypatch, caplog, threads, launched, said):
    """`accelerate launch` silently gives one thread to a process, although all cores are idle."""
    monkeypatch.setattr(processes, "default_processes", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    start_processes(use_cpu=True)
    assert ("one thread of 4 cores; OMP_NUM_THREADS=4" in caplog.text) == said
