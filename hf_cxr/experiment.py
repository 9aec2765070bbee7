"""Where films, models and trainer meet: the steps that recipes put together.

Nothing of the package imports this module; every recipe does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from transformers import AutoModelForImageClassification

from hf_cxr import figures
from hf_cxr.arguments import Settings
from hf_cxr.evaluation import EvalReport, is_composed
from hf_cxr.film_reference import FilmReference, FilmReferenceError, some_films
from hf_cxr.films import Films, image_statistics
from hf_cxr.first_weights import begin_with, donor_of, input_statistics
from hf_cxr.full_report import full_report
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.inference import pooled_features, predict_logits
from hf_cxr.labels import LabelError
from hf_cxr.losses import balanced_pos_weight, build_loss
from hf_cxr.models import (
    SINGLE_STAGE,
    Calibrate,
    CXRConfig,
    CXRImageProcessor,
    CXRPreTrainedModel,
    CXRTwoStageForImageClassification,
)
from hf_cxr.operating_points import Criterion, choose_gate_threshold
from hf_cxr.predictions import METADATA, PredictionTable, probabilities
from hf_cxr.refitting import refit_calibration, refit_points
from hf_cxr.runs import REPORT_FILE, RunFolder
from hf_cxr.trainer import CXRTrainer
from hf_cxr.verification import identity, verify_with


def build_model(
    settings: Settings, hierarchy: Hierarchy, statistics: tuple[float | None, float | None]
) -> CXRPreTrainedModel:
    """A fresh model over a hierarchy; with pretrained weights it keeps their input statistics.

    Args:
        statistics: mean and deviation of the training films, used with `normalisation` "dataset".
    """
    chosen = settings.model
    config_class, model_class = SINGLE_STAGE[f"cxr-{chosen.model}"]
    donor = donor_of(chosen)
    mean, std = input_statistics(chosen, donor, statistics)
    config = config_class(
        backbone=chosen.backbone,
        backbone_kwargs=chosen.backbone_kwargs,
        image_size=chosen.image_size,
        head=chosen.head,
        head_dropout=chosen.head_dropout,
        link=chosen.link,
        image_mean=mean,
        image_std=std,
        **hierarchy.to_config(),
    )
    model = model_class(config)
    if chosen.backbone_weights:
        begin_with(model, chosen.backbone_weights, donor)
    return model


def train_model(settings: Settings, films: Films, run: RunFolder) -> tuple[CXRPreTrainedModel, dict[str, Any]]:
    """Train what the settings name: one model, or a gate and a finding model joined.

    Returns:
        the model with its best weights, and for each stage its seconds, steps, parameters and log history.
    """
    if not settings.model.two_stage:
        return _train_stage(settings, films, films.hierarchy, run, None)
    hierarchy = films.hierarchy
    if hierarchy.gate is None:
        raise LabelError(f"two_stage needs a gate; taxonomy '{hierarchy.name}' has none")
    below = tuple(name for name in hierarchy.names if name != hierarchy.gate)
    gate_settings = replace(settings, loss=replace(settings.loss, loss="bce"))  # one label has no edges
    gate, gate_log = _train_stage(gate_settings, films, hierarchy.subset([hierarchy.gate]), run, "gate")
    findings, finding_log = _train_stage(settings, films, hierarchy.subset(below), run, "findings")
    validation = films.dataset("validation", (hierarchy.gate,))
    model = CXRTwoStageForImageClassification.from_models(
        gate,
        findings,
        gate_threshold=choose_gate_threshold(
            validation.labels[:, 0].numpy(),
            probabilities(predict_logits(gate, validation))[:, 0],
            hierarchy.gate,
            "validation",
            Criterion.parse(settings.training.gate_criterion),
        ),
        skipped_conditional=films.prevalence(below, _abnormal(films, "train")),
        hierarchy_config=hierarchy.to_config(),
    )
    return model, gate_log | finding_log


def _train_stage(
    settings: Settings, films: Films, hierarchy: Hierarchy, run: RunFolder, stage: str | None
) -> tuple[CXRPreTrainedModel, dict[str, Any]]:
    # The finding model of two stages learns P(label | abnormal): from abnormal films only.
    rows = {split: _abnormal(films, split) if stage == "findings" else None for split in ("train", "validation")}
    train, validation = (films.dataset(split, hierarchy.names, rows[split]) for split in ("train", "validation"))
    model = build_model(settings, hierarchy, image_statistics(films.dataset("train")))
    model.set_prior(films.prevalence(hierarchy.names, rows["train"]))
    loss = build_loss(
        settings.loss.loss,
        hierarchy,
        scale=settings.loss.penalty_scale,
        edge_weight=settings.loss.edge_weight,
        unclosed_labels=lambda: films.unclosed_labels(hierarchy.names),
        pos_weight_L=balanced_pos_weight(train.labels) if settings.loss.balanced_pos_weight else None,
    )
    arguments = copy.copy(settings.training)
    arguments.output_dir = str(run.stage(stage))
    if stage == "gate":
        arguments.metric_for_best_model = "gate_auroc"
    trainer = CXRTrainer(model, arguments, loss, train, validation, settings.augmentation)
    resume_from = run.checkpoint(run.stage(stage))
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    log = {
        "seconds": trainer.seconds,
        "steps": trainer.state.global_step,
        "steps_per_second": trainer.state.global_step / trainer.seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "processes": arguments.world_size,
        "best_metric": trainer.state.best_metric,
        "history": trainer.state.log_history,
        **trainer.unreadable_films(),
    }
    # Through the disk, since under FSDP or DeepSpeed no process holds the whole model.
    folder = run.stage(stage or "model") / "final"
    trainer.save_model(str(folder))
    PartialState().wait_for_everyone()
    return type(model).from_pretrained(folder, dtype=torch.float32), {stage or "model": log}


def _abnormal(films: Films, split: str) -> Any:
    encoded = films.labels[split]
    gate = encoded.values[:, encoded.names.index(films.hierarchy.gate or "")]
    return np.flatnonzero(gate == 1)


def uncalibrated_logits(model: CXRPreTrainedModel, films: Films, split: str) -> NDArray[np.float32]:
    """Logits (N, L) of a model on a split, in the data set's order, before the calibration that its config holds."""
    calibration, model.config.calibration = model.config.calibration, None
    try:
        return predict_logits(model, films.dataset(split), description=f"Predicting {split}")
    finally:
        model.config.calibration = calibration


@torch.no_grad()
def calibrated_logits(model: CXRPreTrainedModel, logits_NL: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same after it, by the model's own last step."""
    return Calibrate(model.config)(torch.from_numpy(logits_NL)).numpy()


def prediction_table(
    model: CXRPreTrainedModel, films: Films, split: str, logits_NL: NDArray[np.float32]
) -> PredictionTable:
    """Logits of a model on a split, with the split's films and their truth; unknown for labels that these lack."""
    rows, encoded = films.decoded[split], films.labels[split]
    unknown = np.full(len(rows), np.nan)
    truth_of = dict(zip(encoded.names, encoded.values.T, strict=True))
    truth = [truth_of.get(name, unknown) for name in model.config.label_names]
    return PredictionTable(
        names=tuple(model.config.label_names),
        ids=np.asarray(rows["id"], dtype=object),
        patients=np.asarray(rows["patient"], dtype=object),
        truth=np.stack(truth, axis=1).astype(np.float64),
        probability=probabilities(logits_NL),
        metadata=pd.DataFrame({name: list(rows[name]) for name in METADATA}),
    )


class Choices(Protocol):
    """What `report_run` asks of the settings: how calibration and the gate's threshold are chosen on validation."""

    calibration: str
    gate_criterion: str


def finish_run(
    model: CXRPreTrainedModel,
    processor: CXRImageProcessor,
    films: Films,
    run: RunFolder,
    choices: Choices,
    provenance: dict[str, Any],
) -> EvalReport:
    """Save the model and what reads its films, load it back, and report what was loaded; see `report_run`."""
    if PartialState().is_main_process:
        model.save_pretrained(run.path)
        processor.save_pretrained(run.path)
    PartialState().wait_for_everyone()
    saved = AutoModelForImageClassification.from_pretrained(run.path, dtype=torch.float32)
    return report_run(saved, films, run, choices, provenance)


def report_run(
    saved: CXRPreTrainedModel,
    films: Films,
    run: RunFolder,
    choices: Choices,
    provenance: dict[str, Any],
    earlier: CXRConfig | None = None,
    also: Callable[[EvalReport], None] | None = None,
) -> EvalReport:
    """Calibrate a model that was loaded from a run's folder, and write predictions, reports and figures.

    Every reported figure is thereby one of the model on the disk. Calibration and operating points are fitted on
    validation and stored in the config. `eval_report.json` is written last; then the checkpoints go.

    Args:
        provenance: of the report; its `log` is what `train_model` returned, histories where they are known.
        earlier: the config of the model that this one was adapted from, which gives calibration and thresholds of
            labels that cannot be fitted here. Its films may then lack a class of the gate.
        also: further work on the finished model, called in every process before the run counts as finished.

    Returns:
        the report of the test split, or of validation where there is no test split.
    """
    folder, log, hierarchy = run.path, provenance.pop("log"), films.hierarchy
    logits = {split: uncalibrated_logits(saved, films, split) for split in films.decoded if split != "train"}
    before = {split: prediction_table(saved, films, split, logits[split]) for split in logits}
    calibration = refit_calibration(before["validation"], choices.calibration, "validation", earlier)
    saved.config.calibration = calibration.to_config()
    tables = {split: prediction_table(saved, films, split, calibrated_logits(saved, logits[split])) for split in logits}
    points = refit_points(tables["validation"], hierarchy, "validation", choices.gate_criterion, earlier)
    saved.config.operating_points = asdict(points)
    provenance["model"] = identity(saved)
    provenance["training"] = {
        stage: {key: value for key, value in entry.items() if key != "history"} for stage, entry in log.items()
    }
    reports = {
        split: full_report(
            table,
            hierarchy,
            split,
            operating_points=points,
            composed_by_model=is_composed(hierarchy, saved.config.link),
            provenance=provenance,
            one_class_gate=earlier is not None,
            calibration=calibration,
            uncalibrated=before[split],
            group_by=METADATA,
        )
        for split, table in tables.items()
    }
    reported = reports.get("test", reports["validation"])
    if also is not None:
        also(reported)
    if PartialState().is_main_process:
        saved.config.save_pretrained(folder)
        remember_films(saved, films, folder)
        verify_with(saved, CXRImageProcessor.from_pretrained(folder)).save(folder)
        for split, table in tables.items():
            table.to_csv(folder / f"predictions_{split}.csv")
        _draw(folder / "figures", log, reports, hierarchy, films.provenance)
        if "test" in reports:
            reports["validation"].to_json(folder / "eval_report_validation.json")
        reported.to_json(folder / REPORT_FILE)
        run.remove_checkpoints()  # only now: until the report is there, a killed run goes on from them
    return reported


def remember_films(saved: CXRPreTrainedModel, films: Films, folder: Path) -> None:
    """Keep what the validation films look like, by which other films can be judged (`recipes/check_data.py`)."""
    patients = np.asarray(films.decoded["validation"]["patient"])
    rows = some_films(patients)
    pixels = films.pixels("validation", rows)
    with suppress(FilmReferenceError):  # too few films: nothing is known then, and whoever asks is told so
        FilmReference.fit(pixels, pooled_features(saved, pixels), patients[rows]).save(folder)


def _draw(
    folder: Path, log: dict[str, Any], reports: dict[str, EvalReport], hierarchy: Hierarchy, provenance: dict[str, Any]
) -> None:
    folder.mkdir(exist_ok=True)
    dataset, toy = provenance["dataset"], " (phantom: synthetic, not clinical)" if provenance["synthetic"] else ""
    for stage, entry in log.items():
        suffix = "" if stage == "model" else f"_{stage}"
        if "history" in entry:
            title = f"{dataset}, {stage}{toy}"
            figures.learning_curves(entry["history"], folder / f"learning_curves{suffix}.png", title)
    for split, report in reports.items():
        figures.label_auroc(report, folder / f"auroc_{split}.png", f"{dataset}, {split} split{toy}", hierarchy.unscored)
