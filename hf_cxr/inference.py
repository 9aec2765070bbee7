"""Run a model over a split, on one process or many, and make the prediction table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from hf_cxr.batching import BatchSize
from hf_cxr.models import CXRPreTrainedModel, CXRTwoStageForImageClassification
from hf_cxr.models.processing import normalise


class FilmBatches(Protocol):
    """A data set that gives batches of uint8 films: `data.FilmDataset` is one."""

    def __len__(self) -> int:
        """Number of films."""

    def __getitems__(self, indices: list[int]) -> Sequence[dict[str, Tensor]]:
        """Films of these positions, each with `pixel_values` (1, S, S) uint8."""


@torch.no_grad()
def predict_logits(
    model: CXRPreTrainedModel,
    films: FilmBatches,
    *,
    batch_size: int = 64,
    state: PartialState | None = None,
    description: str = "predicting",
) -> NDArray[np.float32]:
    """Logits (N, L) of every film, in the data set's order, on every process.

    In float32 and without autocast, so that a model loaded elsewhere gives the same figures. Each process takes a
    contiguous part; the parts are joined and counted. A two-stage model runs its second stage on every film. Where the
    memory does not hold the work on a batch, the model reads it, and all that follow, in halves.

    Raises:
        RuntimeError: a film was lost or doubled between the processes.
        FilmTooLargeError: the memory does not hold the work on a single film.
    """
    state = state or PartialState()
    model = model.to(state.device).eval()
    extra: dict[str, Any] = {"run_all": True} if isinstance(model, CXRTwoStageForImageClassification) else {}
    size = BatchSize(batch_size)

    def logits(inputs: Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model(inputs, **extra).logits.float().cpu().numpy()
        return found

    parts = [
        part
        for _, _, inputs in batches(model, films, batch_size, state, description)
        for part in size.over(inputs, logits)
    ]
    width = len(model.config.id2label)
    local = np.concatenate(parts) if parts else np.zeros((0, width), np.float32)
    together = np.concatenate(gather_object([local]))
    if len(together) != len(films):
        raise RuntimeError(f"{len(together)} predictions for {len(films)} films over {state.num_processes} processes")
    return together


def batches(
    model: CXRPreTrainedModel, films: FilmBatches, batch_size: int, state: PartialState, description: str
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """This process's contiguous part of the films: their rows, uint8 (B, 1, S, S), and the model's inputs."""
    bounds = np.linspace(0, len(films), state.num_processes + 1).astype(int)
    mine = range(bounds[state.process_index], bounds[state.process_index + 1])
    for start in tqdm(
        range(mine.start, mine.stop, batch_size), desc=description, disable=not state.is_main_process, leave=False
    ):
        rows = list(range(start, min(start + batch_size, mine.stop)))
        pixels = torch.stack([film["pixel_values"] for film in films.__getitems__(rows)]).to(state.device)
        yield rows, pixels, normalise(pixels, model.config.image_mean, model.config.image_std).to(model.dtype)


@torch.no_grad()
def pooled_features(model: CXRPreTrainedModel, pixels_NSS: NDArray[np.uint8], batch: int = 64) -> Any:
    """(N, C) float32 pooled features of films as the processor prepares them; None of a model without (two stages)."""
    model.eval()
    config, parts = model.config, []
    for start in range(0, len(pixels_NSS), batch):
        films = torch.from_numpy(pixels_NSS[start : start + batch])[:, None]
        inputs = normalise(films, config.image_mean, config.image_std)
        pooled = model(inputs.to(model.device, model.dtype)).pooler_output
        if pooled is None:
            return None
        parts.append(pooled.float().cpu().numpy())
    return np.concatenate(parts)
