"""A report's folder: drawn and rendered beside it, then put in place as a whole."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from hf_cxr import figures
from hf_cxr.bootstrap import Resamples
from hf_cxr.curves import Reader
from hf_cxr.evaluation import EvalReport
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.predictions import PredictionTable
from hf_cxr.report.sections import sections
from hf_cxr.runs import REPORT_FILE

_N_BAND = 200
"""Resamples behind the bands of the curves; a picture does not show more."""


class ReportFolderError(RuntimeError):
    """The output folder cannot be used; the message says what to do."""


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, unless it is a report that may be replaced.

    Raises:
        ReportFolderError: with what to do.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "report.html").exists():
        raise ReportFolderError(f"{folder} is not empty and holds no report; choose another output_dir")
    if not overwrite:
        raise ReportFolderError(f"{folder} holds a report: --overwrite true replaces it; or choose another output_dir")


def write_report(
    folder: Path,
    report: EvalReport,
    table: PredictionTable,
    hierarchy: Hierarchy,
    title: str,
    *,
    readers: tuple[Reader, ...] = (),
    overwrite: bool = False,
) -> None:
    """Write `eval_report.json`, `report.md`, `report.html` and `figures/*.png`; all appear at once, or nothing.

    Args:
        report: a full report of `table`. readers: drawn on the ROC curves.

    Raises:
        ReportFolderError: see `check_folder`.
    """
    check_folder(folder, overwrite)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "figures").mkdir(parents=True)
    captions = _draw(partial / "figures", report, table.in_order(hierarchy.names), hierarchy, title, readers)
    pictures = {n: base64.b64encode((partial / "figures" / f"{n}.png").read_bytes()).decode() for n in captions}
    environment = Environment(
        loader=PackageLoader("hf_cxr.report"),
        undefined=StrictUndefined,
        autoescape=select_autoescape(("html", "html.jinja")),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("report.md", "report.html"):
        text = environment.get_template(f"{name}.jinja").render(
            title=title, sections=sections(report, captions), pictures=pictures
        )
        (partial / name).write_text(text, encoding="utf-8")
    report.to_json(partial / REPORT_FILE)
    before = folder.with_name(f".{folder.name}.before")
    if folder.exists():
        folder.rename(before)
    partial.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def _draw(
    folder: Path,
    report: EvalReport,
    table: PredictionTable,
    hierarchy: Hierarchy,
    title: str,
    readers: tuple[Reader, ...],
) -> dict[str, str]:
    """Draw what the report has figures for; returns `{file stem: caption}`."""
    findings = hierarchy.findings
    resamples = Resamples.of(table.patients, _N_BAND, report.intervals["seed"], table.unit)
    captions = {
        "auroc": "AUROC of every label; lines: 95 % intervals",
        "tree": "The hierarchy, coloured by AUROC",
        "roc": "ROC curves with 95 % bands" + ("; crosses: readers" if readers else ""),
        "pr": "Precision–recall curves with 95 % bands; dotted: prevalence",
        "co_occurrence": "Which findings occur together",
        "reliability": "Reliability" + ("; open: before calibration" if "before" in report.calibration else ""),
    }
    figures.label_auroc(report, folder / "auroc.png", title, hierarchy.unscored)
    figures.hierarchy_tree(report, hierarchy, folder / "tree.png", title)
    figures.curve_grid(table, findings, "roc", folder / "roc.png", title, resamples, readers)
    figures.curve_grid(table, findings, "pr", folder / "pr.png", title, resamples)
    figures.co_occurrence(table, hierarchy, folder / "co_occurrence.png", title)
    figures.reliability_grid(report, findings, folder / "reliability.png", title)
    if report.gate:
        captions["gate"] = "What a threshold of the gate clears, and what it misses"
        figures.gate_trade_off(report, table, folder / "gate.png", title)
    return captions
