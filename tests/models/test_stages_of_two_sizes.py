"""A two-stage model whose gate reads smaller films than its finding model."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

from hf_cxr.explain import look
from hf_cxr.export import export_onnx, export_program
from hf_cxr.models import CXRImageProcessor
from hf_cxr.models.processing import normalise
from hf_cxr.uncertainty import mc_dropout
from tests.conftest import join_stages
from tests.pipeline.helpers import FEW, lively, pixels

SMALL, LARGE = 32, 64


def joined(make_model, nih, gate="vit", sizes=(SMALL, LARGE), **settings):
    few = nih.subset(FEW)
    own = {"link": "conditional", "head_dropout": 0.3, **settings}
    stages = (
        lively(make_model(gate, nih.subset(FEW[:1]), image_size=sizes[0], **own)),
        lively(make_model("densenet", nih.subset(FEW[1:]), image_size=sizes[1], **own)),
    )
    both = join_stages(*stages, few)
    with torch.no_grad():
        gate_logits = both.gate(films(both)).logits[:, 0].double().sigmoid()
    both.config.gate_threshold = gate_logits.median().item()
    return both, *stages


def films(model, n=8):
    return CXRImageProcessor.for_model(model.config)(list(pixels(n)), return_tensors="pt")["pixel_values"]


def shrunk(pixel_values, own_statistics):
    smaller = F.interpolate(pixel_values, (SMALL, SMALL), mode="bilinear", antialias=True)
    return normalise(smaller, None, None) if own_statistics else smaller


@pytest.mark.parametrize("gate", ["vit", "densenet"])
@pytest.mark.parametrize("statistics", [{}, {"image_mean": None, "image_std": None}], ids=["fixed", "own"])
def test_each_stage_reads_its_own_size(make_model, nih, gate, statistics, tmp_path):
    both, gate_model, finding_model = joined(make_model, nih, gate, **statistics)
    assert both.config.image_size == LARGE
    given = films(both)
    with torch.no_grad():
        output = both(given)
        gate_logits = gate_model(shrunk(given, bool(statistics))).logits
        found = finding_model(given[output.finding_model_ran]).logits
    assert 0 < output.finding_model_ran.sum() < len(given)
    expected = both.compose(gate_logits, output.finding_model_ran, found)
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)

    both.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(given).logits, output.logits)


def test_a_findings_stage_may_be_the_smaller(make_model, nih):
    both, gate_model, finding_model = joined(make_model, nih, "densenet", (LARGE, SMALL))
    given = films(both)
    with torch.no_grad():
        output = both(given, run_all=True)
        found = finding_model(shrunk(given, False)).logits
        expected = both.compose(gate_model(given).logits, torch.ones(len(given), dtype=torch.bool), found)
    torch.testing.assert_close(output.logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gate", ["vit", "densenet"])
def test_dropout_and_heatmaps_see_the_same_film(make_model, nih, gate):
    both, *_ = joined(make_model, nih, gate)
    given = films(both)
    with torch.no_grad():
        logits = both(given).logits
    seen = look(both, given, n_passes=8)
    torch.testing.assert_close(seen.logits, logits, atol=1e-5, rtol=1e-5)
    assert seen.heatmaps.shape[-2:] == (LARGE, LARGE)
    torch.testing.assert_close(mc_dropout(both, given, 8).mean, seen.uncertainty.mean, atol=1e-5, rtol=1e-5)


def test_what_the_gate_reads_is_near_what_the_processor_would_give_it(make_model, nih):
    """From a film of the large size: the processor rounds to 8 bits after resizing, the model does not."""
    both, gate_model, _ = joined(make_model, nih)
    large = CXRImageProcessor.for_model(both.config)
    small = CXRImageProcessor.for_model(gate_model.config)
    drawn = [large.prepare(film) for film in pixels(6)]
    expected = small(drawn, return_tensors="pt")["pixel_values"]
    got = shrunk(large(drawn, return_tensors="pt")["pixel_values"], False)
    deviation = both.config.image_std
    assert (got - expected).abs().max() * deviation * 255 <= 1.01  # gray levels; PIL rounds after each of two passes


def test_stages_of_one_size_are_untouched(make_model, nih):
    """As in every checkpoint written before: also films of another size then reach both stages as they are."""
    both, *_ = joined(make_model, nih, "densenet", (SMALL, SMALL))
    assert not any(module._forward_pre_hooks for module in both.modules())


def test_other_normalisation_is_refused(make_model, nih):
    with pytest.raises(ValueError, match=r"image_mean: gate has 0\.5, findings 0\.4; must agree"):
        join_stages(
            make_model("vit", nih.subset(FEW[:1])),
            make_model("densenet", nih.subset(FEW[1:]), image_mean=0.4),
            nih.subset(FEW),
        )


@pytest.mark.parametrize(
    ("write", "name"),
    [pytest.param(export_onnx, "model.onnx", marks=pytest.mark.slow), (export_program, "model.pt2")],
)
def test_exported_files_read_one_film_for_both(make_model, nih, write, name, tmp_path):
    """`export` compares what the file says with the model itself."""
    both, *_ = joined(make_model, nih, image_mean=None, image_std=None)
    assert write(both, CXRImageProcessor.for_model(both.config), tmp_path / name).largest_difference < 1e-4
