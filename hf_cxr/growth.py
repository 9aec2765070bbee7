"""A model with more outputs than it was trained with: the head grows by a hospital's findings, old outputs stay."""

from __future__ import annotations

import copy

import torch

from hf_cxr.errors import UserError
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.models import CXRConfig, CXRPreTrainedModel
from hf_cxr.models.heads import conditional_scores

IDENTITY = (1.0, 1.0, 0.0)


class GrowthError(UserError, ValueError):
    """A model that cannot have these labels."""


def grow(model: CXRPreTrainedModel, hierarchy: Hierarchy, prevalence: dict[str, float]) -> CXRPreTrainedModel:
    """The same model with outputs for further nodes, in float32.

    A new output says of every film what the training labels say on average: its weights are 0, its bias is the log-odds
    of its prevalence (under a conditional link: given its parents), until it is trained.

    Args:
        model: of one stage. hierarchy: its nodes in their order, then the new ones. prevalence: P(label), in [0, 1], of
            new nodes and their parents.

    Raises:
        GrowthError: the model has two stages, or the hierarchy begins otherwise.
    """
    config, new = copy.deepcopy(model.config), hierarchy.names[len(model.config.label_names) :]
    for name, value in hierarchy.to_config().items():
        setattr(config, name, value)
    if config.calibration:
        config.calibration["coefficients"] |= {name: list(IDENTITY) for name in new}
    if config.operating_points:
        config.operating_points["thresholds"] |= dict.fromkeys(new, None)
    grown = with_outputs(model, config)
    parents = config.parents if config.link == "conditional" else {}
    above = {name: parents.get(name, []) for name in new}
    involved = {*new, *(parent for name in new for parent in above[name])}
    scores = conditional_scores({name: min(max(prevalence[name], 1e-4), 1 - 1e-4) for name in involved}, above)
    with torch.no_grad():
        for name in new:
            grown.head.trunk.classifier.bias[config.label_names.index(name)] = scores[name]
    return grown


def with_outputs(model: CXRPreTrainedModel, config: CXRConfig) -> CXRPreTrainedModel:
    """A model's weights under a config with its labels first and others after them; new outputs are 0.

    Raises:
        GrowthError: the config is of another kind of model, or its labels begin otherwise.
    """
    old = model.config.label_names
    if type(config) is not type(model.config) or not hasattr(model, "head"):
        raise GrowthError(
            f"a {type(model.config).__name__} cannot become a {type(config).__name__}; expected one stage"
        )
    if config.label_names[: len(old)] != old:
        raise GrowthError(f"labels begin with {config.label_names[: len(old)]}; expected the model's own: {old}")
    grown = type(model)(config)
    state = grown.state_dict()
    for name, value in model.state_dict().items():
        if name.startswith("head.trunk.classifier."):
            state[name] = torch.zeros_like(state[name])
            state[name][: len(old)] = value
        elif not name.startswith("head.link."):  # which nodes stand on which level follows from the config
            state[name] = value
    grown.load_state_dict(state)
    return grown.eval()
