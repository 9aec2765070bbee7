"""From gathered inputs to the whole report."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from hf_cxr.compute import gate_savings
from hf_cxr.evaluation import EvalReport
from hf_cxr.full_report import full_report
from hf_cxr.report.arguments import ReportArguments
from hf_cxr.report.doubt import doubt_section
from hf_cxr.report.inputs import Inputs


def build(inputs: Inputs, settings: ReportArguments) -> EvalReport:
    """Every figure that the inputs allow; errors as `full_report`."""
    report = full_report(
        inputs.table,
        inputs.hierarchy,
        settings.split,
        operating_points=inputs.operating_points,
        composed_by_model=inputs.composed_by_model,
        provenance=inputs.provenance,
        n_resamples=settings.n_resamples,
        seed=settings.seed,
        calibration=inputs.calibration,
        uncalibrated=inputs.uncalibrated,
        second=inputs.second,
        group_by=inputs.group_by,
        projection=settings.projection,
        readers=inputs.readers,
    )
    return replace(
        report,
        gate=_gate(inputs, report),
        uncertainty=_uncertainty(inputs, report, settings),
        localisation=_localisation(inputs),
    )


def _gate(inputs: Inputs, report: EvalReport) -> dict[str, Any] | None:
    if report.gate is None or inputs.model is None or "skip_rate" not in report.gate:
        return report.gate
    return report.gate | {"compute": gate_savings(inputs.model, report.gate["skip_rate"])}


def _uncertainty(inputs: Inputs, report: EvalReport, settings: ReportArguments) -> dict[str, Any]:
    if inputs.no_doubt:
        return {"undefined": inputs.no_doubt}
    if inputs.inspection is None or inputs.inspection.doubt is None:
        return {}
    table = inputs.table.in_order(inputs.hierarchy.names)
    return doubt_section(table, report, inputs.inspection, inputs.validation_inspection, settings.abstain_coverage)


def _localisation(inputs: Inputs) -> dict[str, Any]:
    if inputs.localised is None:
        return {}
    scores, source = inputs.localised
    return {"source": source} | {
        kind: {name: asdict(score) for name, score in of_label.items()} for kind, of_label in scores.items()
    }
