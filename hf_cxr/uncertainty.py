"""How sure a model is: Monte Carlo dropout on its head, the backbone computed once; and an ensemble's disagreement.

Dropout left on at test time samples networks from an approximate posterior (Gal and Ghahramani 2016, ICML). The
project's models drop only in the head, so what lies before is the same in every pass: it is computed once, and
T passes are one batch through the last layer. Whether uncertainty ranks errors is measured by `risk`, not assumed.

Shapes: B films, K of them past the gate, D features before the last layer, L labels, T passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

from hf_cxr.errors import UserError
from hf_cxr.models import CXREnsembleForImageClassification, CXRPreTrainedModel, CXRTwoStageForImageClassification


class NoDropoutError(UserError, ValueError):
    """The head drops nothing, so every pass would be the same."""


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """What T passes say of each film and label; all (B, L) float32, entropies in nats, 0 to ln 2 = 0.693.

    Attributes:
        mean: mean probability. Under the conditional link and from two stages every pass has P(child) ≤ P(parent),
            hence so has the mean; under the flat link neither has.
        deviation: standard deviation of the probability over the passes (divisor T).
        entropy: of the mean, H(p̄) = −p̄ ln p̄ − (1 − p̄) ln(1 − p̄): total uncertainty.
        mutual_information: H(p̄) less the passes' mean entropy (BALD; Houlsby et al. 2011): how far the passes
            disagree. At least 0.
        n_passes, seed: T (of an ensemble, of each member), and what the masks were drawn from.
        finding_model_ran: (B,) bool, two-stage models only.
    """

    mean: Tensor
    deviation: Tensor
    entropy: Tensor
    mutual_information: Tensor
    n_passes: int
    seed: int
    finding_model_ran: Tensor | None = None

    @property
    def expected_entropy(self) -> Tensor:
        """Mean entropy of the passes, (B, L): what more passes or more training would not take away."""
        return self.entropy - self.mutual_information


def mc_dropout(
    model: nn.Module, pixel_values: Tensor, n_passes: int = 30, seed: int = 0, *, run_all: bool = False
) -> Uncertainty:
    """Monte Carlo dropout of a model of the project, bare or under PEFT.

    The T masks are drawn once and hold for every film: T networks, each asked about all films. A film's figures
    then depend on the seed alone, not on the batch, its size or its order (but for rounding), and films are
    compared on the same networks. The global random state and the model are left as they were; adapters' own
    dropout stays off.

    Two stages: masks for both heads, independent of each other; each pass is composed by the chain rule. Which films
    pass the gate is decided as in `forward`, by the gate without dropout. For a cleared film the finding model's
    part is the stored prevalence, so only the gate's spread shows (`finding_model_ran` tells).

    An ensemble's passes are T of each member, all taken together: how far they disagree holds both what the masks and
    what the seeds of training change. Its members need no dropout; without, each member is one pass T times.

    Args:
        pixel_values: (B, 1, S, S), normalised.
        n_passes: T ≥ 2.
        seed: of the masks.
        run_all: two stages only: run the finding model on every film, as reports do.

    Raises:
        NoDropoutError: the head (of either stage) has dropout 0.
        ValueError: fewer than two passes.
    """
    model = bare(model)
    check_passes(model, n_passes)
    with evaluating(model), torch.no_grad():
        if isinstance(model, CXREnsembleForImageClassification):
            hidden = [before_dropout(member, pixel_values) for member in model.members]
            return from_hidden_of_members(model, hidden, n_passes, seed)
        if not isinstance(model, CXRTwoStageForImageClassification):
            return from_hidden(model, before_dropout(model, pixel_values), n_passes, seed)
        gate_BD = before_dropout(model.gate, pixel_values)
        passed_B = model.passed(model.gate.head.logits(model.gate.head.trunk.score(gate_BD))) | run_all
        found_KD = before_dropout(model.findings, pixel_values[passed_B]) if passed_B.any() else None
        return from_hidden_of_both(model, gate_BD, found_KD, passed_B, n_passes, seed)


def bare(model: nn.Module) -> CXRPreTrainedModel:
    """The project's model inside a PEFT wrapper, adapters in place; any other model of the project as it is.

    Raises:
        TypeError: the model is none of the project's.
    """
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, CXRPreTrainedModel):
        raise TypeError(f"got {type(inner).__name__}; expected a model of hf_cxr.models, bare or under PEFT")
    return inner


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and outside any inference mode; each module's own flag is put back."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        # Tensors made under inference mode could not take part in the heatmaps' backward pass.
        with torch.inference_mode(False):
            yield
    finally:
        for module in training:
            module.training = True


def check_passes(model: CXRPreTrainedModel, n_passes: int) -> None:
    """Raise unless passes would differ; see `mc_dropout`."""
    stages = {"": model}
    if isinstance(model, CXRTwoStageForImageClassification):
        stages = {" of the gate model": model.gate, " of the finding model": model.findings}
    elif isinstance(model, CXREnsembleForImageClassification):
        stages = {}  # its members differ as they are
    for stage, part in stages.items():
        dropout = part.head.trunk.dropout.p
        if not 0 < dropout < 1:
            raise NoDropoutError(
                f"head_dropout{stage} is {dropout}: all {n_passes} passes would be the same; expected a share between "
                "0 and 1. Train the model with head_dropout above 0 (0.2, say); switching it on afterwards measures "
                "a network that was never trained"
            )
    if n_passes < 2:
        raise ValueError(f"n_passes={n_passes}; expected 2 or more, 30 is usual")


def before_dropout(model: Any, pixel_values: Tensor) -> Tensor:
    """What the head's dropout is applied to, (B, D), of a single-stage model."""
    features, _ = model.head_input(model.backbone.forward_features(pixel_values))
    return model.head.trunk.embed(features)


def from_hidden(model: Any, hidden_BD: Tensor, n_passes: int, seed: int) -> Uncertainty:
    """`mc_dropout` of a single-stage model whose backbone has been run."""
    logits = _sample(model.head, hidden_BD, n_passes, torch.Generator().manual_seed(seed))
    return _summarise(logits.unflatten(0, (n_passes, -1)), seed)


def from_hidden_of_both(
    model: CXRTwoStageForImageClassification,
    gate_BD: Tensor,
    found_KD: Tensor | None,
    passed_B: Tensor,
    n_passes: int,
    seed: int,
) -> Uncertainty:
    """`mc_dropout` of a two-stage model whose backbones have been run; `found_KD` is None if no film passed."""
    random = torch.Generator().manual_seed(seed)
    gate = _sample(model.gate.head, gate_BD, n_passes, random)
    found = None if found_KD is None else _sample(model.findings.head, found_KD, n_passes, random)
    logits = model.compose(gate, passed_B.repeat(n_passes), found)
    return _summarise(logits.unflatten(0, (n_passes, -1)), seed, passed_B)


def from_hidden_of_members(
    model: CXREnsembleForImageClassification, hidden: Sequence[Tensor], n_passes: int, seed: int
) -> Uncertainty:
    """`mc_dropout` of an ensemble whose backbones have been run; `hidden` has (B, D) of each member."""
    random = torch.Generator().manual_seed(seed)
    logits = [_sample(m.head, each, n_passes, random) for m, each in zip(model.members, hidden, strict=True)]
    passes = model.calibrate(torch.cat(logits)).unflatten(0, (n_passes * len(logits), -1))
    return replace(_summarise(passes, seed), n_passes=n_passes)


def draw_masks(n_passes: int, width: int, dropout: float, random: torch.Generator) -> Tensor:
    """(T, D) masks of inverted dropout: 0 with probability `dropout`, else 1 / (1 − dropout).

    `random` is on the CPU, so that a model gives the same figures on any device.
    """
    kept = torch.rand(n_passes, width, generator=random) >= dropout
    return kept / (1 - dropout)


def _sample(head: Any, hidden_BD: Tensor, n_passes: int, random: torch.Generator) -> Tensor:
    """Logits (T · B, L), pass by pass."""
    masks_TD = draw_masks(n_passes, hidden_BD.shape[1], head.trunk.dropout.p, random).to(hidden_BD)
    return head.logits(head.trunk.classifier((hidden_BD * masks_TD[:, None]).flatten(0, 1)))


def _summarise(logits_TBL: Tensor, seed: int, ran: Tensor | None = None) -> Uncertainty:
    # Both probabilities come from the logit: 1 − p would lose the rare side's entropy. float64 against cancellation
    # in the mutual information.
    logits_TBL = logits_TBL.double()
    p, q = logits_TBL.sigmoid(), (-logits_TBL).sigmoid()
    entropy = _entropy(p.mean(0), q.mean(0))
    information = (entropy - _entropy(p, q).mean(0)).clamp(min=0)
    return Uncertainty(
        mean=p.mean(0).float(),
        deviation=p.std(0, correction=0).float(),
        entropy=entropy.float(),
        mutual_information=information.float(),
        n_passes=len(logits_TBL),
        seed=seed,
        finding_model_ran=ran,
    )


def _entropy(p: Tensor, q: Tensor) -> Tensor:
    rare = torch.minimum(p, q)
    return torch.special.entr(rare) - (1 - rare) * torch.log1p(-rare)
