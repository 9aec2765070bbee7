"""One contract for every backbone × head × link, and what is particular to each link and to two stages."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_cxr.hierarchy import Hierarchy, Node
from hf_cxr.models import (
    CXRDenseNetConfig,
    CXRImageProcessor,
    CXRTwoStageForImageClassification,
)
from hf_cxr.models.heads import ConditionalLink
from tests.conftest import join_stages


@pytest.fixture(
    params=[(m, h, k) for m in ("densenet", "vit") for h in ("plain", "r1") for k in ("flat", "conditional")]
)
def model(request, make_model):
    name, head, link = request.param
    return make_model(name, head=head, link=link, head_dropout=0.5).eval()


def films(n=5, size=32):
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(1))


def test_shapes_and_types(model):
    output = model(films())
    assert output.logits.shape == (5, 21)
    assert output.logits.dtype == torch.float32
    assert output.pooler_output.ndim == 2
    assert torch.isfinite(output.logits).all()


def test_save_and_load_is_bit_equal(model, tmp_path, nih):
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(model)
    assert torch.equal(loaded(films()).logits, model(films()).logits)
    assert Hierarchy.from_config(AutoConfig.from_pretrained(tmp_path)).names == nih.names
    # a buffer that is not in the file would hold uninitialised memory
    assert set(dict(loaded.named_buffers())) <= set(load_file(tmp_path / "model.safetensors"))


def test_a_missing_weight_is_an_error(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(name for name in weights if name.startswith("backbone.") and name.endswith("weight"))
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=lost.replace(".", r"\.")):
        type(model).from_pretrained(tmp_path)


def test_gradients_reach_every_weight(model):
    model.train()
    model(films(8)).logits.sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without


def test_gradient_checkpointing_changes_no_gradient(model):
    model.train()
    model.head.trunk.dropout.p = 0.0
    gradients = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        model(films(8)).logits.square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert model.is_gradient_checkpointing
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


def test_prior_sets_the_untrained_prediction(model, nih):
    prevalence = {name: 0.4 * 0.5 ** len(nih.ancestors(name)) for name in nih.names}
    torch.nn.init.zeros_(model.head.trunk.classifier.weight)
    model.set_prior(prevalence)
    predicted = model(films()).logits.sigmoid()[0]
    np.testing.assert_allclose(predicted.detach(), [prevalence[n] for n in nih.names], rtol=1e-4)


def test_half_precision_keeps_float32_logits(model):
    output = model.to(torch.bfloat16)(films().to(torch.bfloat16))
    assert output.logits.dtype == torch.float32


def parents_above(logits, hierarchy):
    parent, child = (list(side) for side in hierarchy.edge_indices)
    return (logits[:, child] <= logits[:, parent]).all()


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("name", ["nih", "chexpert"])
def test_conditional_link_keeps_order_on_every_input(name, scale, request):
    hierarchy = request.getfixturevalue(name)
    positions = [[hierarchy.names.index(p) for p in hierarchy.parents[n]] for n in hierarchy.names]
    link = ConditionalLink(positions)
    scores = torch.randn(2000, len(hierarchy.names), generator=torch.Generator().manual_seed(0)) * scale
    for dtype in (torch.float32, torch.bfloat16):
        leaf = scores.to(dtype).detach().clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            logits = link(leaf)
        assert torch.isfinite(logits).all()
        assert parents_above(logits, hierarchy)
        logits.sigmoid().sum().backward()
        assert torch.isfinite(leaf.grad).all()


def test_conditional_link_is_the_chain_rule(chexpert):
    """Against products of probabilities in float64; several parents: the smallest."""
    names = chexpert.names
    link = ConditionalLink([[names.index(p) for p in chexpert.parents[n]] for n in names])
    scores = torch.randn(50, len(names), generator=torch.Generator().manual_seed(0))
    got = link(scores).double().sigmoid()
    conditional = scores.double().sigmoid()
    for row in range(50):
        p = {}
        for name in chexpert.topological_order:
            above = min((p[parent] for parent in chexpert.parents[name]), default=1.0)
            p[name] = above * float(conditional[row, names.index(name)])
        np.testing.assert_allclose(got[row], [p[n] for n in names], rtol=1e-5)


def test_conditional_link_refuses_a_cycle():
    with pytest.raises(ValueError, match="cycle"):
        ConditionalLink([[1], [0]])


def test_diamond_of_unrelated_parents():
    diamond = Hierarchy("d", (Node("a"), Node("b"), Node("c", parents=("a", "b")), Node("d", parents=("c",))))
    link = ConditionalLink([[], [], [0, 1], [2]])
    assert parents_above(link(torch.randn(500, 4) * 5), diamond)


def test_labels_keep_their_order_through_json(make_model, tmp_path, nih):
    """transformers sorts the keys of config.json: only id2label may carry the order."""
    make_model().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert list(stored["node_kinds"]) != list(nih.names)  # the trap is real
    assert CXRDenseNetConfig.from_pretrained(tmp_path).label_names == list(nih.names)


def test_config_refuses_disagreement(nih):
    plain = nih.to_config()
    with pytest.raises(ValueError, match="disagree"):
        CXRDenseNetConfig(**(plain | {"id2label": {0: "a"}}))
    with pytest.raises(ValueError, match="Gout"):
        CXRDenseNetConfig(**(plain | {"parents": {"Gout": ["Abnormal"]}}))
    with pytest.raises(ValueError, match="link='both'"):
        CXRDenseNetConfig(link="both", **plain)


def test_backbone_weights_from_a_file(make_model, tmp_path):
    donor = make_model().backbone
    with torch.no_grad():
        for parameter in donor.parameters():
            parameter.add_(0.5)
    save_file({k: v.contiguous() for k, v in donor.state_dict().items()}, tmp_path / "weights.safetensors")
    model = make_model()
    model.load_backbone(str(tmp_path / "weights.safetensors"))
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, donor.state_dict()[name]), name


def test_plain_transformers_pipeline(make_model, tmp_path):
    model = make_model(link="conditional")
    model.save_pretrained(tmp_path)
    CXRImageProcessor.for_model(model.config).save_pretrained(tmp_path)
    film = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    rows = pipeline("image-classification", model=str(tmp_path), top_k=21)(Image.fromarray(film))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    expected = model.eval()(**processor(film, return_tensors="pt")).logits.sigmoid()[0]
    assert {row["label"] for row in rows} == set(model.config.label_names)
    for row in rows:
        assert row["score"] == pytest.approx(expected[model.config.label2id[row["label"]]].item(), abs=1e-6)


@pytest.fixture
def two_stage(make_model, nih):
    below = [n for n in nih.names if n != "Abnormal"]
    findings = make_model("densenet", nih.subset(below), link="conditional")
    return join_stages(make_model("vit", nih.subset(["Abnormal"])), findings, nih)


def test_two_stages_run_the_second_only_where_needed(two_stage, nih, monkeypatch):
    pixels = films(64)
    gate = two_stage.gate(pixels).logits[:, 0].sigmoid()
    two_stage.config.gate_threshold = gate.median().item()
    seen = []
    run = two_stage.findings.forward
    monkeypatch.setattr(two_stage.findings, "forward", lambda x: (seen.append(len(x)), run(x))[1])
    output = two_stage(pixels)
    assert seen == [int(output.finding_model_ran.sum())]
    assert 0 < seen[0] < 64
    everything = two_stage(pixels, run_all=True).logits
    ran = output.finding_model_ran
    torch.testing.assert_close(output.logits[ran], everything[ran], atol=1e-5, rtol=1e-5)
    assert parents_above(output.logits, nih)
    assert parents_above(everything, nih)


def test_two_stages_compose_by_the_chain_rule(two_stage, nih):
    pixels = films()
    gate = two_stage.gate(pixels).logits.double().sigmoid()
    findings = two_stage.findings(pixels).logits.double().sigmoid()
    got = two_stage(pixels, run_all=True).logits.double().sigmoid()
    for i, name in enumerate(two_stage.findings.config.label_names):
        np.testing.assert_allclose(
            got[:, nih.names.index(name)].detach(), (gate[:, 0] * findings[:, i]).detach(), rtol=1e-5
        )
    np.testing.assert_allclose(got[:, nih.names.index("Abnormal")].detach(), gate[:, 0].detach(), rtol=1e-6)


def test_cleared_films_get_what_is_known_of_them(two_stage, nih):
    two_stage.config.gate_threshold = 1.1
    output = two_stage(films())
    assert not output.finding_model_ran.any()
    p = output.logits.sigmoid()
    np.testing.assert_allclose(
        p[:, nih.names.index("Mass")].detach(), 0.2 * p[:, nih.names.index("Abnormal")].detach(), rtol=1e-5
    )


def test_two_stages_save_and_load(two_stage, tmp_path):
    two_stage.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(films()).logits, two_stage(films()).logits)
    assert loaded.config.label_names == two_stage.config.label_names


def test_two_stages_refuse_what_does_not_fit(make_model, nih, chexpert):
    gate, findings = make_model("vit", nih.subset(["Abnormal"])), make_model("vit", nih.subset(["Mass", "Nodule"]))
    arguments = {"gate_threshold": 0.5, "skipped_conditional": {}}
    with pytest.raises(ValueError, match="together they must be"):
        CXRTwoStageForImageClassification.from_models(gate, findings, hierarchy_config=nih.to_config(), **arguments)
    with pytest.raises(ValueError, match="do not lie below the gate"):
        CXRTwoStageForImageClassification.from_models(
            make_model("vit", chexpert.subset(["Abnormal"])),
            make_model("vit", chexpert.subset([n for n in chexpert.names if n != "Abnormal"])),
            hierarchy_config=chexpert.to_config(), **arguments,
        )  # fmt: skip
