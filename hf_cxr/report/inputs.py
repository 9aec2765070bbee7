"""What a report is made of: predictions from a model or a table, and the thresholds chosen elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hf_cxr.arguments import DataArguments, LabelArguments
from hf_cxr.calibration import Calibration, calibrated, fit_table
from hf_cxr.curves import Reader, read_readers
from hf_cxr.evaluation import is_composed
from hf_cxr.experiment import calibrated_logits, prediction_table, uncalibrated_logits
from hf_cxr.films import Films, prepare_split
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.inspection import Inspection, inspect, localise
from hf_cxr.loading import load_model, load_processor
from hf_cxr.localisation import LocalisationScore
from hf_cxr.models import CXRPreTrainedModel
from hf_cxr.operating_points import OperatingPoints, choose_operating_points
from hf_cxr.predictions import METADATA, PredictionTable, PredictionTableError
from hf_cxr.report.arguments import ReportArguments
from hf_cxr.report.masks import find_masks
from hf_cxr.runs import SETTINGS_FILE, provenance
from hf_cxr.uncertainty import NoDropoutError, check_passes
from hf_cxr.verification import identity


@dataclass(frozen=True)
class Inputs:
    """Arguments of `full_report` and where they come from; of a model, what it shows of itself besides.

    Attributes:
        model: None of a table.
        inspection, validation_inspection: doubt and heatmaps on the reported films, and doubt on validation's.
        no_doubt: why there is no doubt.
        localised: heatmaps' scores (`inspection.localise`), and on what.
    """

    table: PredictionTable
    uncalibrated: PredictionTable
    calibration: Calibration | None
    hierarchy: Hierarchy
    operating_points: OperatingPoints | None
    composed_by_model: bool
    provenance: dict[str, Any]
    second: PredictionTable | None = None
    group_by: tuple[str, ...] = ()
    readers: tuple[Reader, ...] = ()
    model: CXRPreTrainedModel | None = None
    inspection: Inspection | None = None
    validation_inspection: Inspection | None = None
    no_doubt: str | None = None
    localised: tuple[dict[str, dict[str, LocalisationScore]], str] | None = None


def gather(settings: ReportArguments, data: DataArguments, labels: LabelArguments) -> Inputs:
    """Run the model, or read the table; calibrate; choose or look up operating points.

    Raises:
        Errors of the data set, the tables and the taxonomy: see `films`, `predictions`, `hierarchy`.
    """
    inputs = _from_model(settings, data, labels) if settings.model else _from_table(settings, labels)
    hierarchy, form = inputs.hierarchy, settings.table_format()
    if settings.validation:
        validation = PredictionTable.read(Path(settings.validation), form, hierarchy.resolve)
        _check_apart(inputs.table, validation)
        if settings.calibration != "none":
            fitted = fit_table(validation, settings.calibration, "validation")
            validation = calibrated(validation, fitted, hierarchy)
            inputs = replace(inputs, table=calibrated(inputs.table, fitted, hierarchy), calibration=fitted)
        chosen = {"criterion": settings.criterion, "gate_criterion": settings.gate_criterion}
        points = choose_operating_points(
            validation, hierarchy, "validation", **{name: text for name, text in chosen.items() if text is not None}
        )
        inputs = replace(inputs, operating_points=points)
        inputs.provenance["validation"] = _file(Path(settings.validation))
    if settings.compare:
        path = Path(settings.compare)
        inputs = replace(inputs, second=PredictionTable.read(path, form, hierarchy.resolve))
        inputs.provenance["compared with"] = _file(path)
    readers = read_readers(Path(settings.readers), hierarchy.findings) if settings.readers else []
    group_by = tuple(settings.group_by) or tuple(c for c in METADATA if c in inputs.table.metadata)
    return replace(inputs, readers=tuple(readers), group_by=group_by)


def _from_model(settings: ReportArguments, data: DataArguments, labels: LabelArguments) -> Inputs:
    folder = Path(str(settings.model))
    model, processor = load_model(str(settings.model)), load_processor(str(settings.model))
    config, hierarchy = model.config, Hierarchy.from_config(model.config)
    films = prepare_split(data, labels, processor, hierarchy, settings.split)
    hierarchy = films.hierarchy  # a hospital's films may have another truth of the gate and of groups
    logits = uncalibrated_logits(model, films, settings.split)
    points = OperatingPoints(**config.operating_points) if config.operating_points else None
    inspection, no_doubt = _inspect(model, films, settings)
    validation_inspection = None
    if settings.abstain_coverage is not None and not no_doubt:
        others = prepare_split(data, labels, processor, Hierarchy.from_config(config), "validation")
        validation_inspection = inspect(
            model, others.dataset("validation"), n_passes=settings.dropout_passes, seed=settings.seed
        )
    run = folder / SETTINGS_FILE
    trained = provenance(yaml.safe_load(run.read_text(encoding="utf-8"))) if run.is_file() else {}
    return Inputs(
        table=prediction_table(model, films, settings.split, calibrated_logits(model, logits)),
        uncalibrated=prediction_table(model, films, settings.split, logits),
        calibration=Calibration(**config.calibration) if config.calibration else None,
        hierarchy=hierarchy,
        # A split never decides by thresholds of its own.
        operating_points=points if points and points.split != settings.split else None,
        composed_by_model=is_composed(hierarchy, config.link),
        provenance={"source": folder.name, **films.provenance, "trained": trained, "model": identity(model)},
        model=model,
        inspection=inspection,
        validation_inspection=validation_inspection,
        no_doubt=no_doubt,
        localised=_localised(model, films, data, settings),
    )


def _inspect(
    model: CXRPreTrainedModel, films: Films, settings: ReportArguments
) -> tuple[Inspection | None, str | None]:
    """Doubt and heatmaps of the split in one pass, and why there is no doubt."""
    no_doubt, passes = None, settings.dropout_passes or None
    if passes is not None:
        try:
            check_passes(model, passes)
        except NoDropoutError as error:
            no_doubt, passes = str(error), None
    shown = _shown(films, settings)
    if passes is None and not shown:
        return None, no_doubt
    films_of_split = films.dataset(settings.split)
    return inspect(model, films_of_split, n_passes=passes, seed=settings.seed, shown=shown), no_doubt


def _shown(films: Films, settings: ReportArguments) -> set[int]:
    """Films for the heatmap panels: drawn by the seed from those with a finding, not picked."""
    encoded = films.labels[settings.split]
    findings = [encoded.names.index(name) for name in films.hierarchy.findings]
    rows = np.flatnonzero((encoded.values[:, findings] == 1).any(1))
    n_shown = min(settings.heatmap_films, len(rows))
    return set(np.random.default_rng(settings.seed).choice(rows, n_shown, replace=False).tolist())


def _localised(
    model: CXRPreTrainedModel, films: Films, data: DataArguments, settings: ReportArguments
) -> tuple[dict[str, dict[str, LocalisationScore]], str] | None:
    ids = list(films.decoded[settings.split]["id"])
    names = tuple(model.config.label_names)
    found = find_masks(data, settings.boxes, ids, names, model.config.image_size)
    return None if found is None else (localise(model, films.dataset(settings.split), found[0]), found[1])


def _from_table(settings: ReportArguments, labels: LabelArguments) -> Inputs:
    hierarchy, path = labels.hierarchy(), Path(str(settings.predictions))
    table = PredictionTable.read(path, settings.table_format(), hierarchy.resolve)
    return Inputs(
        table=table,
        uncalibrated=table,
        calibration=None,
        hierarchy=hierarchy,
        operating_points=None,
        composed_by_model=False,
        provenance={"source": path.name, "taxonomy": hierarchy.name, "table": _file(path)},
    )


def _file(path: Path) -> str:
    """Name and content of a file, so that a figure can be traced to it; not its folder."""
    with path.open("rb") as content:
        return f"{path.name}, sha256 {hashlib.file_digest(content, 'sha256').hexdigest()}"


def _check_apart(table: PredictionTable, validation: PredictionTable) -> None:
    """A split never decides by thresholds of its own.

    Raises:
        PredictionTableError: films or patients are in both, or only one of the tables says whose films it has.
    """
    if table.unit != validation.unit:
        raise PredictionTableError(
            f"the reported table has films by {table.unit}, --validation by {validation.unit}: whether they share "
            "patients cannot be told; give patients in both, or in neither"
        )
    # Without patients these are the films' ids. With them, ids that are mere row numbers may well meet.
    if shared := set(table.patients) & set(validation.patients):
        raise PredictionTableError(
            f"{len(shared)} {table.unit}s are in the reported table and in the one that thresholds are chosen on, e.g. "
            f"{sorted(map(str, shared))[:3]}; a split never decides by thresholds of its own: give another split"
        )
