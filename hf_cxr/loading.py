"""A model of the project by its folder or its name on the Hub: whole, or an adapter merged into its base."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoConfig, AutoModelForImageClassification
from transformers.utils.peft_utils import find_adapter_config_file

from hf_cxr.errors import UserError
from hf_cxr.growth import GrowthError, with_outputs
from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.verification import identity


class ModelError(UserError, ValueError):
    """What was named cannot be used as a model."""


def load_model(name: str | Path, revision: str | None = None) -> CXRPreTrainedModel:
    """A model in float32 for inference.

    An adapter's folder (PEFT) has the adapted model's own config beside the adapter, with labels, calibration and
    operating points; its base is loaded by the name in `adapter_config.json`. transformers' own
    `AutoModelForImageClassification` would take the base's config instead, and with it other probabilities.

    Args:
        name: folder or name on the Hub. revision: branch, tag or commit of the latter.

    Raises:
        ModelError: no such folder, a file or a weight is missing, another kind of model, or an adapter to another base.
    """
    try:
        adapter = find_adapter_config_file(str(name), revision=revision)
        if adapter:
            return _merged(str(name), revision)
        model = AutoModelForImageClassification.from_pretrained(name, revision=revision, dtype=torch.float32)
    except ModelError:
        raise
    except (OSError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{name}: cannot be used as a model ({type(error).__name__}: {reason[:400]})") from error
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


def _merged(name: str, revision: str | None) -> CXRPreTrainedModel:
    config = AutoConfig.from_pretrained(name, revision=revision)
    adapter = PeftConfig.from_pretrained(name, revision=revision)
    if not adapter.base_model_name_or_path:
        raise ModelError(f"{name}: adapter_config.json names no base model (base_model_name_or_path)")
    base = load_model(adapter.base_model_name_or_path, adapter.revision)
    if (adapted := config.adapted_from) and adapted["weights"] != identity(base)["weights"]:
        raise ModelError(
            f"{name}: adapted from a model with weights {adapted['weights']}; those of its base "
            f"{adapter.base_model_name_or_path} are {identity(base)['weights']}: it was trained again since, or is "
            "another"
        )
    try:
        model = with_outputs(base, config)
    except GrowthError as error:
        raise ModelError(
            f"{name}: its base {adapter.base_model_name_or_path} is not what was adapted: {error}"
        ) from None
    return PeftModel.from_pretrained(model, name, revision=revision).merge_and_unload().eval()
