import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_cxr.compute import flops, gate_savings
from hf_cxr.models import CXRTwoStageForImageClassification


@pytest.fixture
def two_stage(nih, make_model):
    below = tuple(name for name in nih.names if name != nih.gate)
    return CXRTwoStageForImageClassification.from_models(
        make_model("densenet", nih.subset([nih.gate]), link="flat"),
        make_model("vit", nih.subset(below), link="conditional"),
        gate_threshold=0.5,
        skipped_conditional=dict.fromkeys(below, 0.1),
        hierarchy_config=nih.to_config(),
    )


def test_a_convolution_is_counted_by_hand(make_model):
    model = make_model()
    with FlopCounterMode(display=False) as counter:
        torch.nn.Conv2d(1, 4, 3, padding=1, bias=False)(torch.zeros(1, 1, 8, 8))
    assert counter.get_total_flops() == 2 * 8 * 8 * 4 * 9  # what a FLOP is here
    model.train()
    assert flops(model) > 0
    assert model.training


def test_a_gate_saves_the_second_model_on_cleared_films(two_stage, make_model):
    both, gate = flops(two_stage), flops(two_stage.gate)
    assert both == gate + flops(two_stage.findings)
    saved = gate_savings(two_stage, 0.4)
    assert saved["share_saved"] == pytest.approx(0.4 * flops(two_stage.findings) / both)
    assert gate_savings(make_model(), 0.4)["share_saved"] == 0
