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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.model_selection import ParameterGrid
from transformers import AutoConfig

from hf_cxr.arguments import Settings, SettingsError, parse_settings
from hf_cxr.bootstrap import Bootstrap, Figure, Resamples
from hf_cxr.evaluation import EvalReport
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.intervals import bootstrap_table
from hf_cxr.predictions import PredictionTable
from hf_cxr.runs import REPORT_FILE, SETTINGS_FILE, settings_hash

_KEYS = ("base", "settings", "seeds", "split", "reference", "grids")
_OWN = ("seed", "output_dir", "overwrite", "resume", "disable_tqdm")
"""Options that the ablation itself gives to its runs."""
MACRO, WEIGHTED, GATE = ("macro_auroc", ""), ("weighted_auroc", ""), ("auroc", "gate")
FIGURES: dict[str, Figure] = {"macro_auroc": MACRO, "weighted_auroc": WEIGHTED, "gate_auroc": GATE}


class AblationError(ValueError):
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


def summarise(plan: Plan, runs: Sequence[Run], n_resamples: int = 1000) -> dict[str, Any]:
    """What came out, as plain data.

    Intervals are over patients (`intervals`), of the mean over seeds: each seed's figure is resampled on the same
    patients and averaged. They hold for these seeds' models; the spread over seeds stands beside them. Figures are over
    the findings that all arms have.

    Returns:
        `{split, reference, findings, n_resamples, arms: {name: {options, label, n_seeds, <figure>: {mean, spread, ci,
        difference, difference_ci, p, undefined}, share_out_of_order, edges_violated}}}`, figures being `macro_auroc`,
        `weighted_auroc` and `gate_auroc`; spread is None with one seed, what is out of order without edges.

    Raises:
        AblationError: runs were evaluated on other films or truth, or trained on other data.
    """
    tables = {run.folder: PredictionTable.read(run.folder / f"predictions_{plan.split}.csv") for run in runs}
    hierarchies = [_hierarchy(run) for run in runs]
    first, gate = tables[runs[0].folder], hierarchies[0].gate
    findings = tuple(n for n in hierarchies[0].findings if all(n in each.findings for each in hierarchies))
    if any(each.gate != gate for each in hierarchies):
        gate = None
    names = (*findings, gate) if gate else findings
    resamples = Resamples.of(first.patients, n_resamples, 0, first.unit)
    data = {EvalReport.from_json(_report(run, plan.split)).provenance["data"]["fingerprint"] for run in runs}
    if len(data) > 1:
        raise AblationError(f"the runs were trained on different data (fingerprints {sorted(data)})")
    drawn: dict[str, list[Bootstrap]] = {}
    for run in runs:
        table = tables[run.folder]
        own = table.in_order(names)
        same = list(table.ids) == list(first.ids)
        if not same or not np.array_equal(own.truth, first.in_order(names).truth, equal_nan=True):
            what = "truth" if same else "films"
            raise AblationError(f"{run.folder}: other {what} than {runs[0].folder}; compare runs on the same data")
        drawn.setdefault(run.arm, []).append(
            bootstrap_table(names, own.truth, own.probability, resamples, {"": findings})
        )
    arms = {}
    for arm, options in plan.arms.items():
        reports = [EvalReport.from_json(_report(run, plan.split)) for run in runs if run.arm == arm]
        row: dict[str, Any] = {"options": options, "label": plan.label(arm), "n_seeds": len(drawn[arm])}
        for name, figure in FIGURES.items():
            key = ("auroc", gate or "") if figure == GATE else figure
            if key[0] != "auroc" or gate is not None:
                row[name] = _figure(drawn[arm], drawn[plan.reference], key)
        flat = [report.hierarchy["flat"] for report in reports]
        arms[arm] = row | {
            name: float(np.mean([each[name] for each in flat])) if flat[0]["n_edges"] else None
            for name in ("share_out_of_order", "edges_violated")
        }
    return {
        "split": plan.split,
        "size": EvalReport.from_json(_report(runs[0], plan.split)).size,
        "reference": plan.reference,
        "seeds": list(plan.seeds),
        "findings": list(findings),
        "n_resamples": n_resamples,
        "arms": arms,
    }


def markdown(summary: Mapping[str, Any]) -> str:
    """The summary as a table for readers."""
    head = ["arm", "macro AUROC", "over seeds", "difference", "p", "weighted", "gate", "films out of order"]
    rows = []
    for arm, row in summary["arms"].items():
        macro, of_gate = row["macro_auroc"], row.get("gate_auroc", {"mean": None})
        gap = f"{_number(macro['difference'], '+')}{_interval(macro['difference_ci'], '+')}"
        rows.append(
            [
                row["label"],
                f"{_number(macro['mean'])}{_interval(macro['ci'])}",
                "–" if macro["spread"] is None else f"± {macro['spread']:.4f}",
                "reference" if arm == summary["reference"] else gap,
                "–" if macro["p"] is None else f"{macro['p']:.3f}",
                _number(row["weighted_auroc"]["mean"]),
                _number(of_gate["mean"]),
                "no edges" if row["share_out_of_order"] is None else f"{row['share_out_of_order']:.1%}",
            ]
        )
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    note = (
        f"Split “{summary['split']}”: {summary['size']}; {len(summary['findings'])} findings; means over the seeds "
        f"{', '.join(map(str, summary['seeds']))}. Brackets: 95 % intervals over patients, {summary['n_resamples']:,} "
        "resamples, of these seeds' models, differences paired; p is not corrected for the number of arms, and "
        "there is none where no resample differs."
    )
    return f"{note}\n\n" + "\n".join(lines) + "\n"


def _number(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.4f}"


def _interval(ci: Sequence[float] | None, sign: str = "") -> str:
    return "" if ci is None else f" ({ci[0]:{sign}.4f} to {ci[1]:{sign}.4f})"


def _figure(own: Sequence[Bootstrap], reference: Sequence[Bootstrap], key: Figure) -> dict[str, Any]:
    values = [each.point[key] for each in own]
    if any(value is None for value in [*values, *(each.point[key] for each in reference)]):
        reason = own[0].reasons.get(key, "undefined on these films")
        empty = dict.fromkeys(("mean", "spread", "ci", "difference", "difference_ci", "p"))
        return empty | {"undefined": reason}
    mean, other = _mean(own, key), _mean(reference, key)
    gap = mean.minus(other)
    interval, of_gap = mean.interval(key), gap.interval(key)
    return {
        "mean": mean.point[key],
        "spread": float(np.std(np.array(values, float), ddof=1)) if len(values) > 1 else None,
        "ci": None if interval.undefined else [interval.low, interval.high],
        "difference": gap.point[key],
        "difference_ci": None if of_gap.undefined else [of_gap.low, of_gap.high],
        "p": gap.p_value(key),
        "undefined": None,
    }


def _mean(drawn: Sequence[Bootstrap], key: Figure) -> Bootstrap:
    """The mean over seeds, resample by resample."""
    point = float(np.mean(np.array([each.point[key] for each in drawn], float)))
    draws = np.mean([each.draws[key] for each in drawn], axis=0)
    return Bootstrap({key: point}, {key: draws}, drawn[0].resamples, drawn[0].reasons)


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


def _report(run: Run, split: str) -> Path:
    beside = run.folder / f"eval_report_{split}.json"
    return beside if beside.is_file() else run.folder / REPORT_FILE


def _hierarchy(run: Run) -> Hierarchy:
    return Hierarchy.from_config(AutoConfig.from_pretrained(run.folder))


def _name(options: Mapping[str, Any]) -> str:
    return "+".join(f"{key}={_plain(value)}" for key, value in sorted(options.items()))


def _plain(value: Any) -> str:
    return re.sub(r"[^\w.-]+", "_", str(value)).strip("_")


def _word(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
