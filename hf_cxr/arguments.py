"""Settings of a training run: dataclasses, YAML < command line, unknown keys are errors."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from hf_cxr.augmentation import AugmentationConfig
from hf_cxr.data import BUILDERS
from hf_cxr.errors import UserError
from hf_cxr.hierarchy import Hierarchy, load_taxonomy
from hf_cxr.labels import LabelPolicy
from hf_cxr.losses import EDGE_WEIGHTS, LOSSES
from hf_cxr.models.configuration import HEADS, LINKS
from hf_cxr.models.processing import FITS
from hf_cxr.training_arguments import CXRTrainingArguments

NORMALISATIONS = ("dataset", "film")


class SettingsError(UserError, ValueError):
    """Settings that cannot be used; the message names the key and the file."""


@dataclass
class RunArguments:
    """What happens to the run's folder (`output_dir`), and what is measured beside the model."""

    overwrite: bool = field(default=False, metadata={"help": "Replace the run that is in output_dir."})
    resume: bool = field(
        default=False, metadata={"help": "Go on with the run in output_dir, or begin one where there is none."}
    )
    energy_country: str | None = field(
        default=None,
        metadata={"help": "Measure energy (extra `energy`), and CO2 by this country's electricity (e.g. DEU)."},
    )


@dataclass
class DataArguments:
    """Which films."""

    dataset: str = field(default="phantom", metadata={"help": f"{', '.join(BUILDERS)}."})
    data_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder of the data set, or a hospital's map (YAML), or hf://datasets/org/name of shards; phantom "
            "makes its own."
        },
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where Arrow files go; default: datasets' own."})
    view: str = field(default="frontal", metadata={"help": "frontal, PA, AP, lateral or all."})
    validation_fraction: float = field(default=0.1, metadata={"help": "Share of training patients for validation."})
    split_seed: int = field(default=0, metadata={"help": "Seed of the validation split; not the training seed."})
    skip_missing: bool = field(default=False, metadata={"help": "Go on without missing or unreadable films, counted."})
    data_options: dict | str | None = field(
        default=None, metadata={"help": 'More options of the builder as JSON, e.g. {"train_csv": "visual.csv"}.'}
    )
    num_proc: int | None = field(
        default=None, metadata={"help": "Processes that decode films on each machine; default: its cores."}
    )
    streaming: bool = field(
        default=False, metadata={"help": "Decode training films while training, from Parquet shards; no cache."}
    )
    stream_window: int = field(
        default=1024, metadata={"help": "Films of a stream shuffled together, undecoded in each worker's memory."}
    )

    def __post_init__(self) -> None:
        _expect("dataset", self.dataset, list(BUILDERS))
        self.data_options = _json("data_options", self.data_options)
        if self.streaming and self.dataset != "shards":
            raise SettingsError(
                f"streaming reads Parquet shards, and dataset is {self.dataset}: write shards of it "
                "(hf_cxr.data.write_shards, recipes/push_dataset.py), and train with dataset: shards"
            )
        if self.stream_window < 1:
            raise SettingsError(f"stream_window: got {self.stream_window}, expected 1 or more")

    @property
    def wants_lateral(self) -> bool:
        """Whether lateral films are among the wanted views."""
        return self.view in ("lateral", "all")

    def builder_options(self) -> dict[str, Any]:
        """Options for `data.load_splits`."""
        own = ("view", "validation_fraction", "split_seed", "skip_missing")
        streamed = {"streaming": True} if self.streaming else {}
        return {name: getattr(self, name) for name in own} | streamed | _json("data_options", self.data_options)


@dataclass
class PolicyArguments:
    """What cells mean; see `labels.LabelPolicy`."""

    uncertain: str = field(default="ignore", metadata={"help": "Policy, or JSON of {label: policy, default: policy}."})
    blank: str = field(default="ignore", metadata={"help": "What a blank cell means: ignore (unknown) or zeros."})
    conflict: str = field(default="child_wins", metadata={"help": "child_wins, parent_wins, unknown or error."})
    allow_empty_labels: bool = field(
        default=False, metadata={"help": "Train although a label has no positive training film; its AUROC is null."}
    )

    def policy(self, seed: int) -> LabelPolicy:
        """The label policy as set."""
        uncertain = _json("uncertain", self.uncertain) if self.uncertain.startswith("{") else self.uncertain
        return LabelPolicy(uncertain, self.blank, self.conflict, seed)


@dataclass
class LabelArguments(PolicyArguments):
    """How findings become targets."""

    taxonomy: str = field(default="nih", metadata={"help": "Name of a taxonomy or path of a YAML file."})
    flat_taxonomy: bool = field(default=False, metadata={"help": "Drop the taxonomy's groups and edges."})
    gate_definition: str | None = field(default=None, metadata={"help": "any_finding or not_no_finding."})

    def hierarchy(self) -> Hierarchy:
        """The taxonomy as set."""
        hierarchy = load_taxonomy(self.taxonomy, flat=self.flat_taxonomy)
        return hierarchy.with_gate_definition(self.gate_definition) if self.gate_definition else hierarchy


@dataclass
class ModelArguments:
    """Which model."""

    model: str = field(default="densenet", metadata={"help": "densenet (any convolutional backbone) or vit."})
    two_stage: bool = field(default=False, metadata={"help": "Train a gate and a finding model one after the other."})
    backbone: str = field(default="densenet121", metadata={"help": "timm model name."})
    backbone_kwargs: dict | str | None = field(default=None, metadata={"help": "JSON for timm.create_model."})
    backbone_weights: str | None = field(
        default=None, metadata={"help": "hub (timm's), a local file, a model of this project (folder, Hub), or none."}
    )
    image_size: int = field(default=224, metadata={"help": "Side of the square input in pixels."})
    fit: str = field(default="pad", metadata={"help": "How a film that is not square fits: pad, crop or stretch."})
    normalisation: str = field(
        default="dataset", metadata={"help": "By the training films' mean and deviation (dataset) or each film's own."}
    )
    head: str = field(default="plain", metadata={"help": "plain or r1."})
    head_dropout: float = field(default=0.0, metadata={"help": "Dropout in the head."})
    link: str = field(default="conditional", metadata={"help": "flat, or conditional (consistent by construction)."})

    def __post_init__(self) -> None:
        self.backbone_kwargs = _json("backbone_kwargs", self.backbone_kwargs)
        self.backbone_weights = None if self.backbone_weights in (None, "none") else self.backbone_weights
        for name, allowed in (
            ("model", ("densenet", "vit")),
            ("head", HEADS),
            ("link", LINKS),
            ("fit", FITS),
            ("normalisation", NORMALISATIONS),
        ):
            _expect(name, getattr(self, name), allowed)


@dataclass
class LossArguments:
    """Which loss; see `losses.HBCELoss`."""

    loss: str = field(default="bce", metadata={"help": "bce, hbce_step (R1's, without gradient) or hbce_soft."})
    penalty_scale: float = field(default=1.0, metadata={"help": "λ of the hierarchical penalty."})
    edge_weight: str = field(default="fixed", metadata={"help": "fixed (1 an edge) or data (from training labels)."})
    balanced_pos_weight: bool = field(default=False, metadata={"help": "Weight positives by negatives / positives."})

    def __post_init__(self) -> None:
        _expect("loss", self.loss, LOSSES)
        _expect("edge_weight", self.edge_weight, EDGE_WEIGHTS)


@dataclass(frozen=True)
class Settings:
    """All settings of a run after defaults, YAML and command line are merged."""

    run: RunArguments
    data: DataArguments
    labels: LabelArguments
    model: ModelArguments
    loss: LossArguments
    augmentation: AugmentationConfig
    training: CXRTrainingArguments

    def __post_init__(self) -> None:
        if self.data.streaming and self.training.sampling != "uniform":
            raise SettingsError(
                f"sampling: {self.training.sampling} draws films again from all over the set, and a stream reads each "
                "shard once an epoch; use uniform, or leave streaming out"
            )
        if self.loss.loss != "bce" and not (hierarchy := self.labels.hierarchy()).edges:
            raise SettingsError(
                f"loss: {self.loss.loss} penalises edges of the taxonomy, and '{hierarchy.name}' has none; use bce"
            )

    def to_plain(self) -> dict[str, Any]:
        """Plain data for `run.yaml`, by group."""
        plain = {name: asdict(getattr(self, name)) for name in ("data", "labels", "model", "loss", "augmentation")}
        return plain | {"training": {k: v for k, v in self.training.to_dict().items() if not k.startswith("_")}}


_GROUPS: tuple[Any, ...] = (
    RunArguments,
    DataArguments,
    LabelArguments,
    ModelArguments,
    LossArguments,
    AugmentationConfig,
    CXRTrainingArguments,
)


def parse_settings(argv: Sequence[str] | None = None, description: str | None = None) -> Settings:
    """The settings of a training run; see `parse_groups`."""
    return Settings(*parse_groups(_GROUPS, argv, description))


def parse_groups(
    groups: tuple[Any, ...],
    argv: Sequence[str] | None = None,
    description: str | None = None,
    defaults: dict[str, Any] | None = None,
) -> list[Any]:
    """Read `recipe.py [CONFIG.yaml] [--key value …]`; the command line wins over the file, the file over defaults.

    Args:
        groups: dataclasses, whose fields are the options.
        argv: arguments without the program's name; default `sys.argv[1:]`.
        description: for `--help`.
        defaults: values that the file and the command line win over, instead of the dataclasses' own.

    Returns:
        one instance a group.

    Raises:
        SettingsError: unknown key in the file, with the nearest known one; or the file is no mapping.
        ValueError: an unknown option or a value out of range.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    known = {f.name for group in groups for f in fields(group) if f.init}
    parser = HfArgumentParser(groups, description=description, allow_abbrev=False)
    if words and not words[0].startswith("-"):
        words = _words_of_yaml(Path(words[0]), known) + words[1:]
    words = _words({k: v for k, v in (defaults or {}).items() if k in known}) + words
    parsed, rest = parser.parse_known_args(words)
    if rest:
        raise SettingsError(f"unknown options {' '.join(rest)}{_nearest(rest[0].split('=')[0].lstrip('-'), known)}")
    return [group(**{f.name: getattr(parsed, f.name) for f in fields(group) if f.init}) for group in groups]


def _nearest(key: str, known: set[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else "; see --help"


def _words_of_yaml(path: Path, known: set[str]) -> list[str]:
    """A settings file as command line words, so that both go through the same checks."""
    if not path.is_file():
        raise SettingsError(f"settings file {path} does not exist")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: expected a mapping of settings, got {type(content).__name__}")
    for key in content:
        if key not in known:
            raise SettingsError(f"{path}: unknown key '{key}'{_nearest(str(key), known)}")
    return _words(content)


def _words(content: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for key, value in content.items():
        if isinstance(value, list):
            words += [f"--{key}", *map(str, value)]
        elif value is not None:
            words.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return words


def _json(name: str, value: Any) -> dict[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise SettingsError(f"{name}: {value!r} is not JSON ({error})") from None
    if not isinstance(parsed, dict):
        raise SettingsError(f"{name}: expected a JSON object, got {value!r}")
    return parsed


def _expect(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise SettingsError(f"{name}: got {value!r}, expected one of {', '.join(allowed)}")
