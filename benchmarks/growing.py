"""One piece of work at one size, in a process of its own: its seconds, and the most memory it held.

    python -m benchmarks.growing preparation FOLDER CACHE

Imports are not timed; what else is not, the works say.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.held_memory import HeldMemory
from hf_cxr import load_taxonomy
from hf_cxr.arguments import DataArguments, LabelArguments
from hf_cxr.augmentation import AugmentationConfig
from hf_cxr.bootstrap import Resamples
from hf_cxr.films import Films, prepare
from hf_cxr.full_report import full_report
from hf_cxr.intervals import bootstrap_table
from hf_cxr.losses import build_loss
from hf_cxr.models import SINGLE_STAGE, CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.operating_points import choose_operating_points
from hf_cxr.predict import PredictArguments, predict
from hf_cxr.predictions import METADATA, PredictionTable
from hf_cxr.trainer import CXRTrainer
from hf_cxr.training_arguments import CXRTrainingArguments

SIZE = 64
"""Pixels of a side in the cache and in the model: half of nih128's, so that the largest size ends within minutes."""
TINY: dict[str, Any] = {"backbone": "densenet121", "backbone_kwargs": {"growth_rate": 4, "block_config": [1, 1]}}
"""Two layers of 4 channels: reading, augmenting and writing a film cost more than its convolutions do."""
RESAMPLES, RESAMPLES_OF_REPORT = 1000, 200
NIH = load_taxonomy("nih")


@dataclass(frozen=True)
class Grown:
    """What one process measured.

    Attributes:
        films: that the work met. seconds: on the clock. cpu_seconds: of the processor, by this process and the
            children that it has waited for.
        before_bytes, peak_bytes: the most that was held before the work, and during it; see `HeldMemory`.
    """

    films: int
    seconds: float
    cpu_seconds: float
    before_bytes: int
    peak_bytes: int


class Watch:
    """Looks at memory while it is entered, and at time and memory between `start` and `stop`."""

    def __init__(self) -> None:
        self._held = HeldMemory()

    def __enter__(self) -> Watch:
        self._held.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._held.__exit__(*reason)

    def start(self) -> None:
        self._before = self._held.restart()
        self._cpu, self._clock = _cpu_seconds(), time.perf_counter()

    def stop(self) -> None:
        self._seconds, self._cpu_seconds = time.perf_counter() - self._clock, _cpu_seconds() - self._cpu
        self._peak = self._held.restart()

    def grown(self, films: int) -> Grown:
        return Grown(films, self._seconds, self._cpu_seconds, self._before, self._peak)


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def preparation(folder: str, cache: str) -> Grown:
    """Index, validate and decode every film of a folder into a cache, and encode the labels."""
    with Watch() as watch:
        watch.start()
        films = _films(folder, cache)
        watch.stop()
    return watch.grown(sum(map(len, films.decoded.values())))


def epoch(folder: str, cache: str) -> Grown:
    """One epoch of training and its evaluation, from a cache that is there; `films` are those trained on.

    What comes before the epoch (indexing, the trainer's construction) is in `before_bytes`.
    """
    with Watch() as watch, tempfile.TemporaryDirectory() as out:
        films = _films(folder, cache)
        train = films.dataset("train")
        arguments = CXRTrainingArguments(
            output_dir=out, num_train_epochs=1, per_device_train_batch_size=32, save_strategy="no",
            load_best_model_at_end=False, optim="adamw_torch_fused", bf16=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = CXRTrainer(
            tiny_model(), arguments, build_loss("bce", NIH), train, films.dataset("validation"),
            AugmentationConfig(flip=0.5, rotation=10, scale=0.1, shift=0.05, brightness=0.1, contrast=0.1),
        )  # fmt: skip
        trainer.add_callback(_EpochWatch(watch))
        trainer.train()
    return watch.grown(len(train))


class _EpochWatch(TrainerCallback):
    """The evaluation comes after the epoch's end and before training's."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def on_epoch_begin(self, *_: Any, **__: Any) -> None:
        self.watch.start()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.watch.stop()


def evaluation(file: str) -> Grown:
    """From a prediction table on the disk to its full report, thresholds chosen on the way."""
    with Watch() as watch:
        watch.start()
        table = PredictionTable.read(Path(file))
        points = choose_operating_points(table, NIH, "validation")
        full_report(table, NIH, "test", operating_points=points, n_resamples=RESAMPLES_OF_REPORT, group_by=METADATA)
        watch.stop()
    return watch.grown(len(table))


def bootstrap(file: str) -> Grown:
    """AUROCs of the findings with intervals over patients; reading the table is not timed."""
    with Watch() as watch:
        table = PredictionTable.read(Path(file)).in_order(NIH.findings)
        watch.start()
        resamples = Resamples.of(table.patients, RESAMPLES)
        drawn = bootstrap_table(table.names, table.truth, table.probability, resamples, figures=("auroc",))
        for figure in drawn.point:
            drawn.interval(figure)
        watch.stop()
    return watch.grown(len(table))


def prediction(folder: str, model: str) -> Grown:
    """What recipes/predict.py does with a folder of films, from loading the model to the finished table."""
    with Watch() as watch, tempfile.TemporaryDirectory() as out:
        watch.start()
        done = predict(PredictArguments(model=model, source=[f"{folder}/images"], output_dir=f"{out}/predictions"))
        watch.stop()
    return watch.grown(done.counts.films)


def _films(folder: str, cache: str) -> Films:
    processor = CXRImageProcessor(size={"height": SIZE, "width": SIZE})
    return prepare(DataArguments(dataset="nih", data_dir=folder, cache_dir=cache), LabelArguments(), processor, NIH)


def tiny_model() -> CXRPreTrainedModel:
    """A model that costs next to nothing, with random weights."""
    config_class, model_class = SINGLE_STAGE["cxr-densenet"]
    torch.manual_seed(0)
    return model_class(config_class(**TINY, image_size=SIZE, link="conditional", **NIH.to_config()))


def save_tiny_model(folder: Path) -> None:
    """The model and its processor, as `prediction` loads them."""
    model = tiny_model()
    model.save_pretrained(folder)
    CXRImageProcessor.for_model(model.config).save_pretrained(folder)


WORKS: dict[str, Callable[..., Grown]] = {
    work.__name__: work for work in (preparation, epoch, evaluation, bootstrap, prediction)
}


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    print(json.dumps(asdict(WORKS[name](*given))))
