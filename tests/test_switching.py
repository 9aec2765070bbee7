"""Adapters that share a base give what each gives alone, in whatever order they are used."""

import json
import threading
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from hf_cxr.adaptation import AdapterArguments, adapt
from hf_cxr.growth import grow
from hf_cxr.hierarchy import Node
from hf_cxr.loading import ModelError, load_model
from hf_cxr.models import CXRImageProcessor
from hf_cxr.switching import SwitchError, load_adapters
from hf_cxr.verification import identity
from tests.conftest import BACKBONES, join_stages

NEW = {"Fracture": Node("Fracture", "finding", ("Abnormal",)), "Pacemaker": Node("Pacemaker", "device")}
LAYERS = {"densenet": r"backbone\..*\.conv2$", "vit": r"backbone\..*\.attn\.qkv$"}


def save_base(model, folder):
    """A base whose batch norms have seen films, and whose outputs depend on the film."""
    torch.manual_seed(1)
    with torch.no_grad():
        torch.nn.init.normal_(model.head.trunk.classifier.weight, std=0.1)
        for _ in range(10):
            model.train()(torch.randn(12, 1, 32, 32))
    model.eval().save_pretrained(folder)
    CXRImageProcessor.for_model(model.config).save_pretrained(folder)
    return folder


def save_adapter(base_folder, folder, hierarchy, new=(), seed=0, **arguments):
    """A folder as an adaptation leaves it, with numbers in the place of training, and a calibration of its own."""
    base = load_model(base_folder)
    larger = replace(hierarchy, nodes=(*hierarchy.nodes, *(NEW[name] for name in new)))
    model = grow(base, larger, {**dict.fromkeys(new, 0.1), "Abnormal": 0.5})
    names = model.config.label_names
    model.config.adapted_from = {"name": base_folder.name, **identity(base)}
    model.config.calibration = {"coefficients": {key: [1.0 + seed / 10, 1.1, 0.2] for key in names}}
    model.config.operating_points = {
        "split": f"of hospital {seed}", "criterion": "highest F1", "gate_threshold": 0.1 * seed,
        "gate_criterion": "sensitivity >= 0.95", "thresholds": dict.fromkeys(names, 0.2 + seed / 10),
    }  # fmt: skip
    adapted = adapt(model, AdapterArguments(**({"lora_rank": 2} | arguments)))
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    if hasattr(adapted, "peft_config"):
        adapted.peft_config["default"].base_model_name_or_path = str(base_folder)
        adapted.save_pretrained(folder)
        adapted.get_base_model().config.save_pretrained(folder)
    else:
        adapted.save_pretrained(folder)
    CXRImageProcessor.for_model(model.config).save_pretrained(folder)
    return folder


@pytest.fixture
def films():
    return torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def folders(make_model, nih, tmp_path):
    """A base and two hospitals' adapters: other layers, ranks, labels."""

    def make(kind="densenet", variant="lora", **settings):
        base = save_base(make_model(kind, link="conditional", **settings), tmp_path / "base")
        south = save_adapter(base, tmp_path / "south", nih, ["Fracture", "Pacemaker"], 1, lora_variant=variant)
        north = save_adapter(
            base, tmp_path / "north", nih, seed=2, lora_rank=1, lora_dropout=0.5, lora_targets=LAYERS[kind]
        )
        return base, {"south": south, "Lyon, St. Luc": north}

    return make


@pytest.mark.parametrize(
    ("kind", "head", "variant"),
    [("densenet", "plain", "lora"), ("densenet", "r1", "dora"), ("vit", "plain", "rslora"), ("vit", "r1", "dora")],
)
@torch.no_grad()
def test_each_is_as_if_it_were_alone(folders, films, kind, head, variant):
    base, adapters = folders(kind, variant, head=head)
    alone = {name: load_model(folder) for name, folder in {None: base, **adapters}.items()}
    expected = {name: model(films) for name, model in alone.items()}
    models = load_adapters(base, adapters)
    seen = {}
    for name in (None, "south", "Lyon, St. Luc", "south", None, "Lyon, St. Luc", None):
        model = models.use(name)
        assert models.active == name
        assert not any(module.training for module in model.modules())
        got = model(films)
        if name is None:
            assert torch.equal(got.logits, expected[None].logits)
        close = {"atol": 1e-6, "rtol": 0}
        torch.testing.assert_close(got.logits.sigmoid(), expected[name].logits.sigmoid(), **close)
        assert torch.equal(seen.setdefault(name, got.logits), got.logits)
        plain, own = model.config.to_dict(), alone[name].config.to_dict()
        assert {k: v for k, v in plain.items() if k not in ("_name_or_path", "dtype")} == {
            k: v for k, v in own.items() if k not in ("_name_or_path", "dtype")
        }
    old = slice(len(alone[None].config.label_names))
    for one, other in ((None, "south"), (None, "Lyon, St. Luc"), ("south", "Lyon, St. Luc")):
        assert (seen[one].sigmoid()[:, old] - seen[other].sigmoid()[:, old]).abs().max() > 1e-2
    assert seen["south"].shape[1] == seen[None].shape[1] + 2


@pytest.mark.parametrize("kind", list(BACKBONES))
def test_an_adapter_adds_its_own_weights_and_a_switch_copies_none(folders, kind):
    base, adapters = folders(kind)
    before = load_model(base)
    n_base = sum(p.numel() for p in before.parameters())
    places = {p.data_ptr() for p in before.parameters()}
    models = load_adapters(before, adapters)
    assert models.model is before
    held = {}
    for _ in range(2):  # the second round finds nothing new
        for name in (None, *models.names):
            held |= {p.data_ptr(): p.numel() for p in models.use(name).parameters()}
    n_files = [
        sum(value.numel() for key, value in load_file(folder / "adapter_model.safetensors").items()
            if "running_" not in key and "num_batches" not in key)
        for folder in adapters.values()
    ]  # fmt: skip
    assert places <= held.keys()
    assert sum(held.values()) == n_base + sum(n_files)
    assert not any(p.requires_grad for p in models.model.parameters())


@torch.no_grad()
def test_heads_follow_the_model(folders, films):
    base, adapters = folders()
    models = load_adapters(base, adapters)
    before = models.use("south")(films).logits
    models.use(None).double()
    after = models.use("south")(films.double()).logits
    torch.testing.assert_close(after.sigmoid().float(), before.sigmoid(), atol=1e-6, rtol=0)
    assert {p.dtype for p in models.model.parameters()} == {torch.float64}


def test_a_block_puts_back_what_was_in_use(folders):
    base, adapters = folders()
    models = load_adapters(base, adapters)
    models.use("south")
    with models.using(None) as model:
        assert models.active is None
        assert model is models.model
    assert models.active == "south"
    with pytest.raises(RuntimeError), models.using(None) as model:
        model(torch.zeros(1))  # no film
    assert models.active == "south"
    switched = threading.Event()

    def other():
        models.use("Lyon, St. Luc")
        switched.set()

    thread = threading.Thread(target=other)
    with models.using(None):
        thread.start()
        assert not switched.wait(0.2)
        assert models.active is None
    thread.join()
    assert models.active == "Lyon, St. Luc"


@torch.no_grad()
def test_an_unknown_adapter(folders, films):
    base, adapters = folders()
    models = load_adapters(base, adapters)
    before = models.use("south")(films).logits
    with pytest.raises(SwitchError, match=r"no adapter 'South'; loaded are 'south', 'Lyon, St\. Luc' "):
        models.use("South")
    assert torch.equal(models.model(films).logits, before)
    with pytest.raises(SwitchError, match="no adapter 'south'; none is loaded"):
        load_adapters(base, {}).use("south")


def test_another_base(folders, make_model, nih, tmp_path):
    base, adapters = folders()
    torch.manual_seed(7)
    other = save_base(make_model(link="conditional", head_dropout=0.1), tmp_path / "other")
    changed = load_model(other)
    with torch.no_grad():
        changed.backbone.features.conv0.weight += 0.01
    changed.save_pretrained(other)
    for name in (other, changed):
        with pytest.raises(ModelError, match=r"south: adapted from a model with weights \w{16}; .*is another"):
            load_adapters(name, adapters)
    config = json.loads((adapters["south"] / "config.json").read_text())
    (adapters["south"] / "config.json").write_text(json.dumps({**config, "adapted_from": None}))
    with pytest.raises(SwitchError, match=r"south: config.json does not say .*adapted_from"):
        load_adapters(base, adapters)


@pytest.mark.parametrize("method", ["head", "full"])
def test_only_adapters_are_switched(folders, nih, tmp_path, method):
    base, adapters = folders()
    whole = save_adapter(base, tmp_path / method, nih, seed=3, method=method)
    with pytest.raises(SwitchError, match=f"{method} is a whole model; only adapters .method lora. can be switched"):
        load_adapters(base, {**adapters, "whole": whole})
    with pytest.raises(ModelError, match="nowhere: cannot be used as a model"):
        load_adapters(base, {"nowhere": tmp_path / "nowhere"})


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"bias": "all"}, r"\['base_model.model.backbone.*bias'"),
        ({"modules_to_save": ["trunk", "norm5"]}, r"\['base_model.model.backbone.features.norm5"),
        (
            {"target_modules": r"(backbone\..*\.conv2|head\.trunk\.classifier)$", "modules_to_save": None},
            "classifier.lora_A",
        ),
        ({"init_lora_weights": "olora"}, "LORA, olora"),
    ],
)
def test_what_would_change_the_base(folders, settings, reason):
    base, adapters = folders()
    config = {"r": 1, "target_modules": LAYERS["densenet"], "modules_to_save": ["trunk"]} | settings
    odd = {name: config.pop(name) for name in ("init_lora_weights",) if name in config}
    tuned = get_peft_model(load_model(base), LoraConfig(**config))
    tuned.save_pretrained(adapters["south"])
    written = adapters["south"] / "adapter_config.json"
    written.write_text(json.dumps(json.loads(written.read_text()) | odd))
    with pytest.raises(SwitchError, match=rf"south is more than low-rank layers .*{reason}.* load it by itself"):
        load_adapters(base, adapters)


@torch.no_grad()
def test_a_broken_adapter_leaves_the_base_what_it_was(folders, films, tmp_path):
    base, adapters = folders()
    model = load_model(base)
    before = model(films).logits
    file = adapters["Lyon, St. Luc"] / "adapter_model.safetensors"
    weights = load_file(file)
    lost = next(key for key in weights if ".lora_B." in key)
    save_file({key: value for key, value in weights.items() if key != lost}, file, {"format": "pt"})
    with pytest.raises(SwitchError, match=r"^Lyon, St. Luc: its weights .* no weights for \['.*lora_B"):
        load_adapters(model, adapters)
    assert torch.equal(model(films).logits, before)
    with pytest.raises(SwitchError, match="has adapters already"):
        load_adapters(model, adapters)
    file.write_bytes(b"no weights")
    with pytest.raises(ModelError, match="north: cannot be used as a model"):
        load_adapters(base, adapters)


def test_bases_that_carry_no_adapters(folders, make_model, nih):
    base, adapters = folders()
    with pytest.raises(SwitchError, match=r"is in torch.bfloat16; expected float32"):
        load_adapters(load_model(base).bfloat16(), adapters)
    with pytest.raises(SwitchError, match=r"are called \[''\]"):
        load_adapters(base, {"": adapters["south"]})
    stages = join_stages(
        make_model(hierarchy=nih.subset(["Abnormal"])), make_model(hierarchy=nih.subset(nih.names[1:])), nih
    )
    config = json.loads((adapters["south"] / "config.json").read_text())
    config["adapted_from"] = {"name": "stages", **identity(stages)}
    (adapters["south"] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="expected one stage"):
        load_adapters(stages, {"south": adapters["south"]})
    assert load_adapters(stages, {}).use(None) is stages


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("kind", list(BACKBONES))
@torch.no_grad()
def test_merging_and_back(make_model, films, tmp_path, kind, variant):
    """PEFT's own, on the layers that this project adapts."""
    base = load_model(save_base(make_model(kind, link="conditional"), tmp_path / "base"))
    plain = base(films).logits.sigmoid()
    tuned = adapt(base, AdapterArguments(lora_rank=2, lora_variant=variant)).eval()
    random = torch.Generator().manual_seed(5)
    for name, parameter in tuned.named_parameters():
        if ".lora_B." in name:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
    layers = {name: layer for name, layer in tuned.named_modules() if hasattr(layer, "merge")}
    before = {name: layer.get_base_layer().weight.clone() for name, layer in layers.items()}
    close = {"atol": 1e-6, "rtol": 0}
    apart = tuned(films).logits.sigmoid()
    assert (apart - plain).abs().max() > 1e-2
    tuned.merge_adapter()
    torch.testing.assert_close(tuned(films).logits.sigmoid(), apart, **close)
    for name, layer in layers.items():
        assert layer.merged
        assert (layer.get_base_layer().weight - before[name]).abs().max() > 1e-3, name
    tuned.unmerge_adapter()
    torch.testing.assert_close(tuned(films).logits.sigmoid(), apart, **close)
    for name, layer in layers.items():
        torch.testing.assert_close(layer.get_base_layer().weight, before[name], **close)
