"""Files of both formats, against the models that they were made of."""

import json
import subprocess
import sys
import zipfile
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from hf_cxr import export
from hf_cxr.export import FILMS, METADATA, TOLERANCE, ExportError, export_onnx, export_program
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.models import CXREnsembleForImageClassification, CXRImageProcessor
from hf_cxr.verification import identity
from tests.conftest import REPO, join_stages
from tests.pipeline.helpers import FEW, lively, operating_points

MODELS = {
    "densenet, flat": ("densenet", {"link": "flat"}),
    "densenet, conditional, own exposure": (
        "densenet", {"link": "conditional", "image_mean": None, "image_std": None, "head_dropout": 0.4},
    ),
    "densenet, r1": ("densenet", {"link": "conditional", "head": "r1"}),
    "vit, conditional": ("vit", {"link": "conditional"}),
    "vit, r1": ("vit", {"link": "flat", "head": "r1"}),
}  # fmt: skip


def noise(n, size=32, seed=5):
    """Films uint8 (n, 1, size, size) of different brightness."""
    random = np.random.default_rng(seed)
    films = np.linspace(20, 150, n)[:, None, None, None] + random.integers(0, 100, (n, 1, size, size))
    return torch.from_numpy(films.astype(np.uint8))


def processor(model, **kwargs):
    return CXRImageProcessor.for_model(model.config, **kwargs)


def forward(model, films):
    """The model's own outputs, of films that went through its processor."""
    with torch.no_grad():
        return model.eval()(**processor(model)(list(films), return_tensors="pt"))


def from_onnx(path, films):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(output) for output in session.run(None, {FILMS: films.numpy()})]


def from_program(path, films):
    return list(torch.export.load(path).module()(films))


def onnx_metadata(path):
    return json.loads(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map[METADATA])


def program_metadata(path):
    files = {METADATA: ""}
    torch.export.load(path, extra_files=files)
    return json.loads(files[METADATA])


@pytest.fixture
def model(make_model, nih):
    """Small, calibrated, with operating points."""
    model = lively(make_model(hierarchy=nih.subset(FEW), link="conditional", head_dropout=0.4))
    model.config.calibration = {"coefficients": {name: [0.9, 1.1, 0.2] for name in FEW}}
    model.config.operating_points = operating_points(dict.fromkeys(FEW, 0.3) | {"Mass": None}, 0.4)
    return model


@pytest.fixture
def two_stage(make_model, nih):
    """The labels in another order than the stages', half of `noise(8)` cleared."""
    few = nih.subset(FEW)
    joined = Hierarchy(few.name, few.nodes[::-1], gate_definition=few.gate_definition)
    both = join_stages(
        lively(make_model("vit", nih.subset(FEW[:1]))),
        lively(make_model("densenet", nih.subset(FEW[1:]), link="conditional")),
        joined,
    )
    both.config.calibration = {"coefficients": {name: [1.2, 0.9, -0.1] for name in FEW}}
    gate = both.gate(**processor(both)(list(noise(8)), return_tensors="pt")).logits[:, 0].double().sigmoid()
    both.config.gate_threshold = gate.sort().values[3:5].mean().item()
    return both


FORMATS = pytest.mark.parametrize(
    ("write", "name", "read", "metadata"),
    [
        (export_onnx, "model.onnx", from_onnx, onnx_metadata),
        (export_program, "model.pt2", from_program, program_metadata),
    ],
    ids=["onnx", "program"],
)


@FORMATS
@pytest.mark.parametrize("kind", MODELS)
def test_a_file_says_what_the_model_says(kind, write, name, read, metadata, make_model, nih, tmp_path):
    architecture, settings = MODELS[kind]
    model = lively(make_model(architecture, nih.subset(FEW), **settings))
    exported = write(model, processor(model), tmp_path / name)
    assert exported.largest_difference <= TOLERANCE
    for n in (1, 2, 7):
        expected = forward(model, noise(n)).logits.double().sigmoid()
        got = read(exported.path, noise(n))
        assert len(got) == 1
        assert got[0].dtype == torch.float32
        torch.testing.assert_close(got[0].double(), expected, atol=2e-6, rtol=0)
    assert expected.std(0).max() > 1e-4  # the films differ: a constant would not pass


@FORMATS
def test_an_ensemble_is_one_file(write, name, read, metadata, make_model, nih, tmp_path):
    members = [lively(make_model(kind, nih.subset(FEW), link="conditional")) for kind in ("densenet", "vit")]
    ensemble = CXREnsembleForImageClassification.from_models(members)
    exported = write(ensemble, processor(ensemble), tmp_path / name)
    for n in (1, 7):
        expected = forward(ensemble, noise(n)).logits.double().sigmoid()
        (got,) = read(exported.path, noise(n))
        torch.testing.assert_close(got.double(), expected, atol=2e-6, rtol=0)
        parent, child = (list(side) for side in nih.subset(FEW).edge_indices)
        assert (got[:, child] <= got[:, parent]).all()
    assert metadata(exported.path)["architecture"] == "cxr-ensemble"


def test_large_films_keep_their_own_exposure(make_model, nih, tmp_path):
    """Summed in float32, as onnxruntime does it, 65,536 pixels put the probabilities off by 2e-6 here."""
    settings = {"image_size": 256, "image_mean": None, "image_std": None, "link": "conditional"}
    model = lively(make_model(hierarchy=nih.subset(FEW), **settings))
    assert export_onnx(model, processor(model), tmp_path / "model.onnx").largest_difference < 3e-7


@FORMATS
def test_two_stages_as_their_forward(two_stage, write, name, read, metadata, tmp_path):
    exported = write(two_stage, processor(two_stage), tmp_path / name)
    for n in (1, 8):
        expected = forward(two_stage, noise(n))
        probability, ran = read(exported.path, noise(n))
        torch.testing.assert_close(probability.double(), expected.logits.double().sigmoid(), atol=2e-6, rtol=0)
        assert ran.tolist() == expected.finding_model_ran.tolist()
    assert ran.sum() == 4
    with torch.no_grad():
        everything = two_stage(**processor(two_stage)(list(noise(8)), return_tensors="pt"), run_all=True)
    assert (everything.logits.sigmoid() - probability).abs().max() > 1e-3  # what clearing changes is seen
    about = metadata(exported.path)
    assert about["finding_model_from"] == two_stage.config.gate_threshold
    assert "finding_model_ran" in about["decision"]
    assert about["labels"] == two_stage.config.label_names


@pytest.mark.parametrize("calibrated", [False, True])
def test_children_stay_below_their_parents_in_onnxruntime(calibrated, make_model, chexpert, nih, tmp_path):
    """Sure and unsure films: the exporter's own operators give infinite logits and children above parents here."""
    hierarchy = nih.subset(FEW) if calibrated else chexpert
    model = lively(make_model(hierarchy=hierarchy, link="conditional"))
    last = model.head.trunk.classifier
    with torch.no_grad():
        last.weight.mul_(30)
        last.bias.sub_(last(forward(model, noise(400)).pooler_output).mean(0))
    if calibrated:
        model.config.calibration = {"coefficients": {name: [1.0, 1.1, 0.5] for name in FEW}}
    exported = export_onnx(model, processor(model), tmp_path / "model.onnx")
    got, expected = from_onnx(exported.path, noise(400))[0], forward(model, noise(400)).logits.double().sigmoid()
    parent, child = (list(side) for side in hierarchy.edge_indices)
    assert (got[:, child] <= got[:, parent]).all()
    torch.testing.assert_close(got.double(), expected, atol=2e-5, rtol=0)
    assert got.min() < 1e-12
    assert got.max() > 1 - 1e-6


@FORMATS
def test_what_the_file_says_of_itself(model, write, name, read, metadata, tmp_path):
    about = metadata(write(model, processor(model, fit="crop"), tmp_path / "new folder" / name).path)
    assert about["labels"] == model.config.label_names
    assert about["parents"] == model.config.parents
    assert about["gate"] == {"node": "Abnormal", "definition": "any_finding"}
    assert about["thresholds"] == {"Abnormal": 0.4, "Opacity": 0.3, "Cardiomegaly": 0.3}
    assert about["thresholds_from"]["split"] == "validation"
    assert (about["image_size"], about["fit"], about["calibrated"]) == (32, "crop", True)
    assert "cropped" in about["input"]
    assert about["finding_model_from"] is None
    assert about["model"] == identity(model)
    assert "not for clinical use" in about["notice"]


def test_onnxruntime_alone_can_use_the_file(model, tmp_path):
    """In a process of its own, without torch and without this package; nothing lies beside the file."""
    path = export_onnx(model, processor(model), tmp_path / "model.onnx").path
    assert list(tmp_path.iterdir()) == [path]
    np.save(tmp_path / "films.npy", noise(2).numpy())
    code = (
        "import json, sys, numpy, onnxruntime\n"
        f"session = onnxruntime.InferenceSession({str(path)!r})\n"
        f"labels = json.loads(session.get_modelmeta().custom_metadata_map[{METADATA!r}])['labels']\n"
        f"probabilities, = session.run(None, {{'films': numpy.load({str(tmp_path / 'films.npy')!r})}})\n"
        "print(json.dumps([dict(zip(labels, film)) for film in probabilities.tolist()]))\n"
        "assert not {'torch', 'hf_cxr'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for film, expected in zip(json.loads(done.stdout), forward(model, noise(2)).logits.sigmoid(), strict=True):
        assert film == pytest.approx(dict(zip(model.config.label_names, expected.tolist(), strict=True)), abs=1e-5)


def test_no_file_names_folders_of_this_machine(make_model, tmp_path):
    model = make_model(link="conditional")
    onnx = export_onnx(model, processor(model), tmp_path / "model.onnx").path.read_bytes()
    program = zipfile.ZipFile(export_program(model, processor(model), tmp_path / "model.pt2").path)
    for content in (onnx, *(program.read(name) for name in program.namelist())):
        for trace in (str(REPO), "site-packages", str(tmp_path), ".py"):
            assert trace.encode() not in content


@FORMATS
@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_a_wrong_file_is_not_kept(make_model, wrong, write, name, read, metadata, tmp_path, monkeypatch):
    model = make_model()
    path = tmp_path / name
    path.write_text("an older one")
    measured = export.verify_with

    def moved(*args):
        said = measured(*args)
        probability = said.probability.clone()
        probability[3, 5] += wrong
        return replace(said, probability=probability)

    monkeypatch.setattr(export, "verify_with", moved)
    with pytest.raises(ExportError, match=rf"{name}: its probabilities are off by up to (0\.001|nan)"):
        write(model, processor(model), path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert path.read_text() == "an older one"


@FORMATS
def test_the_model_stays_as_it_was(make_model, write, name, read, metadata, tmp_path):
    model = make_model("vit")
    model.gradient_checkpointing_enable()
    model.train()
    model.head.eval()
    flags = [module.training for module in model.modules()]
    write(model, processor(model), tmp_path / name)
    assert [module.training for module in model.modules()] == flags
    assert model.is_gradient_checkpointing


@FORMATS
def test_refused_before_anything_is_written(make_model, write, name, read, metadata, tmp_path):
    model = make_model()
    path = tmp_path / "new" / name
    with pytest.raises(ExportError, match=r"bfloat16; load it with from_pretrained\(\.\.\., dtype=torch.float32\)"):
        write(model.to(torch.bfloat16), processor(model), path)
    model.float()
    other = processor(model)
    other.image_mean = [0.1]
    with pytest.raises(ExportError, match="load both from the same folder"):
        write(model, other, path)
    with pytest.raises(TypeError, match="Linear; expected a model of hf_cxr"):
        write(torch.nn.Linear(1, 1), processor(model), path)
    with pytest.raises(ExportError, match=rf"model\.bin: expected a file name ending in \{path.suffix}"):
        write(model, processor(model), path.with_suffix(".bin"))
    assert not path.parent.exists()


def test_refused_by_onnx_alone(make_model, tmp_path, monkeypatch):
    model = make_model()
    with monkeypatch.context() as patched:
        patched.setattr(export, "ONNX_BYTES", 1000)
        with pytest.raises(ExportError, match="holds 1000 at most: use export_program"):
            export_onnx(model, processor(model), tmp_path / "model.onnx")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, package, None)
            with pytest.raises(ExportError, match=rf'the package {package}: pip install "hf_cxr\[onnx\]"'):
                export_onnx(model, processor(model), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
