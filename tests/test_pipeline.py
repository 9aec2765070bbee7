"""The pipeline against the model's own forward pass, `mc_dropout` and `look`; streams, batches, decisions, errors."""

import itertools
import json
import math
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTForImageClassification
from transformers import pipeline as transformers_pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_cxr.explain import look
from hf_cxr.hierarchy import Hierarchy, load_taxonomy
from hf_cxr.models import CXRImageProcessor, FilmError
from hf_cxr.pipeline import TASK, ChestXRayClassificationPipeline
from hf_cxr.uncertainty import NoDropoutError, mc_dropout
from tests.conftest import join_stages

FEW = ("Abnormal", "Opacity", "Mass", "Cardiomegaly")
SIZE = 32
N = 7


def pixels(n=N, seed=0):
    """Films (n, 40, 48) uint8, no two alike and none square: the processor has something to do."""
    random = np.random.default_rng(seed)
    levels = np.linspace(20, 150, n)[:, None, None]
    return (levels + random.integers(0, 100, (n, 40, 48))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def films(tmp_path):
    """Their paths; 16 bits deep, at which transformers' own loading would saturate."""
    paths = [tmp_path / f"film_{i}.png" for i in range(N)]
    for path, values in zip(paths, pixels(), strict=True):
        Image.fromarray(values.astype(np.uint16) * 257).save(path)
    return [str(path) for path in paths]


def lively(model):
    """Logits that depend on the film: as initialised they hardly do, and a mix-up of films would not show."""
    torch.manual_seed(1)
    nn.init.normal_(model.head.trunk.classifier.weight, std=0.5)
    batch = CXRImageProcessor.for_model(model.config)(list(pixels(24, seed=1)), return_tensors="pt")["pixel_values"]
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(batch)
        scores = model.eval()(batch).logits
    assert (scores.std(0) > 1e-2).all()
    return model


@pytest.fixture
def model(make_model, nih):
    """A calibrated model with operating points."""
    model = lively(make_model(link="conditional", head_dropout=0.4))
    model.config.calibration = {"coefficients": {name: [0.9, 1.1, 0.2] for name in nih.names}}
    model.config.operating_points = operating_points(dict.fromkeys(nih.names, 0.3), 0.4)
    return model


@pytest.fixture
def two_stage(make_model, nih):
    """Its labels in another order than the stages', the gate last."""
    few = nih.subset(FEW)
    joined = Hierarchy(few.name, few.nodes[::-1], gate_definition=few.gate_definition)
    both = join_stages(
        lively(make_model("vit", nih.subset(FEW[:1]), head_dropout=0.3)),
        lively(make_model("densenet", nih.subset(FEW[1:]), link="conditional", head_dropout=0.3)),
        joined,
    )
    gate = both.gate(processed(both, pixels())).logits[:, 0].double().sigmoid()
    both.config.gate_threshold = gate.sort().values[2:4].mean().item()  # four of seven films pass
    return both


def operating_points(thresholds, gate_threshold, split="validation"):
    return {"split": split, "gate_threshold": gate_threshold, "gate_criterion": "sensitivity >= 0.95",
            "criterion": "highest F1", "thresholds": thresholds}  # fmt: skip


def processor(model, **kwargs):
    return CXRImageProcessor.for_model(model.config, **kwargs)


def processed(model, films):
    return processor(model)(list(films), return_tensors="pt")["pixel_values"]


def reader(model, **kwargs):
    return transformers_pipeline(TASK, model=model, image_processor=processor(model), device="cpu", **kwargs)


def table(rows, names):
    return torch.tensor([[row["probabilities"][name] for name in names] for row in rows], dtype=torch.float64)


def figures(rows, names, figure):
    nodes = [dict(every_node(row["findings"])) for row in rows]
    return torch.tensor([[of_film[name][figure] for name in names] for of_film in nodes])


def every_node(trees):
    for node in trees:
        yield node["label"], node
        yield from every_node(node["children"])


def close(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=atol, check_dtype=False)


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


def test_every_form_of_a_film_is_the_same_film(model, films, tmp_path):
    read, values = reader(model), pixels()[3]
    expected = read(films[3])
    from_8_bit = tmp_path / "8_bit.png"
    Image.fromarray(values).save(from_8_bit)
    same = [tmp_path / "film_3.png", Image.open(films[3]), values, torch.tensor(values), Image.fromarray(values),
            str(from_8_bit), values.astype(np.uint16) * 257, values[None], np.stack([values] * 3, -1)]  # fmt: skip
    for film in same:
        assert_same(read(film), expected)
    assert abs(read(films[4])["gate"]["probability"] - expected["gate"]["probability"]) > 1e-3


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


OPTIONS = {
    "plain": {},
    "passes": {"n_passes": 4, "seed": 3},
    "heatmaps": {"heatmaps": ["Mass", "Abnormal"]},
    "both": {"n_passes": 4, "heatmaps": True, "max_entropy": 0.5},
}


def assert_same(one, other):
    """Two films' results, but for rounding."""
    maps, others = (row.get("heatmaps") or {} for row in (one, other))
    assert list(maps) == list(others)
    for name, heat in maps.items():
        assert (heat is None) == (others[name] is None)
        if heat is not None:
            np.testing.assert_allclose(heat, others[name], atol=2e-3)
    plain, others = (flat({**row, "heatmaps": None}) for row in (one, other))
    assert plain.keys() == others.keys()
    for key, value in plain.items():
        assert value == (pytest.approx(others[key], abs=1e-5) if isinstance(value, float) else others[key]), key


def assert_all_same(rows, others):
    for one, other in zip(rows, others, strict=True):
        assert_same(one, other)


def flat(value, key=""):
    if isinstance(value, (dict, list)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, part in items for k, v in flat(part, f"{key}/{name}").items()}
    return {key: value}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("which", ["model", "two_stage"])
def test_batches_change_nothing_and_keep_the_order(which, options, request, films):
    read = reader(request.getfixturevalue(which))
    singly = [read(film, **options) for film in films]
    assert len({row["gate"]["probability"] for row in singly}) == N  # so that a mix-up would show
    for batch_size in (1, 3, 7, 10):
        together = read(films, batch_size=batch_size, **options)
        assert isinstance(together, list)
        assert_all_same(together, singly)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("form", ["generator", "iterator"])
def test_a_generator_is_read_no_further_than_needed(model, form, batch_size):
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield pixels()[i % N]

    read = reader(model)
    stream = read(endless() if form == "generator" else map(np.asarray, endless()), batch_size=batch_size)
    assert len(taken) == 0
    first = list(itertools.islice(iter(stream), 4))
    assert len(taken) == math.ceil(4 / batch_size) * batch_size
    for row, values in zip(first, pixels(), strict=False):
        assert_same(row, read(values))


def test_every_form_of_a_series(model, films):
    read = reader(model, batch_size=2)
    expected = read(films)
    dataset = datasets.Dataset.from_dict({"image": films, "id": range(N)}).cast_column("image", datasets.Image())
    series = {
        "KeyDataset": KeyDataset(dataset, "image"),
        "column": dataset["image"],
        "streamed column": (row["image"] for row in dataset.to_iterable_dataset()),
        "tuple": tuple(films),
        "array": pixels()[:, None],
        "tensor": torch.tensor(pixels()[:, None]),
        "empty": [],
    }
    got = {name: read(films) for name, films in series.items()}
    assert {name for name, rows in got.items() if isinstance(rows, list)} == {"tuple", "array", "tensor", "empty"}
    assert got.pop("empty") == []
    for rows in got.values():
        assert_all_same(rows, expected)
    assert list(read(film for film in ())) == []
    stream = read(KeyDataset(dataset, "image"))
    assert len(stream) == N
    for _ in range(2):  # transformers' own iterator would lose films the second time
        assert_all_same(stream, expected)


def test_workers_load_the_films(model, films):
    read = reader(model)
    assert_all_same(read(films, num_workers=1), read(films))


@pytest.mark.parametrize("which", ["model", "two_stage"])
def test_without_heatmaps_the_result_is_json(which, request, films):
    own = request.getfixturevalue(which)
    own.config.operating_points = operating_points(dict.fromkeys(own.config.label_names, 0.3), 0.4)
    rows = reader(own)(films, batch_size=3, n_passes=5, max_entropy=0.4)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    kinds = {type(value) for row in rows for value in flat(row).values()}
    assert kinds <= {str, float, bool, type(None)}


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


def test_dropout_is_mc_dropout_and_the_plain_probability_stays(model, films):
    names = model.config.label_names
    rows = reader(model)(films, batch_size=4, n_passes=6, seed=5)
    expected = mc_dropout(model, processed(model, films), 6, seed=5)
    for figure in ("mean", "deviation", "entropy", "mutual_information"):
        close(figures(rows, names, figure), getattr(expected, figure))
    assert figures(rows, names, "deviation").min() > 1e-3
    close(table(rows, names), model(processed(model, films)).logits.sigmoid())
    assert (table(rows, names) - figures(rows, names, "mean")).abs().max() > 1e-3
    other = reader(model)(films, n_passes=6, seed=6)
    assert (figures(other, names, "mean") - figures(rows, names, "mean")).abs().max() > 1e-3


def count_films(monkeypatch, **backbones):
    """How many films each backbone sees, a number a pass."""
    seen = {name: [] for name in backbones}

    def counting(name, backbone):
        inner = {attribute: getattr(backbone, attribute) for attribute in ("forward_features", "_pos_embed")
                 if hasattr(backbone, attribute)}  # fmt: skip
        entry = "_pos_embed" if "_pos_embed" in inner else "forward_features"  # `look` takes a ViT's blocks one by one

        def counted(batch):
            seen[name].append(len(batch))
            return inner[entry](batch)

        monkeypatch.setattr(backbone, entry, counted)

    for name, backbone in backbones.items():
        counting(name, backbone)
    return seen


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_pass_through_the_backbone(model, films, options, monkeypatch):
    seen = count_films(monkeypatch, own=model.backbone)
    reader(model)(films, batch_size=3, **options)
    assert seen == {"own": [3, 3, 1]}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_two_stages_skip_what_the_gate_clears(two_stage, films, options, monkeypatch):
    read = reader(two_stage)
    expected = two_stage(processed(two_stage, films))
    seen = count_films(monkeypatch, gate=two_stage.gate.backbone, findings=two_stage.findings.backbone)
    rows = read(films, batch_size=N, **options)
    assert seen == {"gate": [N], "findings": [4]}
    assert [row["gate"]["finding_model_ran"] for row in rows] == expected.finding_model_ran.tolist()
    assert expected.finding_model_ran.sum() == 4
    close(table(rows, two_stage.config.label_names), expected.logits.sigmoid())

    two_stage.config.gate_threshold = 1.1
    seen["findings"].clear()
    cleared = read(films, batch_size=3, **options)
    assert seen["findings"] == []
    assert [row["gate"]["finding_model_ran"] for row in cleared] == [False] * N
    for row in cleared:
        p = row["probabilities"]
        assert p["Cardiomegaly"] == pytest.approx(0.2 * p["Abnormal"], abs=1e-6)  # what is known without looking


def test_two_stages_with_passes_are_mc_dropout(two_stage, films):
    names = two_stage.config.label_names
    rows = reader(two_stage)(films, batch_size=N, n_passes=6, seed=5)
    expected = mc_dropout(two_stage, processed(two_stage, films), 6, seed=5)
    for figure in ("mean", "deviation", "entropy", "mutual_information"):
        close(figures(rows, names, figure), getattr(expected, figure))


def test_a_cleared_film_is_decided_negative(two_stage, films):
    below = FEW[1:]
    two_stage.config.operating_points = operating_points(dict.fromkeys(below, 0.0), two_stage.config.gate_threshold)
    rows = reader(two_stage)(films, batch_size=3)
    for row in rows:
        nodes = dict(every_node(row["findings"]))
        ran = row["gate"]["finding_model_ran"]
        assert row["gate"]["cleared"] is not ran
        assert nodes["Abnormal"]["decision"] is ran
        assert [nodes[name]["decision"] for name in below] == [ran] * len(below)  # 0 is a threshold all reach
    assert {row["gate"]["cleared"] for row in rows} == {True, False}


def test_the_gates_own_decision_shows_whatever_the_finding_model_did(two_stage, films):
    two_stage.config.operating_points = operating_points({}, 0.0)
    two_stage.config.gate_threshold = 1.1
    gate = reader(two_stage)(films[0])["gate"]
    assert (gate["cleared"], gate["finding_model_ran"]) == (False, False)


def test_heatmaps_are_looks(model, films):
    names = model.config.label_names
    rows = reader(model)(films, batch_size=3, heatmaps=True)
    expected = look(model, processed(model, films), n_passes=None).heatmaps.numpy()
    assert len({heat.tobytes() for heat in expected}) == N  # so that another film's map would show
    for row, maps in zip(rows, expected, strict=True):
        assert list(row["heatmaps"]) == names
        for name, heat in row["heatmaps"].items():
            assert heat.shape == (SIZE, SIZE)
            assert heat.dtype == np.float32
            assert heat.flags.owndata
            assert heat.min() >= 0
            assert heat.max() <= 1
            np.testing.assert_allclose(heat, maps[names.index(name)], atol=2e-3)


def test_heatmaps_of_some_labels(model, films):
    read = reader(model)
    every = read(films[0], heatmaps=True)["heatmaps"]
    some = read(films[0], heatmaps=["Mass", "Abnormal", "Mass"])["heatmaps"]
    assert list(some) == ["Mass", "Abnormal"]
    assert not np.array_equal(some["Mass"], some["Abnormal"])
    for name in some:
        np.testing.assert_array_equal(some[name], every[name])
    assert list(read(films[0], heatmaps="Mass")["heatmaps"]) == ["Mass"]
    assert read(films[0], heatmaps=False)["heatmaps"] is read(films[0], heatmaps=[])["heatmaps"] is None


def test_no_heatmap_where_nobody_looked(two_stage, films):
    rows = reader(two_stage)(films, batch_size=4, heatmaps=True)
    for row in rows:
        looked = [name for name, heat in row["heatmaps"].items() if heat is not None]
        assert looked == (two_stage.config.label_names if row["gate"]["finding_model_ran"] else ["Abnormal"])
        assert all(np.isfinite(row["heatmaps"][name]).all() for name in looked)


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


@pytest.mark.parametrize("n_passes", [None, 5])
def test_a_doubtful_film_is_left_to_a_reader(model, films, n_passes):
    read = reader(model, n_passes=n_passes)
    p = [row["gate"]["probability"] for row in read(films)]
    if n_passes:
        p = mc_dropout(model, processed(model, films), n_passes).mean[:, 0].double().tolist()
    between = sorted(entropy(each) for each in p)
    limit = (between[3] + between[4]) / 2
    rows = read(films, max_entropy=limit)
    assert [row["abstained"] for row in rows] == [entropy(each) > limit for each in p]
    assert sum(row["abstained"] for row in rows) == 3
    assert [row["abstained"] for row in read(films)] == [None] * N


@pytest.mark.parametrize("n_passes", [None, 5])
def test_even_odds_are_not_above_ln_2(model, films, n_passes):
    model.config.calibration = None
    nn.init.zeros_(model.head.trunk.classifier.weight)
    nn.init.zeros_(model.head.trunk.classifier.bias)
    read = reader(model, n_passes=n_passes)
    assert read(films[0], max_entropy=math.log(2))["abstained"] is False
    assert read(films[0], max_entropy=0.6931)["abstained"] is True
    if n_passes:
        assert dict(every_node(read(films[0])["findings"]))["Abnormal"]["entropy"] == math.log(2)


def test_without_a_gate_any_root_may_be_doubtful(make_model, nih):
    model = lively(make_model(hierarchy=nih.subset(["Opacity", "Mass", "Cardiac", "Other"])))
    read = reader(model)
    p = read(pixels()[0])["probabilities"]
    roots = sorted(entropy(p[name]) for name in ("Opacity", "Cardiac", "Other"))
    assert read(pixels()[0], max_entropy=roots[-1] - 1e-4)["abstained"] is True
    assert read(pixels()[0], max_entropy=min(roots[-1] + 1e-4, math.log(2)))["abstained"] is False


def test_a_leafs_doubt_is_not_the_films(model, films):
    model.head.trunk.classifier.bias.data[0] = 4  # sure of the gate, and of nothing else
    p = reader(model)(films[0])["probabilities"]
    assert max(entropy(each) for each in p.values()) > entropy(p["Abnormal"]) + 1e-3
    assert reader(model)(films[0], max_entropy=entropy(p["Abnormal"]) + 1e-4)["abstained"] is False


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


def test_settings_of_the_pipeline_hold_until_a_call_says_otherwise(model, films):
    read = reader(model, n_passes=3, seed=2, heatmaps="Mass", max_entropy=0.2)
    assert_same(read(films[0]), reader(model)(films[0], n_passes=3, seed=2, heatmaps="Mass", max_entropy=0.2))
    plain = read(films[0], n_passes=None, heatmaps=None, max_entropy=None)
    assert_same(plain, reader(model)(films[0]))
    assert_same(read(films[0], seed=4), reader(model)(films[0], n_passes=3, seed=4, heatmaps="Mass", max_entropy=0.2))


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


# Errors


def test_another_model_is_named(tmp_path):
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=32)
    with pytest.raises(TypeError, match="ViTForImageClassification"):
        transformers_pipeline(TASK, model=ViTForImageClassification(config), image_processor=CXRImageProcessor())


def test_another_processor_is_refused(model, make_model):
    with pytest.raises(TypeError, match="image_processor: got NoneType"):
        ChestXRayClassificationPipeline(model)
    for other in (CXRImageProcessor(size={"height": 64, "width": 64}), CXRImageProcessor(
        size={"height": 32, "width": 32}, image_mean=None, image_std=None)):  # fmt: skip
        with pytest.raises(ValueError, match=r"image processor has .*trained with \(32, 0\.5, 0\.25\)"):
            transformers_pipeline(TASK, model=model, image_processor=other)
    own_statistics = make_model(image_mean=None, image_std=None)
    assert reader(own_statistics)(pixels()[0])["gate"]


def test_passes_need_dropout(make_model, films):
    read = reader(make_model())
    with pytest.raises(NoDropoutError, match="head_dropout"):
        read(films[0], n_passes=5)
    with pytest.raises(NoDropoutError):
        reader(make_model(), n_passes=5)
    with pytest.raises(ValueError, match="n_passes=1"):
        reader(make_model(head_dropout=0.1), n_passes=1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"heatmaps": ["Mass", "Pneumothorx"]}, r"'Pneumothorx'; did you mean 'Pneumothorax'\? .*Hernia"),
        ({"heatmaps": "cardiomegaly"}, "did you mean 'Cardiomegaly'"),
        ({"heatmaps": ["?"]}, "no label '[?]'; The labels are Abnormal"),
        ({"max_entropy": 0.0}, "max_entropy=0.0"),
        ({"max_entropy": 0.7}, r"max_entropy=0.7; expected nats in \(0, ln 2"),
    ],
)
def test_bad_parameters(model, films, parameters, message):
    for use in (lambda: reader(model, **parameters), lambda: reader(model)(films[0], **parameters)):
        with pytest.raises(ValueError, match=message):
            use()


def test_an_unknown_parameter(model, films):
    with pytest.raises(TypeError, match=r"\['passes', 'top_k'\]; expected some of n_passes"):
        reader(model)(films[0], top_k=3, passes=3)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_bad_film_is_named(model, films, tmp_path, batch_size):
    read = reader(model, batch_size=batch_size)
    blank, broken, missing = tmp_path / "blank.png", tmp_path / "broken.png", tmp_path / "missing.png"
    Image.new("L", (40, 40), 7).save(blank)
    broken.write_bytes(Path(films[0]).read_bytes()[:200])
    reasons = {blank: "has the value 7 in every pixel", broken: "OSError|SyntaxError", missing: "No such file"}
    for path, reason in reasons.items():
        with pytest.raises(FilmError, match=rf"^film 5: {path}: .*({reason})"):
            read([*films[:5], str(path)])
        with pytest.raises(FilmError, match=rf"^film 5: {path}: .*({reason})"):
            list(read(film for film in [*films[:5], path]))
        with pytest.raises(FilmError, match=rf"^{path}: .*({reason})"):
            read(path)
    with pytest.raises(FilmError, match=r"^film 1: film of size"):
        read([films[0], np.zeros((40, 40), np.uint8)])
    with pytest.raises(FilmError, match=r"^array of shape"):
        read(np.zeros(40, np.uint8))
    with pytest.raises(FilmError, match=r"^array of shape"):
        read(None)


def test_what_is_no_film(model, films):
    read = reader(model)
    dataset = datasets.Dataset.from_dict({"image": films, "id": range(N)})
    with pytest.raises(FilmError, match=r"^film 0: a row with the columns \['image', 'id'\]; pass KeyDataset"):
        list(read(dataset))
    with pytest.raises(FilmError, match=r"^film 1: 2 films in the place of one"):
        read([films[0], films[1:3]])


# Real films


def test_a_real_film(nih128, make_model):
    model = lively(make_model(image_size=128, link="conditional", head_dropout=0.2))
    paths = sorted((nih128 / "images").iterdir())[:3]
    rows = reader(model)(paths, batch_size=2, n_passes=3, heatmaps=["Cardiomegaly"])
    arrays = [np.asarray(Image.open(path).convert("L")) for path in paths]
    names = model.config.label_names
    close(table(rows, names), model(processed(model, arrays)).logits.sigmoid())
    assert {row["heatmaps"]["Cardiomegaly"].shape for row in rows} == {(128, 128)}
