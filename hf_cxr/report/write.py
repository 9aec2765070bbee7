"""A report's folder: drawn and rendered beside it, then put in place as a whole."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from hf_cxr import figures
from hf_cxr.bootstrap import Resamples
from hf_cxr.curves import Reader
from hf_cxr.errors import UserError
from hf_cxr.evaluation import EvalReport
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.inspection import Inspection
from hf_cxr.predictions import PredictionTable
from hf_cxr.report.doubt import PLAIN, decisions, doubts
from hf_cxr.report.sections import sections
from hf_cxr.risk import errors, risk_coverage
from hf_cxr.runs import REPORT_FILE

_N_BAND = 200
"""Resamples behind the bands of the curves; a picture does not show more."""


class ReportFolderError(UserError, RuntimeError):
    """The output folder cannot be used; the message says what to do."""


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, unless it is a report that may be replaced.

    Raises:
        ReportFolderError: with what to do.
    """
    if folder.is_file():
        raise ReportFolderError(f"{folder} is a file; choose another output_dir")
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
    inspection: Inspection | None = None,
    overwrite: bool = False,
) -> None:
    """Write `eval_report.json`, `report.md`, `report.html` and `figures/*.png`; all appear at once, or nothing.

    Args:
        report: a full report of `table`. readers: drawn on the ROC curves.
        inspection: of the same films; its doubt and heatmaps are drawn.

    Raises:
        ReportFolderError: see `check_folder`.
    """
    folder = folder.resolve()
    check_folder(folder, overwrite)
    partial, before = (folder.with_name(f".{folder.name}.{state}") for state in ("partial", "before"))
    for left_over in (partial, before):  # by an interruption
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        _write(partial, report, table.in_order(hierarchy.names), hierarchy, title, readers, inspection)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(before)
    partial.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def _write(
    folder: Path,
    report: EvalReport,
    table: PredictionTable,
    hierarchy: Hierarchy,
    title: str,
    readers: tuple[Reader, ...],
    inspection: Inspection | None,
) -> None:
    (folder / "figures").mkdir(parents=True)
    captions = _draw(folder / "figures", report, table, hierarchy, title, readers)
    if inspection is not None:
        captions |= _draw_looks(folder / "figures", report, table, hierarchy, title, inspection)
    pictures = {n: base64.b64encode((folder / "figures" / f"{n}.png").read_bytes()).decode() for n in captions}
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
        (folder / name).write_text(text, encoding="utf-8")
    report.to_json(folder / REPORT_FILE)


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


def _draw_looks(
    folder: Path, report: EvalReport, table: PredictionTable, hierarchy: Hierarchy, title: str, inspection: Inspection
) -> dict[str, str]:
    """Draw doubt, where anything was decided, and the heatmaps that were kept."""
    captions = {}
    decided, positive = decisions(table, report)
    if inspection.doubt is not None and (shown := [n for n in hierarchy.findings if n in decided]):
        by_measure = doubts(table, inspection)
        curves = {}
        for name in shown:
            at = table.names.index(name)
            wrong = errors(table.truth[:, at], positive[:, decided.index(name)])
            orders = {
                "dropout, entropy": by_measure["entropy"][:, at],
                "dropout, mutual information": by_measure["mutual_information"][:, at],
                "plain entropy": by_measure[PLAIN][:, at],
                "best order": np.nan_to_num(wrong),
            }
            curves[name] = [figures.Curve(key, *risk_coverage(wrong, doubt)) for key, doubt in orders.items()]
        captions["risk_coverage"] = "Share of wrong decisions among the films decided, the surest first"
        figures.risk_coverage_grid(curves, folder / "risk_coverage.png", title)
    if inspection.films:
        panels = [_panel(row, table, hierarchy, inspection) for row in sorted(inspection.films)]
        captions["heatmaps"] = "Films drawn at random from those with a finding; outline: half of a map's maximum"
        figures.heatmap_panels(panels, folder / "heatmaps.png", title)
    return captions


def _panel(row: int, table: PredictionTable, hierarchy: Hierarchy, inspection: Inspection) -> figures.Panel:
    """A film with its most probable finding and those that are true, at most three maps."""
    truth = dict(zip(table.names, table.truth[row], strict=True))
    probability = dict(zip(table.names, table.probability[row], strict=True))
    true = [name for name in hierarchy.findings if truth[name] == 1]
    likeliest = max(hierarchy.findings, key=lambda name: probability[name])
    names = list(dict.fromkeys([likeliest, *sorted(true, key=lambda name: -probability[name])]))[:3]
    heat = inspection.heatmaps[row]
    maps = {
        f"{name}, P = {probability[name]:.2f} ({_truth(truth[name])})": heat[inspection.names.index(name)]
        for name in names
    }
    return figures.Panel(inspection.films[row], "true: " + ",\n".join(true), maps)


def _truth(value: float) -> str:
    return "unknown" if np.isnan(value) else "true" if value == 1 else "not so"
