"""A model of the project by its folder or its name on the Hub: whole, or an adapter merged into its base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.utils.peft_utils import find_adapter_config_file

from hf_cxr.errors import UserError
from hf_cxr.growth import GrowthError, with_outputs
from hf_cxr.models import CXRConfig, CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.verification import identity


class ModelError(UserError, ValueError):
    """What was named cannot be used as a model."""


def load_model(name: str | Path, revision: str | None = None) -> CXRPreTrainedModel:
    """A model in float32 for inference.

    An adapter's folder (PEFT) has the adapted model's own config beside the adapter, with labels, calibration and
    operating points; its base is loaded by the name in `adapter_config.json`: a folder, from the current one or from
    those above the adapter, or a name on the Hub. transformers' own `AutoModelForImageClassification` would take the
    base's config instead, and with it other probabilities.

    Args:
        name: folder or name on the Hub. revision: branch, tag or commit of the latter.

    Raises:
        ModelError: no such folder, a file or a weight is missing, another kind of model, or an adapter whose base is
            another or not found.
    """
    with reading(name):
        adapter = find_adapter_config_file(str(name), revision=revision)
        if adapter:
            return _merged(str(name), revision)
        model = AutoModelForImageClassification.from_pretrained(name, revision=revision, dtype=torch.float32)
    if not isinstance(model, CXRPreTrainedModel):
        raise ModelError(f"{name} is a {type(model).__name__}; expected a model of this project")
    return model.eval()


def load_processor(name: str | Path) -> CXRImageProcessor:
    """The processor that lies beside a model.

    Raises:
        ModelError: there is none.
    """
    try:
        return CXRImageProcessor.from_pretrained(name)
    except (OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name}: has no image processor ({type(error).__name__}: {reason[:400]})") from error


def shown(name: str) -> str:
    """A model's name for others to read: of a folder the last part, which says nothing of this machine."""
    return Path(name).resolve().name if Path(name).exists() else name


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """What goes wrong with a model's files becomes a `ModelError` that names it; the project's own errors stay."""
    try:
        yield
    except UserError:
        raise
    except (OSError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name}: cannot be used as a model ({type(error).__name__}: {reason[:400]})") from error


def as_adapted(base: CXRPreTrainedModel, base_name: str, config: CXRConfig, name: str) -> CXRPreTrainedModel:
    """A copy of a base under the config of an adapter to it, with the adapter's outputs but not its weights.

    Args:
        base_name, name: of the base and of the adapter, for messages.

    Raises:
        ModelError: the adapter was trained on another base.
    """
    if (adapted := config.adapted_from) and adapted["weights"] != (found := identity(base)["weights"]):
        raise ModelError(
            f"{name}: adapted from a model with weights {adapted['weights']}; those of its base {base_name} are "
            f"{found}: it was trained again since, or is another"
        )
    try:
        return with_outputs(base, config)
    except GrowthError as error:
        raise ModelError(f"{name}: its base {base_name} is not what was adapted: {error}") from None


def _base_of(name: str, adapter: PeftConfig, config: CXRConfig) -> str:
    """Where an adapter's base is; of a folder that is not found, the Hub is not asked."""
    base, place = str(adapter.base_model_name_or_path), Path(name).expanduser()
    if Path(base).exists() or not place.is_dir():
        return base
    place = place.resolve()
    # As it was typed where the adapter was trained; or both folders side by side, as they were sent.
    for found in (*(above / base for above in (place, *place.parents)), place.parent / Path(base).name):
        if found.is_dir():
            return str(found)
    # A folder's name is stored without those above it, and what was published has its base's revision.
    adapted = config.adapted_from
    if "/" in base and (adapter.revision or not adapted or adapted["name"] == base):
        return base
    raise ModelError(
        f"{name}: an adapter to {base}, which is neither in the current folder ({Path.cwd()}) nor in one above the "
        "adapter. Start where it lies, put it beside the adapter, or write its path into the adapter's "
        "adapter_config.json (base_model_name_or_path; for a name on the Hub also its revision)"
    )


def _merged(name: str, revision: str | None) -> CXRPreTrainedModel:
    config = AutoConfig.from_pretrained(name, revision=revision)
    adapter = PeftConfig.from_pretrained(name, revision=revision)
    if not adapter.base_model_name_or_path:
        raise ModelError(f"{name}: adapter_config.json names no base model (base_model_name_or_path)")
    base = load_model(_base_of(name, adapter, config), adapter.revision)
    model = as_adapted(base, adapter.base_model_name_or_path, config, name)
    return PeftModel.from_pretrained(model, name, revision=revision).merge_and_unload().eval()
