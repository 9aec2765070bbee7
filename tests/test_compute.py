import pytest
import torch

from hf_cxr.compute import flops, gate_savings
from tests.conftest import join_stages


@pytest.fixture
def two_stage(nih, make_model):
    below = tuple(name for name in nih.names if name != nih.gate)
    return join_stages(make_model("densenet", nih.subset([nih.gate])), make_model("vit", nih.subset(below)), nih)


def test_convolutions_and_matrices_are_counted_by_hand(make_model):
    """A multiplication and an addition each for every weight at every place it is used."""
    model, expected = make_model(), 0

    def count(module, _, output):
        nonlocal expected
        places = output[0, 0].numel() if isinstance(module, torch.nn.Conv2d) else 1
        expected += 2 * module.weight.numel() * places

    hooks = [
        m.register_forward_hook(count) for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    model.eval()(torch.zeros(1, 1, 32, 32))
    for hook in hooks:
        hook.remove()
    model.train()
    assert flops(model) == expected
    assert model.training


def test_a_gate_saves_the_second_model_on_cleared_films(two_stage, make_model):
    both, gate = flops(two_stage), flops(two_stage.gate)
    assert both == gate + flops(two_stage.findings)
    saved = gate_savings(two_stage, 0.4)
    assert saved["share_saved"] == pytest.approx(0.4 * flops(two_stage.findings) / both)
    assert gate_savings(make_model(), 0.4)["share_saved"] == 0
