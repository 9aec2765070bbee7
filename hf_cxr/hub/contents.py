"""Which files of a run are published, which stay, and that nothing in them tells of patients or of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from hf_cxr.change import CHANGE_FILE
from hf_cxr.errors import UserError
from hf_cxr.film_reference import REFERENCE_FILE
from hf_cxr.runs import REPORT_FILE, SETTINGS_FILE
from hf_cxr.verification import FILE as VERIFICATION_FILE

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FIGURES = (
    "figures/auroc_test.png",
    "figures/auroc_validation.png",
    "figures/learning_curves.png",
    "figures/learning_curves_gate.png",
    "figures/learning_curves_findings.png",
)
PUBLISHED = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    REPORT_FILE,
    "eval_report_validation.json",
    CHANGE_FILE,
    VERIFICATION_FILE,
    REFERENCE_FILE,
    *FIGURES,
)
"""Patterns of what leaves the machine. Nothing else does."""
KEPT = (
    SETTINGS_FILE,
    "predictions_*.csv",
    "README.md",  # made anew, as is its picture
    "figures/hierarchy.png",
    "report.md",
    "report.html",
    "change.md",
    "change.html",
    "figures/change_*.png",
    "emissions.csv",
    "*.log",
    "checkpoint-*/**",
    "stages/**",
    "final/**",
    "runs/**",
)
"""Patterns of what a run has and others do not need: rows of patients, folders of this machine, checkpoints."""

_SHORT = 6  # an id of fewer characters ("13") is found in any number
_TEXT = (".json", ".md", ".py", ".txt", ".yaml", ".html")
_FOLDERS = re.compile(
    r"(?<![\w./:~-])(?:/(?:home|Users|root|mnt|media|data|srv|scratch|work|tmp|var)/|[A-Z]:\\)[^\s\"')]*"
)
_ADDRESS = re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+")


class ContentsError(UserError, ValueError):
    """A folder holds what must not, or need not, be published; the message lists it."""


@dataclass(frozen=True)
class Contents:
    """Paths relative to the folder: what is published, and what stays."""

    published: tuple[str, ...]
    kept: tuple[str, ...]


def survey(folder: Path) -> Contents:
    """Sort a run's files.

    Raises:
        ContentsError: no such folder; or a file that no run has, or a link: names all of them.
    """
    if not folder.is_dir():
        raise ContentsError(f"{folder} is no folder; expected that of a finished run")
    published, kept, foreign = [], [], []
    for path in sorted(p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            foreign.append(f"{name} (a link)")
        elif _fits(name, PUBLISHED):
            published.append(name)
        elif _fits(name, KEPT):
            kept.append(name)
        else:
            foreign.append(name)
    if foreign:
        shown = ", ".join(foreign[:10]) + (f" and {len(foreign) - 10} more" if len(foreign) > 10 else "")
        raise ContentsError(
            f"{folder} holds what no training run writes: {shown}; only models are published, so move it elsewhere "
            "(images, tables and notes may tell of patients)"
        )
    return Contents(tuple(published), tuple(kept))


def check_anonymous(staged: Path, run: Path) -> None:
    """Search every text file of a staged folder for ids and patients of the run's tables, folders and addresses.

    Ids of fewer than six characters cannot be told from other numbers and are not searched for.

    Raises:
        ContentsError: names each file and what was found in it.
    """
    names = _identifiers(run)
    found = []
    for path in sorted(p for p in staged.rglob("*") if p.suffix in _TEXT):
        text = path.read_text(encoding="utf-8")
        hits = {hit for hit in _words(text) if hit in names}
        # Code is the project's own: what looks like a folder in it is an example.
        if path.suffix != ".py":
            hits |= {*_FOLDERS.findall(text), *_ADDRESS.findall(text)}
        hits |= {folder for folder in _folders(run) if folder in text}
        found += [f"{path.relative_to(staged)}: {hit}" for hit in sorted(hits)]
    if found:
        raise ContentsError(
            f"not published, since the files name patients or this machine: {'; '.join(found[:10])}"
            + (f" and {len(found) - 10} more" if len(found) > 10 else "")
        )


def _fits(name: str, patterns: Iterable[str]) -> bool:
    # fnmatch's * crosses folders; only a pattern with ** may.
    depth = name.count("/")
    return any(fnmatchcase(name, p) and ("**" in p or p.count("/") == depth) for p in patterns)


def _identifiers(run: Path) -> set[str]:
    named: set[str] = set()
    for table in run.glob("predictions_*.csv"):
        rows = pd.read_csv(table, usecols=["id", "patient"], dtype=str)
        named |= {part for cell in (*rows["id"].dropna(), *rows["patient"].dropna()) for part in _words(cell)}
        named |= {Path(part).stem for part in named}
    return {name for name in named if len(name) >= _SHORT and any(c.isdigit() for c in name)}


def _words(text: str) -> set[str]:
    """What stands between spaces, quotes, slashes and the like."""
    return set(re.findall(r"[\w.-]+", text))


def _folders(run: Path) -> set[str]:
    folders = {str(run.resolve()), str(Path.home())}
    if (run / SETTINGS_FILE).is_file():
        folders |= set(_absolute(yaml.safe_load((run / SETTINGS_FILE).read_text(encoding="utf-8"))))
    return {folder for folder in folders if len(folder) >= _SHORT}


def _absolute(nested: Any) -> Iterable[str]:
    if isinstance(nested, dict):
        for value in nested.values():
            yield from _absolute(value)
    elif isinstance(nested, str) and nested.startswith("/"):
        yield nested
