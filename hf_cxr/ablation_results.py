"""What came out of an ablation: figures of each arm, paired on the same films and patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from hf_cxr.ablation import AblationError, Plan, Run
from hf_cxr.bootstrap import Bootstrap, Figure, Resamples
from hf_cxr.evaluation import EvalReport
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.intervals import bootstrap_table
from hf_cxr.predictions import PredictionTable
from hf_cxr.runs import REPORT_FILE

MACRO, WEIGHTED, GATE = ("macro_auroc", ""), ("weighted_auroc", ""), ("auroc", "gate")
FIGURES: dict[str, Figure] = {"macro_auroc": MACRO, "weighted_auroc": WEIGHTED, "gate_auroc": GATE}


def summarise(plan: Plan, runs: Sequence[Run], n_resamples: int = 1000) -> dict[str, Any]:
    """What came out, as plain data.

    Intervals are over patients (`intervals`), of the mean over seeds: each seed's figure is resampled on the same
    patients and averaged. They hold for these seeds' models; the spread over seeds stands beside them. Figures are over
    the findings that all arms have.

    Returns:
        `{split, size, reference, seeds, findings, left_out, n_resamples, arms: {name: {options, label, n_seeds,
        <figure>: {mean, spread, ci, difference, difference_ci, p, undefined}, share_out_of_order, edges_violated}}}`,
        figures being `macro_auroc`, `weighted_auroc` and `gate_auroc`; spread is None with one seed, what is out of
        order without edges.

    Raises:
        AblationError: runs were evaluated on other films or truth, or trained on other data; see `_compared`.
    """
    tables = {run.folder: PredictionTable.read(run.folder / f"predictions_{plan.split}.csv") for run in runs}
    first = tables[runs[0].folder]
    findings, gate, left_out = _compared(runs, tables)
    names = (*findings, gate) if gate else findings
    resamples = Resamples.of(first.patients, n_resamples, 0, first.unit)
    data = {EvalReport.from_json(_report(run, plan.split)).provenance["data"]["fingerprint"] for run in runs}
    if len(data) > 1:
        raise AblationError(f"the runs were trained on different data (fingerprints {sorted(data)})")
    drawn: dict[str, list[Bootstrap]] = {}
    for run in runs:
        own = tables[run.folder].in_order(names)
        drawn.setdefault(run.arm, []).append(
            bootstrap_table(names, own.truth, own.probability, resamples, {"": findings})
        )
    arms = {}
    for arm, options in plan.arms.items():
        reports = [EvalReport.from_json(_report(run, plan.split)) for run in runs if run.arm == arm]
        row: dict[str, Any] = {"options": options, "label": plan.label(arm), "n_seeds": len(drawn[arm])}
        for name, figure in FIGURES.items():
            key = ("auroc", gate or "") if figure == GATE else figure
            if key[0] != "auroc" or gate is not None:
                row[name] = _figure(drawn[arm], drawn[plan.reference], key)
        flat = [report.hierarchy["flat"] for report in reports]
        arms[arm] = row | {
            name: float(np.mean([each[name] for each in flat])) if flat[0]["n_edges"] else None
            for name in ("share_out_of_order", "edges_violated")
        }
    return {
        "split": plan.split,
        "size": EvalReport.from_json(_report(runs[0], plan.split)).size,
        "reference": plan.reference,
        "seeds": list(plan.seeds),
        "findings": list(findings),
        "left_out": list(left_out),
        "n_resamples": n_resamples,
        "arms": arms,
    }


def _compared(
    runs: Sequence[Run], tables: Mapping[Path, PredictionTable]
) -> tuple[tuple[str, ...], str | None, tuple[str, ...]]:
    """Findings and gate that all runs have with the same truth, and findings that taxonomies make true of other films.

    Raises:
        AblationError: other films, or other truth under one taxonomy: the runs had other data or label policies.
    """
    hierarchies, first = [_hierarchy(run) for run in runs], tables[runs[0].folder]
    shared = [n for n in hierarchies[0].findings if all(n in each.findings for each in hierarchies)]
    gate = hierarchies[0].gate if len({each.gate for each in hierarchies}) == 1 else None
    differing: set[str] = set()
    for run, hierarchy in zip(runs, hierarchies, strict=True):
        table = tables[run.folder]
        if list(table.ids) != list(first.ids):
            raise AblationError(f"{run.folder}: other films than {runs[0].folder}; compare runs on the same data")
        other = {
            name
            for name in [*shared, *([gate] if gate else [])]
            if not np.array_equal(table.column(name)[0], first.column(name)[0], equal_nan=True)
        }
        if other and hierarchy.edges == hierarchies[0].edges:
            raise AblationError(
                f"{run.folder}: other truth than {runs[0].folder} for {sorted(other)}; compare runs on the same data, "
                "with the same label policies"
            )
        differing |= other
    findings = tuple(name for name in shared if name not in differing)
    if not findings:
        raise AblationError("the arms' taxonomies share no finding that is true of the same films")
    return findings, None if gate in differing else gate, tuple(name for name in shared if name in differing)


def markdown(summary: Mapping[str, Any]) -> str:
    """The summary as a table for readers."""
    head = ["arm", "macro AUROC", "over seeds", "difference", "p", "weighted", "gate", "films out of order"]
    rows = []
    for arm, row in summary["arms"].items():
        macro, of_gate = row["macro_auroc"], row.get("gate_auroc", {"mean": None})
        gap = f"{_number(macro['difference'], '+')}{_interval(macro['difference_ci'], '+')}"
        rows.append(
            [
                row["label"],
                f"{_number(macro['mean'])}{_interval(macro['ci'])}",
                "–" if macro["spread"] is None else f"± {macro['spread']:.4f}",
                "reference" if arm == summary["reference"] else gap,
                "–" if macro["p"] is None else f"{macro['p']:.3f}",
                _number(row["weighted_auroc"]["mean"]),
                _number(of_gate["mean"]),
                "no edges" if row["share_out_of_order"] is None else f"{row['share_out_of_order']:.1%}",
            ]
        )
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    note = (
        f"Split “{summary['split']}”: {summary['size']}; {len(summary['findings'])} findings; means over the seeds "
        f"{', '.join(map(str, summary['seeds']))}. Brackets: 95 % intervals over patients, {summary['n_resamples']:,} "
        "resamples, of these seeds' models, differences paired; p is not corrected for the number of arms, and "
        "there is none where no resample differs."
    )
    if summary["left_out"]:
        note += f" Left out, since the taxonomies make them true of different films: {', '.join(summary['left_out'])}."
    return f"{note}\n\n" + "\n".join(lines) + "\n"


def _number(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.4f}"


def _interval(ci: Sequence[float] | None, sign: str = "") -> str:
    return "" if ci is None else f" ({ci[0]:{sign}.4f} to {ci[1]:{sign}.4f})"


def _figure(own: Sequence[Bootstrap], reference: Sequence[Bootstrap], key: Figure) -> dict[str, Any]:
    values = [each.point[key] for each in own]
    if any(value is None for value in [*values, *(each.point[key] for each in reference)]):
        reason = own[0].reasons.get(key, "undefined on these films")
        empty = dict.fromkeys(("mean", "spread", "ci", "difference", "difference_ci", "p"))
        return empty | {"undefined": reason}
    mean, other = _mean(own, key), _mean(reference, key)
    gap = mean.minus(other)
    interval, of_gap = mean.interval(key), gap.interval(key)
    return {
        "mean": mean.point[key],
        "spread": float(np.std(np.array(values, float), ddof=1)) if len(values) > 1 else None,
        "ci": None if interval.undefined else [interval.low, interval.high],
        "difference": gap.point[key],
        "difference_ci": None if of_gap.undefined else [of_gap.low, of_gap.high],
        "p": gap.p_value(key),
        "undefined": None,
    }


def _mean(drawn: Sequence[Bootstrap], key: Figure) -> Bootstrap:
    """The mean over seeds, resample by resample."""
    point = float(np.mean(np.array([each.point[key] for each in drawn], float)))
    draws = np.mean([each.draws[key] for each in drawn], axis=0)
    return Bootstrap({key: point}, {key: draws}, drawn[0].resamples, drawn[0].reasons)


def _report(run: Run, split: str) -> Path:
    beside = run.folder / f"eval_report_{split}.json"
    return beside if beside.is_file() else run.folder / REPORT_FILE


def _hierarchy(run: Run) -> Hierarchy:
    return Hierarchy.from_config(AutoConfig.from_pretrained(run.folder))
