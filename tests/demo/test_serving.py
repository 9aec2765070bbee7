"""The server: what it takes, what it tells, and what it leaves behind."""

import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from hf_cxr.demo import DemoError, build, own_folder, serve
from hf_cxr.demo.serving import sweep
from tests.conftest import REPO
from tests.demo.site import served


@pytest.fixture(scope="module")
def site(read):
    with served(read, max_megabytes=1) as site:
        yield site


def upload(site, content, name="a.png"):
    return httpx.post(f"{site.address}gradio_api/upload", files={"files": (name, content)}, timeout=30)


def test_too_large_an_upload_is_refused_by_the_server_too(site):
    assert upload(site, b"\0" * (1024**2 + 1)).status_code == 413
    assert not site.left()


def test_no_api_is_offered(site):
    config = httpx.get(f"{site.address}config").json()
    assert {dependency["api_visibility"] for dependency in config["dependencies"]} == {"private"}
    assert httpx.get(f"{site.address}gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert config["analytics_enabled"] is False
    assert config["footer_links"] == []
    assert config["enable_queue"] is not None


def test_a_broken_off_upload_is_swept_up(site):
    """Gradio keeps the pieces and forgets about them."""
    head = (b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n')  # fmt: skip
    url = httpx.URL(site.address)
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(head + b"pixels" * 1000)
        for _ in range(100):
            if site.left():
                break
            time.sleep(0.05)
    assert site.left()
    sweep(site.folder, 600)
    assert site.left()  # may still be on its way
    time.sleep(0.1)
    sweep(site.folder, 0)
    assert not list(site.folder.iterdir())


def test_only_what_is_old_is_swept(tmp_path):
    old, new = tmp_path / "a" / "old.png", tmp_path / "b" / "new.png"
    for path in (old, new):
        path.parent.mkdir()
        path.write_bytes(b"x")
    for path in (old, old.parent, new.parent):
        os.utime(path, (0, 0))
    sweep(tmp_path, 600)
    os.utime(old.parent, (0, 0))
    sweep(tmp_path, 600)
    assert [path.name for path in tmp_path.rglob("*")] == ["b", "new.png"]


def test_the_folder_goes_with_what_is_in_it(monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/elsewhere")
    with own_folder() as folder:
        assert os.environ["GRADIO_TEMP_DIR"] == str(folder)
        assert folder.stat().st_mode & 0o077 == 0  # nobody else on this machine looks in
        (folder / "a").mkdir()
        (folder / "a" / "film.png").write_bytes(b"x")
    assert not folder.exists()
    assert os.environ["GRADIO_TEMP_DIR"] == "/elsewhere"


def test_a_port_that_is_taken(site, read):
    with own_folder(), pytest.raises(DemoError, match="taken, or no address of this machine; give another --port"):
        serve(build(read), port=httpx.URL(site.address).port)


@pytest.mark.parametrize(
    ("words", "message"),
    [("--model {}", "ModelError: {}: cannot be used as a model"), ("", "SettingsError: got no model")],
)
def test_errors_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["demo", *words.format(tmp_path).split()])
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("hf_cxr.demo", run_name="__main__", alter_sys=False)
    signal.signal(signal.SIGTERM, handler)
    assert ended.value.code.startswith(f"demo: {message.format(tmp_path)}")
    assert "\n" not in ended.value.code


@pytest.mark.slow
def test_the_command_serves_and_leaves_nothing(model_folder, tmp_path):
    """Its temporary folder, home and working folder are all empty when it has been stopped."""
    places = {name: tmp_path / name for name in ("TMPDIR", "HOME", "work")}
    for place in places.values():
        place.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO), "MPLCONFIGDIR": str(tmp_path / "mpl"),
                   "TMPDIR": str(places["TMPDIR"]), "HOME": str(places["HOME"])}  # fmt: skip
    environment.pop("GRADIO_TEMP_DIR", None)
    command = [sys.executable, "-m", "hf_cxr.demo", "--model", str(model_folder), "--port", "0"]
    demo = subprocess.Popen(
        command, cwd=places["work"], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        said = demo.stdout.readline()
        assert "Not for clinical use" in said
        address = said.split()[0]
        assert address.startswith("http://127.0.0.1:")
        answer = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.png", b"a film")}, timeout=30)
        (kept,) = answer.json()
        assert Path(kept).read_bytes() == b"a film"  # nobody asked to read it
        assert Path(kept).is_relative_to(places["TMPDIR"])
    finally:
        demo.send_signal(signal.SIGTERM)
        demo.communicate(timeout=60)
    assert demo.returncode == 0
    for place in places.values():
        assert not [path for path in place.rglob("*") if path.is_file()]
