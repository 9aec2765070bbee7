"""Round trips of huggingface_hub's client with the tests' hub, and what the hub refuses."""

import hashlib
import os
import subprocess
import time
import urllib.error
import urllib.request

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import (
    BadRequestError,
    EntryNotFoundError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.client import in_process, run
from tests.hub.faults import COMMIT, LFS_UPLOAD
from tests.hub.server import OWNER, READER, STRANGER
from tests.hub.storage import File

ROUND_TRIP = """
    import json, sys
    from pathlib import Path
    from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download, snapshot_download

    api, folder = HfApi(), Path(sys.argv[1])
    api.create_repo("clinic/cxr", private=True)
    api.create_repo("clinic/cxr", private=True, exist_ok=True)
    first = api.upload_folder(repo_id="clinic/cxr", folder_path=folder).oid
    api.create_tag("clinic/cxr", tag="v1.0")
    api.create_commit("clinic/cxr", [CommitOperationAdd("new.txt", b"new")], commit_message="More", parent_commit=first)
    api.delete_file("notes/a b.txt", "clinic/cxr")
    snapshot = Path(snapshot_download("clinic/cxr", revision="v1.0"))
    weights = Path(hf_hub_download("clinic/cxr", "model.safetensors"))
    info = api.model_info("clinic/cxr", files_metadata=True)
    lfs = {s.rfilename: [s.size, s.lfs.sha256] for s in info.siblings if s.lfs}
    print(json.dumps({
        "user": api.whoami()["name"], "first": first, "sha": info.sha, "private": info.private, "tags": info.tags,
        "v1.0": api.model_info("clinic/cxr", revision="v1.0").sha, "lfs": lfs,
        "files": api.list_repo_files("clinic/cxr"), "title": api.list_repo_commits("clinic/cxr")[1].title,
        "refs": [ref.target_commit for ref in api.list_repo_refs("clinic/cxr").tags],
        "same": all((snapshot / p.relative_to(folder)).read_bytes() == p.read_bytes()
                    for p in [*folder.glob("*.*"), *folder.glob("notes/*")]),
        "weights": weights.read_bytes() == (folder / "model.safetensors").read_bytes(),
    }))
"""


@pytest.fixture
def folder(tmp_path):
    """1 MB that goes through LFS, and small files that do not."""
    made = tmp_path / "folder"
    (made / "notes").mkdir(parents=True)
    (made / "model.safetensors").write_bytes(os.urandom(10**6))
    (made / "README.md").write_text("---\nlicense: apache-2.0\ntags: [chest-x-ray]\n---\nA card: ä\n")
    (made / "notes" / "a b.txt").write_text("a blank in its name")
    (made / "empty.json").write_bytes(b"")
    return made


def test_a_folder_there_and_back(hub, folder):
    seen = run(ROUND_TRIP, hub.environment(OWNER), str(folder))
    assert (seen["same"], seen["weights"], seen["private"], seen["user"]) == (True, True, True, "owner")
    assert seen["files"] == [".gitattributes", "README.md", "empty.json", "model.safetensors", "new.txt"]
    assert (seen["v1.0"], seen["refs"], seen["title"]) == (seen["first"], [seen["first"]], "More")
    assert seen["sha"] != seen["first"]
    assert {"chest-x-ray", "license:apache-2.0"} <= set(seen["tags"])
    weights = (folder / "model.safetensors").read_bytes()
    assert seen["lfs"] == {"model.safetensors": [10**6, hashlib.sha256(weights).hexdigest()]}
    repo = hub.repo("clinic/cxr")
    assert repo.files("v1.0")["notes/a b.txt"] == b"a blank in its name"
    assert repo.files()["model.safetensors"] == weights
    assert len(hub.asked(LFS_UPLOAD, "PUT")) == 1
    assert [r.status for r in hub.asked(COMMIT)] == [200, 200, 200]


def test_another_machine_and_unchanged_files(hub, folder, online, tmp_path):
    api = online()
    api.create_repo("clinic/cxr")
    commits = [api.upload_folder(repo_id="clinic/cxr", folder_path=folder).oid for _ in range(2)]
    assert commits[0] == commits[1]
    assert len(hub.repo("clinic/cxr").at().history) == 2
    source = "from huggingface_hub import snapshot_download; print('\"' + snapshot_download('clinic/cxr') + '\"')"
    fetched = run(source, hub.environment(home=tmp_path / "elsewhere"))
    assert fetched.startswith(str(tmp_path / "elsewhere"))
    assert fetched.endswith(commits[0])


@pytest.mark.parametrize("content", [b"", b"finding\n", bytes(range(256)) * 100])
def test_file_names_are_git_s(content):
    git = subprocess.run(["git", "hash-object", "--stdin"], input=content, capture_output=True, check=True)
    assert File(content).blob_id == git.stdout.decode().strip()
    pointer = subprocess.run(["git", "hash-object", "--stdin"], input=File(content).pointer, capture_output=True)
    assert File(content, lfs=True).blob_id == pointer.stdout.decode().strip()


def test_a_commit_is_whole_or_not_at_all(hub, online):
    api = online()
    api.create_repo("clinic/cxr")
    first = api.create_commit("clinic/cxr", [CommitOperationAdd("a.txt", b"a")], commit_message="a").oid
    before = hub.repo("clinic/cxr").files()
    missing = CommitOperationDelete("missing – 没有.txt")
    with pytest.raises(EntryNotFoundError, match="doesn't exist"):
        api.create_commit("clinic/cxr", [CommitOperationAdd("b.txt", b"b"), missing], commit_message="b")
    nowhere = CommitOperationAdd("w.safetensors", b"w")
    nowhere._upload_mode, nowhere._is_uploaded, nowhere._should_ignore = "lfs", True, False
    with pytest.raises(BadRequestError, match="LFS pointer"):
        api.create_commit("clinic/cxr", [CommitOperationAdd("b.txt", b"b"), nowhere], commit_message="w")
    assert (hub.repo("clinic/cxr").at().sha, hub.repo("clinic/cxr").files()) == (first, before)

    api.create_commit("clinic/cxr", [CommitOperationAdd("c/d.txt", b"d"), CommitOperationAdd("c/e.txt", b"e")],
                      commit_message="c", parent_commit=first)  # fmt: skip
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as stale:
        api.create_commit("clinic/cxr", [CommitOperationAdd("f.txt", b"f")], commit_message="f", parent_commit=first)
    assert stale.value.response.status_code == 412
    api.delete_folder("c", "clinic/cxr")
    assert hub.repo("clinic/cxr").files() == before


def test_bytes_of_another_hash_are_refused(hub, online):
    api = online()
    api.create_repo("clinic/cxr")
    oid = hashlib.sha256(b"right").hexdigest()
    address = f"{hub.url}/lfs-storage/models/clinic/cxr/{oid}"

    def put(body):
        with urllib.request.urlopen(urllib.request.Request(address, body, method="PUT")) as answer:
            return answer.status

    with pytest.raises(urllib.error.HTTPError, match="403"):
        put(b"right")  # nobody has asked to upload it
    hub.repo("clinic/cxr").awaited[oid] = 5
    with pytest.raises(urllib.error.HTTPError, match="400"):
        put(b"wrong")
    assert not hub.repo("clinic/cxr").objects
    assert put(b"right") == 200


def test_a_part_of_a_file(hub, online):
    api = online()
    api.create_repo("clinic/cxr")
    api.upload_file(path_or_fileobj=b"abcdef", path_in_repo="a.txt", repo_id="clinic/cxr")
    address = f"{hub.url}/clinic/cxr/resolve/main/a.txt"
    for asked, expected in (("2-3", b"cd"), ("4-", b"ef")):
        part = urllib.request.Request(address, headers={"Range": f"bytes={asked}"})
        with urllib.request.urlopen(part) as answer:
            assert (answer.status, answer.read()) == (206, expected)
            assert answer.headers["Content-Range"] == {"2-3": "bytes 2-3/6", "4-": "bytes 4-5/6"}[asked]
    with pytest.raises(urllib.error.HTTPError, match="416"):
        urllib.request.urlopen(urllib.request.Request(address, headers={"Range": "bytes=6-"}))


def test_branches_tags_and_what_is_not_there(hub, online, folder):
    api = online()
    api.create_repo("clinic/cxr")
    first = api.upload_folder(repo_id="clinic/cxr", folder_path=folder).oid
    api.create_branch("clinic/cxr", branch="next")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch("clinic/cxr", branch="next")
    api.create_branch("clinic/cxr", branch="next", exist_ok=True)
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="x/config.json", repo_id="clinic/cxr", revision="next")
    api.create_tag("clinic/cxr", tag="v2", revision="next")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("clinic/cxr", tag="v2")
    assert api.file_exists("clinic/cxr", "x/config.json", revision="v2")
    assert not api.file_exists("clinic/cxr", "x/config.json")
    assert api.model_info("clinic/cxr", revision="main").sha == first
    assert [e.path for e in api.list_repo_tree("clinic/cxr", revision="v2") if hasattr(e, "tree_id")] == ["notes", "x"]
    with pytest.raises(RevisionNotFoundError):
        api.model_info("clinic/cxr", revision="v3")
    with pytest.raises(RevisionNotFoundError):
        snapshot_download("clinic/cxr", revision="v3")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("clinic/cxr", "missing.json")
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree("clinic/cxr", "missing"))
    api.delete_tag("clinic/cxr", tag="v2")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("clinic/cxr", revision="v2")


@pytest.mark.parametrize(
    ("token", "private", "status", "message"),
    [
        (None, False, 401, "Invalid username or password"),
        (None, True, 401, "Repository Not Found"),
        ("hf_unknown", False, 401, "Invalid credentials in Authorization header"),
        (READER, True, 403, "Forbidden: Authorization error"),
        (STRANGER, False, 403, "Forbidden: Authorization error"),
        (STRANGER, True, 404, "Repository Not Found"),
    ],
)
def test_who_may_not_write(hub, online, token, private, status, message):
    online().create_repo("clinic/cxr", private=private)
    api = online(token)
    with pytest.raises(HfHubHTTPError, match=message) as refused:
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="clinic/cxr")
    assert refused.value.response.status_code == status
    assert isinstance(refused.value, RepositoryNotFoundError) == (token is None or status == 404)
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_repo("clinic/other")
    assert refused.value.response.status_code == (401 if status == 401 else 403)
    assert not isinstance(refused.value, RepositoryNotFoundError)
    assert list(hub.repos) == [("models", "clinic/cxr")]
    assert list(hub.repo("clinic/cxr").files()) == [".gitattributes"]


def test_who_may_read(hub, online):
    api = online()
    api.create_repo("clinic/cxr")
    assert online(None).model_info("clinic/cxr").private is False
    with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
        online("hf_unknown").model_info("clinic/cxr")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        online("hf_unknown").whoami()
    api.update_repo_settings("clinic/cxr", private=True)
    for token in (None, STRANGER):
        with pytest.raises(RepositoryNotFoundError):
            online(token).model_info("clinic/cxr")
    assert online(READER).model_info("clinic/cxr").private is True
    api.delete_repo("clinic/cxr")
    assert not api.repo_exists("clinic/cxr")


def test_kinds_are_apart_and_a_space_has_its_sdk(hub, online, tmp_path):
    api = online()
    for kind in ("model", "dataset", "space"):
        assert api.create_repo("clinic/cxr", repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    with pytest.raises(HfHubHTTPError, match="already created this space"):
        api.create_repo("clinic/cxr", repo_type="space", space_sdk="gradio")
    (tmp_path / "app.py").write_text("print('here')\n")
    (tmp_path / "README.md").write_text("---\ntitle: CXR\nsdk: gradio\ncolorFrom: blue\n---\n")
    api.upload_folder(repo_id="clinic/cxr", folder_path=tmp_path, repo_type="space", ignore_patterns="hf_home/**")
    assert api.space_info("clinic/cxr").sdk == "gradio"
    assert api.list_repo_files("clinic/cxr", repo_type="space") == [".gitattributes", "README.md", "app.py"]
    assert api.list_repo_files("clinic/cxr") == [".gitattributes"]


@pytest.mark.parametrize(
    ("kind", "readme", "message"),
    [
        ("model", "---\nlicense: [\n---\n", "invalid YAML"),
        ("model", "---\n- a\n---\n", "must be a mapping"),
        ("model", "---\nmodel-index: [{results: []}]\n---\n", "name.* is required"),
        ("model", "---\nmodel-index: [{name: a, results: [{task: {type: b}}]}]\n---\n", "dataset.type.* is required"),
        ("space", "no metadata", "sdk.* must be one of"),
        ("space", "---\nsdk: gradio\ncolorTo: cyan\n---\n", "colorTo.* must be one of"),
    ],
)
def test_a_wrong_card_is_refused(hub, online, kind, readme, message):
    api = online()
    api.create_repo("clinic/cxr", repo_type=kind, space_sdk="gradio" if kind == "space" else None)
    before = hub.repo("clinic/cxr", f"{kind}s").files()
    operations = [CommitOperationAdd("README.md", readme.encode())]
    with pytest.raises(ValueError, match=f"(?s)Invalid metadata.*{message}"):
        api.create_commit("clinic/cxr", operations, commit_message="card", repo_type=kind)
    assert hub.repo("clinic/cxr", f"{kind}s").files() == before


def test_the_environment_has_nothing_of_this_process_s_hub(hub, monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HTTPS_PROXY", "http_proxy", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "outside")
    monkeypatch.setenv("HF_CXR_TEST_DATA", "kept")
    made = hub.environment()
    assert "outside" not in made.values()
    assert "HF_TOKEN" not in made
    assert (made["HF_ENDPOINT"], made["HF_HUB_OFFLINE"], made["HF_CXR_TEST_DATA"]) == (hub.url, "0", "kept")
    assert hub.environment(OWNER, home=tmp_path)["HF_HOME"] == str(tmp_path)


def test_this_process_speaks_to_the_hub_alone_and_is_offline_afterwards(hub, online):
    sleep = time.sleep
    with pytest.MonkeyPatch.context() as patch:
        in_process(hub, OWNER, patch)
        assert huggingface_hub.whoami()["name"] == "owner"
        with pytest.raises(AssertionError, match="not the test's hub"):
            HfApi(endpoint="http://127.0.0.1:9").model_info("clinic/cxr")
    with pytest.raises(OfflineModeIsEnabled):
        huggingface_hub.whoami(token=OWNER)
    assert (time.sleep, huggingface_hub.hf_api.api.endpoint) == (sleep, "https://huggingface.co")
