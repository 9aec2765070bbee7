"""The folder of a run: refused if occupied, resumable, and with all that is needed to repeat it in `run.yaml`."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from hf_cxr.errors import UserError
from hf_cxr.trainer import last_complete_checkpoint

SETTINGS_FILE = "run.yaml"
REPORT_FILE = "eval_report.json"
"""Written last: a folder that has it holds a finished run."""

_VERSIONED = ("hf_cxr", "torch", "transformers", "datasets", "accelerate", "timm", "numpy", "scikit-learn")
# What may differ between the run and its continuation: nothing that changes a figure.
_FREE_ON_RESUME = ("output_dir", "resume_from_checkpoint", "dataloader_num_workers", "disable_tqdm", "report_to")


class RunFolderError(UserError, RuntimeError):
    """The output folder cannot be used for this run; the message says what to do."""


class RunFolder:
    """A run's output folder, claimed for a new run or for going on.

    Args:
        path: the folder. overwrite: delete the run that is in it. resume: go on with it.

    Raises:
        RunFolderError: it holds a finished run, an unfinished one, or something that is no run.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path = Path(path)
        self.resume = resume
        if overwrite and resume:
            raise RunFolderError("overwrite and resume exclude each other")
        occupied = self.path.exists() and any(self.path.iterdir())
        is_run = (self.path / SETTINGS_FILE).exists()
        self._to_delete = occupied and overwrite
        if not occupied:
            return
        if not is_run:
            raise RunFolderError(f"{self.path} is not empty and no run (no {SETTINGS_FILE}); choose another output_dir")
        finished = (self.path / REPORT_FILE).exists()
        if resume and finished:
            raise RunFolderError(f"{self.path} holds a finished run: nothing to resume")
        if not overwrite and not resume:
            state = "a finished run" if finished else "an unfinished run"
            choices = "--overwrite true replaces it" + ("" if finished else ", --resume true goes on with it")
            raise RunFolderError(f"{self.path} holds {state}: {choices}; or choose another output_dir")

    def claim(self, run: dict[str, Any]) -> None:
        """Make the folder ready and write `run.yaml`; call on the main process only.

        Args:
            run: plain data with at least `settings`, as from `describe_run`.

        Raises:
            RunFolderError: resuming with other settings; lists both sides of each difference.
        """
        if self._to_delete:
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / SETTINGS_FILE
        if self.resume and file.exists():
            self._check_same(yaml.safe_load(file.read_text(encoding="utf-8")), run)
        write_yaml(file, run)

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        then, today = (_flatten({k: run.get(k) for k in ("settings", "data")}) for run in (before, now))
        different = [
            f"{key}: was {then.get(key)!r}, is {today.get(key)!r}"
            for key in sorted(then.keys() | today.keys())
            if then.get(key) != today.get(key) and not key.endswith(_FREE_ON_RESUME)
        ]
        if different:
            raise RunFolderError(
                f"{self.path}: resuming needs the settings and data it was started with; different are "
                + "; ".join(different[:10])
            )

    def stage(self, name: str | None = None) -> Path:
        """Folder of a training stage: the run's own for its checkpoints, or one below it for a named stage."""
        return self.path if name is None else self.path / "stages" / name

    def checkpoint(self, stage: Path) -> Path | None:
        """Where to go on in a stage, or None to start it."""
        return last_complete_checkpoint(stage) if self.resume else None

    def remove_checkpoints(self) -> None:
        """Delete the checkpoints of a finished run: the final model has all that is needed to use it."""
        stages = [self.path, *self.path.glob("stages/*")]
        for stage in stages:
            for folder in [*stage.glob("checkpoint-*"), stage / "final"]:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in [*stages[1:], self.path / "stages"]:  # kept where a logger wrote into it
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def describe_run(settings: dict[str, Any], data: dict[str, Any], labels: dict[str, Any]) -> dict[str, Any]:
    """All that `run.yaml` holds: settings, data provenance, label counts, versions, command."""
    plain = json.loads(json.dumps(settings, default=str))
    return {
        "settings": plain,
        "settings_hash": settings_hash(settings),
        "data": data,
        "labels": labels,
        "seed": plain["training"]["seed"],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONED}},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "command": " ".join(sys.argv),
    }


def settings_hash(settings: dict[str, Any]) -> str:
    """16 hex digits for the settings of a run; the user's folders are left out, so that the same run elsewhere has the
    same ones."""
    plain = json.loads(json.dumps(settings, default=str))
    hashed = {k: v for k, v in _flatten(plain).items() if not k.endswith(("_dir", *_FREE_ON_RESUME))}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]


def provenance(run: dict[str, Any]) -> dict[str, Any]:
    """What of a run goes into its reports: enough to trace a figure, nothing of the user's folders."""
    return {key: run[key] for key in ("settings_hash", "seed", "versions", "data")} | {
        "labels_without_positives": run["labels"].get("without_positives", [])
    }


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write a YAML file; it appears whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(partial, path)


def _flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
