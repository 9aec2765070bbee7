import math
import time

import numpy as np
import pytest
import torch

from hf_cxr.losses import (
    HBCELoss,
    MaskedBCELoss,
    balanced_pos_weight,
    build_loss,
    count_known,
    edge_weights_from_labels,
    masked_bce,
    soft_penalty,
    step_penalty,
)


@pytest.fixture
def batch(chexpert):
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(32, len(chexpert.names), generator=random) * 3
    labels = (torch.rand(logits.shape, generator=random) < 0.3).float()
    labels[torch.rand(logits.shape, generator=random) < 0.2] = math.nan
    return logits, labels


def slow_bce(logits, labels, pos_weight=None):
    total, n = 0.0, 0
    for row in range(len(logits)):
        for i in range(logits.shape[1]):
            x, y = float(logits[row, i]), float(labels[row, i])
            if math.isnan(y):
                continue
            weight = 1.0 if pos_weight is None else float(pos_weight[i])
            p = 1 / (1 + math.exp(-x))
            total -= weight * y * math.log(p) + (1 - y) * math.log1p(-p)
            n += 1
    return total / n


def slow_penalty(logits, hierarchy, weights, soft):
    total = 0.0
    for row in logits:
        p = {name: 1 / (1 + math.exp(-float(x))) for name, x in zip(hierarchy.names, row, strict=True)}
        for (parent, child), weight in zip(hierarchy.edges, weights, strict=True):
            if soft:
                total += weight * max(0.0, p[child] - p[parent])
            elif p[parent] < 0.5 < p[child]:
                total += weight
    return total / len(logits)


def test_masked_bce_equals_the_slow_loop(batch):
    logits, labels = batch
    weight = torch.linspace(0.5, 3, labels.shape[1])
    assert masked_bce(logits, labels).item() == pytest.approx(slow_bce(logits, labels), abs=1e-6)
    assert masked_bce(logits, labels, weight).item() == pytest.approx(slow_bce(logits, labels, weight), abs=1e-6)


@pytest.mark.parametrize("penalty", ["step", "soft"])
@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_hbce_equals_the_slow_loop(batch, chexpert, penalty, scale):
    logits, labels = batch
    weights = torch.linspace(0.2, 1.0, 20)
    loss = HBCELoss(chexpert, penalty, scale, weights)(logits, labels)
    expected = slow_penalty(logits, chexpert, weights.tolist(), penalty == "soft")
    assert loss.components["penalty"].item() == pytest.approx(expected, abs=1e-6)
    assert loss.total.item() == pytest.approx(slow_bce(logits, labels) + scale * expected, abs=1e-6)


def test_step_penalty_sends_nothing_to_the_weights_and_the_soft_one_does(batch, chexpert):
    """R1's defect, stated: the published penalty has no gradient."""
    logits, labels = batch
    gradients = {}
    for name, loss in {
        "bce": MaskedBCELoss(),
        "step": HBCELoss(chexpert, "step", 5.0),
        "soft": HBCELoss(chexpert, "soft", 5.0),
    }.items():
        leaf = logits.clone().requires_grad_()
        output = loss(leaf, labels)
        output.total.backward()
        gradients[name] = leaf.grad
    assert HBCELoss(chexpert, "step", 5.0)(logits, labels).components["penalty"] > 0
    assert torch.equal(gradients["step"], gradients["bce"])
    assert not torch.allclose(gradients["soft"], gradients["bce"])


def test_a_soft_step_downhill_mends_the_order(chexpert):
    parent, child = map(torch.tensor, chexpert.edge_indices)
    logits = torch.randn(64, 21, generator=torch.Generator().manual_seed(1)).requires_grad_()
    before = soft_penalty(logits, parent, child, torch.ones(20)).sum()
    before.backward()
    after = soft_penalty(logits.detach() - 0.5 * logits.grad, parent, child, torch.ones(20)).sum()
    assert after < before


@pytest.mark.parametrize("name", ["bce", "hbce_step", "hbce_soft"])
def test_unknown_labels_are_safe_in_value_and_gradient(chexpert, name):
    logits = (torch.randn(4, 21) * 50).requires_grad_()
    labels = torch.full((4, 21), math.nan)
    labels[0, 0] = 1.0
    loss = build_loss(name, chexpert)(logits, labels)
    loss.total.backward()
    assert torch.isfinite(loss.total)
    assert torch.isfinite(logits.grad).all()
    if name == "bce":
        assert (logits.grad[1:] == 0).all()
    nothing_known = build_loss("bce", chexpert)(logits, torch.full((4, 21), math.nan))
    assert nothing_known.total == 0


def test_parts_of_a_batch_add_up(batch, chexpert):
    """With the divisors of the whole, micro-batch losses sum to the large batch's, however labels are known."""
    logits, labels = batch
    labels = labels.clone()
    labels[:8] = math.nan
    loss = HBCELoss(chexpert, "soft", 0.7)
    divisors = count_known(labels)
    parts = sum(loss(logits[i : i + 8], labels[i : i + 8], divisors).total for i in range(0, 32, 8))
    assert parts.item() == pytest.approx(loss(logits, labels).total.item(), abs=1e-6)
    means = sum(loss(logits[i : i + 8], labels[i : i + 8]).total for i in range(0, 32, 8)) / 4
    assert abs(means - parts) > 1e-3  # the usual mean of means is something else


def test_data_driven_weights_by_hand(chexpert):
    labels = np.zeros((100, 21), np.float32)
    names = list(chexpert.names)
    labels[:10, names.index("Pneumonia")] = 1  # 10 of 90 films without consolidation
    labels[90:, names.index("Consolidation")] = 1
    labels[50:60, names.index("Consolidation")] = np.nan
    weights = edge_weights_from_labels(torch.tensor(labels), *map(torch.tensor, chexpert.edge_indices))
    at = chexpert.edges.index(("Consolidation", "Pneumonia"))
    assert weights[at].item() == pytest.approx(1 - 10 / 80, abs=1e-6)
    assert weights[chexpert.edges.index(("Cardiac", "Cardiomegaly"))].item() == pytest.approx(1, abs=1e-6)


def test_balanced_pos_weight():
    labels = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, math.nan], [0, 0, 1]])
    assert balanced_pos_weight(labels).tolist() == pytest.approx([3.0, 1.0, 0.5])


def test_step_penalty_is_r1s_worked_by_hand(chexpert):
    parent, child = map(torch.tensor, chexpert.edge_indices)
    logits = torch.full((1, 21), -1.0)
    logits[0, list(chexpert.names).index("Pneumonia")] = 1.0  # both its parents are below 0.5
    assert step_penalty(logits, parent, child, torch.ones(20)).tolist() == [2.0]


def test_bad_settings(chexpert):
    with pytest.raises(ValueError, match="expected one of bce, hbce_step, hbce_soft"):
        build_loss("focal", chexpert)
    with pytest.raises(ValueError, match="no edges"):
        build_loss("hbce_soft", chexpert.flat())
    with pytest.raises(ValueError, match="before closure"):
        build_loss("hbce_soft", chexpert, edge_weight="data")


def test_hbce_costs_at_most_three_times_bce(batch, chexpert):
    """Forward and backward at 32 × 21; medians of alternating repeats, since machines are noisy."""
    logits, labels = batch
    losses = {"bce": MaskedBCELoss(), "hbce": HBCELoss(chexpert, "soft")}
    seconds = {name: [] for name in losses}
    for _ in range(300):
        for name, loss in losses.items():
            leaf = logits.clone().requires_grad_()
            start = time.perf_counter()
            loss(leaf, labels).total.backward()
            seconds[name].append(time.perf_counter() - start)
    assert np.median(seconds["hbce"]) <= 3 * np.median(seconds["bce"])
