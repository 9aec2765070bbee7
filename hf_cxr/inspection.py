"""Doubt and heatmaps of a whole split: one more pass of a model over its films, keeping what a report needs.

Heatmaps of all films and labels would not fit into memory, so each is scored when it is made and only those to be
shown are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray

from hf_cxr.explain import grad_cam, look, untrained
from hf_cxr.inference import FilmBatches, batches
from hf_cxr.localisation import FilmScore, LocalisationScore, Mask, mean_score, score_film
from hf_cxr.models import CXRPreTrainedModel
from hf_cxr.uncertainty import Uncertainty, mc_dropout

MEASURES = ("entropy", "mutual_information", "deviation")
Masks = Callable[[int], dict[str, Mask]]
"""From a film's row to the masks (S, S) of the findings that it shows."""


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a model knows of its own predictions on N films.

    Attributes:
        names: the L labels.
        doubt: `{measure: (N, L)}` of `MEASURES` by Monte Carlo dropout (`uncertainty`), None if not asked for.
        n_passes, seed: of the dropout.
        films: `{row: uint8 (S, S)}` and heatmaps: `{row: (L, S, S)}` in [0, 1], of the rows that are shown.
    """

    names: tuple[str, ...]
    doubt: dict[str, NDArray[np.float32]] | None
    n_passes: int
    seed: int
    films: dict[int, NDArray[np.uint8]]
    heatmaps: dict[int, NDArray[np.float32]]


def inspect(
    model: CXRPreTrainedModel,
    films: FilmBatches,
    *,
    n_passes: int | None = 30,
    seed: int = 0,
    shown: Collection[int] = (),
    batch_size: int = 16,
) -> Inspection:
    """Monte Carlo dropout of every film, and heatmaps of some, from one pass through the backbone.

    Each process takes its part; the result is whole on every one. A two-stage model's finding model looks at every
    film, as in `inference.predict_logits`, so that doubt and probabilities are of the same model.

    Args:
        n_passes, seed: see `uncertainty.mc_dropout`; None leaves doubt out.
        shown: rows of the films whose heatmaps are kept.

    Raises:
        NoDropoutError: the model was trained without dropout in its head.
    """
    state = PartialState()
    model = model.to(state.device).eval()
    parts: list[dict[str, Any]] = []
    pictures: dict[int, Any] = {}
    heatmaps: dict[int, Any] = {}
    for rows, pixels, inputs in batches(model, films, batch_size, state, "Looking"):
        kept = [i for i, row in enumerate(rows) if row in shown]
        uncertainty: Uncertainty | None = None
        if kept:
            seen = look(model, inputs, n_passes=n_passes, seed=seed, run_all=True)
            uncertainty = seen.uncertainty
            pictures |= {rows[i]: pixels[i, 0].cpu().numpy() for i in kept}
            heatmaps |= {rows[i]: seen.heatmaps[i].cpu().numpy() for i in kept}
        elif n_passes is not None:
            uncertainty = mc_dropout(model, inputs, n_passes, seed, run_all=True)
        if uncertainty is not None:
            parts.append({name: getattr(uncertainty, name).cpu().numpy() for name in MEASURES})
    together = gather_object([(parts, pictures, heatmaps)])
    doubt = None
    if n_passes is not None:
        every = [part for theirs, _, _ in together for part in theirs]
        doubt = {name: np.concatenate([part[name] for part in every]) for name in MEASURES}
    return Inspection(
        tuple(model.config.label_names),
        doubt,
        n_passes or 0,
        seed,
        {row: picture for _, theirs, _ in together for row, picture in theirs.items()},
        {row: heat for _, _, theirs in together for row, heat in theirs.items()},
    )


def localise(
    model: CXRPreTrainedModel, films: FilmBatches, masks: Masks, *, n_untrained: int = 3, batch_size: int = 16
) -> dict[str, dict[str, LocalisationScore]]:
    """How well heatmaps point at the findings: the model's, and those of the same network with random weights.

    Args:
        masks: of the findings on each film; a label that the model lacks is left out.
        n_untrained: networks with random weights, whose films are scored together.

    Returns:
        `{"trained" | "untrained": {label: score}}`, for each label of which a mask was given.
    """
    return {
        "trained": _localise([model], films, masks, batch_size),
        "untrained": _localise([untrained(model, seed) for seed in range(n_untrained)], films, masks, batch_size),
    }


def _localise(
    models: Sequence[CXRPreTrainedModel], films: FilmBatches, masks: Masks, batch_size: int
) -> dict[str, LocalisationScore]:
    state, names = PartialState(), tuple(models[0].config.label_names)
    found: list[tuple[str, FilmScore | None]] = []
    models = [model.to(state.device).eval() for model in models]
    for rows, _, inputs in batches(models[0], films, batch_size, state, "Localising"):
        of_film = {i: masks(row) for i, row in enumerate(rows)}
        wanted = [i for i, named in of_film.items() if set(named) & set(names)]
        if not wanted:
            continue
        for model in models:
            heat = grad_cam(model, inputs[wanted], raw=True).cpu().numpy()
            for maps, i in zip(heat, wanted, strict=True):
                shown = [(name, mask) for name, mask in of_film[i].items() if name in names and mask.any()]
                found += [(name, score_film(maps[names.index(name)], mask)) for name, mask in shown]
    every = [pair for theirs in gather_object([found]) for pair in theirs]
    labels = {label for label, _ in every}
    return {n: mean_score([score for label, score in every if label == n]) for n in names if n in labels}
