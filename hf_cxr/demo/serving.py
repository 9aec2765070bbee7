"""Serving the page on this machine, and leaving nothing of what was uploaded."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import torch

from hf_cxr.demo.arguments import DemoArguments
from hf_cxr.demo.page import build
from hf_cxr.errors import UserError
from hf_cxr.predict.run import load

_OLDEST_S = 600
_EVERY_S = 60
_UPLOADS = "GRADIO_TEMP_DIR"
_SESSIONS = 100
"""Visitors of whom Gradio keeps anything, which is a result where one leaves just as it comes."""


class DemoError(UserError, RuntimeError):
    """The page cannot be served; the message says why."""


def run(settings: DemoArguments) -> None:
    """Load the model and serve its page until interrupted.

    Raises:
        ModelError: the model cannot be used. DemoError: the address is taken or not this machine's.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and not settings.use_cpu else "cpu")
    model = str(settings.model)
    read = load(model, device)
    with own_folder():
        page = build(
            read,
            name=Path(model).resolve().name if Path(model).is_dir() else model,
            dropout_passes=settings.dropout_passes,
            seed=settings.seed,
            max_entropy=settings.max_entropy,
            max_megabytes=settings.max_megabytes,
        )
        address = serve(page, host=settings.host, port=settings.port, max_megabytes=settings.max_megabytes)
        print(f"{address} shows {model}; Ctrl-C ends it. Not for clinical use.", flush=True)
        try:
            page.block_thread()
        finally:
            page.close(verbose=False)


def serve(page: gr.Blocks, *, host: str = "127.0.0.1", port: int = 7860, max_megabytes: int = 50) -> str:
    """Serve a page in threads of this process, and return its address.

    Not shared through Gradio's servers, without telemetry, API page and run history, whatever the environment says.

    Args:
        page: from `build`, made inside `own_folder`.
        host: address to listen on. port: 0 is any that is free.
        max_megabytes: size of the largest upload (MiB).

    Raises:
        DemoError: the address cannot be listened on.
    """
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port or None,
            max_file_size=max_megabytes * 1024**2,
            state_session_capacity=_SESSIONS,
            prevent_thread_lock=True,
            quiet=True,
            inbrowser=False,
            share=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
        )
    except OSError:
        raise DemoError(
            f"{host}, port {port}: taken, or no address of this machine; give another --port or --host"
        ) from None
    return address


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for the uploads of this process alone, which is deleted with all that is in it.

    While it is there, whatever is older than ten minutes goes too: a broken-off upload, of which Gradio keeps the
    pieces and knows nothing.
    """
    before, stop = os.environ.get(_UPLOADS), threading.Event()
    folder = Path(tempfile.mkdtemp(prefix="hf_cxr_demo_"))
    os.environ[_UPLOADS] = str(folder)
    sweeper = threading.Thread(target=_sweep_until, args=(folder, stop), daemon=True)
    sweeper.start()
    try:
        yield folder
    finally:
        stop.set()
        sweeper.join()
        shutil.rmtree(folder, ignore_errors=True)
        if before is None:
            del os.environ[_UPLOADS]
        else:
            os.environ[_UPLOADS] = before


def _sweep_until(folder: Path, stop: threading.Event) -> None:
    while not stop.wait(_EVERY_S):
        sweep(folder, _OLDEST_S)


def sweep(folder: Path, older_than_s: float) -> None:
    """Delete what was last written longer ago than that, and folders that are then empty."""
    limit = time.time() - older_than_s
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        try:
            if path.stat().st_mtime > limit:
                continue
            path.rmdir() if path.is_dir() else path.unlink()
        except OSError:  # gone meanwhile, or a folder that still holds something
            continue
