"""The page's folder: drawn and rendered beside it, then put in place."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from hf_cxr.data_check.figures import FIGURES, draw
from hf_cxr.data_check.page import sections
from hf_cxr.data_check.result import Check
from hf_cxr.errors import UserError

JSON_FILE, TEXT_FILE, HTML_FILE = "check.json", "check.md", "check.html"


class CheckFolderError(UserError, RuntimeError):
    """The output folder cannot be used; the message says what to do."""


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, unless it is a check that may be replaced.

    Raises:
        CheckFolderError: with what to do.
    """
    if folder.is_file():
        raise CheckFolderError(f"{folder} is a file; choose another output_dir")
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / JSON_FILE).exists():
        raise CheckFolderError(f"{folder} is not empty and holds no check; choose another output_dir")
    if not overwrite:
        raise CheckFolderError(f"{folder} holds a check: --overwrite true replaces it; or choose another output_dir")


def page_text(check: Check) -> str:
    """The page for a terminal."""
    return _rendered("report.md", check, {}, {})


def write_check(folder: Path, check: Check, *, overwrite: bool = False) -> None:
    """Write `check.json`, `check.md`, `check.html` (with its figures inside) and `figures/`.

    All is made beside the folder first, so that nothing is written if any of it fails. Of a check that is replaced only
    its own files are; what else lies in the folder stays.

    Raises:
        CheckFolderError: see `check_folder`.
    """
    folder = folder.resolve()
    check_folder(folder, overwrite)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left over by an interruption
    try:
        (partial / "figures").mkdir(parents=True)
        captions = draw(check, partial / "figures")
        pictures = {
            name: base64.b64encode((partial / "figures" / f"{name}.png").read_bytes()).decode() for name in captions
        }
        (partial / TEXT_FILE).write_text(_rendered("report.md", check, captions, pictures), encoding="utf-8")
        (partial / HTML_FILE).write_text(_rendered("report.html", check, captions, pictures), encoding="utf-8")
        plain = json.dumps(check.to_plain(), indent=1, ensure_ascii=False, allow_nan=False)
        (partial / JSON_FILE).write_text(plain + "\n", encoding="utf-8")
        if not folder.exists():
            partial.rename(folder)
            return
        figures = folder / "figures"
        figures.mkdir(exist_ok=True)
        for name in set(FIGURES) - captions.keys():
            (figures / f"{name}.png").unlink(missing_ok=True)
        for name in captions:
            os.replace(partial / "figures" / f"{name}.png", figures / f"{name}.png")
        for name in (TEXT_FILE, HTML_FILE, JSON_FILE):
            os.replace(partial / name, folder / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rendered(template: str, check: Check, captions: dict[str, str], pictures: dict[str, str]) -> str:
    environment = Environment(
        loader=PackageLoader("hf_cxr.report"),
        undefined=StrictUndefined,
        autoescape=select_autoescape(("html", "html.jinja")),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{template}.jinja").render(
        title=f"Check of {check.title}", sections=sections(check, captions), pictures=pictures
    )
