"""Settings of an adaptation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hf_cxr.adaptation.adapters import AdapterArguments
from hf_cxr.arguments import (
    DataArguments,
    LossArguments,
    PolicyArguments,
    RunArguments,
    SettingsError,
    parse_groups,
)
from hf_cxr.augmentation import AugmentationConfig
from hf_cxr.loading import shown
from hf_cxr.training_arguments import CXRTrainingArguments


@dataclass
class AdaptationArguments:
    """Which model is adapted to which films."""

    base: str = field(default="", metadata={"help": "The model to adapt: a run's folder or a name on the Hub."})
    hospital: str | None = field(
        default=None, metadata={"help": "The hospital's map (YAML); short for --dataset hospital --data_dir MAP."}
    )
    n_films: int | None = field(
        default=None, metadata={"help": "Train on this many films, drawn by the seed; default: all."}
    )
    epoch_films: int = field(
        default=320,
        metadata={"help": "An epoch has at least as many; fewer films come repeatedly, augmented otherwise."},
    )
    distillation: float = field(
        default=1.0,
        metadata={"help": "Weight with which the base's opinion is kept where a label is unknown; 0: none."},
    )
    rehearsal: float = field(
        default=1.0,
        metadata={
            "help": "Training films of the base's own data for each of the hospital's, on which its opinion is kept, "
            "where they are at hand; 0: none."
        },
    )
    base_data_dir: str | None = field(
        default=None,
        metadata={
            "help": "The base's own data, to forget less and to report it; default: as in its run.yaml, if there."
        },
    )

    def __post_init__(self) -> None:
        if not self.base:
            raise SettingsError(
                "base is missing: name the model to adapt, a run's folder or a name on the Hub (--base)"
            )
        if self.distillation < 0 or self.rehearsal < 0:
            raise SettingsError(
                f"distillation {self.distillation}, rehearsal {self.rehearsal}: expected 0 (none) or more"
            )
        if self.epoch_films < 1 or (self.n_films is not None and self.n_films < 1):
            raise SettingsError(f"epoch_films {self.epoch_films}, n_films {self.n_films}: expected at least 1 film")

    @property
    def rehearses(self) -> bool:
        """Whether films of the base's are wanted: nothing but distillation teaches anything of them."""
        return self.distillation > 0 and self.rehearsal > 0


@dataclass(frozen=True)
class AdaptationSettings:
    """All settings of an adaptation after defaults, YAML and command line are merged."""

    run: RunArguments
    adaptation: AdaptationArguments
    adapter: AdapterArguments
    data: DataArguments
    labels: PolicyArguments
    loss: LossArguments
    augmentation: AugmentationConfig
    training: CXRTrainingArguments

    def to_plain(self) -> dict[str, Any]:
        """Plain data for `run.yaml`, by group."""
        groups = ("adaptation", "adapter", "data", "labels", "loss", "augmentation")
        plain = {name: asdict(getattr(self, name)) for name in groups}
        plain["adaptation"]["base"] = shown(self.adaptation.base)
        return plain | {"training": {k: v for k, v in self.training.to_dict().items() if not k.startswith("_")}}


def parse_adaptation(argv: list[str] | None = None, description: str | None = None) -> AdaptationSettings:
    """The settings of an adaptation; see `arguments.parse_groups`.

    Raises:
        SettingsError: also where both `hospital` and `data_dir` are given, or neither.
    """
    groups = (
        RunArguments, AdaptationArguments, AdapterArguments, DataArguments, PolicyArguments, LossArguments,
        AugmentationConfig, CXRTrainingArguments,
    )  # fmt: skip
    settings = AdaptationSettings(*parse_groups(groups, argv, description))
    map_file, data = settings.adaptation.hospital, settings.data
    if (map_file is None) == (data.data_dir is None):
        raise SettingsError(
            "name the hospital's map by --hospital, or a data set by --dataset and --data_dir: one of them"
        )
    return (
        settings if map_file is None else replace(settings, data=replace(data, dataset="hospital", data_dir=map_file))
    )
