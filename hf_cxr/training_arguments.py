"""`CXRTrainingArguments`: transformers' TrainingArguments with other defaults, each change with its reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments

from hf_cxr.calibration import AUTO, METHODS
from hf_cxr.operating_points import Criterion
from hf_cxr.sampling import SAMPLING


@dataclass
class CXRTrainingArguments(TrainingArguments):
    """Arguments of a `CXRTrainer`.

    Changed defaults: evaluation and checkpoint each epoch, best model by macro AUROC loaded at the end, cosine
    schedule, last and best checkpoint kept, one log line an epoch; and

    - `logging_nan_inf_filter=False`: a loss that is not finite is an error here and must not be papered over;
    - `remove_unused_columns=False`: augmentation and bookkeeping need the film's index, which no model takes;
    - `eval_do_concat_batches=False`: joining what there is with each new batch copies every row once a batch, which
      grows with the square of the split; here the batches are joined once;
    - `ddp_find_unused_parameters=False`: every weight gets a gradient (the models' contract test), so that looking
      for others would only cost time;
    - `use_cpu` is switched on where there is no accelerator.

    Raises:
        ValueError: a value out of range, from here or from transformers.
    """

    output_dir: str | None = field(default="runs/unnamed", metadata={"help": "Folder of the run."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: epoch or steps."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to write a checkpoint; as eval_strategy."})
    logging_strategy: str = field(default="epoch", metadata={"help": "When to log the losses: epoch or steps."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints kept: the last and the best."})
    load_best_model_at_end: bool | None = field(default=True, metadata={"help": "End with the best checkpoint."})
    metric_for_best_model: str | None = field(default="macro_auroc", metadata={"help": "Figure of the best model."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule; reduce_lr_on_plateau too."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Must stay off."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "Every weight is used."})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Must stay off."})
    eval_do_concat_batches: bool = field(default=False, metadata={"help": "Must stay off."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Films a batch in evaluation."})
    report_to: None | str | list[str] = field(  # noqa: RUF036 - HfArgumentParser takes the second of the union
        default="none", metadata={"help": "trackio, tensorboard, wandb or none."}
    )

    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU although there is an accelerator."})
    channels_last: bool = field(default=True, metadata={"help": "NHWC memory layout; faster convolutions in bf16."})
    ema_decay: float = field(default=0.0, metadata={"help": "Decay of the averaged weights; 0: no averaging."})
    sampling: str = field(default="uniform", metadata={"help": "uniform, or label_balanced (repeat factors)."})
    early_stopping_patience: int = field(default=0, metadata={"help": "Evaluations without improvement; 0: never."})
    gate_criterion: str = field(
        default="sensitivity:0.95",
        metadata={"help": "The gate's threshold on validation, e.g. sensitivity:0.95 or miss_rate:0.05@0.9."},
    )
    calibration: str = field(
        default=AUTO, metadata={"help": f"Fitted on validation after training: {AUTO}, {', '.join(METHODS)}."}
    )

    def __post_init__(self) -> None:
        if self.sampling not in SAMPLING:
            raise ValueError(f"sampling: got {self.sampling!r}, expected one of {', '.join(SAMPLING)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay: got {self.ema_decay}, expected 0 (off) or a number below 1")
        if self.calibration not in (AUTO, *METHODS):
            raise ValueError(f"calibration: got {self.calibration!r}, expected {AUTO} or one of {', '.join(METHODS)}")
        Criterion.parse(self.gate_criterion)
        fixed = ("logging_nan_inf_filter", "remove_unused_columns", "eval_do_concat_batches")
        if any(getattr(self, name) for name in fixed):
            raise ValueError(f"{', '.join(fixed)} must stay off (see the docstring)")
        # Otherwise bf16 is refused on a machine without accelerator, and a two-process launch there silently becomes
        # two unconnected runs.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        if self.lr_scheduler_type == "reduce_lr_on_plateau":
            # torch's default mode is "min", also when a higher figure is better.
            plateau = {"mode": "max" if self.greater_is_better else "min"}
            given: Any = getattr(self, "lr_scheduler_kwargs", None)
            self.lr_scheduler_kwargs = plateau | dict(given or {})
