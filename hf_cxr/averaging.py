"""Averages of weights: over time (EMA) and of batch-norm statistics over processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

FILE_NAME = "averaged_weights.safetensors"


class WeightAverage:
    """Exponential moving average of all weights and batch-norm statistics of a model.

    The decay is warmed up, `min(decay, (1 + n) / (10 + n))` after n updates, so that the random initial weights
    are forgotten within a short training.

    Args:
        model: unwrapped model. decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema_decay: got {decay}, expected a number between 0 and 1, both excluded")
        self.decay = decay
        self.n_updates = 0
        self.average = {name: value.detach().clone() for name, value in _floats(model).items()}
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Take this model's weights from now on; to be called again when it is ready to train.

        Walking through the modules for their names takes longer than the arithmetic: it is done here, not at every
        step. Under DDP, batch norm's statistics are other tensors after wrapping than before.
        """
        held = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
        self._pairs = [(value, held[name]) for name, value in self.average.items()]

    @torch.no_grad()
    def update(self) -> None:
        """Take the model's current weights into the average; call once an optimiser step."""
        decay = min(self.decay, (1 + self.n_updates) / (10 + self.n_updates))
        averages, current = map(list, zip(*self._pairs, strict=True))
        torch._foreach_lerp_(averages, current, 1 - decay)
        self.n_updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The averaged weights in the model, its own back afterwards."""
        own = {name: value.detach().clone() for name, value in _floats(model).items()}
        self.copy_to(model)
        try:
            yield
        finally:
            _assign(model, own)

    def copy_to(self, model: nn.Module) -> None:
        """Put the averaged weights into the model for good."""
        _assign(model, self.average)

    def average_over_processes(self) -> None:
        """As `average_batch_norm`, for the averaged statistics."""
        _mean_over_processes([v for name, v in self.average.items() if name.endswith(("running_mean", "running_var"))])

    def save(self, folder: Path) -> None:
        """Write the average beside a checkpoint."""
        tensors = {name: value.contiguous() for name, value in self.average.items()}
        save_file(tensors, folder / FILE_NAME, metadata={"n_updates": str(self.n_updates)})

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        with safe_open(folder / FILE_NAME, "pt") as file:
            self.n_updates = int(file.metadata()["n_updates"])
        stored = load_file(folder / FILE_NAME)
        for name, value in self.average.items():
            value.copy_(stored[name])


def average_batch_norm(model: nn.Module) -> None:
    """Average the running statistics of batch norm over the processes, in place.

    Each process sees its own films, so that without this the evaluated model would differ between processes and
    from the saved one (SyncBatchNorm needs a GPU).
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    _mean_over_processes([t for m in layers for t in (m.running_mean, m.running_var) if t is not None])


def _mean_over_processes(tensors: list[Tensor]) -> None:
    if not tensors or not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()


def _floats(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


@torch.no_grad()
def _assign(model: nn.Module, values: dict[str, Tensor]) -> None:
    current = _floats(model)
    for name, value in values.items():
        current[name].copy_(value)
