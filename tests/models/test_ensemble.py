"""An ensemble is the mean of its members' probabilities, in order, whole after loading, and of one kind of member."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from transformers import AutoModelForImageClassification

from hf_cxr.models import CXREnsembleForImageClassification, CXRImageProcessor
from tests.conftest import join_stages
from tests.pipeline.helpers import FEW, lively, pixels


@pytest.fixture
def members(make_model, nih):
    """Three that differ in kind and in weights, the second calibrated."""
    few = nih.subset(FEW)
    models = [lively(make_model(kind, few, link="conditional")).eval() for kind in ("densenet", "vit", "densenet")]
    for model in models[2:]:
        with torch.no_grad():
            model.head.trunk.classifier.weight.mul_(-0.7)
    models[1].set_calibration({"coefficients": {name: [0.8, 1.3, 0.4] for name in FEW}})
    return models


@pytest.fixture
def ensemble(members):
    return CXREnsembleForImageClassification.from_models(members)


def films(model, n=12):
    return CXRImageProcessor.for_model(model.config)(list(pixels(n)), return_tensors="pt")["pixel_values"]


def in_order(logits, hierarchy):
    parent, child = (list(side) for side in hierarchy.edge_indices)
    return (logits[:, child] <= logits[:, parent]).all()


def test_it_is_the_mean_of_its_members(ensemble, members):
    given = films(ensemble)
    with torch.no_grad():
        output = ensemble(given)
        each = np.stack([expit(model(given).logits.double().numpy()) for model in members])
        pooled = [model(given).pooler_output for model in members]
    assert np.ptp(each, axis=0).max() > 0.1, "members that say the same would hide a mistake"
    np.testing.assert_allclose(output.logits.double().sigmoid(), each.mean(0), atol=1e-6)
    assert torch.equal(output.pooler_output, torch.cat(pooled, 1))


def test_its_own_calibration_comes_last(ensemble, members):
    ensemble.set_calibration({"coefficients": {name: [2.0, 2.0, -0.5] for name in FEW}})
    given = films(ensemble)
    with torch.no_grad():
        mean = np.mean([expit(model(given).logits.double().numpy()) for model in members], axis=0)
        got = ensemble(given).logits.double().numpy()
    np.testing.assert_allclose(got[:, 0], 2 * logit(mean[:, 0]) - 0.5, atol=1e-4)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0, 1000.0])
def test_what_every_member_holds_in_order_stays_in_order(ensemble, nih, scale):
    """Also where all of them give child and parent the same logit, and rounding decides."""
    few, random = nih.subset(FEW), torch.Generator().manual_seed(3)
    logits = torch.randn(3, 5000, len(FEW), generator=random) * scale
    for parent, child in zip(*few.edge_indices, strict=True):
        below = logits[..., parent] - torch.rand(3, 5000, generator=random) * scale
        equal = torch.rand(3, 5000, generator=random) < 0.5
        logits[..., child] = torch.where(equal, logits[..., parent], below)
    got = ensemble.compose(logits)
    assert in_order(got, few)
    assert torch.isfinite(got).all()
    exact = torch.logit(logits.double().sigmoid().mean(0), eps=1e-12)
    sure = exact.abs() < 20
    torch.testing.assert_close(got.double()[sure], exact[sure], rtol=1e-4, atol=1e-4)


def test_flat_members_are_averaged_as_they_are(make_model, nih):
    models = [lively(make_model(hierarchy=nih.subset(FEW))).eval() for _ in range(2)]
    with torch.no_grad():
        models[1].head.trunk.classifier.weight.mul_(-1)
    ensemble = CXREnsembleForImageClassification.from_models(models)
    assert ensemble.config.link == "flat"
    given = films(ensemble)
    with torch.no_grad():
        mean = torch.stack([model(given).logits.double().sigmoid() for model in models]).mean(0)
        torch.testing.assert_close(ensemble(given).logits.double().sigmoid(), mean, atol=1e-6, rtol=0)


def test_save_and_load_is_bit_equal(ensemble, nih, tmp_path):
    ensemble.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is CXREnsembleForImageClassification
    assert loaded.config.label_names == list(nih.subset(FEW).names)
    with torch.no_grad():
        assert torch.equal(loaded(films(ensemble)).logits, ensemble(films(ensemble)).logits)


def test_half_precision_keeps_float32_logits_in_order(ensemble, nih):
    output = ensemble.to(torch.bfloat16)(films(ensemble).to(torch.bfloat16))
    assert output.logits.dtype == torch.float32
    assert in_order(output.logits, nih.subset(FEW))


def test_checkpointing_reaches_every_member(ensemble):
    ensemble.gradient_checkpointing_enable()
    assert all(member.is_gradient_checkpointing for member in ensemble.members)
    ensemble.gradient_checkpointing_disable()
    assert not any(member.is_gradient_checkpointing for member in ensemble.members)


def test_what_does_not_belong_together_is_refused(members, make_model, nih):
    join = CXREnsembleForImageClassification.from_models
    with pytest.raises(ValueError, match="1 member; an ensemble has two or more"):
        join(members[:1])
    with pytest.raises(ValueError, match="id2label: one member has"):
        join([members[0], make_model(hierarchy=nih)])
    with pytest.raises(ValueError, match="image_size: one member has 32, another 64"):
        join([members[0], make_model(hierarchy=nih.subset(FEW), image_size=64)])
    few = nih.subset(FEW)
    stages = join_stages(make_model(hierarchy=nih.subset(FEW[:1])), make_model(hierarchy=nih.subset(FEW[1:])), few)
    with pytest.raises(ValueError, match="model_type 'cxr-two-stage' of a part: expected one of"):
        join([stages, stages])
