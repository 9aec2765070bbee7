"""The files of a report of a change, put into a run's folder."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from hf_cxr.change import figures
from hf_cxr.change.errors import ChangeError
from hf_cxr.change.page import WHERE, sections
from hf_cxr.change.report import ChangeReport
from hf_cxr.report.layout import Section

CHANGE_FILE, PAGES = "change.json", ("change.md", "change.html")
_DRAWN = {
    "auroc": (
        figures.change_auroc,
        "AUROC before and after (positive films in brackets) and difference, 95 % intervals; open diamond: no interval",
    ),
    "probabilities": (
        figures.change_probabilities,
        "ECE and Brier score; dashes: ECE of exact probabilities, by chance",
    ),
}


def write_change(folder: Path, report: ChangeReport, title: str = "Before and after adaptation") -> None:
    """Write `change.json`, `change.md`, `change.html` (which needs no other file) and `figures/change_*.png`.

    The folder may hold other files, such as the run's; an earlier report of a change in it is replaced. Everything is
    drawn aside first, and `change.json` comes last: where it stands, the others are whole and of it.

    Raises:
        ChangeError: `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ChangeError(f"{folder} is a file; name a folder for the report")
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".change.", dir=folder))
    try:
        (aside / "figures").mkdir()
        _render(aside, report, title, _draw(aside / "figures", report))
        report.to_json(aside / CHANGE_FILE)
        (folder / CHANGE_FILE).unlink(missing_ok=True)
        (folder / "figures").mkdir(exist_ok=True)
        for old in (folder / "figures").glob("change_*.png"):
            old.unlink()
        for new in (aside / "figures").iterdir():
            os.replace(new, folder / "figures" / new.name)
        for name in (*PAGES, CHANGE_FILE):
            os.replace(aside / name, folder / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _draw(folder: Path, report: ChangeReport) -> dict[str, str]:
    """Draw what there are figures for; returns `{file stem: caption}`."""
    captions = {}
    for where in WHERE:
        part = getattr(report, where)
        for what, (draw, caption) in _DRAWN.items():
            name = f"change_{where}_{what}"
            if part is not None and draw(part, folder / f"{name}.png", part["name"]):
                captions[name] = caption
    return captions


def _render(folder: Path, report: ChangeReport, title: str, captions: dict[str, str]) -> None:
    pictures = {n: base64.b64encode((folder / "figures" / f"{n}.png").read_bytes()).decode() for n in captions}
    environment = Environment(
        loader=PackageLoader("hf_cxr.report"),
        undefined=StrictUndefined,
        autoescape=select_autoescape(("html", "html.jinja")),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = sections(report, captions)
    for name in PAGES:
        own = [_for_markdown(section) for section in shown] if name.endswith(".md") else shown
        template = environment.get_template(f"report.{name.split('.')[1]}.jinja")
        text = template.render(title=title, sections=own, pictures=pictures)
        (folder / name).write_text(text, encoding="utf-8")


def _for_markdown(section: Section) -> Section:
    """A hospital's own words may hold what ends a cell."""
    tables = [
        replace(table, rows=[[cell.replace("|", "\\|") for cell in row] for row in table.rows])
        for table in section.tables
    ]
    return replace(section, tables=tables)
