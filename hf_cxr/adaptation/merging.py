"""Low-rank layers of several adapters merged into one adapter's by PEFT's own methods (`add_weighted_adapter`).

What becomes of them, for shares w_i of the sites, which add up to 1, and scales s_i = alpha / rank:

    cat     Δ = Σ w_i s_i B_i A_i, exactly; its rank is the sum of the sites' ranks
    svd     the best approximation of the same by the greatest of the sites' ranks, or by `rank`
    linear  A = Σ w_i √s_i A_i and B = Σ w_i √s_i B_i, federated averaging of the two factors as in Zhang et al.,
            "Towards Building the Federated GPT: Federated Instruction Tuning", ICASSP 2024. Δ = BA has cross terms:
            an average only of adapters that began with the same A, which the same seed, rank and layers give (two
            halves of a hospital, rank 1: off from Σ w_i Δ_i by 2 % of its norm, of other seeds by 75 %; svd 2 and 33)
    ties, dare_linear, dare_ties, magnitude_prune
            of the factors as `linear`, after leaving out small or random weights (TIES: also those whose sign loses)
    …_svd   of the sites' deltas s_i B_i A_i instead, approximated as `svd`

PEFT does all of these on convolutions, too: A has the kernel and B is 1 × 1, and for the `svd` methods a delta is a
matrix (outputs, inputs · kernel). It cannot average DoRA's magnitudes, and it refuses adapters with a trained module of
the same name (`modules_to_save`), so that it is not shown the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from hf_cxr.adaptation.adapters import SAVED
from hf_cxr.adaptation.sites import AveragingError, Site
from hf_cxr.models import CXRPreTrainedModel


@dataclass(frozen=True)
class Method:
    """One of PEFT's.

    Attributes:
        factors: of A and B; else of the deltas. prunes: needs a density. elects: TIES' signs. draws: from a seed.
    """

    factors: bool = False
    prunes: bool = False
    elects: bool = False
    draws: bool = False

    @property
    def may_differ(self) -> bool:
        """Whether the sites' ranks and layers may: a sum of deltas takes any, and a layer without one has delta 0."""
        return not self.factors and not self.elects


METHODS = {
    "cat": Method(),
    "svd": Method(),
    "linear": Method(factors=True),
    "ties": Method(factors=True, prunes=True, elects=True),
    "dare_linear": Method(factors=True, prunes=True, draws=True),
    "dare_ties": Method(factors=True, prunes=True, elects=True, draws=True),
    "magnitude_prune": Method(factors=True, prunes=True),
    "ties_svd": Method(prunes=True, elects=True),
    "dare_linear_svd": Method(prunes=True, draws=True),
    "dare_ties_svd": Method(prunes=True, elects=True, draws=True),
    "magnitude_prune_svd": Method(prunes=True),
}


@dataclass(frozen=True)
class AveragingArguments:
    """How adapters are averaged.

    Attributes:
        method: of `METHODS`. density: share of weights that a pruning method keeps, in (0, 1).
        rank: of the result of an `svd` method; None: the greatest of the sites'. seed: of what `dare` leaves out.

    Raises:
        AveragingError: an unknown method, or a setting that it does not use or lacks.
    """

    method: str = "cat"
    density: float | None = None
    rank: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise AveragingError(f"method: got {self.method!r}, expected one of {', '.join(METHODS)}")
        prunes = METHODS[self.method].prunes
        if prunes != (self.density is not None):
            raise AveragingError(
                f"method {self.method} "
                + ("needs the share of weights to keep (density)" if prunes else "prunes nothing: leave density out")
            )
        if self.density is not None and not 0 < self.density < 1:
            raise AveragingError(f"density {self.density}: expected a share between 0 and 1, both excluded")
        if self.rank is not None and not self.method.endswith("svd"):
            raise AveragingError(f"method {self.method} has the rank that follows from the sites': leave it out")
        if self.rank is not None and self.rank < 1:
            raise AveragingError(f"rank {self.rank}: expected at least 1")


def merge_layers(
    grown: CXRPreTrainedModel, given: Sequence[tuple[Site, float]], arguments: AveragingArguments
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """The low-rank layers of several adapters as one adapter's.

    Args:
        grown: the base with the merged adapter's outputs; has all adapters in it afterwards. given: sites with their
            shares, which are above 0.

    Returns:
        how they are made, and their weights by the names in a file.

    Raises:
        AveragingError: ranks or layers that the method cannot take.
    """
    method, (first, *others) = METHODS[arguments.method], [site for site, _ in given]
    for site in others if not method.may_differ else ():
        if site.lora.r != first.lora.r or site.targets != first.targets:
            raise AveragingError(
                f"{first.folder} has rank {first.lora.r} in {len(first.targets)} layers, {site.folder} rank "
                f"{site.lora.r} in {len(site.targets)} ({len(first.targets & site.targets)} of them the same); method "
                f"{arguments.method} needs the same: use {' or '.join(n for n, m in METHODS.items() if m.may_differ)}"
            )
    names = [f"site{i}" for i in range(len(given))]
    peft: Any = None
    for name, (site, _) in zip(names, given, strict=True):
        own = replace(site.lora, modules_to_save=None)
        if peft is None:
            peft = PeftModel(grown, own, adapter_name=name)
        else:
            peft.add_adapter(name, own)
        loaded: Any = set_peft_model_state_dict(peft, site.layers, adapter_name=name)
        if loaded.unexpected_keys or any(f".{name}." in key for key in loaded.missing_keys):
            raise AveragingError(f"{site.folder}: its weights are not of the layers that its adapter_config.json names")
    # PEFT multiplies each factor by the root of its weight: with 1/2 twice, `linear` would double an adapter averaged
    # with itself. With squares the factors' averages are averages. TIES divides by the number of sites that are left.
    times = len(given) if method.elects and others else 1
    weights = [(share * times) ** (2 if method.factors else 1) for _, share in given]
    with torch.random.fork_rng():
        torch.manual_seed(arguments.seed)
        try:
            peft.base_model.add_weighted_adapter(
                names,
                weights,
                "average",
                arguments.method,
                svd_rank=arguments.rank,
                svd_full_matrices=False,
                density=arguments.density,
            )
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise AveragingError(
                f"PEFT cannot average these by {arguments.method} ({reason[:200]})"
                + ("; is the rank above the channels of a layer?" if arguments.method.endswith("svd") else "")
            ) from error
    merged = replace(
        peft.peft_config["average"],
        modules_to_save=[SAVED],
        target_modules="|".join(dict.fromkeys(f"({site.lora.target_modules})" for site, _ in given)),
        inference_mode=True,
    )
    state = get_peft_model_state_dict(peft, adapter_name="average")
    return merged, {name: value.detach().clone().contiguous() for name, value in state.items()}
