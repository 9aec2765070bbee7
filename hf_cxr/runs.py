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
from accelerate.utils import broadcast_object_list, gather_object

from hf_cxr.errors import UserError
from hf_cxr.processes import launch_mark
from hf_cxr.resuming import COMPLETE, last_complete_checkpoint

SETTINGS_FILE = "run.yaml"
REPORT_FILE = "eval_report.json"
"""Written last: a folder that has it holds a finished run."""

_VERSIONED = ("hf_cxr", "torch", "transformers", "datasets", "accelerate", "timm", "numpy", "scikit-learn")
# What may differ between the run and its continuation: nothing that changes a figure.
_FREE_ON_RESUME = ("output_dir", "resume_from_checkpoint", "dataloader_num_workers", "disable_tqdm", "report_to")


class RunFolderError(UserError, RuntimeError):
    """The output folder cannot be used for this run; the message says what to do."""


class FinishedRunError(RunFolderError):
    """What was to be gone on with is finished."""


class RunFolder:
    """A run's output folder, claimed for a new run or for going on.

    A launcher that starts its workers anew after one has died (`torchrun --max-restarts`) gives them the same command.
    The run in the folder is then this launch's own, and they go on with it, also if the command said to overwrite.

    Args:
        path: the folder. overwrite: delete the run that is in it. resume: go on with it, or begin where there is none.

    Attributes:
        resume: whether there is a run to go on with.

    Raises:
        FinishedRunError: the run to go on with is finished. RunFolderError: the folder holds a run that was not asked
            for, or something that is no run.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path = Path(path)
        self.resume = self._to_delete = False
        if overwrite and resume:
            raise RunFolderError("overwrite and resume exclude each other")
        if not self.path.exists() or all(entry.name == _partial(SETTINGS_FILE) for entry in self.path.iterdir()):
            return
        if not (self.path / SETTINGS_FILE).exists():
            raise RunFolderError(f"{self.path} is not empty and no run (no {SETTINGS_FILE}); choose another output_dir")
        own = launch_mark() in read_run(self.path).get("launched_by", ())
        finished = (self.path / REPORT_FILE).exists()
        self.resume, self._to_delete = resume or own, overwrite and not own
        if self.resume and finished:
            raise FinishedRunError(f"{self.path} holds a finished run: nothing to resume")
        if not self._to_delete and not self.resume:
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
            self._clear()
        self.path.mkdir(parents=True, exist_ok=True)
        if self.resume:
            check_same(self.path, run)
        write_yaml(self.path / SETTINGS_FILE, run)

    def _clear(self) -> None:
        """Delete the run but for `run.yaml`, which the new one's replaces: killed meanwhile, it can be overwritten."""
        (self.path / REPORT_FILE).unlink(missing_ok=True)
        self._unmark()
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != SETTINGS_FILE:
                entry.unlink()

    def _unmark(self) -> None:
        """Take the marks of whole checkpoints, which will be deleted: killed meanwhile, none is taken for whole."""
        for stage in self._stages():
            for mark in stage.glob(f"checkpoint-*/{COMPLETE}"):
                mark.unlink()

    def _stages(self) -> list[Path]:
        return [self.path, *self.path.glob("stages/*")]

    def stage(self, name: str | None = None) -> Path:
        """Folder of a training stage: the run's own for its checkpoints, or one below it for a named stage."""
        return self.path if name is None else self.path / "stages" / name

    def checkpoint(self, stage: Path) -> Path | None:
        """Where to go on in a stage, or None to start it; to be called in every process.

        The main process chooses for all: shared storage may show an older checkpoint as the last one on other machines.
        """
        found = last_complete_checkpoint(stage) if self.resume else None
        return broadcast_object_list([found])[0]

    def remove_checkpoints(self) -> None:
        """Delete the checkpoints of a finished run: the final model has all that is needed to use it."""
        stages = self._stages()
        self._unmark()
        for stage in stages:
            for folder in [*stage.glob("checkpoint-*"), stage / "final"]:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in [*stages[1:], self.path / "stages"]:  # kept where a logger wrote into it
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def check_same(path: Path, run: dict[str, Any]) -> None:
    """Refuse to take a run for the one that a folder holds, if it has other settings or data.

    Args:
        path: the run's folder. run: `settings`, and `data` if known, as in `run.yaml`.

    Raises:
        RunFolderError: lists both sides of each difference.
    """
    compared: list[str] = [key for key in ("settings", "data") if key in run]
    then, today = ({key: side.get(key) for key in compared} for side in (read_run(path), _plain(run)))
    if different := differences(then, today):
        raise RunFolderError(
            f"{path}: resuming needs the settings and data it was started with; different are "
            + "; ".join(f"{key}: was {was!r}, is {now!r}" for key, (was, now) in list(different.items())[:10])
        )


def differences(one: dict[str, Any], other: dict[str, Any], free: tuple[str, ...] = ()) -> dict[str, tuple[Any, Any]]:
    """`{key: (one's, other's)}` of two `run.yaml` (or parts of them), keys of groups joined by dots.

    Args:
        free: ends of keys that may differ, besides those that change no figure.
    """
    first, second = _flatten(one), _flatten(other)
    return {
        key: (first.get(key), second.get(key))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key) and not key.endswith((*_FREE_ON_RESUME, *free))
    }


def describe_run(settings: dict[str, Any], data: dict[str, Any], labels: dict[str, Any]) -> dict[str, Any]:
    """All that `run.yaml` holds: settings, data provenance, label counts, versions, command, and the launchers of this
    run's processes (see `RunFolder`); to be called in every process."""
    plain = _plain(settings)
    return {
        "settings": plain,
        "settings_hash": settings_hash(settings),
        "data": data,
        "labels": labels,
        "seed": plain["training"]["seed"],
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _VERSIONED}},
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
        "command": " ".join(sys.argv),
        "launched_by": sorted({mark for mark in gather_object([launch_mark()]) if mark}),
    }


def settings_hash(settings: dict[str, Any]) -> str:
    """16 hex digits for the settings of a run; the user's folders are left out, so that the same run elsewhere has the
    same ones."""
    hashed = {k: v for k, v in _flatten(_plain(settings)).items() if not k.endswith(("_dir", *_FREE_ON_RESUME))}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]


def provenance(run: dict[str, Any]) -> dict[str, Any]:
    """What of a run goes into its reports: enough to trace a figure, nothing of the user's folders."""
    return {key: run[key] for key in ("settings_hash", "seed", "versions", "data")} | {
        "labels_without_positives": run["labels"].get("without_positives", [])
    }


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Write a YAML file; it appears whole or not at all."""
    partial = path.with_name(_partial(path.name))
    partial.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    os.replace(partial, path)


def read_run(path: Path) -> dict[str, Any]:
    """`run.yaml` of a folder; empty if the machine went down before the disk had it."""
    return yaml.safe_load((path / SETTINGS_FILE).read_text(encoding="utf-8")) or {}


def _partial(name: str) -> str:
    return f"{name}.partial"


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return plain


def _flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
