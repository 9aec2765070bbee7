"""A run to the tests' hub and back: as a stranger loads it, and after everything that can go wrong on the way."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import CommitOperationAdd, set_client_factory
from huggingface_hub.utils._http import default_client_factory
from safetensors.torch import load_file

from hf_cxr.hub.publish import RunError, publish, stage
from hf_cxr.hub.upload import Target, UploadError
from hf_cxr.verification import FILE
from tests.conftest import REPO
from tests.hub.client import run
from tests.hub.faults import COMMIT, CREATE_REPO, LFS_UPLOAD, PREUPLOAD, TAG
from tests.hub.server import OWNER, READER

NAME = "clinic/cxr-tiny"
LOAD = """
    import json, sys
    import torch
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
    if not (remote := sys.argv[1] == "remote code"):
        import hf_cxr
    model = AutoModelForImageClassification.from_pretrained(sys.argv[2], trust_remote_code=remote).eval()
    processor = AutoImageProcessor.from_pretrained(sys.argv[2], trust_remote_code=remote)
    assert remote == ("hf_cxr" not in sys.modules)
    films = list(load_file(sys.argv[3])["films"])
    with torch.no_grad():
        said = model(**processor(films, return_tensors="pt")).logits.sigmoid().tolist()
    plain = pipeline("image-classification", model=model, image_processor=processor)
    from PIL import Image
    top = plain(Image.fromarray(films[0][0].numpy()), top_k=len(model.config.id2label))
    tree = None if remote else pipeline("chest-xray-classification", model=sys.argv[2])(films[0])["probabilities"]
    print(json.dumps([said, {each["label"]: each["score"] for each in top}, tree]))
"""


@pytest.fixture
def here(monkeypatch):
    """Verification in this process; that it works in one of its own is tested in test_verify."""
    monkeypatch.setattr("hf_cxr.hub.publish.verify", lambda folder: [])


@pytest.fixture
def staging(tmp_path):
    made = iter(range(99))

    def fresh():
        folder = tmp_path / f"staging{next(made)}"
        folder.mkdir()
        return folder

    return fresh


def push(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["push_to_hub.py", *map(str, words)])
    runpy.run_path(str(REPO / "push_to_hub.py"), run_name="__main__")


@pytest.mark.slow
def test_a_stranger_gets_what_was_trained(hub, online, finished, monkeypatch, capsys, tmp_path):
    online()
    push(monkeypatch, finished, NAME, "--private")
    said = capsys.readouterr().out
    repo = hub.repo(NAME)
    assert repo.private
    assert list(repo.tags) == ["v1"]
    assert len(repo.at("main").history) <= 2  # the one that creates it, and one
    assert "uploaded" in said
    assert "tag v1" in said
    assert "verified without it, by trust_remote_code: stored probabilities to 0" in said
    assert "predictions_test.csv" in said.split("stays here: ")[1].split("\n")[0]
    files = repo.files()
    assert not {name for name in files if name.endswith((".csv", ".yaml")) or "checkpoint" in name}
    assert files["README.md"].startswith(b"---\n")

    expected = load_file(finished / FILE)["probability"]
    for way in ("hf_cxr", "remote code"):
        environment = hub.environment(OWNER, home=tmp_path / way)
        got, top, tree = run(LOAD, environment, way, NAME, str(finished / FILE))
        assert torch.equal(torch.tensor(got), expected), way  # bit-equal to the model as saved
        labels = json.loads(files["config.json"])["id2label"]  # its keys are sorted as words
        named = {labels[str(i)]: p for i, p in enumerate(expected[0].tolist())}
        for other in filter(None, (top, tree)):
            assert other.keys() == named.keys()
            np.testing.assert_allclose([other[name] for name in named], list(named.values()), atol=1e-6)


def test_a_dry_run_asks_nobody_and_shows_everything(hub, online, finished, monkeypatch, capsys, here, tmp_path):
    online(None)
    push(monkeypatch, finished, NAME, "--dry_run", "--space", "clinic/demo", "--stage_dir", tmp_path / "stage")
    said = capsys.readouterr().out
    assert hub.requests == []
    assert "Nothing was uploaded" in said
    assert "model.safetensors" in said
    assert (tmp_path / "stage" / "README.md").read_text() in said
    assert "Space clinic/demo" in said


def test_repeating_changes_nothing_and_a_new_version_counts_on(hub, online, finished, staging, here):
    online()
    target = Target(NAME, FILE)
    _, first = publish(finished, staging(), target)
    _, again = publish(finished, staging(), target)
    assert first.changed
    assert not again.changed
    assert (again.commit, again.tag) == (first.commit, "v1")
    report = json.loads((finished / "eval_report.json").read_text())
    report["provenance"]["note"] = "another version"
    (finished / "eval_report.json").write_text(json.dumps(report))
    (finished / "figures" / "auroc_validation.png").unlink()
    _, second = publish(finished, staging(), target)
    assert second.changed
    assert second.tag == "v2"
    assert "figures/auroc_validation.png" in hub.repo(NAME).files("v1")
    assert "figures/auroc_validation.png" not in hub.repo(NAME).files("main")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda hub: hub.cut(LFS_UPLOAD, after_bytes=20_000, times=None), "no connection to http.*same command tries"),
        (lambda hub: hub.cut(COMMIT, after_bytes=100, times=None), "no connection to http.*same command tries again"),
        (lambda hub: hub.fail(COMMIT, status=500, times=None), "the Hub answered 500"),
        (lambda hub: hub.fail(PREUPLOAD, status=429, times=None), "the Hub asks to wait"),
        (lambda hub: hub.fail(COMMIT, status=412, times=None), "changed by somebody else in the meantime"),
        (lambda hub: hub.fail(CREATE_REPO, status=403, times=None), f"this token may not write to {NAME}"),
    ],
)
def test_an_interrupted_upload_leaves_nothing_and_can_be_repeated(hub, online, finished, staging, here, fault, message):
    online()
    failing = fault(hub)
    with pytest.raises(UploadError, match=message):
        publish(finished, staging(), Target(NAME, FILE))
    if ("models", NAME) in hub.repos:
        assert set(hub.repo(NAME).files()) <= {".gitattributes"}
        assert not hub.repo(NAME).tags
    failing.times = 0
    _, done = publish(finished, staging(), Target(NAME, FILE))
    assert done.tag == "v1"
    assert (finished / "model.safetensors").read_bytes() == hub.repo(NAME).files()["model.safetensors"]


def test_a_missing_tag_is_added_by_repeating(hub, online, finished, staging, here):
    online()
    hub.fail(TAG, status=500)
    with pytest.raises(UploadError, match=r"all files are there \(commit .*\), its tag is not"):
        publish(finished, staging(), Target(NAME, FILE))
    _, done = publish(finished, staging(), Target(NAME, FILE))
    assert not done.changed
    assert list(hub.repo(NAME).tags) == ["v1"]


def test_a_tag_of_another_version_is_not_moved(hub, online, finished, staging, here):
    online()
    publish(finished, staging(), Target(NAME, FILE, tag="2026-11"))
    (finished / "figures" / "auroc_validation.png").unlink()
    with pytest.raises(UploadError, match="has a tag '2026-11' of another version"):
        publish(finished, staging(), Target(NAME, FILE, tag="2026-11"))


def test_further_files_of_the_model(finished, staging, here):
    staged = stage(finished, staging(), NAME, exports=["model.onnx"])
    assert "model.onnx" in staged.files
    assert 0 <= staged.exported["model.onnx"] < 1e-5
    import onnxruntime

    stored = load_file(finished / FILE)
    session = onnxruntime.InferenceSession(staged.folder / "model.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(["probabilities"], {"films": stored["films"].numpy()})
    np.testing.assert_allclose(got, stored["probability"].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("token", "name", "message"),
    [
        (None, NAME, "no token: run `hf auth login`"),
        ("hf_unknown", NAME, "does not accept the token"),
        (READER, NAME, "this token may not write to"),
        (OWNER, "other/model", "this token may not write to other/model"),
        (OWNER, "a/b/c", "is no name of a repository"),
    ],
)
def test_who_may_not_is_told_so(hub, online, finished, staging, here, token, name, message):
    online(token)
    with pytest.raises(UploadError, match=message):
        publish(finished, staging(), Target(name, FILE))
    assert not hub.repos


def test_no_network(hub, online, finished, staging, here, monkeypatch):
    online()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    set_client_factory(default_client_factory)  # not the one that refuses other hosts
    with pytest.raises(UploadError, match=r"no connection to http://127\.0\.0\.1:9 .*nothing was changed"):
        publish(finished, staging(), Target(NAME, FILE))


def test_offline_is_said(finished, staging, here, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", OWNER)
    with pytest.raises(UploadError, match="HF_HUB_OFFLINE is set"):
        publish(finished, staging(), Target(NAME, FILE))


def test_what_is_not_ours_is_not_overwritten(hub, online, finished, staging, here):
    api = online()
    api.create_repo(NAME, private=True)
    api.create_commit(NAME, [CommitOperationAdd("model.bin", b"years of work")], commit_message="mine")
    with pytest.raises(UploadError, match=f"taken: it holds 1 files and no {FILE}"):
        publish(finished, staging(), Target(NAME, FILE))
    assert "model.bin" in hub.repo(NAME).files()


def test_private_is_meant(hub, online, finished, staging, here):
    online().create_repo(NAME, private=False)
    with pytest.raises(UploadError, match="exists and is public, private was asked for: say --public"):
        publish(finished, staging(), Target(NAME, FILE))
    _, done = publish(finished, staging(), Target(NAME, FILE, private=False))
    assert done.tag == "v1"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_report_of_another_model_is_refused(finished, staging, here):
    config = finished / "config.json"
    edit(config, lambda c: c["operating_points"]["thresholds"].update(Mass=0.9))
    with pytest.raises(RunError, match="report is of another model than the folder's: config differ"):
        stage(finished, staging(), NAME)
    report = finished / "eval_report.json"
    edit(report, lambda r: r["provenance"].pop("model"))
    with pytest.raises(RunError, match="does not say which model it is of"):
        stage(finished, staging(), NAME)
    report.write_text("{")
    with pytest.raises(RunError, match=r"eval_report\.json cannot be read"):
        stage(finished, staging(), NAME)
    report.unlink()
    with pytest.raises(RunError, match="the run is not finished"):
        stage(finished, staging(), NAME)
    (finished / "preprocessor_config.json").unlink()
    with pytest.raises(RunError, match=r"has no preprocessor_config\.json"):
        stage(finished, staging(), NAME)
