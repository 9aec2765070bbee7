"""Batches as large as the memory takes: halved when it runs out, and then so for all that follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from hf_cxr.errors import UserError

ON_ACCELERATOR = 256
"""Where the search begins on a GPU: more films at once keep it no busier."""
ON_CPU = 32
"""What is taken on a CPU, whose memory ends a process rather than raise: more is no faster there."""

T = TypeVar("T")


class FilmTooLargeError(UserError, RuntimeError):
    """The memory does not hold the model's work on one film."""


class BatchSize:
    """How many films go through a model together.

    accelerate's `find_executable_batch_size` is not called itself: it empties the device's cache before every batch,
    and takes nine tenths rather than half. What counts as out of memory is its own.

    Args:
        films: at first, 1 or more.
    """

    def __init__(self, films: int) -> None:
        self.films = films

    @classmethod
    def for_device(cls, device: torch.device) -> BatchSize:
        """Where nobody chose one."""
        return cls(ON_CPU if device.type == "cpu" else ON_ACCELERATOR)

    def over(self, films: Tensor, run: Callable[[Tensor], T]) -> list[T]:
        """Run a model over films (N, …), a batch at a time; what it gave each batch, in their order.

        Raises:
            FilmTooLargeError: memory runs out on a single film.
        """
        done: list[T] = []
        start = 0
        while start < len(films):
            batch = films[start : start + self.films]
            try:
                done.append(run(batch))
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if len(batch) == 1:
                    raise FilmTooLargeError(
                        f"out of memory on {films.device} with a single film; free it of other programs' work, take a "
                        "smaller model, or the CPU"
                    ) from error
                self.films = len(batch) // 2
            else:
                start += len(batch)
                continue
            # Only here the error, and with it the batch's tensors, are gone.
            clear_device_cache(garbage_collection=True)
        return done
