"""The weights that a backbone begins with: random, timm's, a file's, or those of a model of this project."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
from transformers.utils import cached_file

from hf_cxr.arguments import ModelArguments, SettingsError
from hf_cxr.loading import load_model, shown
from hf_cxr.models import CXRConfig, CXRPreTrainedModel
from hf_cxr.runs import REPORT_FILE
from hf_cxr.verification import identity

_TRACED = ("dataset", "fingerprint", "synthetic")


def donor_of(chosen: ModelArguments) -> CXRPreTrainedModel | None:
    """The model whose backbone training begins with, where `backbone_weights` is its folder or name on the Hub.

    Raises:
        ModelError: it cannot be loaded.
        SettingsError: it is made of several models, or its films were normalised in another way than the settings say.
    """
    name = chosen.backbone_weights
    if name is None or name == "hub" or Path(name).is_file():
        return None
    donor = load_model(name)
    if not hasattr(donor, "backbone"):
        raise SettingsError(f"backbone_weights: {name} is made of several models; name one of them")
    of_film = donor.config.image_mean is None
    if of_film != (chosen.normalisation == "film"):
        raise SettingsError(
            f"backbone_weights: {name} was trained with normalisation: {'film' if of_film else 'dataset'}, and the "
            f"settings say {chosen.normalisation}; a backbone needs films as it knows them"
        )
    return donor


def input_statistics(
    chosen: ModelArguments, donor: CXRPreTrainedModel | None, of_films: tuple[float | None, float | None]
) -> tuple[float | None, float | None]:
    """Mean and deviation by which films are normalised: what the first weights know, else the training films' own."""
    if chosen.normalisation == "film":
        return None, None
    if donor is not None:
        return donor.config.image_mean, donor.config.image_std
    if chosen.backbone_weights:
        pretrained = timm.get_pretrained_cfg(chosen.backbone)
        return float(np.mean(pretrained.mean)), float(np.mean(pretrained.std))
    return of_films


def begin_with(model: CXRPreTrainedModel, name: str, donor: CXRPreTrainedModel | None) -> None:
    """Put the first weights into the model's backbone, in place; of a donor its config keeps which one it was.

    Args:
        name: `backbone_weights` of the settings. donor: as `donor_of` gave it.

    Raises:
        SettingsError: the donor's backbone is another.
        RuntimeError: a file's weights do not fit the backbone (from timm, lists the keys).
    """
    if donor is None:
        model.load_backbone(name)
        return
    given, wanted = donor.backbone.state_dict(), model.backbone.state_dict()
    if {key: value.shape for key, value in given.items()} != {key: value.shape for key, value in wanted.items()}:
        raise SettingsError(
            f"backbone_weights: {name} holds {_described(donor.config)}, and the settings ask for "
            f"{_described(model.config)}"
        )
    model.backbone.load_state_dict(given)
    model.config.backbone_from = {"name": shown(name), **identity(donor), **_trained_on(name)}


def _described(config: CXRConfig) -> str:
    options = f" with {config.backbone_kwargs}" if config.backbone_kwargs else ""
    return f"{config.backbone}{options} at {config.image_size}²"


def _trained_on(name: str) -> dict[str, Any]:
    """What the report beside a model says of its films; nothing where there is no report."""
    report = cached_file(name, REPORT_FILE, _raise_exceptions_for_missing_entries=False)
    provenance = json.loads(Path(report).read_text(encoding="utf-8"))["provenance"] if report else {}
    return {key: value for key, value in provenance.get("data", {}).items() if key in _TRACED}
