"""What a report is made of: predictions from a model or a table, and the thresholds chosen elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageClassification

from hf_cxr.arguments import DataArguments, LabelArguments
from hf_cxr.curves import Reader, read_readers
from hf_cxr.evaluation import is_composed
from hf_cxr.experiment import prediction_table
from hf_cxr.films import prepare_split
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.models import CXRImageProcessor
from hf_cxr.operating_points import OperatingPoints, choose_operating_points
from hf_cxr.predictions import METADATA, PredictionTable, PredictionTableError
from hf_cxr.report.arguments import ReportArguments


@dataclass(frozen=True)
class Inputs:
    """Arguments of `full_report`, and where they come from."""

    table: PredictionTable
    hierarchy: Hierarchy
    operating_points: OperatingPoints | None
    composed_by_model: bool
    second: PredictionTable | None
    group_by: tuple[str, ...]
    provenance: dict[str, Any]
    readers: tuple[Reader, ...]


def gather(settings: ReportArguments, data: DataArguments, labels: LabelArguments) -> Inputs:
    """Run the model, or read the table; choose or look up operating points.

    Raises:
        Errors of the data set, the tables and the taxonomy: see `films`, `predictions`, `hierarchy`.
    """
    points, composed = None, False
    if settings.model:
        model = AutoModelForImageClassification.from_pretrained(settings.model)
        processor = CXRImageProcessor.from_pretrained(settings.model)
        hierarchy = Hierarchy.from_config(model.config)
        films = prepare_split(data, labels, processor, hierarchy, settings.split)
        table = prediction_table(model, films, settings.split)
        composed = is_composed(hierarchy, model.config.link)
        if model.config.operating_points:
            points = OperatingPoints(**model.config.operating_points)
            if points.split == settings.split:  # a split never decides by thresholds of its own
                points = None
        provenance = {"source": Path(settings.model).name, **films.provenance}
    else:
        assert settings.predictions is not None
        hierarchy = labels.hierarchy()
        path = Path(settings.predictions)
        table = PredictionTable.read(path, settings.table_format(), hierarchy.resolve)
        provenance = {"source": path.name, "taxonomy": hierarchy.name}
    if settings.validation:
        other = PredictionTable.read(Path(settings.validation), settings.table_format(), hierarchy.resolve)
        _check_apart(table, other)
        chosen = {"criterion": settings.criterion, "gate_criterion": settings.gate_criterion}
        points = choose_operating_points(
            other, hierarchy, "validation", **{name: text for name, text in chosen.items() if text is not None}
        )
    second = None
    if settings.compare:
        second = PredictionTable.read(Path(settings.compare), settings.table_format(), hierarchy.resolve)
        provenance["compared with"] = Path(settings.compare).name
    readers = read_readers(Path(settings.readers), hierarchy.findings) if settings.readers else []
    group_by = tuple(settings.group_by) or tuple(c for c in METADATA if c in table.metadata)
    return Inputs(table, hierarchy, points, composed, second, group_by, provenance, tuple(readers))


def _check_apart(table: PredictionTable, validation: PredictionTable) -> None:
    shared = set(table.patients) & set(validation.patients)
    if shared:
        raise PredictionTableError(
            f"{len(shared)} {table.unit}s are in the reported table and in the one that thresholds are chosen on, e.g. "
            f"{sorted(map(str, shared))[:3]}; a split never decides by thresholds of its own: give another split"
        )
