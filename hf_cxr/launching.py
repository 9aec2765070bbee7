"""Training runs in processes of their own, for recipes that need many."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hf_cxr.data.decoding import default_processes
from hf_cxr.errors import UserError
from hf_cxr.runs import SETTINGS_FILE


class LaunchError(UserError, RuntimeError):
    """A run failed; the message has its last words, and where its log is."""


def launch_run(
    recipe: Path, folder: Path, words: Sequence[str], *, accelerate_config: Path | None = None, jobs: int = 1
) -> None:
    """One run under `accelerate launch`, its output in `<folder>.log`; an interrupted one goes on.

    Args:
        recipe: the script. folder: the run's. words: its options, without the folder.
        accelerate_config: of the launch; None: one process. jobs: runs at a time, which share the cores.

    Raises:
        LaunchError: it failed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    launch = ["--config_file", str(accelerate_config)] if accelerate_config else ["--num_processes", "1"]
    words = [*words, "--output_dir", str(folder), "--disable_tqdm", "true"]
    if (folder / SETTINGS_FILE).is_file():
        words += ["--resume", "true"]
    threads = max(1, default_processes() // jobs)
    environment = {"OMP_NUM_THREADS": str(threads)} | os.environ
    log = folder.with_name(f"{folder.name}.log")
    with log.open("a", encoding="utf-8") as stream:
        command = [sys.executable, "-m", "accelerate.commands.launch", *launch, str(recipe), *words]
        done = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        lines = log.read_text(encoding="utf-8").splitlines()
        # The launcher's own complaint comes last, what the run said of itself before it.
        said = [line for line in lines if "Error: " in line and "CalledProcessError" not in line]
        raise LaunchError(f"{folder.name} failed ({said[-1] if said else lines[-1]}); its log: {log.resolve()}")
