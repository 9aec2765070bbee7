"""Clients of the hub: an environment for subprocesses, Python code run in one, and the client of this process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import httpx2
import pytest
import transformers.utils.hub
from huggingface_hub import HfApi, constants, hf_api, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from tests.hub.site.sitecustomize import impatient

if TYPE_CHECKING:
    from tests.hub.server import Hub

REPO = Path(__file__).parents[2]
SITE = Path(__file__).parent / "site"


def environment(url: str, token: str | None, home: Path, patient: bool) -> dict[str, str]:
    """See `Hub.environment`. What is set for this process stays, but for proxies and settings of the hub's clients."""
    ours = r"HF_(?!CXR_)|HUGGING_?FACE|TRANSFORMERS_|.*_proxy$"
    kept = {name: value for name, value in os.environ.items() if not re.match(ours, name, re.IGNORECASE)}
    search = [str(SITE), kept.get("PYTHONPATH", "")]
    return kept | {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        **({"HF_TOKEN": token} if token else {}),
        **({} if patient else {"PYTHONPATH": os.pathsep.join(filter(None, search))}),
    }


def run(source: str, environment: dict[str, str], *arguments: str) -> Any:
    """Run Python code, started in the repository, and return its last printed line, read as JSON.

    Raises:
        AssertionError: it failed; with its output.
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *arguments],
        cwd=REPO, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def in_process(hub: Hub, token: str | None, patch: pytest.MonkeyPatch) -> HfApi:
    """Turn the clients of this process, which is offline in all other tests, to the hub until `patch` is undone.

    For `huggingface_hub`, and `push_to_hub` and `from_pretrained` of transformers and datasets. What remembers folders
    from its import needs a subprocess: `load_dataset` and `trust_remote_code`. A request to any other host is refused.
    """
    home = hub.folder
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
    }.items():
        patch.setattr(constants, name, value)
    patch.setattr(hf_api.api, "endpoint", hub.url)  # of the functions of huggingface_hub
    patch.setattr(transformers.utils.hub, "_hf_api", None)  # made once, with the endpoint of then
    patch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    patch.setattr(time, "sleep", impatient(time.sleep))
    patch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    if token is None:
        patch.delenv("HF_TOKEN", raising=False)
    else:
        patch.setenv("HF_TOKEN", token)

    def refuse_others(request: httpx2.Request) -> None:
        assert str(request.url).startswith(hub.url), f"a request to {request.url}, which is not the test's hub"

    def client() -> httpx2.Client:
        made = default_client_factory()
        made.event_hooks = {**made.event_hooks, "request": [*made.event_hooks["request"], refuse_others]}
        return made

    set_client_factory(client)
    return HfApi(endpoint=hub.url, token=token)
