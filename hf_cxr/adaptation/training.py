"""A model adapted to a new hospital's films."""

from __future__ import annotations

import copy
import resource
import sys
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor

from hf_cxr.adaptation.adapters import adapt, save, trained_parameters
from hf_cxr.adaptation.arguments import AdaptationSettings
from hf_cxr.adaptation.distillation import DistillingTrainer, opinion
from hf_cxr.arguments import SettingsError
from hf_cxr.data import FilmDataset
from hf_cxr.films import Films, prepare
from hf_cxr.growth import grow
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.loading import load_model, load_processor, shown
from hf_cxr.losses import balanced_pos_weight, build_loss
from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.runs import RunFolder
from hf_cxr.verification import identity


def prepare_adaptation(settings: AdaptationSettings) -> tuple[CXRPreTrainedModel, CXRImageProcessor, Films]:
    """The base, its processor, and the hospital's films for its taxonomy and the map's new nodes.

    Raises:
        ModelError: the base cannot be loaded. Otherwise as `films.prepare`.
    """
    base, processor = load_model(settings.adaptation.base), load_processor(settings.adaptation.base)
    processor.lateral = processor.lateral or settings.data.wants_lateral
    seed = settings.training.seed
    films = prepare(settings.data, settings.labels, processor, Hierarchy.from_config(base.config), seed=seed)
    return base, processor, films


def chosen_rows(films: Films, n_films: int | None, seed: int) -> NDArray[np.intp]:
    """Which training films are used: the first of a seeded shuffle, so that fewer films are among the more.

    Raises:
        SettingsError: there are not as many.
    """
    available = len(films.decoded["train"])
    if n_films is not None and n_films > available:
        raise SettingsError(f"n_films is {n_films}; there are {available} training films")
    return np.sort(np.random.default_rng(seed).permutation(available)[:n_films])


def train_adaptation(
    settings: AdaptationSettings,
    base: CXRPreTrainedModel,
    processor: CXRImageProcessor,
    films: Films,
    run: RunFolder,
    rehearsed: Films | None = None,
) -> tuple[CXRPreTrainedModel, dict[str, Any]]:
    """Grow, adapt and train; what was trained is saved in the run's folder and loaded from there.

    Args:
        films: the hospital's. rehearsed: of the base's own training split.

    Returns:
        the model as it lies on the disk, and what `experiment.train_model` says of a training.
    """
    own = Hierarchy.from_config(base.config)
    # The base's nodes stay what they were to it; how this hospital's films say them is the films' hierarchy's.
    hierarchy = replace(own, nodes=(*own.nodes, *films.hierarchy.nodes[len(own.names) :]), name=films.hierarchy.name)
    rows = chosen_rows(films, settings.adaptation.n_films, settings.training.seed)
    n_films = len(rows)
    rows = np.tile(rows, -(-settings.adaptation.epoch_films // n_films))
    train, validation = films.dataset("train", hierarchy.names, rows), films.dataset("validation", hierarchy.names)
    n_rehearsed = 0
    if rehearsed is not None and settings.adaptation.rehearses:
        share, seed = settings.adaptation.rehearsal, settings.training.seed
        train, n_rehearsed = with_rehearsal(films.decoded["train"].select(rows), train.labels, rehearsed, share, seed)
    model = grow(base, hierarchy, films.prevalence(hierarchy.names, rows))
    model.config.adapted_from = {"name": shown(settings.adaptation.base), **identity(base)}
    teacher = torch.full(train.labels.shape, torch.nan)
    if settings.adaptation.distillation:
        teacher[:, : len(own.names)] = opinion(model, train)[:, : len(own.names)]
        # What the hospital annotates is for its films to say: two opinions on it would meet in the middle.
        annotated_L = ~torch.isnan(train.labels).all(0)
        teacher[len(train) - n_rehearsed :, annotated_L] = torch.nan
    adapted = adapt(model, settings.adapter)
    n_trained, n_all = trained_parameters(adapted)
    loss = build_loss(
        settings.loss.loss,
        hierarchy,
        scale=settings.loss.penalty_scale,
        edge_weight=settings.loss.edge_weight,
        unclosed_labels=lambda: films.unclosed_labels(hierarchy.names)[rows],
        pos_weight_L=balanced_pos_weight(train.labels) if settings.loss.balanced_pos_weight else None,
    )
    arguments = copy.copy(settings.training)
    trainer = DistillingTrainer(
        adapted,
        arguments,
        loss,
        train,
        validation,
        settings.augmentation,
        teacher_NL=teacher,
        weight=settings.adaptation.distillation,
    )
    resume_from = run.checkpoint(run.path)
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    log = {
        "seconds": trainer.seconds,
        "steps": trainer.state.global_step,
        "steps_per_second": trainer.state.global_step / trainer.seconds,
        "epochs": trainer.state.epoch,
        "films": n_films,
        "rehearsed_films": n_rehearsed,
        "parameters": n_all,
        "trained_parameters": n_trained,
        "peak_memory_bytes": peak_memory(),
        "processes": arguments.world_size,
        "best_metric": trainer.state.best_metric,
        "history": trainer.state.log_history,
    }
    if PartialState().is_main_process:
        save(adapted, settings.adapter, settings.adaptation.base, run.path)
        processor.save_pretrained(run.path)
    PartialState().wait_for_everyone()
    return load_model(run.path), {"model": log}


def with_rehearsal(
    decoded: datasets.Dataset, labels_NL: Tensor, rehearsed: Films, share: float, seed: int
) -> tuple[FilmDataset, int]:
    """Films of the base's own after the hospital's, without labels: what the base says of them is all they teach.

    Adapted to films of `kermany224` (LoRA, 50 times distillation), the rank correlation with the base on `nih128`'s
    validation films, over the findings that are not labelled, is 0.95 with as many films of the base's as of the
    hospital's and 0.82 with none, at the same AUROC on the hospital's held-out films (gate 0.970, Pneumonia 0.970 and
    0.971).

    Args:
        decoded, labels_NL: the hospital's. rehearsed: the base's training split.
        share: of them for each of the hospital's; not more than there are. seed: which.

    Returns:
        both, and the number of the base's.
    """
    own = rehearsed.decoded["train"]
    n_own = min(round(share * len(decoded)), len(own))
    rows = np.sort(np.random.default_rng(seed).permutation(len(own))[:n_own])
    both = datasets.concatenate_datasets([part.select_columns(["pixels"]) for part in (decoded, own.select(rows))])
    unknown = np.full((n_own, labels_NL.shape[1]), np.nan, np.float32)
    return FilmDataset(both, np.concatenate([labels_NL.numpy(), unknown])), n_own


def peak_memory() -> int:
    """Bytes: of the GPU's memory where there is one, else of this process's, at most so far."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
