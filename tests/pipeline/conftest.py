import numpy as np
import pytest
from PIL import Image

from hf_cxr.hierarchy import Hierarchy
from hf_cxr.models import CXREnsembleForImageClassification
from tests.conftest import join_stages
from tests.pipeline.helpers import FEW, N, lively, operating_points, pixels, processed


@pytest.fixture
def films(tmp_path):
    """Their paths; 16 bits deep, at which transformers' own loading would saturate."""
    paths = [tmp_path / f"film_{i}.png" for i in range(N)]
    for path, values in zip(paths, pixels(), strict=True):
        Image.fromarray(values.astype(np.uint16) * 257).save(path)
    return [str(path) for path in paths]


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


@pytest.fixture
def ensemble(make_model):
    members = [lively(make_model(kind, link="conditional", head_dropout=0.4)) for kind in ("densenet", "vit")]
    return CXREnsembleForImageClassification.from_models(members)
