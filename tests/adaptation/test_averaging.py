"""Averages of adapters against sums written out, and what cannot be averaged."""

import json
from math import sqrt

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_cxr.adaptation.averaging import average, shares_of
from hf_cxr.adaptation.merging import METHODS, AveragingArguments
from hf_cxr.adaptation.sites import AveragingError, read_sites
from hf_cxr.hierarchy import Node
from hf_cxr.loading import ModelError, load_model
from hf_cxr.verification import Verification, verify_with
from tests.adaptation.averaging_sites import BACTERIAL, VIRAL, write_base, write_site
from tests.conftest import BACKBONES

CLOSE = {"atol": 1e-6, "rtol": 1e-6}


@pytest.fixture
def make_base(make_model, tmp_path):
    return lambda kind="densenet", **settings: write_base(make_model(kind, **settings), tmp_path / "base")


@pytest.fixture
def averaged(tmp_path):
    """Average and save; the model loaded from there."""

    def make(base, folders, weights=None, method="cat", **settings):
        sites = read_sites(base, "base", folders)
        arguments = AveragingArguments(method, **settings)
        merged = average(base, str(tmp_path / "base"), sites, shares_of(sites, weights), arguments)
        folder = tmp_path / f"average_{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        merged.save(folder, sites[0].processor)
        return load_model(folder)

    return make


def factors(folder):
    """`{layer: (A (r, inputs · kernel), B (outputs, r))}` as they lie on the disk."""
    weights = load_file(folder / "adapter_model.safetensors")
    layers = {name.split(".lora_A.")[0] for name in weights if ".lora_A." in name}
    return {n: tuple(weights[f"{n}.lora_{x}.weight"].double().flatten(1) for x in "AB") for n in layers}


def deltas(model, base):
    """`{layer: (outputs, inputs · kernel)}`: what a merged adapter added to the base's weights."""
    before, found = base.state_dict(), {}
    for name, value in model.state_dict().items():
        if name.startswith("backbone.") and name.endswith(".weight") and not torch.equal(value, before[name]):
            found[f"base_model.model.{name.removesuffix('.weight')}"] = (value - before[name]).double().flatten(1)
    return found


@pytest.mark.parametrize("kind", list(BACKBONES))
@pytest.mark.parametrize("method", ["cat", "svd", "linear"])
def test_the_average_of_an_adapter_with_itself_is_that_adapter(make_base, averaged, tmp_path, kind, method):
    base = make_base(kind)
    folder = write_site(base, tmp_path / "base", tmp_path / "a", BACTERIAL, seed=1)
    own = load_model(folder)
    model = averaged(base, [folder, folder], [0.3, 0.7], method)
    assert model.config.label_names == own.config.label_names
    close = CLOSE if method != "svd" else {"atol": 5e-6, "rtol": 1e-6}  # its decomposition rounds
    for name, value in own.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, **close)
    assert deltas(own, base)


@pytest.mark.parametrize("method", list(METHODS))
def test_an_adapter_without_weight_gives_nothing(make_base, averaged, tmp_path, method):
    base = make_base()
    a = write_site(base, tmp_path / "base", tmp_path / "a", BACTERIAL, seed=1)
    b = write_site(base, tmp_path / "base", tmp_path / "b", VIRAL, seed=2)
    own, settings = load_model(a), {"density": 0.5} if METHODS[method].prunes else {}
    if settings:
        with pytest.raises(AveragingError, match=r"only .*a has a weight above 0"):
            averaged(base, [a, b], [1, 0], method, **settings)
        return
    model = averaged(base, [a, b], [1, 0], method)
    assert model.config.label_names == own.config.label_names
    for name, value in own.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, **CLOSE)


@pytest.mark.parametrize("kind", list(BACKBONES))
@pytest.mark.parametrize("method", ["cat", "svd"])
def test_cat_is_the_weighted_sum_of_deltas(make_base, averaged, tmp_path, kind, method):
    """Whatever the sites' ranks, scales and layers; so is svd with as great a rank."""
    base = make_base(kind)
    narrow = {"lora_targets": r"backbone\..*(conv2|qkv)"}
    a = write_site(base, tmp_path / "base", tmp_path / "a", seed=1, lora_rank=1, lora_alpha=5)
    b = write_site(base, tmp_path / "base", tmp_path / "b", seed=2, lora_rank=3, lora_variant="rslora", **narrow)
    model = averaged(base, [a, b], [1, 3], method, **({"rank": 4} if method == "svd" else {}))
    expected = {n: 0.25 * 5 / 1 * B @ A for n, (A, B) in factors(a).items()}
    for name, (A, B) in factors(b).items():
        expected[name] = expected.get(name, 0) + 0.75 * 3 / sqrt(3) * B @ A
    assert set(factors(b)) != set(factors(a))
    found = deltas(model, base)
    assert found.keys() == expected.keys()
    for name, delta in found.items():
        torch.testing.assert_close(delta, expected[name], atol=1e-6 if method == "cat" else 5e-6, rtol=1e-5)


def test_linear_averages_the_factors(make_base, averaged, tmp_path):
    base = make_base()
    folders = [write_site(base, tmp_path / "base", tmp_path / name, seed=i) for i, name in enumerate("abc")]
    model = averaged(base, folders, [1, 2, 1], "linear")
    each = [factors(folder) for folder in folders]
    found = deltas(model, base)
    assert found.keys() == each[0].keys()
    for name, delta in found.items():
        A, B = (sum(w * sqrt(3 / 2) * f[name][i] for w, f in zip((0.25, 0.5, 0.25), each, strict=True)) for i in (0, 1))
        torch.testing.assert_close(delta, B @ A, atol=1e-6, rtol=1e-5)


def slow_ties(tensors, shares, density):
    """Weight by weight: the largest are kept, the sign with the greater sum is elected, its sites are averaged."""
    kept = []
    for tensor in tensors:
        flat = tensor.numpy().ravel()
        least = np.sort(np.abs(flat))[::-1][int(density * len(flat)) - 1]
        kept.append(np.where(np.abs(flat) >= least, flat, 0.0))
    merged = np.zeros(len(kept[0]))
    for i, values in enumerate(zip(*kept, strict=True)):
        sign = 1 if sum(values) >= 0 else -1
        agree = [(w * len(kept), v) for w, v in zip(shares, values, strict=True) if np.sign(v) == sign]
        merged[i] = sum(w * v for w, v in agree) / max(len(agree), 1)
    return torch.tensor(merged).reshape(tensors[0].shape)


def test_ties_against_a_slow_loop(make_base, averaged, tmp_path):
    base = make_base()
    folders = [write_site(base, tmp_path / "base", tmp_path / name, seed=i) for i, name in enumerate("ab")]
    model = averaged(base, folders, [2, 1], "ties", density=0.5)
    each = [factors(folder) for folder in folders]
    for name, delta in deltas(model, base).items():
        A, B = (slow_ties([sqrt(3 / 2) * f[name][i] for f in each], (2 / 3, 1 / 3), 0.5) for i in (0, 1))
        torch.testing.assert_close(delta, B @ A, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.draws])
def test_dare_draws_by_its_seed(make_base, averaged, tmp_path, method):
    base = make_base()
    folders = [write_site(base, tmp_path / "base", tmp_path / name, seed=i) for i, name in enumerate("ab")]
    first, again, other = (
        deltas(averaged(base, folders, method=method, density=0.6, seed=seed), base) for seed in (1, 1, 2)
    )
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


@pytest.mark.parametrize("head", ["plain", "r1"])
def test_the_head_is_averaged_by_the_names_of_its_labels(make_base, averaged, tmp_path, head):
    base = make_base(head=head, link="conditional")
    a = write_site(base, tmp_path / "base", tmp_path / "a", BACTERIAL, VIRAL, seed=1)
    b = write_site(base, tmp_path / "base", tmp_path / "b", Node("Scoliosis"), VIRAL, seed=2)
    c = write_site(base, tmp_path / "base", tmp_path / "c", seed=3)
    model, shares = averaged(base, [a, b, c], [1, 2, 5]), (0.125, 0.25, 0.625)
    names = model.config.label_names
    assert names == [*base.config.label_names, "Bacterial pneumonia", "Viral pneumonia", "Scoliosis"]
    assert model.config.taxonomy == "nih+a+b"
    assert model.config.parents["Viral pneumonia"] == ["Pneumonia"]
    sites = [load_model(folder) for folder in (a, b, c)]
    states = [site.head.trunk.state_dict() for site in sites]
    rows = {n: [s.config.label_names.index(n) if n in s.config.label_names else None for s in sites] for n in names}
    for name, value in model.head.trunk.state_dict().items():
        if name.startswith("classifier."):
            for i, label in enumerate(names):
                having = [
                    (w, s[name][at]) for w, s, at in zip(shares, states, rows[label], strict=True) if at is not None
                ]
                expected = sum(w * row for w, row in having) / sum(w for w, _ in having)
                torch.testing.assert_close(value[i], expected, **CLOSE)
        elif value.is_floating_point():
            torch.testing.assert_close(value, sum(w * s[name] for w, s in zip(shares, states, strict=True)), **CLOSE)
    assert [n for n in names if None not in rows[n]] == base.config.label_names


def test_what_the_average_says_of_itself(make_base, averaged, tmp_path):
    base = make_base()
    a = write_site(base, tmp_path / "base", tmp_path / "a", BACTERIAL, seed=1)
    b = write_site(base, tmp_path / "base", tmp_path / "b", seed=2)
    model = averaged(base, [a, b])
    config, folder = model.config, next(tmp_path.glob("average_*"))
    assert config.adapted_from["name"] == "base"
    assert config.adapted_from == load_model(a).config.adapted_from
    assert config.calibration["coefficients"]["Bacterial pneumonia"] == [1, 1, 0]
    assert config.calibration["coefficients"]["Pneumonia"] == [1.5, 1.5, -0.25]
    # what the sites had chosen for themselves is not the average's
    assert config.operating_points["thresholds"]["Bacterial pneumonia"] is None
    assert config.operating_points["thresholds"]["Pneumonia"] == 0.2
    assert "before the adaptation" in config.operating_points["criterion"]
    assert {p.name for p in folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "config.json", "preprocessor_config.json",
        "verification.safetensors",
    }  # fmt: skip
    stored, now = Verification.load(folder), verify_with(model, read_sites(base, "base", [a])[0].processor)
    assert stored.identity == now.identity
    assert torch.equal(stored.probability, now.probability)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4


def test_weights_are_the_numbers_of_films(make_base, tmp_path):
    base = make_base()
    folders = [
        write_site(base, tmp_path / "base", tmp_path / name, films=films) for name, films in (("a", 300), ("b", 100))
    ]
    sites = read_sites(base, "base", folders)
    assert shares_of(sites) == [0.75, 0.25]
    assert shares_of(sites, [1, 1]) == [0.5, 0.5]
    for weights, message in (([1], "1 weights for 2 adapters"), ([1, -1], "0 or more"), ([0, 0], "not all 0")):
        with pytest.raises(AveragingError, match=message):
            shares_of(sites, weights)
    with pytest.raises(AveragingError, match="at least two"):
        shares_of(sites[:1])


@pytest.mark.parametrize(
    ("second", "method", "message"),
    [
        ({"lora_rank": 3}, "linear", r"rank 2 in 5 layers, .*b rank 3 in 5 \(5 .*use cat or svd"),
        ({"lora_targets": r".*conv2"}, "ties_svd", r"in 2 \(2 of them the same\)"),
        (
            {"new": [Node("Viral pneumonia", parents=("Opacity",))]},
            "cat",
            r"'Viral pneumonia' is a finding under \['Pn",
        ),
        ({"lora_variant": "dora"}, "cat", "DoRA"),
        ({"fit": "crop"}, "cat", "prepare films differently .fit: 'pad' and 'crop'"),
        (
            {"lora_targets": r"backbone.*conv2|head\.trunk\.classifier"},
            "cat",
            "are not of the layers that its adapter_config.json names",
        ),
    ],
)
def test_what_cannot_be_averaged(make_base, averaged, tmp_path, second, method, message):
    base, settings = make_base(), dict(second)
    a = write_site(base, tmp_path / "base", tmp_path / "a", VIRAL)
    b = write_site(base, tmp_path / "base", tmp_path / "b", *settings.pop("new", []), **settings)
    with pytest.raises(AveragingError, match=message):
        averaged(base, [a, b], method=method, **({"density": 0.5} if METHODS[method].prunes else {}))


def test_what_is_no_sites_adapter(make_base, make_model, tmp_path):
    base = make_base()
    a, b = (write_site(base, tmp_path / "base", tmp_path / name) for name in "ab")
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_sites(base, "base", [a, tmp_path / "c"])
    with pytest.raises(AveragingError, match=r"it is no adapter\. Adapt with --method lora"):
        read_sites(base, "base", [a, tmp_path / "base"])
    other = write_base(make_model("densenet", link="conditional", head="r1"), tmp_path / "other")
    with pytest.raises(ModelError, match="adapted from a model with weights"):
        read_sites(other, "other", [a])
    config = json.loads((a / "config.json").read_text())
    (a / "config.json").write_text(json.dumps(config | {"parents": config["parents"] | {"Mass": ["Opacity"]}}))
    with pytest.raises(AveragingError, match=r"label 'Mass' is a finding under .*'Opacity'.*, in the base"):
        read_sites(base, "base", [a])
    (a / "config.json").write_text(json.dumps(config | {"adapted_from": None}))
    with pytest.raises(AveragingError, match="adapted_from"):
        read_sites(base, "base", [a])
    weights = load_file(b / "adapter_model.safetensors")
    save_file(weights | {"base_model.model.backbone.norm.weight": torch.ones(2)}, b / "adapter_model.safetensors")
    with pytest.raises(AveragingError, match=r"beside low-rank layers of the backbone \['base_model.*norm"):
        read_sites(base, "base", [b])
    name = next(iter(weights))
    save_file(weights | {name: weights[name] * torch.nan}, b / "adapter_model.safetensors")
    with pytest.raises(AveragingError, match="not finite"):
        read_sites(base, "base", [b])
    save_file(weights, b / "adapter_model.safetensors")
    (b / "eval_report.json").write_text('{"provenance": {"data": {}}}')
    with pytest.raises(AveragingError, match="not the report of an adaptation"):
        read_sites(base, "base", [b])
    (b / "eval_report.json").unlink()
    with pytest.raises(AveragingError, match="ask the site for it"):
        read_sites(base, "base", [b])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mean"}, "method: got 'mean', expected one of cat, svd, linear"),
        ({"method": "ties"}, "needs the share of weights to keep"),
        ({"method": "cat", "density": 0.5}, "prunes nothing"),
        ({"method": "ties", "density": 1.0}, "density 1.0: expected a share"),
        ({"method": "linear", "rank": 2}, "leave it out"),
        ({"method": "svd", "rank": 0}, "at least 1"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(AveragingError, match=message):
        AveragingArguments(**settings)


def test_a_rank_beyond_the_channels(make_base, averaged, tmp_path):
    base = make_base()
    folders = [write_site(base, tmp_path / "base", tmp_path / name, seed=i) for i, name in enumerate("ab")]
    with pytest.raises(AveragingError, match="is the rank above the channels of a layer"):
        averaged(base, folders, method="svd", rank=50)
