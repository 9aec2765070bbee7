"""`CXRTrainer`: transformers' Trainer with an injected loss, hierarchical evaluation, and no silent failures."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, default_collate
from transformers import EarlyStoppingCallback, EvalPrediction, TrainerCallback

from hf_cxr.augmentation import AugmentationConfig, augment
from hf_cxr.averaging import WeightAverage, average_batch_norm
from hf_cxr.data import FilmStream
from hf_cxr.epoch_figures import epoch_figures
from hf_cxr.errors import UserError
from hf_cxr.losses import LossOutput, count_known
from hf_cxr.models import CXRPreTrainedModel
from hf_cxr.models.processing import normalise, normalise_
from hf_cxr.resuming import ResumableTrainer
from hf_cxr.sampling import EpochSampler, repeat_factors
from hf_cxr.training_arguments import CXRTrainingArguments


class NonFiniteLossError(UserError, RuntimeError):
    """The loss became NaN or infinite."""


class CXRTrainer(ResumableTrainer):
    """Trains a single-stage model.

    Args:
        model: a model whose config holds its hierarchy.
        args: see `CXRTrainingArguments`.
        loss: module `(logits_BL, labels_BL, divisors) -> LossOutput` (`hf_cxr.losses`); every component is logged.
        train_dataset, eval_dataset: give `pixel_values` (1, S, S) uint8, `labels` (L,) with NaN = unknown and
            `index`, the film's position (`hf_cxr.data.FilmDataset`; training films also `FilmStream`).
        augmentation: of training batches, on the model's device.
        **kwargs: as for Trainer, e.g. `processing_class`, `callbacks`.

    `evaluate` returns flat and gated figures (`hf_cxr.evaluation`) computed on the gathered validation split, with
    the averaged weights if there are any. Thresholds in them come from the validation split itself; the report of
    a finished run takes the test split at the thresholds of the validation split instead.

    Raises:
        NonFiniteLossError: at the first log after a loss that is not finite, before any checkpoint is written.
    """

    args: CXRTrainingArguments

    def __init__(
        self,
        model: CXRPreTrainedModel,
        args: CXRTrainingArguments,
        loss: nn.Module,
        train_dataset: Dataset[Any],
        eval_dataset: Dataset[Any],
        augmentation: AugmentationConfig | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(train_dataset, FilmStream) and args.sampling != "uniform":
            raise ValueError(f"sampling {args.sampling}: a stream reads each shard once an epoch; use uniform")
        self.augmentation = augmentation or AugmentationConfig()
        # Of the weights as they came, and fitted after training: neither holds for the weights that come.
        model.config.calibration = model.config.operating_points = None
        if args.channels_last:
            model = model.to(memory_format=torch.channels_last)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=default_collate,
            compute_metrics=self._figures,
            **kwargs,
        )
        if self.is_fsdp_enabled:
            # accelerate shards an input embedding apart and asks every model for its own; films have none.
            self.model.get_input_embeddings = lambda: None
        self.loss = loss.to(args.device)
        self.loss_is_scaled_for_ga = True
        self._components_since = 0
        self._components: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=args.device))
        self.average: WeightAverage | None = None
        if args.ema_decay:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("ema_decay needs whole weights on every process; set it to 0 under FSDP or DeepSpeed")
            self.average = WeightAverage(self.model, args.ema_decay)
            self.add_callback(_UpdateAverage(self.average))
        if args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))

    # ---- batches ----

    def _get_train_sampler(self, train_dataset: Dataset[Any] | None = None) -> Sampler[int]:
        films: Any = train_dataset if train_dataset is not None else self.train_dataset
        if isinstance(films, FilmStream):
            return films.order(
                self.args.seed,
                self._epoch,
                self._train_batch_size,
                self.args.world_size,
                self.args.dataloader_num_workers,
            )
        weight_N = repeat_factors(films.labels) if self.args.sampling == "label_balanced" else None
        return EpochSampler(films, self.args.seed, self._epoch, weight_N)

    def unreadable_films(self) -> dict[str, int]:
        """Films of a stream left out as unreadable since `train` began, of all processes; nothing of decoded films."""
        if not isinstance(self.train_dataset, FilmStream):
            return {}
        found = self.train_dataset.unreadable.to(self.args.device, torch.int64)
        return {"films_unreadable": int(self.accelerator.reduce(found, "sum").clamp(max=1).sum())}

    def _epoch(self) -> int:
        # The Trainer sets epoch + (step + 1) / steps, which is exactly epoch + 1 after the last step.
        return int(self.state.epoch or 0)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        inputs = dict(super()._prepare_inputs(inputs))
        pixels = inputs["pixel_values"]
        statistics = self.model.config.image_mean, self.model.config.image_std
        if self.model.training:
            pixels = augment(pixels, inputs["index"], self.augmentation, seed=self.args.seed, epoch=self._epoch())
            pixels = normalise_(pixels, *statistics)
        else:
            pixels = normalise(pixels, *statistics)
        layout = torch.channels_last if self.args.channels_last else torch.contiguous_format
        return {**inputs, "pixel_values": pixels.contiguous(memory_format=layout)}

    # ---- loss ----

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | None:
        """Known labels and films over all micro-batches and processes, (2,): the divisors of the loss.

        With them the accumulated gradient is that of the large batch, however unevenly labels are known.
        """
        if not batch_samples:
            return None
        counts = torch.stack([count_known(batch["labels"]) for batch in batch_samples]).sum(0).to(device)
        return self.accelerator.reduce(counts, "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Loss of a micro-batch as its part of the whole step's loss."""
        outputs = model(pixel_values=inputs["pixel_values"])
        loss: LossOutput = self.loss(outputs.logits, inputs["labels"], num_items_in_batch)
        # Gradients are averaged over processes, the divisors are sums over them.
        scale = self.accelerator.num_processes if num_items_in_batch is not None else 1
        if not self._components:
            self._components_since = self.state.global_step
        for name, value in loss.components.items():
            self._components[name] += value * scale
        total = loss.total * scale
        return (total, outputs) if return_outputs else total

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the loss components since the last log; refuses a loss that is not finite."""
        if "loss" in logs and "grad_norm" in logs:
            n_steps = self.state.global_step - self._components_since
            for name, value in self._components.items():
                logs[f"loss_{name}"] = self.accelerator.reduce(value, "mean").item() / n_steps
            self._components.clear()
            broken = [name for name, value in logs.items() if name.startswith("loss") and not math.isfinite(value)]
            if broken:
                raise NonFiniteLossError(
                    f"{', '.join(broken)} not finite at or before step {self.state.global_step} (learning rate "
                    f"{logs.get('learning_rate')}). Lower the learning rate, clip with max_grad_norm, or switch off "
                    "fp16. Checkpoints written before are whole."
                )
        super().log(logs, *args, **kwargs)

    # ---- evaluation ----

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Figures on the validation split; see the class."""
        average_batch_norm(self.model)
        if self.average:
            self.average.average_over_processes()
        with self.average.applied(self.model) if self.average else nullcontext():
            return super().evaluate(*args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, Tensor, tuple[Tensor, Tensor]]:
        """Logits, and labels with the film's index, by which `_figures` proves that no film is lost or doubled."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(pixel_values=inputs["pixel_values"]).logits
        return None, logits.float(), (inputs["labels"], inputs["index"])

    def _figures(self, prediction: EvalPrediction) -> dict[str, float]:
        # A list of batches each, see `eval_do_concat_batches`.
        labels, index = map(np.concatenate, zip(*prediction.label_ids, strict=True))
        order = np.argsort(index, kind="stable")
        if not np.array_equal(index[order], np.arange(len(index))) or len(index) != len(self.eval_dataset):
            raise RuntimeError(
                f"evaluation gathered {len(index)} rows ({len(set(index.tolist()))} different) of "
                f"{len(self.eval_dataset)} films"
            )
        figures = epoch_figures(
            np.concatenate(list(prediction.predictions))[order],
            labels[order],
            self.model.config,
            self.loss,
            gate_criterion=self.args.gate_criterion,
            device=self.args.device,
        )
        wanted = str(self.args.metric_for_best_model).removeprefix("eval_")
        if not math.isfinite(figures.get(wanted, math.nan)):
            raise RuntimeError(
                f"metric_for_best_model '{wanted}' is undefined on the validation split; figures are {figures}. "
                "Choose another, or a validation split in which every class stands."
            )
        return figures

    # ---- optimiser ----

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weight decay on matrices and kernels only: not on norms, biases, class token or position embedding."""
        kept_free = ("cls_token", "pos_embed", "reg_token", "dist_token")
        return [n for n, p in model.named_parameters() if p.ndim > 1 and not n.endswith(kept_free)]


class _UpdateAverage(TrainerCallback):
    """Takes the weights into the average after each optimiser step."""

    def __init__(self, average: WeightAverage) -> None:
        self.average = average

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module | None = None, **_: Any) -> None:
        assert model is not None
        self.average.follow(model)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.average.update()
