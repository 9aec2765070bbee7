"""Adapters of small sites, with random weights, as recipes/finetune_lora.py would leave them."""

import json
from dataclasses import replace

import torch

from hf_cxr.adaptation import AdapterArguments, adapt
from hf_cxr.adaptation.adapters import save
from hf_cxr.growth import grow
from hf_cxr.hierarchy import Hierarchy, Node
from hf_cxr.loading import load_model
from hf_cxr.models import CXRImageProcessor
from hf_cxr.runs import REPORT_FILE
from hf_cxr.verification import identity

BACTERIAL = Node("Bacterial pneumonia", parents=("Pneumonia",))
LAYERS = r"backbone\..*(\.conv\d|attn\.(qkv|proj))"
VIRAL = Node("Viral pneumonia", parents=("Pneumonia",))


def write_base(model, folder):
    """A model's folder, with a calibration and operating points as training would give."""
    names = model.config.label_names
    model.config.calibration = {
        "method": "platt", "split": "validation", "coefficients": {n: [1.5, 1.5, -0.25] for n in names}, "pooled": [],
        "prevalence": dict.fromkeys(names, 0.1),
    }  # fmt: skip
    model.config.operating_points = {
        "split": "validation", "gate_threshold": 0.3, "gate_criterion": "sensitivity >= 0.95", "criterion": "f1",
        "thresholds": dict.fromkeys(names, 0.2),
    }  # fmt: skip
    model.eval().save_pretrained(folder)
    CXRImageProcessor.for_model(model.config).save_pretrained(folder)
    return load_model(folder)


def write_site(base, base_folder, folder, *new, seed=0, films=100, fit="pad", data=None, **settings):
    """An adapter's folder; `new` are nodes, `settings` of `AdapterArguments`. Every trained weight is drawn by seed."""
    own = Hierarchy.from_config(base.config)
    hierarchy = replace(own, nodes=(*own.nodes, *new), name=f"{own.name}+{folder.name}" if new else own.name)
    model = grow(base, hierarchy, dict.fromkeys(hierarchy.names, 0.5))
    model.config.adapted_from = {"name": "base", **identity(base)}
    if model.config.operating_points:
        model.config.operating_points["thresholds"] |= {node.name: 0.6 for node in new} | {"Pneumonia": 0.7}
    arguments = AdapterArguments(**{"lora_rank": 2, "lora_alpha": 3, "lora_targets": LAYERS} | settings)
    adapted = adapt(model, arguments)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if value.requires_grad:
                value.copy_(torch.randn(value.shape, generator=random) * (0.3 if "lora_" in name else 0.1))
        for name, value in adapted.named_buffers():
            if ".modules_to_save." in name:
                value.copy_(torch.rand(value.shape, generator=random) * 4 + 1)
    save(adapted, arguments, str(base_folder), folder)
    CXRImageProcessor.for_model(base.config, fit).save_pretrained(folder)
    data = data or {"dataset": "hospital", "hospital": {"hospital": folder.name}, "fingerprint": f"data of {seed}"}
    provenance = {"data": data, "training": {"model": {"films": films}}}
    (folder / REPORT_FILE).write_text(json.dumps({"provenance": provenance}), encoding="utf-8")
    return folder
