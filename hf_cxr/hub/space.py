"""The demo of a published model as a Space: the package's own source, a page to start, and what to install."""

from __future__ import annotations

import shutil
from importlib.metadata import requires, version
from pathlib import Path

import yaml
from packaging.requirements import Requirement

import hf_cxr
from hf_cxr.hub.upload import Target

APP = """\
\"\"\"Demo of {model}. Not for clinical use.\"\"\"

from hf_cxr.demo.arguments import DemoArguments
from hf_cxr.demo.serving import run

run(DemoArguments(model="{model}", host="0.0.0.0"))
"""
TEXT = """\
# Demo of [{model}](https://huggingface.co/{model})

**Not for clinical use.** Upload a chest film, or take a synthetic one, and see what the model says of it: findings by
group, the gate's verdict, doubt, and a heatmap of each finding. An upload is deleted as soon as it is read. This page
runs on a server of the Hub: do not upload films of patients to it; `python -m hf_cxr.demo` runs on your own machine.

A private model needs a secret `HF_TOKEN` in the Space's settings that may read it.
"""
_EXTRAS = ("demo", "dicom")


def space_target(space_id: str, private: bool) -> Target:
    """Where a Space goes; one of ours is known by the package inside."""
    return Target(space_id, "hf_cxr/demo/__main__.py", "space", private=private)


def stage_space(into: Path, model_id: str) -> list[str]:
    """Write the files of a Space; the package is not on PyPI, so its source goes along.

    Returns:
        names of the files, relative to the folder.
    """
    package = Path(hf_cxr.__file__).parent
    shutil.copytree(package, into / "hf_cxr", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    (into / "app.py").write_text(APP.format(model=model_id), encoding="utf-8")
    (into / "requirements.txt").write_text("\n".join(requirements()) + "\n", encoding="utf-8")
    about = {
        "title": f"Chest X-ray findings by {model_id.rsplit('/', 1)[-1]}",
        "emoji": "🩻",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "app_file": "app.py",
        "license": "apache-2.0",
        "models": [model_id],
        "short_description": "Not for clinical use",
    }
    front = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    (into / "README.md").write_text(f"---\n{front}---\n\n{TEXT.format(model=model_id)}", encoding="utf-8")
    return sorted(path.relative_to(into).as_posix() for path in into.rglob("*") if path.is_file())


def requirements() -> list[str]:
    """What the package needs with `demo` and `dicom`; gradio itself is named by the Space's `sdk_version`."""
    wanted = []
    for line in requires("hf_cxr") or []:
        each = Requirement(line)
        if each.name != "gradio" and (each.marker is None or any(each.marker.evaluate({"extra": e}) for e in _EXTRAS)):
            each.marker = None
            wanted.append(str(each))
    return wanted
