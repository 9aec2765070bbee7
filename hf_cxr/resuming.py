"""Checkpoints from which a run goes on as if it had never ended, whenever it is killed."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from hf_cxr.averaging import FILE_NAME, WeightAverage, average_batch_norm
from hf_cxr.data import FilmStream

PROGRESS_FILE = "progress.json"
"""What a checkpoint knows beside transformers' own state: seconds of training, and the parts of a stream."""
COMPLETE = "complete"
"""Empty file that a checkpoint gets last: one without it was interrupted while being written."""


class ResumableTrainer(Trainer):
    """transformers' Trainer, whose checkpoints also hold averaged weights and the place in a stream of films, and count
    only when they are whole.

    Attributes:
        seconds: that training took up to now, with what came before the checkpoint that it went on from.
    """

    average: WeightAverage | None = None
    _seconds_before = 0.0
    _began = 0.0
    seconds = 0.0

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """Train; afterwards the model holds the weights that were evaluated as best (averaged ones if kept)."""
        self._is_over = resume_from_checkpoint is not None and _was_over(Path(resume_from_checkpoint))
        self._began = time.perf_counter()
        output = super().train(resume_from_checkpoint, **kwargs)
        self._count_seconds()
        set_seed(self.args.seed)  # a next stage begins with the same numbers whether or not this one was resumed
        average_batch_norm(self.model)
        if self.average:
            best = self.state.best_model_checkpoint
            if self.args.load_best_model_at_end and best:
                self.average.load(Path(best))
            self.average.copy_to(self.model)
        return output

    def _count_seconds(self) -> None:
        self.seconds = self._seconds_before + time.perf_counter() - self._began

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers forgets at the start that training was over, and would go on after an early stop.
        if self._is_over:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            if folder.exists():  # left by an interrupted save
                shutil.rmtree(folder)
            # All look whether the best one is there; a sharded one would be made by whichever process comes first.
            folder.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.average and self.args.should_save:
            self.average.save(folder)
        if self.args.should_save:
            self._count_seconds()
            progress = {"seconds": self.seconds}
            if isinstance(self.train_dataset, FilmStream):
                progress["n_parts"] = self.train_dataset.n_parts
            (folder / PROGRESS_FILE).write_text(json.dumps(progress))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (folder / COMPLETE).touch()
            # Older ones go only now: at every moment there is one to go on from.
            rotate_checkpoints(str(folder.parent), limit, self.state.best_model_checkpoint, use_mtime=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers; a finished model is written whole also where FSDP shards the checkpoints."""
        sharded = self.is_fsdp_enabled and "SHARDED" in str(self.accelerator.state.fsdp_plugin.state_dict_type)
        if sharded and not _internal_call:
            self._save(output_dir, state_dict=self.accelerator.get_state_dict(self.model))
        super().save_model(output_dir, _internal_call)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        progress = json.loads((Path(resume_from_checkpoint) / PROGRESS_FILE).read_text())
        self._seconds_before = progress["seconds"]
        if isinstance(self.train_dataset, FilmStream):
            self.train_dataset.n_parts = progress["n_parts"]
        if self.average:
            if not (Path(resume_from_checkpoint) / FILE_NAME).exists():
                raise FileNotFoundError(f"{resume_from_checkpoint} has no {FILE_NAME}: trained without ema_decay")
            self.average.load(Path(resume_from_checkpoint))


def _was_over(checkpoint: Path) -> bool:
    """Whether training ended with a checkpoint: at the last step, or by an early stop."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return bool(state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"])


def last_complete_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run that was written to its end, or None."""
    found = [path.parent for path in run.glob(f"{PREFIX_CHECKPOINT_DIR}-*/{COMPLETE}")]
    return max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)
