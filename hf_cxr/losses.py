"""Masked and hierarchical binary cross-entropy: pure functions, and thin modules around them.

Shapes: B films, L labels, E edges. `logits_BL` are logits of unconditional probabilities, `labels_BL` lie in
[0, 1] with NaN = unknown. NaN is replaced by `where` before any arithmetic, so that neither value nor gradient
can become NaN through an unknown label.

Reference: arXiv 2502.03591 (R1), Sec. III-D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cxr.hierarchy import Hierarchy

LOSSES = ("bce", "hbce_step", "hbce_soft")
EDGE_WEIGHTS = ("fixed", "data")


@dataclass(frozen=True)
class LossOutput:
    """A loss and its named parts, all scalars on the device of the logits; `total` carries the gradient."""

    total: Tensor
    components: dict[str, Tensor]


def count_known(labels_BL: Tensor) -> Tensor:
    """`[number of known labels, number of films]`, float32 (2,): what sums over a batch are divided by."""
    known = (~torch.isnan(labels_BL)).sum()
    return torch.stack([known, torch.tensor(len(labels_BL), device=known.device)]).float()


def masked_bce(
    logits_BL: Tensor, labels_BL: Tensor, pos_weight_L: Tensor | None = None, n_known: Tensor | None = None
) -> Tensor:
    """Binary cross-entropy over the known labels.

    Args:
        logits_BL: logits.
        labels_BL: targets in [0, 1], NaN = unknown.
        pos_weight_L: weight of the positive term a label.
        n_known: divisor; by default the known labels of this batch. The trainer passes the number over all
            micro-batches and processes, so that accumulated gradients equal those of the large batch.

    Returns:
        scalar; 0 with zero gradient when nothing is known.
    """
    known_BL = ~torch.isnan(labels_BL)
    target_BL = torch.where(known_BL, labels_BL, 0.0)
    # clamp - x*y + log1p(exp(-|x|)) in one fused kernel; the mask enters as its weight.
    total = F.binary_cross_entropy_with_logits(
        logits_BL.float(), target_BL.float(), weight=known_BL.float(), pos_weight=pos_weight_L, reduction="sum"
    )
    if n_known is None:
        n_known = known_BL.sum()
    return total / n_known.clamp(min=1)


def step_penalty(logits_BL: Tensor, parent_E: Tensor, child_E: Tensor, weight_E: Tensor) -> Tensor:
    """R1's penalty: for each film the weights of the edges with P(parent) < 0.5 < P(child), summed. (B,)

    It is a step function: its gradient is zero wherever it exists. It moves the reported loss, hence early
    stopping and the plateau schedule, and sends nothing to the weights. Kept for reproduction only.
    """
    broken_BE = (logits_BL.index_select(1, parent_E) < 0) & (logits_BL.index_select(1, child_E) > 0)
    return broken_BE.to(weight_E.dtype) @ weight_E


def soft_penalty(logits_BL: Tensor, parent_E: Tensor, child_E: Tensor, weight_E: Tensor) -> Tensor:
    """The differentiable form: for each film the sum over edges of `w · relu(P(child) − P(parent))`. (B,)"""
    probability_BL = logits_BL.float().sigmoid()
    # index_select: its backward is one index_add, that of advanced indexing several times slower.
    return F.relu(probability_BL.index_select(1, child_E) - probability_BL.index_select(1, parent_E)) @ weight_E


def edge_weights_from_labels(labels_NL: Tensor, parent_E: Tensor, child_E: Tensor, epsilon: float = 1e-6) -> Tensor:
    """R1's data-driven weights `1 − P(child = 1 | parent = 0)`, smoothed: `1 − (n₀₁ + ε) / (n₀ + 2ε)`. (E,)

    Args:
        labels_NL: training labels *before* upward closure (`labels.encode(close=False)`); afterwards no child
            is positive under a negative parent and every weight is 1.
        parent_E, child_E: label indices of the edges.
        epsilon: ε of R1.
    """
    negative_NE = labels_NL[:, parent_E] == 0
    child_NE = labels_NL[:, child_E]
    n_0 = (negative_NE & ~torch.isnan(child_NE)).sum(0).double()
    n_01 = (negative_NE & (child_NE == 1)).sum(0).double()
    return (1 - (n_01 + epsilon) / (n_0 + 2 * epsilon)).float()


class MaskedBCELoss(nn.Module):
    """`masked_bce` as an injectable loss: the flat baseline.

    Args:
        pos_weight_L: see `masked_bce`.
    """

    pos_weight_L: Tensor | None

    def __init__(self, pos_weight_L: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("pos_weight_L", pos_weight_L)

    def forward(self, logits_BL: Tensor, labels_BL: Tensor, divisors: Tensor | None = None) -> LossOutput:
        """Loss of a batch; `divisors` as from `count_known`, by default of this batch."""
        bce = masked_bce(logits_BL, labels_BL, self.pos_weight_L, None if divisors is None else divisors[0])
        return LossOutput(bce, {"bce": bce.detach()})


class HBCELoss(nn.Module):
    """Hierarchical BCE: `L = L_BCE + λ · mean over films of Σ_edges penalty` (R1, Sec. III-D).

    Args:
        hierarchy: its edges are penalised, all in one gather.
        penalty: `"step"` (R1's, without gradient) or `"soft"` (differentiable).
        scale: λ; R1 tried 0.3, 0.5, 0.7, 0.9 and 1.0.
        weight_E: weights of `hierarchy.edges`, by default β = 1 on each, R1's fixed penalty.
        pos_weight_L: see `masked_bce`.

    Example:
        >>> loss = HBCELoss(load_taxonomy("nih"), penalty="soft", scale=0.5)
        >>> loss(logits_BL, labels_BL).components
        {'bce': tensor(0.69), 'penalty': tensor(0.12)}
    """

    parent_E: Tensor
    child_E: Tensor
    weight_E: Tensor
    pos_weight_L: Tensor | None

    def __init__(
        self,
        hierarchy: Hierarchy,
        penalty: str = "soft",
        scale: float = 1.0,
        weight_E: Tensor | None = None,
        pos_weight_L: Tensor | None = None,
    ) -> None:
        super().__init__()
        if penalty not in ("step", "soft"):
            raise ValueError(f"penalty: got {penalty!r}, expected 'step' or 'soft'")
        if not hierarchy.edges:
            raise ValueError(f"taxonomy '{hierarchy.name}' has no edges: nothing to penalise; use the loss 'bce'")
        self.penalty, self.scale = penalty, scale
        parents, children = hierarchy.edge_indices
        self.register_buffer("parent_E", torch.tensor(parents))
        self.register_buffer("child_E", torch.tensor(children))
        self.register_buffer("weight_E", torch.ones(len(parents)) if weight_E is None else weight_E)
        self.register_buffer("pos_weight_L", pos_weight_L)

    def forward(self, logits_BL: Tensor, labels_BL: Tensor, divisors: Tensor | None = None) -> LossOutput:
        """Loss of a batch; `divisors` as from `count_known`, by default of this batch."""
        n_known, n_films = (None, len(labels_BL)) if divisors is None else divisors
        bce = masked_bce(logits_BL, labels_BL, self.pos_weight_L, n_known)
        penalty_B = (step_penalty if self.penalty == "step" else soft_penalty)(
            logits_BL, self.parent_E, self.child_E, self.weight_E
        )
        penalty = penalty_B.sum() / n_films
        return LossOutput(bce + self.scale * penalty, {"bce": bce.detach(), "penalty": penalty.detach()})


def balanced_pos_weight(labels_NL: Tensor, ceiling: float = 20.0) -> Tensor:
    """`negatives / positives` a label, clipped to [1 / ceiling, ceiling]; 1 where a class is empty. (L,)"""
    positive_L = (labels_NL > 0.5).sum(0).float()
    negative_L = (labels_NL <= 0.5).sum(0).float()
    ratio_L = (negative_L / positive_L.clamp(min=1)).clamp(1 / ceiling, ceiling)
    return torch.where((positive_L > 0) & (negative_L > 0), ratio_L, 1.0)


def build_loss(
    name: str,
    hierarchy: Hierarchy,
    *,
    scale: float = 1.0,
    edge_weight: str = "fixed",
    unclosed_labels: Callable[[], Tensor] | None = None,
    pos_weight_L: Tensor | None = None,
) -> nn.Module:
    """The loss that a configuration names.

    Args:
        name: one of `LOSSES`.
        hierarchy, scale, pos_weight_L: see `HBCELoss`.
        edge_weight: one of `EDGE_WEIGHTS`.
        unclosed_labels: makes the training labels before closure, (N, L), for the edge weights `"data"`.

    Raises:
        ValueError: unknown name or edge weight, or labels missing.
    """
    if name not in LOSSES:
        raise ValueError(f"loss: got {name!r}, expected one of {', '.join(LOSSES)}")
    if edge_weight not in EDGE_WEIGHTS:
        raise ValueError(f"edge_weight: got {edge_weight!r}, expected one of {', '.join(EDGE_WEIGHTS)}")
    if name == "bce":
        return MaskedBCELoss(pos_weight_L)
    weight_E = None
    if edge_weight == "data":
        if unclosed_labels is None:
            raise ValueError("edge_weight 'data' needs the training labels before closure")
        parent_E, child_E = (torch.tensor(side) for side in hierarchy.edge_indices)
        weight_E = edge_weights_from_labels(unclosed_labels(), parent_E, child_E)
    return HBCELoss(hierarchy, name.removeprefix("hbce_"), scale, weight_E, pos_weight_L)
