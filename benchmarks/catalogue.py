"""What there is to measure, by name, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import growth, indexing, inference, loading, training_step
from benchmarks.equal_epochs import equal_epochs
from benchmarks.timing import Budget, Comparison

Entry = Callable[[], Comparison | Budget | dict[str, Any]]

CATALOGUE: dict[str, Entry] = {
    entry.__name__: entry
    for entry in (
        loading.loader_steady,
        loading.loader_steady_workers,
        loading.loader_first_epoch,
        loading.loader_share,
        training_step.step_densenet_128,
        training_step.step_densenet_320,
        training_step.step_vit_224,
        training_step.bare_densenet_128,
        training_step.bare_densenet_320,
        training_step.bare_vit_224,
        inference.mc_dropout,
        inference.heatmaps,
        inference.look_at_once,
        inference.two_stage,
        inference.inference_bf16,
        inference.bootstrap,
        indexing.index_nih,
        indexing.index_chexpert,
        equal_epochs,
        growth.growth_preparation,
        growth.growth_epoch,
        growth.growth_evaluation,
        growth.growth_bootstrap,
        growth.growth_prediction,
    )
}
