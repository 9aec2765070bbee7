import numpy as np
import pytest
import torch
from torch import nn

from hf_cxr.averaging import WeightAverage
from hf_cxr.sampling import EpochSampler, repeat_factors


def order(epoch, weight=None, n=1000, seed=0):
    return list(EpochSampler(range(n), seed, lambda: epoch, weight))


def test_uniform_is_a_permutation_of_seed_and_epoch():
    assert sorted(order(0)) == list(range(1000))
    assert order(3) == order(3)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=1)


def test_balanced_draws_leave_no_class_out():
    random = np.random.default_rng(0)
    labels = torch.tensor((random.random((1000, 5)) < [0.4, 0.2, 0.05, 0.01, 0.003]).astype(np.float32))
    labels[0, 4] = 1
    labels[1, 0] = torch.nan
    weight = repeat_factors(labels)
    positive = (labels > 0.5).numpy()
    for epoch in range(20):
        drawn = order(epoch, weight)
        assert len(drawn) == 1000
        counts = np.bincount(drawn, minlength=1000)
        expected = weight * 1000 / weight.sum()
        assert (counts >= np.floor(expected - 1e-9)).all()
        assert (counts <= np.ceil(expected + 1e-9)).all()
        assert positive[drawn].any(axis=0).all()
    assert positive[drawn].mean(axis=0)[3] > 2 * positive.mean(axis=0)[3]


def test_repeat_factors_by_hand():
    labels = torch.zeros(100, 2)
    labels[:40, 0] = 1
    labels[0, 1] = 1
    factors = repeat_factors(labels, threshold=0.1)
    assert factors[0] == pytest.approx(np.sqrt(0.1 / 0.01))
    assert (factors[1:] == 1).all()


def test_weights_must_fit():
    with pytest.raises(ValueError, match="3 weights for 1000 films"):
        order(0, np.ones(3))


def test_average_is_the_recurrence(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.9)
    expected = {k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()}
    for step in range(30):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(8, 3))
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        for k, v in model.state_dict().items():
            if k in expected:
                expected[k] = decay * expected[k] + (1 - decay) * v
    for k, v in expected.items():
        torch.testing.assert_close(average.average[k], v)
    own = {k: v.clone() for k, v in model.state_dict().items()}
    with average.applied(model):
        torch.testing.assert_close(model[0].weight.detach(), expected["0.weight"])
    assert all(torch.equal(v, own[k]) for k, v in model.state_dict().items())
    average.save(tmp_path)
    again = WeightAverage(model, 0.9)
    again.load(tmp_path)
    assert again.n_updates == 30
    assert all(torch.equal(v, average.average[k]) for k, v in again.average.items())
