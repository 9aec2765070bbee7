"""Heatmaps against the grad-cam package and slow loops; nothing left behind; what was learned is what is shown."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from hf_cxr.explain import attention_rollout, grad_cam, look, untrained
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.localisation import score_localisation
from hf_cxr.models import SINGLE_STAGE, CXREnsembleForImageClassification
from hf_cxr.uncertainty import NoDropoutError, mc_dropout
from tests.conftest import join_stages

TINY = {
    "densenet": ("cxr-densenet", "densenet121", {"growth_rate": 8, "block_config": [1, 1]}),
    "resnet": ("cxr-densenet", "test_resnet", {}),
    "vit": ("cxr-vit", "test_vit", {}),
    "vit, register token, mean": ("cxr-vit", "test_vit2", {"init_values": 0.5}),
}
LORA = {
    "densenet": r".*\.conv2$|.*trunk\.convolution$",
    "resnet": r".*\.conv2$",
    "vit": r".*attn\.(qkv|proj)$|.*classifier$",
    "vit, register token, mean": r".*attn\.qkv$",
}


FEW = ("Abnormal", "Opacity", "Mass", "Cardiomegaly")


@pytest.fixture
def make(nih):
    def make(name, head="plain", link="flat", hierarchy=None, image_size=64, dropout=0.3):
        hierarchy = hierarchy or nih.subset(FEW)
        kind, backbone, extra = TINY[name]
        config_class, model_class = SINGLE_STAGE[kind]
        torch.manual_seed(0)
        model = model_class(
            config_class(backbone=backbone, backbone_kwargs=extra, image_size=image_size, head=head, link=link,
                         head_dropout=dropout, **hierarchy.to_config())
        )  # fmt: skip
        # As initialised the logits hardly depend on the film, and batch norm's statistics are those of no data.
        weight = nn.init.normal_(model.head.trunk.classifier.weight)
        if len(weight) == 4:  # of two labels whose logits are opposite, one at least has something to show
            weight.data[2:] = -weight.data[:2]
        model.train()
        with torch.no_grad():
            for _ in range(3):
                model(films(8, image_size))
        return model.eval()

    return make


@pytest.fixture
def two_stage(make, nih):
    """Its labels in another order than the stages', the gate last."""
    joined = nih.subset(FEW)
    joined = Hierarchy(joined.name, joined.nodes[::-1], gate_definition=joined.gate_definition)
    findings = make("densenet", link="conditional", hierarchy=nih.subset(FEW[1:]))
    return join_stages(make("vit", hierarchy=nih.subset(FEW[:1])), findings, joined)


def films(n=3, size=64):
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(1))


class Logits(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixels).logits


def package_maps(model, pixels, raw=False):
    """(B, L, H, W) by the grad-cam package, one backward pass of the whole model a label."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    is_vit = hasattr(inner.backbone, "blocks")
    layer = inner.backbone.blocks[-1].norm1 if is_vit else None
    if layer is None:
        layer = inner.backbone.features if hasattr(inner.backbone, "features") else inner.backbone.layer4

    def to_grid(tokens):
        patches = tokens[:, inner.backbone.num_prefix_tokens :]
        side = round(patches.shape[1] ** 0.5)
        return patches.reshape(len(patches), side, side, -1).permute(0, 3, 1, 2)

    with GradCAM(Logits(model), [layer], reshape_transform=to_grid if is_vit else None) as cam:
        n_labels = inner.head.trunk.classifier.out_features
        maps = []
        for label in range(n_labels):
            maps.append(cam(pixels, [ClassifierOutputTarget(label)] * len(pixels)))
            if raw:
                a, g = (x[0] for x in (cam.activations_and_grads.activations, cam.activations_and_grads.gradients))
                maps[-1] = (g.mean((2, 3), keepdim=True) * a).sum(1).relu().numpy()
    return np.stack(maps, axis=1)


def distance(ours, theirs):
    return np.abs(ours.numpy() - theirs).max()


@pytest.mark.parametrize(
    ("name", "head", "link"),
    [
        *(("densenet", head, link) for head in ("plain", "r1") for link in ("flat", "conditional")),
        *((name, "plain", "conditional") for name in TINY if name != "densenet"),
        *((name, "r1", "flat") for name in TINY if name != "densenet"),
    ],
)
def test_equal_to_the_package(make, name, head, link):
    model = make(name, head, link)
    theirs = package_maps(model, films())
    ours = grad_cam(model, films())
    assert ours.shape == (3, 4, 64, 64)
    assert distance(ours, theirs) < 1e-4
    assert (theirs.reshape(12, -1).max(1) > 0.99).mean() > 0.3  # maps that show something
    assert ours.min() >= 0
    assert ours.max() <= 1


@pytest.mark.parametrize("name", TINY)
def test_equal_to_the_package_under_lora(make, name):
    base = make(name, "r1" if name == "densenet" else "plain", "conditional")
    plain_maps = grad_cam(base, films())
    saved = [] if "trunk" in LORA[name] or "classifier" in LORA[name] else ["head"]
    model = get_peft_model(base, LoraConfig(r=4, target_modules=LORA[name], modules_to_save=saved)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key or "modules_to_save" in key:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    theirs = package_maps(model, films())
    assert distance(grad_cam(model, films()), theirs) < 1e-4
    assert distance(plain_maps, theirs) > 0.05  # the adapter matters
    with model.disable_adapter():
        assert torch.allclose(grad_cam(model, films()), plain_maps, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "head"), [("densenet", "plain"), ("densenet", "r1"), ("resnet", "plain"), ("vit", "r1")]
)
def test_raw_maps_are_unscaled(make, name, head):
    model = make(name, head)
    grid = torch.tensor(package_maps(model, films(), raw=True))
    expected = nn.functional.interpolate(grid, size=(64, 64), mode="bilinear", align_corners=False)
    ours = grad_cam(model, films(), raw=True)
    assert expected.max() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_a_stretched_map_hides_how_much_there_is(make):
    """Twice the logit: twice the raw map, the same stretched one."""
    model = make("densenet", "r1")
    ours, stretched = grad_cam(model, films(), raw=True), grad_cam(model, films())
    with torch.no_grad():
        model.head.trunk.classifier.weight.mul_(2)
    torch.testing.assert_close(grad_cam(model, films(), raw=True), 2 * ours, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(grad_cam(model, films()), stretched, rtol=1e-3, atol=1e-3)


def test_a_map_above_0_throughout_is_stretched_from_its_least_value(make):
    model = make("densenet")
    with torch.no_grad():
        model.head.trunk.classifier.weight.abs_()
    assert grad_cam(model, films(), raw=True).min() > 0
    ours = grad_cam(model, films())
    assert distance(ours, package_maps(model, films())) < 1e-4
    assert (ours.amin((2, 3)) == 0).all()


def test_a_label_for_which_nothing_speaks_has_an_empty_map(make):
    model = make("densenet")  # its map is ≥ 0, so weights below 0 leave nothing above 0
    with torch.no_grad():
        model.head.trunk.classifier.weight[2] = -1.0
    maps = grad_cam(model, films())
    assert (maps[:, 2] == 0).all()
    assert (maps[:, [0, 1, 3]].amax((2, 3)) > 0.99).any()


def everything(model):
    hooks = [h for m in model.modules() for h in (m._forward_hooks, m._backward_hooks, m._forward_pre_hooks)]
    return {
        "training": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "gradients": [None if p.grad is None else p.grad.sum().item() for p in model.parameters()],
        "values": [v.double().sum().item() for v in model.state_dict().values()],
        "hooks": sum(map(len, hooks)),
        "fused": [m.fused_attn for m in model.modules() if hasattr(m, "fused_attn")],
    }


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["densenet", "resnet", "vit"])
def test_nothing_is_left_behind(make, name, context):
    model = make(name, "r1")
    expected = look(model, films(), n_passes=3)
    model.head.trunk.classifier.bias.requires_grad_(False)
    model(films()).logits.sum().backward()  # gradients of the caller's
    model.train()
    model.backbone.eval()  # flags that differ
    before, state = everything(model), torch.get_rng_state()
    with context():
        pixels = films().clone()  # an inference tensor under inference_mode
        got = look(model, pixels, n_passes=3)
        if name == "vit":
            attention_rollout(model, pixels)
    assert everything(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not got.heatmaps.requires_grad
    assert not got.logits.requires_grad
    assert torch.equal(got.heatmaps, expected.heatmaps)
    assert torch.equal(got.uncertainty.mean, expected.uncertainty.mean)


def test_flags_return_after_an_error(make):
    model = make("densenet").train()
    with pytest.raises(RuntimeError):
        look(model, torch.zeros(2, 3, 64, 64))
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("head", ["plain", "r1"])
@pytest.mark.parametrize("name", TINY)
def test_one_look_is_forward_and_dropout_and_grad_cam(make, name, head):
    model = make(name, head, "conditional")
    seen = look(model, films(), n_passes=7, seed=5)
    torch.testing.assert_close(seen.logits, model(films()).logits.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.uncertainty.mean, mc_dropout(model, films(), 7, 5).mean, rtol=1e-4, atol=1e-5)
    assert torch.equal(seen.heatmaps, grad_cam(model, films()))


def test_one_look_runs_the_backbone_once(make, monkeypatch):
    model, calls = make("densenet", "r1"), []
    run = model.backbone.forward_features
    monkeypatch.setattr(model.backbone, "forward_features", lambda x: (calls.append(len(x)), run(x))[1])
    look(model, films())
    assert calls == [3]


def test_a_model_without_dropout_still_has_heatmaps(make):
    model = make("densenet", dropout=0.0)
    with pytest.raises(NoDropoutError):
        look(model, films())
    assert look(model, films(), n_passes=None).uncertainty is None


def test_two_stages(two_stage):
    pixels = films(12)
    gate_probability = two_stage.gate(pixels).logits[:, 0].sigmoid()
    two_stage.config.gate_threshold = gate_probability.median().item()
    seen = look(two_stage, pixels, n_passes=5)
    output = two_stage(pixels)
    ran = output.finding_model_ran
    assert 0 < ran.sum() < 12
    assert torch.equal(seen.finding_model_ran, ran)
    torch.testing.assert_close(seen.logits, output.logits.detach(), rtol=1e-4, atol=1e-4)
    names = two_stage.config.label_names
    gate = names.index("Abnormal")
    torch.testing.assert_close(seen.heatmaps[:, gate], grad_cam(two_stage.gate, pixels)[:, 0])
    findings = grad_cam(two_stage.findings, pixels[ran])
    for i, name in enumerate(two_stage.findings.config.label_names):
        torch.testing.assert_close(seen.heatmaps[ran][:, names.index(name)], findings[:, i])
    assert seen.heatmaps[~ran][:, [i for i in range(4) if i != gate]].isnan().all()
    two_stage.config.gate_threshold = 1.1
    cleared = look(two_stage, pixels, n_passes=5)
    assert cleared.heatmaps.isnan().sum() == 12 * 3 * 64 * 64


def test_an_ensemble_shows_its_members_mean(make):
    members = [make("densenet", link="conditional"), make("vit", link="conditional")]
    ensemble = CXREnsembleForImageClassification.from_models(members)
    seen = look(ensemble, films(), n_passes=5, seed=2, raw=True)
    raw = torch.stack([grad_cam(member, films(), raw=True) for member in members])
    assert (raw[0] - raw[1]).abs().max() > 0.01 * raw.max()
    torch.testing.assert_close(seen.heatmaps, raw.mean(0))
    with torch.no_grad():
        torch.testing.assert_close(seen.logits, ensemble(films()).logits, rtol=1e-4, atol=1e-5)
    doubt = mc_dropout(ensemble, films(), 5, seed=2)
    torch.testing.assert_close(seen.uncertainty.entropy, doubt.entropy, rtol=1e-4, atol=1e-5)
    stretched = grad_cam(ensemble, films())
    flat = raw.mean(0).flatten(-2)
    low, high = (each[..., None, None] for each in flat.aminmax(dim=-1))
    torch.testing.assert_close(stretched, (raw.mean(0) - low) / (high - low + 1e-7), rtol=1e-3, atol=1e-4)
    assert untrained(ensemble)(films()).logits.shape == (3, 4)


def slow_rollout(model, pixels):
    """The paper's, from the weights that timm's own unfused attention multiplies with."""
    rows, handles = [], []
    for block in model.backbone.blocks:
        block.attn.fused_attn = False
        handles.append(block.attn.attn_drop.register_forward_hook(lambda m, i, o: rows.append(o)))
    with torch.no_grad():
        model(pixels)
    for block, handle in zip(model.backbone.blocks, handles, strict=True):
        block.attn.fused_attn = True
        handle.remove()
    maps = []
    for film in range(len(pixels)):
        rollout = np.eye(rows[0].shape[-1])
        for layer in rows:
            mixed = layer[film].double().numpy().mean(0) + np.eye(len(rollout))
            rollout = mixed / mixed.sum(-1, keepdims=True) @ rollout
        maps.append(rollout)
    return np.stack(maps)


@pytest.mark.parametrize("name", ["vit", "vit, register token, mean"])
def test_rollout_is_the_papers(make, name):
    model = make(name)
    full, first = slow_rollout(model, films()), model.backbone.num_prefix_tokens
    row = full[:, 0, first:] if name == "vit" else full[:, first:, first:].mean(1)
    grid = torch.tensor(row.reshape(3, 1, 4, 4), dtype=torch.float32)
    expected = nn.functional.interpolate(grid, size=(64, 64), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(attention_rollout(model, films(), raw=True), expected, rtol=1e-4, atol=1e-7)
    stretched = attention_rollout(model, films())
    assert stretched.shape == (3, 64, 64)
    assert (stretched.amin((1, 2)) == 0).all()
    assert (stretched.amax((1, 2)) > 0.999).all()


def test_rollout_and_grad_cam_refuse_what_they_cannot_do(make, two_stage):
    with pytest.raises(TypeError, match="needs a ViT"):
        attention_rollout(make("densenet"), films())
    assert attention_rollout(two_stage.gate, films()).shape == (3, 64, 64)
    with pytest.raises(TypeError, match=r"expected a model of hf_cxr\.models"):
        grad_cam(nn.Linear(2, 2), films())
    other = make("vit")
    other.backbone.blocks[1] = nn.Identity()
    with pytest.raises(TypeError, match="has a Identity with NoneType"):
        grad_cam(other, films())


def striped(n, seed):
    """Films (n, 1, 48, 48) with two striped squares anywhere, half of them with one striped across: (n,), its mask.

    The other squares are as bright and as large, so that brightness does not give the one away: on films where the
    finding is the brightest spot an untrained network's heatmaps find it too (0.9 of them, when tried).
    """
    random = np.random.default_rng(seed)
    pixels = random.normal(0, 0.3, (n, 1, 48, 48)).astype(np.float32)
    truth = (np.arange(n) % 2).astype(np.float32)
    across = np.tile(np.sign(np.sin(np.arange(12) * np.pi / 2 + 0.5)), (12, 1))
    masks = np.zeros((n, 48, 48), bool)
    for film in range(n):
        for i, cell in enumerate(random.permutation(9)[:2]):
            top, left = cell // 3 * 16 + random.integers(5), cell % 3 * 16 + random.integers(5)
            square = (film, slice(top, top + 12), slice(left, left + 12))
            finding = bool(truth[film]) and i == 0
            pixels[:, 0][square] += 1.5 * (across if finding else across.T)
            masks[square] = finding
    return torch.tensor(pixels), torch.tensor(truth), masks


@pytest.mark.parametrize("head", ["plain", "r1"])
def test_heatmaps_find_what_was_learned_and_not_without_learning(make, nih, head):
    model = make("densenet", head, hierarchy=nih.subset(["Mass"]), image_size=48, dropout=0.0).train()
    nn.init.trunc_normal_(model.head.trunk.classifier.weight, std=0.02)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(40 if head == "plain" else 25):
        pixels, truth, _ = striped(32, step)
        optimiser.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(pixels).logits[:, 0], truth).backward()
        optimiser.step()
    model.eval()
    pixels, truth, masks = striped(120, 1000)
    with torch.no_grad():
        assert ((model(pixels).logits[:, 0] > 0) == truth.bool()).float().mean() > 0.95
    shown = np.flatnonzero(truth)

    def score(some_model):
        return score_localisation(grad_cam(some_model, pixels[shown], raw=True)[:, 0].numpy(), masks[shown])

    learned, unlearned = score(model), [score(untrained(model, seed)) for seed in range(6)]
    assert learned.n == 60
    assert learned.pointing > 0.9
    assert learned.inside > 3 * learned.area
    # One random network may prefer either square; over several neither is preferred.
    assert np.mean([s.pointing for s in unlearned]) < 0.5 * learned.pointing
    assert np.mean([s.inside for s in unlearned]) < 0.5 * learned.inside
    assert np.median([s.n_empty for s in unlearned]) < 20  # the score is not lost to empty maps


@pytest.mark.parametrize("name", ["densenet", "vit"])
def test_an_untrained_network_is_like_the_model_but_for_its_weights(make, name):
    model = make(name)
    before, state = everything(model), torch.get_rng_state()
    other = untrained(model, 3)
    assert everything(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert type(other) is type(model)
    assert not other.training
    assert {k: v.shape for k, v in other.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert not torch.allclose(other.head.trunk.classifier.weight, model.head.trunk.classifier.weight)
    assert torch.equal(other(films()).logits, untrained(model, 3)(films()).logits)
    assert not torch.equal(other(films()).logits, untrained(model, 4)(films()).logits)


def test_an_untrained_network_of_two_stages(two_stage):
    assert untrained(two_stage)(films()).logits.shape == (3, 4)
