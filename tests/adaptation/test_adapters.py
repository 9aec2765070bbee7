"""What is trained, and that what is saved is what was trained."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from timm.utils import freeze
from transformers import AutoModelForImageClassification

from hf_cxr.adaptation import AdapterArguments, AdapterError, adapt, trained_parameters
from hf_cxr.adaptation.adapters import save
from hf_cxr.loading import ModelError, load_model
from hf_cxr.verification import identity
from tests.conftest import BACKBONES

N_FILMS = 6


@pytest.fixture
def films():
    return torch.randn(N_FILMS, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def train(model, films, steps=3):
    """Some steps in training mode, on anything."""
    model.train()
    chosen = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=5.0)
    for _ in range(steps):
        optimizer.zero_grad()
        model(pixel_values=films * 3 + 1).logits.sigmoid().sub(0.3).square().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
@pytest.mark.parametrize(("kind", "head"), [("densenet", "plain"), ("densenet", "r1"), ("vit", "plain")])
def test_an_adapter_comes_back_to_the_last_bit(make_model, films, tmp_path, kind, head, variant):
    base = make_model(kind, head=head, link="conditional").eval()
    with torch.no_grad():
        base(films * 2)  # statistics of batch norms other than the initial ones
    base.save_pretrained(tmp_path / "base")
    base = load_model(tmp_path / "base")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    arguments = AdapterArguments(lora_rank=2, lora_variant=variant)
    adapted = adapt(base, arguments)
    train(adapted, films)
    with torch.no_grad():
        expected = adapted(pixel_values=films).logits
    save(adapted, arguments, str(tmp_path / "base"), tmp_path / "adapter")
    with torch.no_grad():
        loaded = load_model(tmp_path / "adapter")(films).logits
        unchanged = load_model(tmp_path / "base")(films).logits
    # merged weights are rounded once more than weight and adapter apart
    torch.testing.assert_close(loaded, expected, atol=1e-5, rtol=1e-4)
    assert (loaded - unchanged).abs().max() > 1e-3
    moved = {
        name
        for name, value in load_model(tmp_path / "base").state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert not moved

    again = PeftModel.from_pretrained(load_model(tmp_path / "base"), tmp_path / "adapter").eval()
    freeze(again.base_model.model, ["backbone"])
    with torch.no_grad():
        assert torch.equal(again(pixel_values=films).logits, expected)

    save(adapted, replace(arguments, merge=True), "", tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "merged")(films).logits, loaded)


@pytest.mark.parametrize("kind", list(BACKBONES))
@pytest.mark.parametrize("method", ["head", "full"])
def test_head_and_everything(make_model, films, tmp_path, kind, method):
    base = make_model(kind).eval()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    adapted = train(adapt(base, AdapterArguments(method=method)), films)
    n_trained, n_all = trained_parameters(adapted)
    n_head = sum(p.numel() for p in adapted.head.parameters())
    assert n_trained == (n_head if method == "head" else n_all)
    moved = {name for name, value in adapted.state_dict().items() if not torch.equal(value, before[name])}
    assert any(name.startswith("head.trunk") for name in moved)
    assert any(name.startswith("backbone") for name in moved) is (method == "full")
    with torch.no_grad():
        expected = adapted(films).logits
        save(adapted, AdapterArguments(method=method), "", tmp_path / "saved")
        torch.testing.assert_close(load_model(tmp_path / "saved")(films).logits, expected, atol=1e-6, rtol=1e-5)


def test_an_adapters_parameters_are_counted(make_model):
    base = make_model()
    n_base = sum(p.numel() for p in base.parameters())
    n_head = sum(p.numel() for p in base.head.parameters())
    adapted = adapt(base, AdapterArguments(lora_rank=2))
    n_trained, n_all = trained_parameters(adapted)
    lora = {name: p for name, p in adapted.named_parameters() if "lora_" in name}
    assert {name.rsplit(".lora_", 1)[0].rsplit(".", 1)[1] for name in lora} == {"conv0", "conv1", "conv"}
    assert n_trained == sum(p.numel() for p in lora.values()) + n_head
    # batch norms are counted where they are trained: frozen ones are no parameters
    assert n_base < n_all + 1000
    assert n_all < n_base + n_trained


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "prompt"}, "method: got 'prompt', expected one of lora, head, full"),
        ({"lora_variant": "ia3"}, "lora_variant: got 'ia3'"),
        ({"method": "head", "merge": True}, "there is no adapter to merge with method head"),
        ({"lora_rank": 0}, "a rank of at least 1"),
        ({"lora_targets": r".*\.conv7"}, "fits no layer of densenet121, whose last are .*conv2"),
        ({"lora_targets": r"backbone\..*\.norm1"}, "on densenet121: .*not supported"),
    ],
)
def test_what_cannot_be_adapted(make_model, settings, message):
    with pytest.raises(AdapterError, match=message):
        adapt(make_model(), AdapterArguments(**settings))


@pytest.fixture
def trained_elsewhere(make_model, films, tmp_path, monkeypatch):
    """`work/runs/site`, an adapter to `runs/base` as it was typed in `work`, and its logits; from another folder."""
    runs, other = tmp_path / "work" / "runs", tmp_path / "other"
    other.mkdir()
    make_model(link="conditional").eval().save_pretrained(runs / "base")
    base = load_model(runs / "base")
    base.config.adapted_from = {"name": "base", **identity(base)}
    adapted = adapt(base, AdapterArguments(lora_rank=2))
    monkeypatch.chdir(tmp_path / "work")
    save(adapted, AdapterArguments(), "runs/base", runs / "site")
    with torch.no_grad():
        expected = load_model("runs/site")(films).logits
    monkeypatch.chdir(other)
    return runs / "site", expected


def test_an_adapter_finds_its_base_from_another_folder(trained_elsewhere, films, tmp_path):
    site, expected = trained_elsewhere
    with torch.no_grad():
        torch.testing.assert_close(load_model(site)(films).logits, expected, rtol=0, atol=0)
        # sent with its base, the two side by side
        sent = tmp_path / "sent"
        shutil.copytree(site, sent / "adapter")
        shutil.copytree(site.parent / "base", sent / "base")
        shutil.rmtree(tmp_path / "work")
        torch.testing.assert_close(load_model(sent / "adapter")(films).logits, expected, rtol=0, atol=0)


def test_without_its_base_the_hub_is_asked_only_for_a_name_on_the_hub(trained_elsewhere, tmp_path, monkeypatch):
    site, _ = trained_elsewhere
    asked = []

    def from_hub(name, **_):
        asked.append(name)
        raise OSError("offline")

    monkeypatch.setattr(AutoModelForImageClassification, "from_pretrained", from_hub)
    (site.parent / "base").rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=rf"{site}: an adapter to runs/base, which is neither in the current folder"):
        load_model(site)
    assert asked == []
    config = json.loads((site / "config.json").read_text())
    config["adapted_from"]["name"] = "runs/base"  # as of a base by that name on the Hub
    (site / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="runs/base: cannot be used"):
        load_model(site)
    assert asked == ["runs/base"]
