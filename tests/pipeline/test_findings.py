"""The tree of findings, decisions, and the model behind them."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers import pipeline as transformers_pipeline

from hf_cxr.hierarchy import load_taxonomy
from hf_cxr.pipeline import TASK, ChestXRayClassificationPipeline
from tests.pipeline.helpers import (
    OPTIONS,
    N,
    assert_all_same,
    close,
    every_node,
    lively,
    operating_points,
    pixels,
    processed,
    processor,
    reader,
    table,
)


@pytest.mark.parametrize("name", ["densenet", "vit"])
@pytest.mark.parametrize("head", ["plain", "r1"])
def test_a_saved_folder_reads_as_its_model_and_processor_do(name, head, make_model, tmp_path, films):
    own = lively(make_model(name, head=head, link="conditional"))
    own.save_pretrained(tmp_path / "run")
    processor(own, fit="crop").save_pretrained(tmp_path / "run")
    read = transformers_pipeline(TASK, model=str(tmp_path / "run"))
    assert isinstance(read, ChestXRayClassificationPipeline)
    assert not read.model.training
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    tensor = AutoImageProcessor.from_pretrained(tmp_path / "run")(films[2], return_tensors="pt")["pixel_values"]
    expected = loaded(tensor).logits.double().sigmoid()
    got = read(films[2])
    assert list(got["probabilities"]) == loaded.config.label_names
    close(table([got], loaded.config.label_names), expected, atol=1e-12)
    assert got["operating_points_from"] is got["abstained"] is got["heatmaps"] is None
    gate = {"label": "Abnormal", "probability": got["probabilities"]["Abnormal"]}
    assert got["gate"] == gate | dict.fromkeys(("threshold", "criterion", "cleared", "finding_model_ran"))
    for _, node in every_node(got["findings"]):
        assert set(node) == {"label", "kind", "probability", "threshold", "decision", "children"}
        assert node["threshold"] is node["decision"] is None


def test_the_probability_is_calibrated(model, films):
    calibrated = reader(model)(films[0])["probabilities"]
    close(table([{"probabilities": calibrated}], model.config.label_names),
          model(processed(model, films[:1])).logits.double().sigmoid(), atol=1e-12)  # fmt: skip
    model.config.calibration = None
    assert all(abs(p - calibrated[name]) > 1e-4 for name, p in reader(model)(films[0])["probabilities"].items())


@pytest.mark.parametrize("taxonomy", ["nih", "chexpert", "chexpert_irvin"])
def test_the_tree_is_the_hierarchy(taxonomy, make_model):
    hierarchy = load_taxonomy(taxonomy)
    got = reader(make_model(hierarchy=hierarchy))(pixels()[0])

    def edges(node):
        for child in node["children"]:
            yield node["label"], child["label"]
            yield from edges(child)

    assert [root["label"] for root in got["findings"]] == [n.name for n in hierarchy.nodes if not n.parents]
    found = [edge for root in got["findings"] for edge in edges(root)]
    assert set(found) == set(hierarchy.edges)
    for label, node in every_node(got["findings"]):
        assert node["kind"] == next(n.kind for n in hierarchy.nodes if n.name == label)
        assert node["probability"] == got["probabilities"][label]
        assert [child["label"] for child in node["children"]] == list(hierarchy.children[label])


def test_a_node_with_two_parents_stands_under_both(make_model, chexpert):
    got = reader(lively(make_model(hierarchy=chexpert, head_dropout=0.2)))(pixels()[0], n_passes=3)
    twice = [node for label, node in every_node(got["findings"]) if label == "Pneumonia"]
    assert len(twice) == 2
    assert twice[0] == twice[1]
    assert twice[0] is not twice[1]


def test_decisions_are_made_at_the_stored_thresholds(model, films, nih):
    read = reader(model)
    p = read(films[0])["probabilities"]
    thresholds = {name: p[name] + (i % 3 - 1) * 1e-6 for i, name in enumerate(nih.names)}  # below, at, above
    thresholds["Hernia"] = None
    del thresholds["Edema"]
    thresholds["Abnormal"] = 0.0  # the labels' criterion, which the gate does not go by
    model.config.operating_points = operating_points(thresholds, p["Abnormal"] + 1e-6, "of 2019")
    got = read(films[0])
    nodes = dict(every_node(got["findings"]))
    gate = ("Abnormal", p["Abnormal"], p["Abnormal"] + 1e-6, "sensitivity >= 0.95", True, None)
    assert tuple(got["gate"].values()) == gate
    assert list(got["gate"]) == ["label", "probability", "threshold", "criterion", "cleared", "finding_model_ran"]
    assert (nodes["Abnormal"]["threshold"], nodes["Abnormal"]["decision"]) == (p["Abnormal"] + 1e-6, False)
    assert got["operating_points_from"] == "of 2019"
    for i, name in enumerate(nih.names):
        if name in ("Hernia", "Edema"):
            assert nodes[name]["threshold"] is nodes[name]["decision"] is None
        elif name != "Abnormal":
            assert nodes[name]["threshold"] == thresholds[name]
            assert nodes[name]["decision"] is (i % 3 < 2)
    model.config.operating_points["gate_threshold"] = p["Abnormal"]
    assert read(films[0])["gate"]["cleared"] is False


def test_a_hierarchy_without_a_gate(make_model, nih):
    below = nih.subset([name for name in nih.names if name != "Abnormal"])
    model = lively(make_model(hierarchy=below))
    model.config.operating_points = operating_points(dict.fromkeys(below.names, 0.2), None)
    got = reader(model)(pixels()[0])
    assert got["gate"] is None
    assert {root["label"] for root in got["findings"]} == {"Opacity", "Cardiac", "Other"}
    nodes = dict(every_node(got["findings"]))
    assert all(nodes[name]["decision"] is (p >= 0.2) for name, p in got["probabilities"].items())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("which", ["model", "two_stage"])
def test_bfloat16(which, options, request, films, tmp_path):
    own = request.getfixturevalue(which)
    own.save_pretrained(tmp_path / "run")
    processor(own).save_pretrained(tmp_path / "run")
    read = transformers_pipeline(TASK, model=str(tmp_path / "run"), dtype=torch.bfloat16, device="cpu")
    assert read.model.dtype == torch.bfloat16
    rows = read(films, batch_size=N, **options)
    expected = read.model(processed(own, films).bfloat16()).logits
    close(table(rows, own.config.label_names), expected.sigmoid())
    assert {type(p) for row in rows for p in row["probabilities"].values()} == {float}
    for row in rows:
        assert all(heat is None or heat.dtype == np.float32 for heat in (row["heatmaps"] or {}).values())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("which", ["model", "two_stage"])
def test_the_model_is_left_as_it_was(which, options, request, films):
    own = request.getfixturevalue(which)
    read = reader(own)
    expected = read(films, batch_size=4, **options)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    assert not any(module.training for module in own.modules())
    own.train()
    assert_all_same(read(films, batch_size=4, **options), expected)
    assert all(module.training for module in own.modules())
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in own.modules())
    assert all(parameter.grad is None for parameter in own.parameters())


def test_a_model_under_peft(model, films):
    tuned = get_peft_model(model, LoraConfig(target_modules=r".*\.conv2$", modules_to_save=[], init_lora_weights=False))
    tuned.eval()
    names = model.config.label_names
    rows = reader(tuned)(films, batch_size=3, n_passes=4)
    close(table(rows, names), tuned(processed(model, films)).logits.sigmoid())
    with tuned.disable_adapter():
        assert (table(rows, names) - model(processed(model, films)).logits.sigmoid()).abs().max() > 1e-3


def test_a_saved_pipeline_is_a_model_folder(model, films, tmp_path):
    read = reader(model)
    read.save_pretrained(tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.py"))
    again = transformers_pipeline(TASK, model=str(tmp_path / "run"))
    assert_all_same(again(films), read(films))


def test_transformers_own_pipeline_agrees(model, tmp_path):
    reader(model).save_pretrained(tmp_path / "run")
    film = Image.fromarray(pixels()[0])
    rows = transformers_pipeline("image-classification", model=str(tmp_path / "run"), top_k=21)(film)
    expected = reader(model)(film)["probabilities"]
    assert {row["label"]: row["score"] for row in rows} == pytest.approx(expected, abs=1e-6)


def test_a_real_film(nih128, make_model):
    model = lively(make_model(image_size=128, link="conditional", head_dropout=0.2))
    paths = sorted((nih128 / "images").iterdir())[:3]
    rows = reader(model)(paths, batch_size=2, n_passes=3, heatmaps=["Cardiomegaly"])
    arrays = [np.asarray(Image.open(path).convert("L")) for path in paths]
    names = model.config.label_names
    close(table(rows, names), model(processed(model, arrays)).logits.sigmoid())
    assert {row["heatmaps"]["Cardiomegaly"].shape for row in rows} == {(128, 128)}
