"""Small films and models whose outputs differ from film to film, and ways to compare outputs."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from transformers import pipeline as transformers_pipeline

from hf_cxr.models import CXRImageProcessor
from hf_cxr.pipeline import TASK

FEW = ("Abnormal", "Opacity", "Mass", "Cardiomegaly")
SIZE = 32
N = 7


def pixels(n=N, seed=0):
    """Films (n, 40, 48) uint8, no two alike and none square: the processor has something to do."""
    random = np.random.default_rng(seed)
    levels = np.linspace(20, 150, n)[:, None, None]
    return (levels + random.integers(0, 100, (n, 40, 48))).clip(0, 255).astype(np.uint8)


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


def entropy(p):
    return -p * math.log(p) - (1 - p) * math.log(1 - p)
