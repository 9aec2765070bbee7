"""Monte Carlo dropout against T slow passes of the whole model with the same masks, and what it leaves as it was."""

import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from scipy.special import expit
from torch import nn

from hf_cxr.models import CXREnsembleForImageClassification
from hf_cxr.uncertainty import NoDropoutError, _summarise, draw_masks, mc_dropout
from tests.conftest import join_stages

COMBINATIONS = [(m, h, k) for m in ("densenet", "vit") for h in ("plain", "r1") for k in ("flat", "conditional")]


@pytest.fixture
def make(make_model):
    def make(name="densenet", head="plain", link="flat", dropout=0.4, **settings):
        model = make_model(name, head=head, link=link, head_dropout=dropout, **settings).eval()
        nn.init.normal_(model.head.trunk.classifier.weight, std=0.5)  # as initialised all logits are about 0
        return model

    return make


@pytest.fixture
def two_stage(make, nih):
    below = [n for n in nih.names if n != "Abnormal"]
    findings = make("densenet", "r1", "conditional", hierarchy=nih.subset(below))
    return join_stages(make("vit", hierarchy=nih.subset(["Abnormal"])), findings, nih)


def films(n=5, size=32):
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(1))


def slow_passes(model, pixels, masks):
    """Probabilities (T, B, L) of T runs of the whole model, the dropout layer multiplying by one mask after another."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    dropout, passes = inner.head.trunk.dropout, []
    for mask in masks:
        dropout.forward = lambda x, mask=mask: x * mask
        with torch.no_grad():
            passes.append(model(pixels).logits.double().numpy())
    del dropout.forward
    return expit(np.stack(passes))


def binary_entropy(p):
    return -p * np.log(p) - (1 - p) * np.log1p(-p)


def check(got, passes):
    mean = passes.mean(0)
    np.testing.assert_allclose(got.mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.deviation, passes.std(0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(got.entropy, binary_entropy(mean), rtol=1e-4, atol=1e-6)
    expected = binary_entropy(passes).mean(0)
    np.testing.assert_allclose(got.expected_entropy, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(got.mutual_information, binary_entropy(mean) - expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "head", "link"), COMBINATIONS)
def test_equal_to_slow_passes_with_the_same_masks(make, name, head, link):
    model = make(name, head, link)
    got = mc_dropout(model, films(), n_passes=6, seed=3)
    masks = draw_masks(6, model.head.trunk.classifier.in_features, 0.4, torch.Generator().manual_seed(3))
    check(got, slow_passes(model, films(), masks))
    assert got.mean.shape == (5, 21)
    assert got.deviation.min() > 0
    assert (got.n_passes, got.seed, got.finding_model_ran) == (6, 3, None)


def test_agrees_with_torchs_dropout(make):
    """Independent of how masks are drawn: the head's own dropout layer in training mode, 4,000 passes each."""
    model = make("densenet", "plain", dropout=0.3)
    got = mc_dropout(model, films(2), n_passes=4000)
    torch.manual_seed(0)
    with torch.no_grad():
        features, _ = model.head_input(model.feature_map(films(2)))
        model.head.trunk.dropout.train()
        passes = torch.stack([model.head(features) for _ in range(4000)]).sigmoid()
    error = 5 * passes.std(0) * math.sqrt(2 / 4000)
    assert ((got.mean - passes.mean(0)).abs() < error).all()
    torch.testing.assert_close(got.deviation, passes.std(0), rtol=0.08, atol=1e-4)


def test_entropies_of_known_passes():
    agree, differ, sure = [0.0, 0.0], [40.0, -40.0], [40.0, 40.0]
    got = _summarise(torch.tensor([agree, differ, sure]).T[:, None, :], seed=0)
    np.testing.assert_allclose(got.mean[0], [0.5, 0.5, 1.0])
    np.testing.assert_allclose(got.deviation[0], [0.0, 0.5, 0.0], atol=1e-12)
    np.testing.assert_allclose(got.entropy[0], [math.log(2), math.log(2), 0.0], atol=1e-12, rtol=1e-6)
    np.testing.assert_allclose(got.mutual_information[0], [0.0, math.log(2), 0.0], atol=1e-12, rtol=1e-6)
    rare = _summarise(torch.full((2, 1, 1), -30.0), seed=0)  # e^−30 (30 + 1): not lost against 1
    np.testing.assert_allclose(rare.entropy, math.exp(-30) * 31, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_mean_of_consistent_passes_is_consistent(make, nih, scale):
    parent, child = (list(side) for side in nih.edge_indices)
    broken = {}
    for link in ("conditional", "flat"):
        model = make("densenet", "r1", link)
        nn.init.normal_(model.head.trunk.classifier.weight, std=scale)
        mean = mc_dropout(model, films(40), n_passes=20).mean
        broken[link] = (mean[:, child] > mean[:, parent]).sum()
    assert broken["conditional"] == 0
    assert broken["flat"] > 100


def test_seeded_and_apart_from_the_global_state(make):
    model, state = make(), torch.get_rng_state()
    first = mc_dropout(model, films(), 10, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(mc_dropout(model, films(), 10, seed=1).deviation, first.deviation)
    assert not torch.allclose(mc_dropout(model, films(), 10, seed=2).deviation, first.deviation)


def test_a_films_figures_do_not_depend_on_its_batch(make):
    model = make("densenet", "r1", "conditional")
    together = mc_dropout(model, films(6), 10)
    backwards = mc_dropout(model, films(6).flip(0), 10)
    for field in ("mean", "deviation", "entropy", "mutual_information"):
        alone = torch.cat([getattr(mc_dropout(model, film[None], 10), field) for film in films(6)])
        torch.testing.assert_close(getattr(together, field), alone, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(getattr(together, field), getattr(backwards, field).flip(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("context", [torch.enable_grad, torch.inference_mode])
def test_the_model_is_left_as_it_was(make, context):
    model = make("densenet", "r1")
    expected = mc_dropout(model, films(), 5)
    model.train()
    model.backbone.eval()
    flags = [m.training for m in model.modules()]
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    with context():
        got = mc_dropout(model, films(), 5)
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())  # batch norm's statistics too
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(got.mean, expected.mean)
    assert not got.mean.requires_grad


def test_the_backbone_runs_once(make, monkeypatch):
    model, seen = make(), []
    run = model.backbone.forward_features
    monkeypatch.setattr(model.backbone, "forward_features", lambda x: (seen.append(len(x)), run(x))[1])
    mc_dropout(model, films(), 30)
    assert seen == [5]


@pytest.mark.parametrize("saved", [["head"], []])
def test_under_lora(make, saved):
    targets = r".*attn\.(qkv|proj)$" + ("" if saved else r"|.*classifier$")
    model = get_peft_model(make("vit"), LoraConfig(r=4, target_modules=targets, modules_to_save=saved)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key or "modules_to_save" in key:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    masks = draw_masks(6, 64, 0.4, torch.Generator().manual_seed(0))
    check(mc_dropout(model, films(), 6), slow_passes(model, films(), masks))


def test_half_precision(make):
    model = make("densenet", "r1", "conditional")
    full = mc_dropout(model, films(), 30)
    half = mc_dropout(model.to(torch.bfloat16), films().to(torch.bfloat16), 30)
    assert half.mean.dtype == torch.float32
    torch.testing.assert_close(half.mean, full.mean, atol=0.05, rtol=0.1)


def test_without_dropout_it_says_what_to_do(make, nih):
    with pytest.raises(NoDropoutError, match=r"head_dropout is 0\.0.*all 30 passes would be the same.*Train the model"):
        mc_dropout(make(dropout=0.0), films())
    with pytest.raises(ValueError, match="n_passes=1; expected 2 or more"):
        mc_dropout(make(), films(), n_passes=1)
    with pytest.raises(TypeError, match=r"expected a model of hf_cxr\.models"):
        mc_dropout(nn.Linear(2, 2), films())


def test_two_stages_compose_each_pass_by_the_chain_rule(two_stage, nih):
    pixels = films(12)
    two_stage.config.gate_threshold = two_stage.gate(pixels).logits[:, 0].sigmoid().median().item()
    got, ran = mc_dropout(two_stage, pixels, 8, seed=4), two_stage(pixels).finding_model_ran
    assert 0 < ran.sum() < 12
    assert torch.equal(got.finding_model_ran, ran)
    random = torch.Generator().manual_seed(4)
    widths = [part.head.trunk.classifier.in_features for part in (two_stage.gate, two_stage.findings)]
    masks = [draw_masks(8, width, 0.4, random) for width in widths]
    gate = slow_passes(two_stage.gate, pixels, masks[0])
    findings = slow_passes(two_stage.findings, pixels, masks[1])
    findings[:, ~ran.numpy()] = 0.2
    names = ["Abnormal", *two_stage.findings.config.label_names]
    composed = np.concatenate([gate, gate * findings], 2)[..., [names.index(n) for n in nih.names]]
    check(got, composed)
    parent, child = (list(side) for side in nih.edge_indices)
    assert (got.mean[:, child] <= got.mean[:, parent]).all()


def test_two_stages_with_every_film_cleared(two_stage, nih):
    two_stage.config.gate_threshold = 1.1
    got = mc_dropout(two_stage, films(), 8)
    assert not got.finding_model_ran.any()
    mass, gate = nih.names.index("Mass"), nih.names.index("Abnormal")
    torch.testing.assert_close(got.deviation[:, mass], 0.2 * got.deviation[:, gate], rtol=1e-4, atol=1e-7)


def test_two_stages_name_the_stage_without_dropout(two_stage):
    two_stage.gate.head.trunk.dropout.p = 0.0
    with pytest.raises(NoDropoutError, match=r"of the gate model is 0\.0"):
        mc_dropout(two_stage, films())


def ensemble_of(*members):
    with torch.no_grad():
        for number, member in enumerate(members):
            member.head.trunk.classifier.weight.mul_(1 - number)  # the seed is the same
    return CXREnsembleForImageClassification.from_models(members)


def test_an_ensemble_takes_the_passes_of_all_members(make, nih):
    ensemble = ensemble_of(make("densenet", link="conditional"), make("vit", link="conditional"))
    ensemble.config.calibration = {"coefficients": {name: [0.9, 0.9, 0.3] for name in nih.names}}
    pixels, random = films(), torch.Generator().manual_seed(4)
    widths = [member.head.trunk.classifier.in_features for member in ensemble.members]
    masks = [draw_masks(8, width, 0.4, random) for width in widths]
    passes = [slow_passes(member, pixels, own) for member, own in zip(ensemble.members, masks, strict=True)]
    got = mc_dropout(ensemble, pixels, 8, seed=4)
    assert got.n_passes == 8
    logits = torch.logit(torch.from_numpy(np.concatenate(passes))).float()
    check(got, expit(ensemble.calibrate(logits.flatten(0, 1)).unflatten(0, (16, -1)).double().numpy()))


def test_an_ensemble_without_dropout_tells_how_its_members_disagree(make):
    ensemble = ensemble_of(make("densenet", dropout=0.0), make("densenet", dropout=0.0))
    got = mc_dropout(ensemble, films(), 3)
    with torch.no_grad():
        check(got, np.stack([expit(member(films()).logits.double().numpy()) for member in ensemble.members]))
    assert got.mutual_information.max() > 1e-3
