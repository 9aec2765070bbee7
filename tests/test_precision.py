"""Models in bfloat16 and int8: what changes, what must not, and what is refused."""

import copy
import json

import pytest
import torch

from hf_cxr.explain import look
from hf_cxr.loading import load_model, load_processor
from hf_cxr.models import CXREnsembleForImageClassification, CXRImageProcessor
from hf_cxr.precision import PRECISIONS, PrecisionError, check_heatmaps, set_precision
from hf_cxr.quantisation import ABOUT, QuantisationError, install, quantise
from hf_cxr.uncertainty import mc_dropout
from tests.conftest import join_stages
from tests.pipeline.helpers import FEW, lively, pixels

TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-2, "int8": 0.2}
"""Of a probability. `lively` models amplify rounding, and one scale for activations that hardly vary is coarse."""


def processor(model):
    return CXRImageProcessor.for_model(model.config)


def films(model, n=12, seed=0):
    return processor(model)(list(pixels(n, seed)), return_tensors="pt")["pixel_values"]


def built(kind, make_model, nih):
    if kind == "ensemble":
        parts = [built(part, make_model, nih) for part in ("densenet", "densenet")]
        with torch.no_grad():
            parts[1].head.trunk.classifier.weight.mul_(-1)
        return CXREnsembleForImageClassification.from_models(parts)
    if kind != "two stages":
        return lively(make_model(kind, link="conditional", head_dropout=0.3)).eval()
    few = nih.subset(FEW)
    gate = lively(make_model("vit", nih.subset(FEW[:1]), head_dropout=0.3, image_size=32))
    findings = make_model("densenet", nih.subset(FEW[1:]), link="conditional", head_dropout=0.3, image_size=64)
    return join_stages(gate, lively(findings), few)


@pytest.fixture(params=["densenet", "vit", "two stages", "ensemble"])
def model(request, make_model, nih):
    return built(request.param, make_model, nih)


def at(model, precision, folder):
    """A copy in the precision."""
    own = copy.deepcopy(model)
    if precision == "int8":
        quantise(model, processor(model), [films(model, 16, seed=3)], folder)
    set_precision(own, processor(model), precision, folder)
    return own


@pytest.mark.parametrize("precision", PRECISIONS)
def test_probabilities_stay_near_and_in_order(model, precision, tmp_path):
    given = films(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    own = at(model, precision, tmp_path)
    with torch.no_grad():
        expected, got = model(given).logits.sigmoid(), own(given).logits
    assert got.dtype == torch.float32
    difference = (got.sigmoid() - expected).abs().max()
    assert difference <= TOLERANCE[precision]
    if precision != "float32":
        assert difference > 0  # else nothing was switched
    names = model.config.label_names
    for child, above in model.config.parents.items():
        for parent in above:
            assert (got[:, names.index(child)] <= got[:, names.index(parent)]).all()
    assert own.dtype == torch.float32
    assert {n: w.dtype for n, w in own.state_dict().items()} == {n: w.dtype for n, w in before.items()}
    assert all(torch.equal(own.state_dict()[n], w) for n, w in before.items())
    # A film's figures are its own: no scale is taken from the batch.
    with torch.no_grad():
        torch.testing.assert_close(own(given[3:4]).logits, got[3:4], atol=2e-2, rtol=0)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_doubt_and_heatmaps_are_of_the_same_precision(precision, make_model, nih, tmp_path):
    own = at(built("densenet", make_model, nih), precision, tmp_path)
    given = films(own, 4)
    seen = look(own, given, n_passes=6)
    with torch.no_grad():
        torch.testing.assert_close(seen.logits, own(given).logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mc_dropout(own, given, 6).mean, seen.uncertainty.mean, atol=1e-5, rtol=1e-5)
    assert seen.heatmaps.max() == pytest.approx(1)


def test_heatmaps_of_a_vit_would_be_in_float32(make_model, nih):
    vit = make_model("vit")
    check_heatmaps(vit, "float32")
    for precision in ("bfloat16", "int8"):
        check_heatmaps(make_model("densenet"), precision)
        with pytest.raises(PrecisionError, match="heatmaps of a ViT are computed in float32"):
            check_heatmaps(vit, precision)


def test_what_cannot_be_set(make_model, tmp_path):
    model = make_model()
    with pytest.raises(PrecisionError, match="got 'fp16', expected one of float32, bfloat16, int8"):
        set_precision(model, processor(model), "fp16")
    with pytest.raises(PrecisionError, match="int8 needs the folder"):
        set_precision(model, processor(model), "int8")
    with pytest.raises(QuantisationError, match="no model in int8"):
        set_precision(model, processor(model), "int8", tmp_path)
    set_precision(model, processor(model), "bfloat16")
    with pytest.raises(PrecisionError, match="of a set precision"):
        set_precision(model, processor(model), "bfloat16")
    half = make_model().to(torch.bfloat16)
    with pytest.raises(PrecisionError, match=r"a model in torch\.bfloat16"):
        set_precision(half, processor(half), "float32")
    with pytest.raises(QuantisationError, match="0 batches of films"):
        quantise(make_model(), processor(model), [], tmp_path)


def test_files_of_another_model_or_machine_are_refused(make_model, nih, tmp_path):
    model = built("densenet", make_model, nih)
    done = quantise(model, processor(model), [films(model, 16)], tmp_path)
    assert install(copy.deepcopy(model), processor(model), tmp_path) == done
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.head.trunk.classifier.bias[0] += 1e-3
    with pytest.raises(QuantisationError, match="it was trained again since, or is another"):
        install(other, processor(model), tmp_path)
    about = json.loads((tmp_path / ABOUT).read_text())
    elsewhere = about | {"phantom_probability": (torch.tensor(about["phantom_probability"]) * 0.5).tolist()}
    (tmp_path / ABOUT).write_text(json.dumps(elsewhere))
    refused = copy.deepcopy(model)
    with pytest.raises(QuantisationError, match="this processor computes int8 otherwise"):
        install(refused, processor(model), tmp_path)
    with torch.no_grad():  # it is as it was
        assert torch.equal(refused(films(model)).logits, model(films(model)).logits)
    (tmp_path / ABOUT).write_text(json.dumps(about))
    (tmp_path / "model.onnx").write_bytes((tmp_path / "model.onnx").read_bytes()[:-1])
    with pytest.raises(QuantisationError, match=r"not those that int8\.json speaks of"):
        install(copy.deepcopy(model), processor(model), tmp_path)


def test_the_files_say_nothing_of_this_machine(make_model, nih, tmp_path):
    model = built("densenet", make_model, nih)
    quantise(model, processor(model), [films(model, 4)], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", ABOUT}
    for path in tmp_path.iterdir():
        assert b"site-packages" not in path.read_bytes()
        assert str(tmp_path).encode() not in path.read_bytes()


def test_a_trained_model_from_its_folder(make_model, nih, tmp_path):
    """As predict and the comparison do it: loaded twice, the second in int8."""
    model = built("densenet", make_model, nih)
    model.save_pretrained(tmp_path / "model")
    processor(model).save_pretrained(tmp_path / "model")
    first, own = load_model(tmp_path / "model"), load_processor(tmp_path / "model")
    quantise(first, own, [films(first, 16)], tmp_path / "int8")
    second = load_model(tmp_path / "model")
    set_precision(second, own, "int8", tmp_path / "int8")
    with torch.no_grad():
        difference = (second(films(first)).logits.sigmoid() - first(films(first)).logits.sigmoid()).abs().max()
    assert 0 < difference <= TOLERANCE["int8"]
