"""Whether a folder gives, in a fresh process, what its model gave when it was saved."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from hf_cxr.errors import UserError
from hf_cxr.hub import stranger
from hf_cxr.hub.contents import ADAPTER_CONFIG
from hf_cxr.verification import Verification

TOLERANCE = 1e-5
"""Largest difference of a probability. On one machine there is none; kernels of another round otherwise."""
WAYS = {"installed": "with hf_cxr installed", "remote": "without it, by trust_remote_code"}


class NotReproducedError(UserError, RuntimeError):
    """The folder cannot be loaded, or its model gives other probabilities than the saved one did."""


@dataclass(frozen=True)
class Reproduced:
    """The way in which a folder was loaded, and the largest difference of a probability, in [0, 1]."""

    way: str
    difference: float


def verify(folder: Path) -> list[Reproduced]:
    """Load a folder in a fresh process and compare with the probabilities that it stores.

    Both ways where it brings its own code, otherwise with the package. Offline, but for the base of an adapter.

    Raises:
        VerificationError: it stores none.
        NotReproducedError: it cannot be loaded, a weight is not finite, or a probability differs.
    """
    expected = Verification.load(folder)
    ways = [way for way in WAYS if way == "installed" or (folder / "processing.py").is_file()]
    return [Reproduced(way, _compare(folder, expected, way)) for way in ways]


def load_apart(folder: Path, out: Path, way: str) -> None:
    """Let a process of its own load the folder and write what its model gives (`stranger`).

    Raises:
        NotReproducedError: it cannot be loaded; with the last line of what was said.
    """
    # A cache of its own: code of an older copy of the same name must not be what is tested.
    environment = os.environ | {"HF_MODULES_CACHE": str(out.parent / "modules")}
    if not (folder / ADAPTER_CONFIG).is_file():  # an adapter's base is on the Hub
        environment["HF_HUB_OFFLINE"] = "1"
    command = [sys.executable, "-I", str(stranger.__file__), str(folder.resolve()), str(out), way]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise NotReproducedError(f"{folder} cannot be loaded {WAYS[way]}: {last}")


def _compare(folder: Path, expected: Verification, way: str) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "said.safetensors"
        load_apart(folder, out, way)
        said = load_file(out)
    if broken := int(said["not_finite"]):
        raise NotReproducedError(f"{folder}: {broken} weights are not finite; the training run went wrong")
    if said["probability"].shape != expected.probability.shape:
        raise NotReproducedError(
            f"{folder}: {tuple(said['probability'].shape)} probabilities of the verification films"
        )
    difference = float((said["probability"] - expected.probability).abs().max())
    if not difference <= TOLERANCE:
        at = divmod(int((said["probability"] - expected.probability).abs().argmax()), len(expected.labels))
        raise NotReproducedError(
            f"{folder}, loaded {WAYS[way]}: P({expected.labels[at[1]]}) of verification film {at[0]} is "
            f"{float(said['probability'][at]):.6f}, was {float(expected.probability[at]):.6f} when the model was "
            "saved; the config, the processor or the weights were changed since"
        )
    return difference
