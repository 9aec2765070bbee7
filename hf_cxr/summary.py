"""An EvalReport as one readable table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hf_cxr.evaluation import EvalReport

RUN_FILES = ("eval_report.json", "predictions_test.csv", "run.yaml", "model.safetensors", "figures")


def report_table(report: EvalReport) -> str:
    """The report as text: a row a label, then aggregates, gate and hierarchy. Undefined figures are `–`."""
    rows: list[tuple[str, ...]] = [("label", "positive", "negative", "AUROC", "AP", "sens.", "spec.", "lost at gate")]
    lost = (report.gate or {}).get("lost", {})
    for name, figures in report.labels.items():
        gone = f"{lost[name]['n_true_cleared']}/{lost[name]['n_true']}" if name in lost else ""
        rows.append(
            (
                name + (" *" if figures["few_positives"] else ""),
                f"{figures['n_positive']:,}",
                f"{figures['n_negative']:,}",
                *(_number(figures.get(k)) for k in ("auroc", "average_precision", "sensitivity", "specificity")),
                gone,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells[1:]]))
    lines.insert(1, "-" * len(lines[0]))
    few = any(figures["few_positives"] for figures in report.labels.values())
    notes = ["* fewer than 20 positive films: read its AUROC with its n"] if few else []
    title = f"{report.split}: {report.size}"
    return "\n".join([title, *lines, *notes, "", *_totals(report)])


def closing_words(report: EvalReport, folder: Path, files: Sequence[str]) -> str:
    """What a recipe ends with: the report as a table, and where everything is.

    Args:
        files: names in `folder`; those that are not there are left out.
    """
    width = max(map(len, files))
    there = [f"{name:{width}}  {(folder / name).resolve()}" for name in files if (folder / name).exists()]
    return "\n".join(["", report_table(report), "", *there])


def _totals(report: EvalReport) -> list[str]:
    aggregate, order = report.aggregate, report.hierarchy["flat"]
    lines = [
        f"macro AUROC {_number(aggregate['macro_auroc'])} over {aggregate['n_labels_averaged']} findings, "
        f"support-weighted {_number(aggregate['weighted_auroc'])}, micro {_number(aggregate['micro_auroc'])}",
        f"films with a child above its parent: {order['images_out_of_order']} of {report.n_images} "
        f"({order['n_edges']} edges)",
    ]
    if report.gate:
        gate = report.gate
        text = (
            f"gate '{gate['node']}' ({gate['definition']}): AUROC {_number(gate['auroc'])}, macro AUROC gated "
            f"{_number(gate['gated']['macro_auroc'])} against flat {_number(gate['flat']['macro_auroc'])}"
        )
        if "threshold" in gate:
            text += (
                f"\n  at {gate['threshold']:.3f} ({gate['threshold_criterion']} on {gate['threshold_split']}): "
                f"sensitivity {_number(gate['sensitivity'])}, specificity {_number(gate['specificity'])}, "
                f"{gate['n_cleared']} films cleared ({gate['skip_rate']:.1%})"
            )
        lines.append(text)
    return lines


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
