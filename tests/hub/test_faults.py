"""Each fault is the error to the client that it would be from the real hub; nothing is half-written; a retry works."""

import os
import socket
import time
from urllib.parse import urlsplit

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, constants
from huggingface_hub.errors import HfHubHTTPError

from tests.hub.client import run
from tests.hub.faults import COMMIT, CREATE_REPO, LFS_BATCH, LFS_UPLOAD, PREUPLOAD, RESOLVE, TAG
from tests.hub.server import OWNER

SIZE = 10**6


@pytest.fixture
def repo(hub, online):
    """A repository with a file, and `hub`'s view of it."""
    api = online()
    api.create_repo("clinic/cxr")
    api.upload_file(path_or_fileobj=b"old", path_in_repo="config.json", repo_id="clinic/cxr")
    hub.requests.clear()
    return hub.repo("clinic/cxr")


@pytest.fixture
def push(repo, online, tmp_path):
    """`push()`: upload a folder of an LFS file and a small one."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(os.urandom(SIZE))
    (folder / "config.json").write_bytes(b"new")
    return lambda: online().upload_folder(repo_id="clinic/cxr", folder_path=folder)


def state(repo):
    return repo.at().sha, repo.files(), dict(repo.tags)


def pushed(repo):
    return repo.files()["config.json"] == b"new" and len(repo.files()["model.safetensors"]) == SIZE


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "Invalid credentials in Authorization header"),
        (403, "403 Forbidden: Authorization error"),
        (409, "409 Conflict"),
        (429, "429 Too Many Requests"),
        (500, "500 Internal Server Error"),
    ],
)
@pytest.mark.parametrize("path", [PREUPLOAD, LFS_BATCH, COMMIT])
def test_an_error_status(hub, repo, push, path, status, message):
    before = state(repo)
    fault = hub.fail(path, "POST", status=status, times=None)
    with pytest.raises(HfHubHTTPError, match=message) as error:
        push()
    assert error.value.response.status_code == status
    assert state(repo) == before
    # The client tries again what may pass, but never a commit.
    assert fault.met == len(hub.asked(path)) == (6 if status in (429, 500) and path != COMMIT else 1)
    fault.times = 0
    push()
    assert pushed(repo)
    assert len(repo.at().history) == 3


def test_a_fault_that_passes_is_overcome_by_the_client_itself(hub, repo, push):
    hub.fail(LFS_UPLOAD, "PUT", status=500, times=2)
    push()
    assert pushed(repo)
    assert [r.status for r in hub.asked(LFS_UPLOAD)] == [500, 500, 200]


def test_the_client_s_own_words_for_a_rate_limit(hub, repo, push):
    headers = {"RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    hub.fail(COMMIT, status=429, headers=headers)
    with pytest.raises(HfHubHTTPError, match="Retry after 55 seconds"):
        push()


def test_an_upload_that_is_cut(hub, repo, push):
    before = state(repo)
    fault, start = hub.cut(LFS_UPLOAD, after_bytes=SIZE // 3, times=None), time.monotonic()
    with pytest.raises(RuntimeError, match=r"Error while uploading 'model.safetensors'") as error:
        push()
    assert isinstance(error.value.__cause__, httpx2.TransportError)
    assert time.monotonic() - start < 10  # 23 s by the client's own waits
    assert (fault.met, hub.asked(LFS_UPLOAD)[0].status) == (6, None)
    assert state(repo) == before
    assert not repo.objects
    fault.times = 0
    push()
    assert pushed(repo)


def test_an_upload_that_is_cut_once_is_sent_again(hub, repo, push):
    hub.cut(LFS_UPLOAD, after_bytes=SIZE // 3)
    push()
    assert [r.status for r in hub.asked(LFS_UPLOAD)] == [None, 200]
    assert pushed(repo)


@pytest.mark.parametrize("after_bytes", [0, 60, 10**9])
def test_a_commit_that_is_cut(hub, repo, push, after_bytes):
    before = state(repo)
    hub.cut(COMMIT, after_bytes=after_bytes)
    with pytest.raises(httpx2.TransportError):
        push()
    assert state(repo) == before
    push()
    assert pushed(repo)
    # What was uploaded before the cut need not be uploaded again.
    assert len(hub.asked(LFS_UPLOAD)) == 1


def test_a_client_that_goes_away_in_the_middle(hub, repo):
    before, body = state(repo), b'{"key": "header", "value": {"summary": "x"}}\n'
    head = f"POST /api/models/clinic/cxr/commit/main HTTP/1.1\r\nAuthorization: Bearer {OWNER}\r\nHost: here\r\n"
    with socket.create_connection((urlsplit(hub.url).hostname, urlsplit(hub.url).port)) as client:
        client.sendall(f"{head}Content-Length: {len(body) + 1}\r\n\r\n".encode() + body)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert [r.status for r in hub.asked(COMMIT)] == [None]
    assert state(repo) == before


def test_a_commit_whose_answer_is_lost(hub, repo, push):
    hub.cut(COMMIT, carried_out=True)
    with pytest.raises(httpx2.RemoteProtocolError):
        push()
    assert pushed(repo)
    sha = repo.at().sha
    push()
    assert repo.at().sha == sha


def test_a_gateway_that_gives_up_while_the_hub_goes_on(hub, repo, online):
    hub.fail(TAG, status=504, carried_out=True)
    with pytest.raises(HfHubHTTPError, match="504"):
        online().create_tag("clinic/cxr", tag="v1")
    assert repo.tags == {"v1": repo.at()}


@pytest.mark.parametrize(("path", "call"), [
    (CREATE_REPO, lambda api: api.create_repo("clinic/new")),
    (TAG, lambda api: api.create_tag("clinic/cxr", tag="v1")),
])  # fmt: skip
def test_no_repository_and_no_tag_after_an_error(hub, repo, online, path, call):
    before = state(repo)
    hub.fail(path, status=500)
    with pytest.raises(HfHubHTTPError, match="Internal Error"):
        call(online())
    assert (state(repo), len(hub.repos)) == (before, 1)
    call(online())
    assert (len(repo.tags), len(hub.repos)) in ((1, 1), (0, 2))


def test_only_the_second_commit_fails(hub, repo, online):
    hub.fail(COMMIT, status=500, skip=1)
    add = [[CommitOperationAdd(name, b"x")] for name in ("a", "b")]
    online().create_commit("clinic/cxr", add[0], commit_message="a")
    with pytest.raises(HfHubHTTPError):
        online().create_commit("clinic/cxr", add[1], commit_message="b")
    assert sorted(repo.files()) == [".gitattributes", "a", "config.json"]


def test_a_download_that_is_cut_goes_on_where_it_was(hub, repo, push, online, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)  # else what came of the first 10 MB is lost
    push()
    hub.cut(RESOLVE, after_bytes=SIZE // 2, method="GET", carried_out=True)
    path = online().hf_hub_download("clinic/cxr", "model.safetensors")
    with open(path, "rb") as file:
        assert file.read() == repo.files()["model.safetensors"]
    assert [r.status for r in hub.asked(RESOLVE, "GET")] == [None, 206]


def test_a_subprocess_tries_as_often_without_the_waits(hub, repo):
    hub.fail(LFS_UPLOAD, status=500, times=None)
    source = """
        import time
        from huggingface_hub import HfApi
        start = time.monotonic()
        try:
            HfApi().upload_file(path_or_fileobj=bytes(100), path_in_repo="model.bin", repo_id="clinic/cxr")
        except RuntimeError as error:
            print(f'["{type(error.__cause__).__name__}", {time.monotonic() - start}]')
    """
    error, seconds = run(source, hub.environment(OWNER))
    assert error == "HfHubHTTPError"
    assert len(hub.asked(LFS_UPLOAD)) == 6
    assert seconds < 10  # 23 s by the client's own waits


def test_a_fault_that_nobody_meets_is_told(hub):
    fault = hub.fail(COMMIT)
    assert hub.unmet == [fault]
    assert hub.faults.meet("POST", "/api/models/clinic/cxr/commit/main") is fault
    assert hub.faults.meet("POST", "/api/models/clinic/cxr/commit/main") is None
    assert hub.unmet == []
