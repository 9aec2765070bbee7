"""A Trainer that goes a number of steps and waits, so that its steps can be timed in turn with others'."""

from __future__ import annotations

import threading
from typing import Any

from transformers import Trainer, TrainerCallback


class Stepper(TrainerCallback):
    """Runs `trainer.train()` in a thread that stands still between rounds.

    What a Trainer does once (placing the model, building the optimiser, its first epoch's start) is not timed.

    Args:
        trainer: with `max_steps` beyond all rounds, and nothing to save or to evaluate before.
        steps: of a round.
    """

    def __init__(self, trainer: Trainer, steps: int) -> None:
        self.steps, self.done = steps, 0
        self.go, self.stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None
        self.trainer = trainer
        trainer.add_callback(self)
        self.thread = threading.Thread(target=self._train, daemon=True)

    def round(self) -> float:
        """`steps` optimiser steps; how many they were."""
        if not self.thread.is_alive() and self.error is None:
            self.thread.start()
        self.go.release()
        self.stopped.acquire()
        if self.error is not None:
            raise self.error
        return self.steps

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.go.acquire()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.done += 1
        if self.done % self.steps == 0:
            self.stopped.release()
            self.go.acquire()

    def _train(self) -> None:
        try:
            self.trainer.train()
            self.error = RuntimeError("the Trainer ended before the rounds did: raise max_steps")
        except BaseException as error:  # told in `round`, where somebody waits
            self.error = error
        self.stopped.release()
