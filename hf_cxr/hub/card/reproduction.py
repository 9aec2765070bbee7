"""The settings of a run as a file that others can train by: what differs from the defaults, without this machine."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import yaml

from hf_cxr.adaptation import AdaptationArguments, AdapterArguments, parse_adaptation
from hf_cxr.arguments import DataArguments, LabelArguments, LossArguments, ModelArguments, parse_settings
from hf_cxr.augmentation import AugmentationConfig
from hf_cxr.hierarchy import taxonomy_names
from hf_cxr.training_arguments import CXRTrainingArguments

ELSEWHERE = "FILE"
"""In place of a path: the file is the user's."""
_GROUPS = {
    "data": DataArguments, "labels": LabelArguments, "model": ModelArguments, "loss": LossArguments,
    "augmentation": AugmentationConfig, "training": CXRTrainingArguments, "adaptation": AdaptationArguments,
    "adapter": AdapterArguments,
}  # fmt: skip
# Of the user and the machine, and without an influence on any figure.
_PRIVATE = (
    "output_dir", "data_dir", "cache_dir", "logging_dir", "resume_from_checkpoint", "run_name", "project", "report_to",
    "hospital", "base_data_dir", "disable_tqdm", "num_proc", "dataloader_num_workers", "local_rank", "deepspeed",
    "fsdp", "fsdp_config",
)  # fmt: skip


def settings_file(settings: dict[str, Any]) -> str:
    """YAML for `recipes/train.py`, or of an adaptation `finetune_lora.py`: every setting that is not the default.

    Folders are left out, and a path is `FILE`: a taxonomy, weights or a table of the user's own.

    Args:
        settings: of `run.yaml`.
    """
    adapted = "adaptation" in settings
    words = ["--base", "BASE", "--hospital", "MAP"]
    defaults = (parse_adaptation(words) if adapted else parse_settings([])).to_plain()
    chosen: dict[str, Any] = {}
    for group, kind in _GROUPS.items():
        known = {field.name for field in fields(kind) if field.init}
        for name, value in settings.get(group, {}).items():
            if name in known and not _is_private(name) and value != defaults[group][name]:
                chosen[name] = _without_paths(name, value)
    return yaml.safe_dump(chosen, sort_keys=False, default_flow_style=None, allow_unicode=True, width=100).strip()


def has_own_files(settings: dict[str, Any]) -> bool:
    """Whether the run cannot be repeated without a file of the user's."""
    return f": {ELSEWHERE}" in settings_file(settings)


def _is_private(name: str) -> bool:
    return name in _PRIVATE or name.startswith(("hub_", "push_to_hub", "trackio_"))


def _without_paths(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_paths(key, entry) for key, entry in value.items()}
    if not isinstance(value, str):
        return value
    own = name == "train_csv" or (name == "taxonomy" and value not in taxonomy_names())
    own |= name == "backbone_weights" and value != "hub"
    return ELSEWHERE if own or "/" in value or "\\" in value else value
