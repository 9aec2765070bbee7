"""Models loaded in half precision: what is rounded, and what is not."""

import json

import pytest
import torch
from transformers import AutoModelForImageClassification, pipeline

from hf_cxr.models import Calibrate, CXRImageProcessor
from hf_cxr.pipeline import TASK
from tests.conftest import join_stages
from tests.pipeline.helpers import FEW, lively, pixels, processed

TOLERANCE = {torch.float16: 5e-3, torch.bfloat16: 5e-2}
"""Of a probability, against float32. `lively` models amplify rounding: two trained on nih128 stayed within 0.0004 and
0.007 on 200 of its films."""


@pytest.fixture(
    params=[(m, h, k) for m in ("densenet", "vit") for h in ("plain", "r1") for k in ("flat", "conditional")]
)
def model(request, make_model, nih):
    """Calibrated, so that all that follows the last layer takes part."""
    architecture, head, link = request.param
    model = lively(make_model(architecture, head=head, link=link))
    model.config.calibration = {"coefficients": {name: [0.9, 1.1, 0.2] for name in nih.names}}
    return model


@pytest.fixture
def two_stage(make_model, nih):
    few = nih.subset(FEW)
    return join_stages(
        lively(make_model("vit", nih.subset(FEW[:1]))),
        lively(make_model("densenet", nih.subset([n for n in few.names if n != nih.gate]), link="conditional")),
        few,
        skipped=0.0035,
    )


def loaded(model, folder, dtype):
    model.save_pretrained(folder)
    return AutoModelForImageClassification.from_pretrained(folder, dtype=dtype).eval()


def logits(model, **kwargs):
    with torch.no_grad():
        return model.eval()(processed(model, pixels(24)).to(model.dtype), **kwargs).logits


def below_parents(logits, config):
    names = config.label_names
    pairs = [(names.index(child), names.index(parent)) for child, above in config.parents.items() for parent in above]
    return all((logits[:, child] <= logits[:, parent]).all() for child, parent in pairs)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_one_stage(model, dtype, tmp_path):
    half = loaded(model, tmp_path, dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    got = logits(half)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.sigmoid(), logits(model).sigmoid(), atol=TOLERANCE[dtype], rtol=0)
    if model.config.link == "conditional":
        assert below_parents(got, half.config)
    # Nothing that follows the last layer is rounded: the link's tables and the calibration's coefficients.
    for name, table in half.head.link.named_buffers():
        assert torch.equal(table, model.head.link.get_buffer(name))
        assert table.dtype == torch.int64
    half.config.calibration = None
    uncalibrated = logits(half)
    assert torch.equal(got, Calibrate(model.config)(uncalibrated))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_two_stages(two_stage, dtype, tmp_path):
    half = loaded(two_stage, tmp_path, dtype)
    for run_all in (True, False):
        got = logits(half, run_all=run_all)
        assert got.dtype == torch.float32
        assert below_parents(got, half.config)
    together = logits(half, run_all=True).sigmoid()
    torch.testing.assert_close(together, logits(two_stage, run_all=True).sigmoid(), atol=TOLERANCE[dtype], rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_what_is_known_of_cleared_films_is_not_rounded(two_stage, dtype, tmp_path):
    """As bfloat16 a prevalence of 0.35 % would be off by up to 1.6 % of itself."""
    half = loaded(two_stage, tmp_path, dtype)
    assert half.skipped_scores.dtype == torch.float32
    assert torch.equal(half.skipped_scores, two_stage.skipped_scores)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_pipeline_takes_it_by_name(make_model, dtype, tmp_path):
    model = lively(make_model(link="conditional", head_dropout=0.4))
    model.save_pretrained(tmp_path)
    CXRImageProcessor.for_model(model.config).save_pretrained(tmp_path)
    half, whole = pipeline(TASK, model=str(tmp_path), dtype=dtype), pipeline(TASK, model=str(tmp_path))
    assert (half.model.dtype, whole.model.dtype) == (getattr(torch, dtype), torch.float32)
    films = list(pixels(3))
    for options in ({}, {"n_passes": 4}, {"n_passes": 4, "heatmaps": ["Mass"]}):
        for film, expected in zip(half(films, **options), whole(films, **options), strict=True):
            p = film["probabilities"]
            assert p == pytest.approx(expected["probabilities"], abs=TOLERANCE[half.model.dtype])
            assert all(p[child] <= p[parent] for child, above in model.config.parents.items() for parent in above)
            if heatmaps := film.pop("heatmaps"):
                assert heatmaps["Mass"].dtype == "float32"
                assert heatmaps["Mass"].max() == pytest.approx(1)
            json.dumps(film)
