"""Adapters of several sites to one base, read and checked before anything is averaged."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import AutoConfig
from transformers.utils.peft_utils import find_adapter_config_file

from hf_cxr.adaptation.adapters import SAVED
from hf_cxr.errors import UserError
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.loading import as_adapted, load_processor, reading
from hf_cxr.models import CXRConfig, CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.runs import REPORT_FILE

HEAD = f"base_model.model.head.{SAVED}."
"""What begins the names of the head's weights in an adapter's file; PEFT's words, then the model's."""


class AveragingError(UserError, ValueError):
    """Adapters that cannot be averaged as asked."""


@dataclass(frozen=True, eq=False)
class Site:
    """One site's adapter.

    Attributes:
        name: of its hospital, or of its data set. folder: of the adapter; for loading and messages, written nowhere.
        report: fingerprint of its `eval_report.json`. films: it was trained on.
        data: `provenance["data"]` of the report.
        config: of the adapted model. processor: beside it.
        lora: how the low-rank layers are made; plain LoRA of the same scale where it was rank-stabilised.
        layers: weights of the low-rank layers. head: of the trunk, `{name in the trunk: weight}`.
    """

    name: str
    folder: Path
    report: str
    films: int
    data: dict[str, Any]
    config: CXRConfig
    processor: CXRImageProcessor
    lora: LoraConfig
    layers: dict[str, Tensor]
    head: dict[str, Tensor]

    @property
    def targets(self) -> frozenset[str]:
        """Names of the layers that have low-rank layers, as in the file."""
        return frozenset(name.rsplit(".lora_", 1)[0] for name in self.layers)

    def model(self, base: CXRPreTrainedModel) -> CXRPreTrainedModel:
        """The site's own model, as `load_model` of its folder gives it, on this base."""
        with reading(self.folder):
            grown = as_adapted(base, "the base", self.config, str(self.folder))
            return PeftModel.from_pretrained(grown, str(self.folder)).merge_and_unload().eval()


def read_sites(base: CXRPreTrainedModel, base_name: str, folders: Sequence[Path]) -> list[Site]:
    """Read what `recipes/finetune_lora.py --method lora` wrote at each site.

    Args:
        base: what all were adapted from, float32. base_name: for messages.

    Raises:
        ModelError: a file is missing or broken, or an adapter to another base.
        AveragingError: a whole model, another kind of adapter, DoRA, weights that are not finite, no report, or other
            image processors.
    """
    sites = [_read(base, base_name, folder) for folder in folders]
    first, *others = sites
    for site in others:
        if different := _different(_prepares(first.processor), _prepares(site.processor)):
            raise AveragingError(
                f"{first.folder} and {site.folder} prepare films differently ({different}), so that their weights mean "
                "other things; adapt both with the same preprocessor_config.json"
            )
    return sites


def _read(base: CXRPreTrainedModel, base_name: str, folder: Path) -> Site:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; expected one that recipes/finetune_lora.py wrote")
    with reading(folder):
        if not find_adapter_config_file(str(folder)):
            raise AveragingError(
                f"{folder} has no adapter_config.json: it is no adapter. Adapt with --method lora and without --merge"
            )
        config, lora = AutoConfig.from_pretrained(folder), PeftConfig.from_pretrained(str(folder))
        _check_kind(folder, lora)
        if not config.adapted_from:
            raise AveragingError(
                f"{folder}: config.json does not say from which weights it was adapted (adapted_from); adapt again"
            )
        grown = as_adapted(base, base_name, config, str(folder))
        weights = {name: _float(value) for name, value in load_peft_weights(str(folder), device="cpu").items()}
    head = {name.removeprefix(HEAD): value for name, value in weights.items() if name.startswith(HEAD)}
    layers = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
    wanted = {name: value.shape for name, value in getattr(grown.head, SAVED).state_dict().items()}
    strange = [name for name in layers if not re.match(r"base_model\.model\.backbone\..*\.lora_[AB]\.", name)]
    if strange or {name: value.shape for name, value in head.items()} != wanted:
        raise AveragingError(
            f"{folder}: adapter_model.safetensors has beside low-rank layers of the backbone {strange[:3]}, and of the "
            f"head {sorted(head)}; expected the head's {sorted(wanted)} and nothing else"
        )
    if bad := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise AveragingError(f"{folder}: {bad[0]} holds numbers that are not finite; its training failed, train again")
    _check_labels(base, folder, config)
    return Site(
        **_reported(folder),
        folder=folder,
        config=config,
        processor=load_processor(folder),
        lora=_plain(lora),
        layers=layers,
        head=head,
    )


def _check_kind(folder: Path, lora: Any) -> None:
    if not isinstance(lora, LoraConfig):
        raise AveragingError(f"{folder} is a {lora.peft_type} adapter; expected LORA")
    if lora.use_dora:
        # PEFT adds DoRA's low-rank parts and leaves its magnitudes where they were: neither a sum nor an error.
        raise AveragingError(f"{folder} is a DoRA adapter, whose magnitudes PEFT cannot average; adapt with lora")
    plain = {
        "bias": lora.bias == "none" and not lora.lora_bias,
        "init_lora_weights": isinstance(lora.init_lora_weights, bool),  # others change the base's own weights
        "modules_to_save": list(lora.modules_to_save or ()) == [SAVED],
        "rank_pattern": not lora.rank_pattern,
        "alpha_pattern": not lora.alpha_pattern,
        "target_modules": isinstance(lora.target_modules, str),
    }
    if wrong := [f"{name} {getattr(lora, name)!r}" for name, right in plain.items() if not right]:
        raise AveragingError(f"{folder}: adapter_config.json is not as recipes/finetune_lora.py writes it: {wrong}")


def _plain(lora: Any) -> LoraConfig:
    if lora.use_rslora:
        # PEFT would set alpha for the scale alpha / rank, and then use it for alpha / √rank.
        lora.lora_alpha, lora.use_rslora = lora.lora_alpha * sqrt(lora.r), False
    return lora


def _check_labels(base: CXRPreTrainedModel, folder: Path, config: CXRConfig) -> None:
    own = Hierarchy.from_config(base.config).nodes
    for mine, theirs in zip(own, Hierarchy.from_config(config).nodes, strict=False):
        if mine != theirs:
            raise AveragingError(
                f"{folder}: label '{theirs.name}' is a {theirs.kind} under {list(theirs.parents)}, in the base a "
                f"{mine.kind} under {list(mine.parents)}"
            )


def _reported(folder: Path) -> dict[str, Any]:
    path = folder / REPORT_FILE
    if not path.is_file():
        raise AveragingError(f"{folder} has no {REPORT_FILE}, which says what it was trained on; ask the site for it")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        data, films = report["data"], int(report["training"]["model"]["films"])
        _ = data["fingerprint"]  # by which a map is known to be of these films
        name = str(data.get("hospital", {}).get("hospital") or data["dataset"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AveragingError(f"{path} is not the report of an adaptation ({type(error).__name__}: {error})") from error
    if films < 1:
        raise AveragingError(f"{path}: trained on {films} films; expected at least one")
    return {
        "name": name,
        "report": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "films": films,
        "data": data,
    }


def _prepares(processor: CXRImageProcessor) -> dict[str, Any]:
    return json.loads(processor.to_json_string())


def _different(one: dict[str, Any], other: dict[str, Any]) -> str:
    keys = sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key))
    return "; ".join(f"{key}: {one.get(key)!r} and {other.get(key)!r}" for key in keys)


def _float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
