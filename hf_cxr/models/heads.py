"""Heads: a trunk that turns backbone features into scores, and a link that turns scores into logits.

A trunk is two parts, `embed` before its dropout and `score` from it on, so that Monte Carlo dropout repeats only
the second.

Shapes: B films, C channels, D of them before the last layer, H × W grid, L labels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .calibrate import Calibrate
from .configuration import CXRConfig


class PlainTrunk(nn.Module):
    """Dropout and one linear layer on the backbone's pooled features (B, C) → scores (B, L)."""

    takes_map = False

    def __init__(self, channels: int, n_labels: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, n_labels)

    def embed(self, pooled_BC: Tensor) -> Tensor:
        """What dropout is applied to: the pooled features themselves, D = C."""
        return pooled_BC

    def score(self, hidden_BD: Tensor) -> Tensor:
        """Dropout and the last layer → scores (B, L)."""
        return self.classifier(self.dropout(hidden_BD))

    def forward(self, pooled_BC: Tensor) -> Tensor:
        """Scores (B, L)."""
        return self.score(self.embed(pooled_BC))


class R1Trunk(nn.Module):
    """The head of arXiv 2502.03591 on the feature map (B, C, H, W) → scores (B, L)."""

    takes_map = True

    def __init__(self, channels: int, n_labels: int, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 512, 3, padding=1)
        self.normalisation = nn.BatchNorm2d(512)
        self.dense = nn.Linear(512, 128)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(128, n_labels)

    def embed(self, map_BCHW: Tensor) -> Tensor:
        """What dropout is applied to, (B, D) with D = 128."""
        return self.embed_convolved(self.convolution(map_BCHW))

    def embed_convolved(self, convolved_BOHW: Tensor) -> Tensor:
        """`embed` from the convolution's output (B, 512, H, W) on."""
        features = self.normalisation(F.relu(convolved_BOHW))
        return F.relu(self.dense(features.mean((2, 3))))

    def score(self, hidden_BD: Tensor) -> Tensor:
        """Dropout and the last layer → scores (B, L)."""
        return self.classifier(self.dropout(hidden_BD))

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """Scores (B, L)."""
        return self.score(self.embed(map_BCHW))


def chain(log_p: Tensor, log_q: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Chain rule in log space: (log P, log(1 − P)) of a parent and the logit of P(child | parent) → the child's.

        log P_c      = log P_p + log σ(s)
        log(1 − P_c) = logaddexp(log(1 − P_p), log P_p + log σ(−s))

    Nothing cancels near 0 or 1. Adding a number ≤ 0 never raises a float and logaddexp(a, b) ≥ a, hence
    P_c ≤ P_p also in rounded arithmetic.
    """
    return log_p + F.logsigmoid(score), torch.logaddexp(log_q, log_p + F.logsigmoid(-score))


class FlatLink(nn.Module):
    """Independent sigmoids: the scores are the logits. float32 whatever the scores' type."""

    def forward(self, scores_BL: Tensor) -> Tensor:
        """Logits (B, L)."""
        return scores_BL.float()


class ConditionalLink(nn.Module):
    """Scores are logits of *conditional* probabilities; returns logits of unconditional ones.

    P(node) = σ(score) · min over its parents of P(parent), so P(child) ≤ P(parent) on every edge and input;
    a root has P = σ(score). Where one parent lies below another, as wherever R1's taxonomy has two, the lower
    one is the minimum and the product is the chain rule.

    Levels are computed one after the other by `chain`, in float32 under any autocast.

    Args:
        parents: for each label the positions of its parents. The graph must be acyclic.
    """

    def __init__(self, parents: list[list[int]]) -> None:
        super().__init__()
        depth: list[int] = []
        for _ in parents:  # at most L relaxations settle the depth of a DAG of L nodes
            depth = [1 + max((depth[p] for p in ps), default=-1) if depth else 0 for ps in parents]
        if depth and depth != [1 + max((depth[p] for p in ps), default=-1) for ps in parents]:
            raise ValueError(f"the parents {parents} contain a cycle")
        self.n_levels = 1 + max(depth, default=0)
        order: list[int] = []
        for level in range(self.n_levels):
            nodes = [i for i, d in enumerate(depth) if d == level]
            order += nodes
            width = max(max(len(parents[i]) for i in nodes), 1)
            # Short rows repeat their first parent, which changes no minimum; roots are not looked up at all.
            above = [(parents[i] + [parents[i][0]] * width)[:width] if parents[i] else [0] * width for i in nodes]
            # Persistent: a non-persistent buffer holds uninitialised memory after from_pretrained.
            self.register_buffer(f"nodes_{level}", torch.tensor(nodes))
            self.register_buffer(f"above_{level}", torch.tensor(above))
        position = [order.index(i) for i in range(len(parents))]
        # A parent's place among the columns computed so far, and the way back to label order.
        self.register_buffer("position", torch.tensor(position))

    def forward(self, scores_BL: Tensor) -> Tensor:
        """Logits (B, L) of unconditional probabilities."""
        with torch.autocast(scores_BL.device.type, enabled=False):
            scores_BL = scores_BL.float()
            position: Tensor = self.get_buffer("position")
            log_p = log_q = scores_BL[:, :0]
            for level in range(self.n_levels):
                score = scores_BL[:, self.get_buffer(f"nodes_{level}")]
                if level:
                    above = position[self.get_buffer(f"above_{level}")]
                    log_on, log_off = chain(log_p[:, above].amin(-1), log_q[:, above].amax(-1), score)
                else:
                    log_on, log_off = F.logsigmoid(score), F.logsigmoid(-score)
                log_p, log_q = torch.cat([log_p, log_on], 1), torch.cat([log_q, log_off], 1)
            return (log_p - log_q)[:, position]


def conditional_scores(prevalence: dict[str, float], parents: dict[str, list[str]]) -> dict[str, float]:
    """Scores at which a `ConditionalLink` outputs the given prevalences: log-odds of P(node) / min P(parent).

    Args:
        prevalence: P(label) in (0, 1). parents: as in the config.
    """
    scores = {}
    for name, p in prevalence.items():
        above = min((prevalence[parent] for parent in parents.get(name, [])), default=1.0)
        conditional = min(max(p / above, 1e-4), 1 - 1e-2 if parents.get(name) else 1 - 1e-4)
        scores[name] = float(torch.logit(torch.tensor(conditional, dtype=torch.float64)))
    return scores


class CXRHead(nn.Module):
    """Trunk, link and calibration of a config: backbone features → logits (B, L) of unconditional probabilities."""

    def __init__(self, config: CXRConfig, channels: int) -> None:
        super().__init__()
        trunk = {"plain": PlainTrunk, "r1": R1Trunk}[config.head]
        self.trunk: Any = trunk(channels, len(config.id2label), config.head_dropout)
        names = config.label_names
        if config.link == "conditional":
            self.link: nn.Module = ConditionalLink([[names.index(p) for p in config.parents.get(n, [])] for n in names])
        else:
            self.link = FlatLink()
        self.calibrate = Calibrate(config)

    @property
    def takes_map(self) -> bool:
        """Whether the trunk reads the feature map (B, C, H, W) or the pooled features (B, C)."""
        return bool(self.trunk.takes_map)

    def logits(self, scores_BL: Tensor) -> Tensor:
        """What follows the trunk: logits (B, L) from its scores."""
        return self.calibrate(self.link(scores_BL))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L)."""
        return self.logits(self.trunk(features))
