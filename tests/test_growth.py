"""The head grows; what it said before it says still."""

from dataclasses import replace

import pytest
import torch

from hf_cxr.growth import GrowthError, grow, with_outputs
from hf_cxr.hierarchy import Node
from tests.conftest import BACKBONES, join_stages

NEW = (
    Node("Bacterial pneumonia", "finding", ("Pneumonia",)),
    Node("Fracture", "finding", ("Other",)),
    Node("Pacemaker", "device"),
)
PREVALENCE = {"Pneumonia": 0.4, "Bacterial pneumonia": 0.1, "Other": 0.5, "Fracture": 0.2, "Pacemaker": 0.05}


@pytest.fixture
def films():
    return torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def larger(nih):
    return replace(nih, nodes=(*nih.nodes, *NEW), name="nih+here")


@pytest.mark.parametrize("head", ["plain", "r1"])
@pytest.mark.parametrize("link", ["flat", "conditional"])
@pytest.mark.parametrize("kind", list(BACKBONES))
@torch.no_grad()
def test_old_outputs_stay_and_new_ones_say_the_prevalence(make_model, nih, larger, films, kind, link, head):
    model = make_model(kind, link=link, head=head).eval()
    model.head.trunk.classifier.weight.mul_(20)
    model.config.calibration = {
        "method": "platt", "split": "validation", "coefficients": {n: [1.5, 1.5, 0.2] for n in nih.names}
    }  # fmt: skip
    model.config.operating_points = {"thresholds": dict.fromkeys(nih.names, 0.4), "split": "validation"}
    before = model(films).logits
    grown = grow(model, larger, PREVALENCE)
    after = grown(films).logits
    torch.testing.assert_close(after[:, : len(nih.names)], before, atol=1e-6, rtol=0)
    assert grown.config.label_names == [*nih.names, "Bacterial pneumonia", "Fracture", "Pacemaker"]
    assert grown.config.parents["Bacterial pneumonia"] == ["Pneumonia"]
    assert grown.config.operating_points["thresholds"]["Fracture"] is None
    assert model.config.label_names == list(nih.names)
    new = after[:, len(nih.names) :].sigmoid()
    pneumonia = grown.config.label_names.index("Pneumonia")
    grown.config.calibration = None
    plain = grown(films).logits.sigmoid()
    if link == "conditional":
        torch.testing.assert_close(plain[:, -3] / plain[:, pneumonia], torch.full((6,), 0.25), atol=1e-5, rtol=0)
        assert (new[:, 0] <= after[:, pneumonia].sigmoid()).all()
    else:
        torch.testing.assert_close(new[:, 0], torch.full((6,), 0.1), atol=1e-6, rtol=0)
    torch.testing.assert_close(new[:, 2], torch.full((6,), 0.05), atol=1e-6, rtol=0)


def test_what_cannot_grow(make_model, nih, larger):
    model = make_model()
    turned = replace(nih, nodes=(*nih.nodes[::-1], *NEW))
    with pytest.raises(GrowthError, match="labels begin with"):
        grow(model, turned, PREVALENCE)
    stages = join_stages(
        make_model(hierarchy=nih.subset(["Abnormal"])), make_model(hierarchy=nih.subset(nih.names[1:])), nih
    )
    with pytest.raises(GrowthError, match="expected one stage"):
        grow(stages, larger, PREVALENCE)
    with pytest.raises(GrowthError, match="cannot become"):
        with_outputs(model, make_model("vit").config)
