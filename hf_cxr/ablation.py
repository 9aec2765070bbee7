"""Ablations: the runs that a plan names, and what came out of them, paired on the same films and patients.

A plan is a YAML file:

    base: nih128_cpu.yaml            # settings of recipes/train.py, beside the plan
    settings: {num_train_epochs: 4}  # what all runs change of it
    seeds: [0, 1]
    split: test                      # which predictions are compared
    reference: {link: flat, loss: bce}
    grids:                           # every combination of each grid is an arm
      - {link: [flat, conditional], loss: [bce]}
      - {link: [flat], loss: [hbce_soft], penalty_scale: [0.5, 1.0]}
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from sklearn.model_selection import ParameterGrid

from hf_cxr.arguments import Settings, SettingsError, parse_settings
from hf_cxr.errors import UserError
from hf_cxr.runs import REPORT_FILE, SETTINGS_FILE, settings_hash

_KEYS = ("base", "settings", "seeds", "split", "reference", "grids")
_OWN = ("seed", "output_dir", "overwrite", "resume", "disable_tqdm")
"""Options that the ablation itself gives to its runs."""


class AblationError(UserError, ValueError):
    """A plan that cannot be run, or runs that cannot be compared."""


@dataclass(frozen=True)
class Run:
    """One training run: the arm's name, its seed, the command line words for `recipes/train.py`, its folder."""

    arm: str
    seed: int
    words: list[str]
    folder: Path

    def settings(self) -> Settings:
        """Parsed and checked, as the recipe will."""
        return parse_settings([*self.words, "--output_dir", str(self.folder)])

    @property
    def finished(self) -> bool:
        """Whether its report is there.

        Raises:
            AblationError: the run in its folder had other settings.
        """
        if not (self.folder / SETTINGS_FILE).is_file():
            return False
        then = yaml.safe_load((self.folder / SETTINGS_FILE).read_text(encoding="utf-8"))["settings_hash"]
        if then != settings_hash(self.settings().to_plain()):
            raise AblationError(
                f"{self.folder} holds a run with other settings than the plan's; delete it or choose another output_dir"
            )
        return (self.folder / REPORT_FILE).is_file()


@dataclass(frozen=True)
class Plan:
    """See the module; `reference` is the name of the arm that the others are compared with."""

    base: Path
    settings: dict[str, Any]
    seeds: tuple[int, ...]
    split: str
    reference: str
    arms: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read a plan.

        Raises:
            AblationError: no such file, a key is missing or unknown, no arm fits the reference, or several do.
        """
        if not path.is_file():
            raise AblationError(f"plan {path} does not exist")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or set(content) - set(_KEYS) or {"base", "grids", "reference"} - set(content):
            raise AblationError(f"{path}: expected the keys {', '.join(_KEYS)}, got {content}")
        settings, seeds, split = content.get("settings", {}), content.get("seeds", [0]), content.get("split", "test")
        grids, reference = content["grids"], content["reference"]
        _check_shapes(path, settings, seeds, split, grids, reference)
        arms = {_name(options): options for options in ParameterGrid(grids)}
        wanted = reference.items()
        fitting = [name for name, options in arms.items() if wanted <= options.items()]
        if len(fitting) != 1:
            raise AblationError(f"{path}: reference {reference} fits {fitting or 'no arm'} of {list(arms)}")
        for name, options in arms.items():
            # Otherwise an arm's name would not say what it is: a key left out is not the reference's.
            if missing := set(arms[fitting[0]]) - set(options):
                raise AblationError(f"{path}: arm {name} lacks {sorted(missing)}, which the reference names")
        return cls(path.parent / content["base"], settings, tuple(seeds), split, fitting[0], arms)

    def with_seeds(self, seeds: Sequence[int]) -> Plan:
        """The same plan with other seeds.

        Raises:
            AblationError: a seed is there twice.
        """
        if len(set(seeds)) < len(seeds):
            raise AblationError(f"seeds {list(seeds)}: expected different numbers")
        return replace(self, seeds=tuple(seeds))

    def label(self, arm: str) -> str:
        """An arm for readers: what it has other than the reference; the reference with all it has."""
        own, reference = self.arms[arm], self.arms[self.reference]
        shown = own if arm == self.reference else {k: v for k, v in own.items() if reference.get(k) != v}
        return ", ".join(f"{key} {value}" for key, value in shown.items())

    def runs(self, folder: Path, words: Sequence[str] = ()) -> list[Run]:
        """All runs, seed by seed, so that what is there after an interruption is comparable.

        Args:
            folder: of the ablation. words: more of the recipe's options, which win over the plan's settings.

        Raises:
            AblationError: a word that an arm varies, or that the ablation gives itself.
        """
        given = {word.removeprefix("--").split("=")[0] for word in words if word.startswith("--")}
        varied = {key for options in self.arms.values() for key in options}
        if taken := given & (varied | set(_OWN)):
            raise AblationError(f"{sorted(taken)} on the command line: the plan varies it, or the ablation sets it")
        made = []
        for seed in self.seeds:
            for arm, options in self.arms.items():
                own = [f"--{key}={_word(value)}" for key, value in (self.settings | options).items()]
                made.append(Run(arm, seed, [str(self.base), *own, *words, f"--seed={seed}"], folder / arm / f"s{seed}"))
        return made


def check(runs: Sequence[Run]) -> None:
    """Parse the settings of every run before any is started.

    Raises:
        SettingsError: with the arm it comes from.
    """
    for run in runs:
        try:
            run.settings()
        except ValueError as error:
            raise SettingsError(f"arm {run.arm}: {error}") from error


def _check_shapes(path: Path, settings: Any, seeds: Any, split: Any, grids: Any, reference: Any) -> None:
    """Raise for what would else fail after hours of training."""
    if not isinstance(settings, dict) or not isinstance(reference, dict):
        raise AblationError(f"{path}: settings and reference must be mappings, got {settings} and {reference}")
    if not isinstance(seeds, list) or not seeds or len(set(seeds)) < len(seeds):
        raise AblationError(f"{path}: seeds must be a list of different numbers, got {seeds}")
    if split not in ("validation", "test"):
        raise AblationError(f"{path}: split must be validation or test, got {split!r}")
    lists = isinstance(grids, list) and all(
        isinstance(grid, dict) and all(isinstance(values, list) and values for values in grid.values())
        for grid in grids
    )
    if not lists or not grids:
        raise AblationError(f"{path}: grids must be a list of mappings from an option to a list of values, got {grids}")
    if own := {key for grid in grids for key in grid if key in _OWN} | (set(settings) & set(_OWN)):
        raise AblationError(f"{path}: {sorted(own)} is set by the ablation itself; use seeds for seeds")


def _name(options: Mapping[str, Any]) -> str:
    return "+".join(f"{key}={_plain(value)}" for key, value in sorted(options.items()))


def _plain(value: Any) -> str:
    return re.sub(r"[^\w.-]+", "_", str(value)).strip("_")


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
