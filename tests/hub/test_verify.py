"""A folder is loaded in a fresh process and gives what its model gave, or it is said what differs."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from hf_cxr.hub import stranger
from hf_cxr.hub.remote_code import add_code
from hf_cxr.hub.verify import NotReproducedError, verify
from hf_cxr.models import CXREnsembleForImageClassification, CXRImageProcessor
from hf_cxr.verification import FILE, Verification, VerificationError, identity, verify_with
from tests.conftest import join_stages


@pytest.fixture
def here(monkeypatch):
    """The folder is loaded in this process, which is quicker."""
    monkeypatch.setattr("hf_cxr.hub.verify.load_apart", stranger.main)


def change(folder, name, edit):
    path = folder / name
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_training_leaves_what_a_copy_is_checked_by(finished):
    assert [(each.way, each.difference) for each in verify(finished)] == [("installed", 0)]
    stored = Verification.load(finished)
    model = AutoModelForImageClassification.from_pretrained(finished, dtype=torch.float32)
    assert stored.identity == identity(model)
    assert stored.labels == tuple(model.config.label_names)
    assert stored.films.dtype == torch.uint8
    assert len(stored.films.flatten(1).unique(dim=0)) == len(stored.films)  # no film twice


def test_a_folder_with_code_is_loaded_without_the_package_too(finished):
    add_code(finished, AutoModelForImageClassification.from_pretrained(finished))
    assert [(each.way, each.difference) for each in verify(finished)] == [("installed", 0), ("remote", 0)]
    (finished / "heads.py").unlink()
    with pytest.raises(NotReproducedError, match=r"cannot be loaded without it, by trust_remote_code: .*heads"):
        verify(finished)


@pytest.mark.parametrize("kind", ["two stages", "ensemble"])
def test_models_of_several_bring_all_their_code(kind, make_model, nih, tmp_path):
    if kind == "ensemble":
        model = CXREnsembleForImageClassification.from_models([make_model(), make_model("vit")])
    else:
        gate = make_model(hierarchy=nih.subset([nih.gate]))
        findings = make_model("vit", hierarchy=nih.subset([name for name in nih.names if name != nih.gate]))
        model = join_stages(gate, findings, nih)
    model.save_pretrained(tmp_path)
    processor = CXRImageProcessor.for_model(model.config)
    processor.save_pretrained(tmp_path)
    verify_with(model, processor).save(tmp_path)
    add_code(tmp_path, model)
    assert [(each.way, each.difference) for each in verify(tmp_path)] == [("installed", 0), ("remote", 0)]


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("preprocessor_config.json", lambda content: content.update(image_mean=[0.2])),
        ("config.json", lambda content: content.update(link="flat")),
        (
            "config.json",
            lambda content: content.update(
                calibration={
                    "method": "beta", "split": "validation", "pooled": [], "prevalence": None,
                    "coefficients": {name: [0.5, 0.5, 0.0] for name in content["node_kinds"]},
                }
            ),
        ),
    ],
)  # fmt: skip
def test_what_was_changed_since_is_noticed(finished, here, name, edit):
    change(finished, name, edit)
    with pytest.raises(NotReproducedError, match=r"P\(.*\) of verification film \d is 0\.\d+, was 0\.\d+ when"):
        verify(finished)


def test_a_weight_that_is_not_finite_is_noticed(finished, here):
    weights = load_file(finished / "model.safetensors")
    weights["head.trunk.classifier.bias"][0] = float("nan")
    save_file(weights, finished / "model.safetensors", {"format": "pt"})
    with pytest.raises(NotReproducedError, match="1 weights are not finite"):
        verify(finished)


def test_a_missing_or_broken_file_is_named(finished):
    (finished / FILE).write_bytes(b"no tensors")
    with pytest.raises(VerificationError, match="is not the file that training wrote"):
        verify(finished)
    (finished / FILE).unlink()
    with pytest.raises(VerificationError, match=f"has no {FILE}"):
        verify(finished)


def test_identity_is_of_the_model_not_of_its_files(make_model, tmp_path):
    model = make_model().eval()
    model.save_pretrained(tmp_path, max_shard_size="10kB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    again = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.float32)
    assert identity(again) == identity(model)
    with torch.no_grad():
        again.head.trunk.classifier.bias[3] += 1e-6
    assert identity(again)["weights"] != identity(model)["weights"]
    assert identity(again)["config"] == identity(model)["config"]
    model.config.operating_points = {"split": "validation"}
    assert identity(model)["config"] != identity(again)["config"]
