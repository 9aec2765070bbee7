"""What of a model is trained on a new hospital's films: low-rank adapters (PEFT), the head alone, or everything."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from timm.utils import freeze, unfreeze
from torch import nn

from hf_cxr.errors import UserError
from hf_cxr.models import CXRPreTrainedModel

METHODS = ("lora", "head", "full")
VARIANTS = ("lora", "rslora", "dora")
TARGETS = {
    "cxr-densenet": (
        r"backbone\.features\.(conv0|transition\d\.conv|denseblock[12]\..*\.conv1)",
        r"backbone\..*\.conv[1-9]",
    ),
    "cxr-vit": (r"backbone\..*\.attn\.(qkv|proj)",),
}
"""Layers that get an adapter by default: the first pattern that fits any. A DenseNet's early convolutions and the ways
between its blocks, since another hospital's films differ in how they look rather than in what is on them: on training
and validation patients of `kermany224`, cut anew, the gate's AUROC was 0.968 with them and 0.970 with all convolutions,
of 2.0 % and 4.6 % of the parameters, and 0.94 with the last block's alone. Then any residual net's convolutions, and
attention."""
SAVED = "trunk"
"""The module of the head that is trained as a whole and saved with the adapter."""


class AdapterError(UserError, ValueError):
    """A model that cannot be adapted as asked."""


@dataclass
class AdapterArguments:
    """What is trained."""

    method: str = field(default="lora", metadata={"help": "lora, head (the head alone) or full."})
    lora_variant: str = field(default="lora", metadata={"help": "lora, rslora or dora."})
    lora_rank: int = field(default=4, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=8, metadata={"help": "Their scale: alpha / rank (rslora: / root of the rank)."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before an adapter."})
    lora_targets: str | None = field(
        default=None, metadata={"help": "Regular expression of the layers' full names; default: by the backbone."}
    )

    merge: bool = field(
        default=False, metadata={"help": "Save a whole model with the adapter merged in, which needs no base."}
    )

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("method", self.method, METHODS),
            ("lora_variant", self.lora_variant, VARIANTS),
        ):
            if value not in allowed:
                raise AdapterError(f"{name}: got {value!r}, expected one of {', '.join(allowed)}")
        if self.merge and self.method != "lora":
            raise AdapterError(
                f"merge: there is no adapter to merge with method {self.method}, which saves a whole model"
            )
        if self.lora_rank < 1 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise AdapterError(
                f"lora_rank {self.lora_rank}, lora_alpha {self.lora_alpha}, lora_dropout {self.lora_dropout}: expected "
                "a rank of at least 1, an alpha above 0, a dropout in [0, 1)"
            )


def adapt(model: CXRPreTrainedModel, arguments: AdapterArguments) -> Any:
    """Make a model trainable in the way asked for, in place.

    With `lora` and `head` the backbone's batch norms are frozen (timm's `freeze`): their running statistics would move
    with the hospital's films, and an adapter does not save them. A batch norm in the head is trained and saved with it.

    Returns:
        A `peft.PeftModel`, or the model itself.

    Raises:
        AdapterError: no layer fits `lora_targets`, or one that fits cannot have an adapter.
    """
    if arguments.method == "full":
        return model.requires_grad_(True)
    freeze(model, ["backbone"])
    if arguments.method == "head":
        return model
    modules = [name for name, _ in model.named_modules()]
    patterns = (arguments.lora_targets,) if arguments.lora_targets else TARGETS[model.config.model_type]
    pattern = next((p for p in patterns if any(re.fullmatch(p, name) for name in modules)), None)
    if pattern is None:
        names = [name for name, part in model.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
        raise AdapterError(
            f"lora_targets {' or '.join(patterns)} fits no layer of {model.config.backbone}, whose last are "
            f"{', '.join(names[-8:])}"
        )
    config = LoraConfig(
        r=arguments.lora_rank,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        use_rslora=arguments.lora_variant == "rslora",
        use_dora=arguments.lora_variant == "dora",
        target_modules=pattern,
        modules_to_save=[SAVED],
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise AdapterError(f"lora_targets {pattern!r} on {model.config.backbone}: {error}") from error


def save(adapted: Any, arguments: AdapterArguments, base: str, folder: Path) -> None:
    """Write what was trained: the adapter with its own config beside it, or a whole model.

    Args:
        adapted: of `adapt`, trained. base: the model's folder or name, which the adapter needs.
    """
    if arguments.method == "lora" and not arguments.merge:
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card
        adapted.get_base_model().config.save_pretrained(folder)
        return
    whole = adapted.merge_and_unload() if arguments.method == "lora" else adapted
    unfreeze(whole, ["backbone"])  # batch norms are themselves again, under the names that a checkpoint has
    whole.save_pretrained(folder)


def trained_parameters(model: nn.Module) -> tuple[int, int]:
    """How many numbers of a model are trained, and how many it has for use: those of the base that a trained copy
    replaces are not counted."""
    used = {name: p for name, p in model.named_parameters() if ".original_module." not in name}
    return sum(p.numel() for p in used.values() if p.requires_grad), sum(p.numel() for p in used.values())
