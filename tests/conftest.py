import os
from collections import Counter
from pathlib import Path

# No test needs the hub; without this, look-ups without network retry for minutes.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from hf_cxr import load_taxonomy
from hf_cxr.models import SINGLE_STAGE, CXRTwoStageForImageClassification

# The models here are tiny: a second thread costs more than it brings, and slows whatever else runs.
torch.set_num_threads(1)

REPO = Path(__file__).parent.parent
TEST_DATA = Path(os.environ.get("HF_CXR_TEST_DATA", REPO.parent / "shared" / "data"))
BACKBONES = {
    "densenet": {"backbone": "densenet121", "backbone_kwargs": {"growth_rate": 8, "block_config": [1, 1]}},
    "vit": {"backbone": "test_vit"},
}


def pytest_collection_modifyitems(items):
    """Files with the most slow tests first: one that begins last keeps a single core busy when all else is done."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def nih():
    return load_taxonomy("nih")


@pytest.fixture(scope="session")
def chexpert():
    return load_taxonomy("chexpert")


@pytest.fixture
def make_model(nih):
    """A tiny model of either architecture, with a fixed seed."""

    def make(model="densenet", hierarchy=nih, image_size=32, **settings):
        torch.manual_seed(0)
        config_class, model_class = SINGLE_STAGE[f"cxr-{model}"]
        return model_class(config_class(**BACKBONES[model], image_size=image_size, **settings, **hierarchy.to_config()))

    return make


def join_stages(gate, findings, hierarchy, gate_threshold=0.5, skipped=0.2):
    """A two-stage model of these two, for all labels of the hierarchy in its order."""
    return CXRTwoStageForImageClassification.from_models(
        gate.eval(), findings.eval(), gate_threshold=gate_threshold,
        skipped_conditional=dict.fromkeys(findings.config.label_names, skipped), hierarchy_config=hierarchy.to_config(),
    ).eval()  # fmt: skip


class Films(Dataset):
    """Films in memory: a bright square for each label, so that labels can be learned, plus noise."""

    def __init__(self, hierarchy, n_films=48, size=32, seed=0, unknown=0.0):
        random = np.random.default_rng(seed)
        leaves = [i for i, name in enumerate(hierarchy.names) if not hierarchy.children[name]]
        values = np.zeros((n_films, len(hierarchy.names)), np.float32)
        values[:, leaves] = random.random((n_films, len(leaves))) < 0.08
        for name in reversed(hierarchy.topological_order):
            if below := [hierarchy.names.index(c) for c in hierarchy.children[name]]:
                at = hierarchy.names.index(name)
                values[:, at] = np.maximum(values[:, at], values[:, below].max(axis=1))
        pixels = random.integers(60, 120, (n_films, 1, size, size))
        for row, label in zip(*np.nonzero(values[:, leaves]), strict=True):
            top, left = divmod(label * 6, size)
            pixels[row, 0, (top * 6) % size : (top * 6) % size + 6, left : left + 6] = 250
        values[random.random(values.shape) < unknown] = np.nan
        self.pixels, self.labels = torch.tensor(pixels, dtype=torch.uint8), torch.tensor(values)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        return {"pixel_values": self.pixels[i], "labels": self.labels[i], "index": torch.tensor(i)}

    def __getitems__(self, rows):
        return [self[i] for i in rows]


@pytest.fixture
def make_films(nih):
    return lambda hierarchy=nih, **kwargs: Films(hierarchy, **kwargs)


@pytest.fixture(scope="session")
def nih128():
    folder = TEST_DATA / "nih128"
    if not folder.is_dir():
        pytest.skip(f"real test data not found at {folder}; set HF_CXR_TEST_DATA")
    return folder
