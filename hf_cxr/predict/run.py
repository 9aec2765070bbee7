"""From settings to a finished table, on one process or many."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from PIL import Image
from tqdm.auto import tqdm

from hf_cxr.batching import BatchSize
from hf_cxr.loading import ModelError, load_model, load_processor
from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.pipeline import ChestXRayClassificationPipeline
from hf_cxr.precision import check_heatmaps, set_precision
from hf_cxr.predict.arguments import PredictArguments
from hf_cxr.predict.opening import fetched, open_source
from hf_cxr.predict.reading import in_order, read_film
from hf_cxr.predict.sources import Source, SourceError, Survey
from hf_cxr.predict.table import NUMBER, Reader
from hf_cxr.predict.writing import HEATMAPS, Counts, OutputFolder
from hf_cxr.processes import start_processes
from hf_cxr.uncertainty import check_passes

_VERSIONED = ("hf_cxr", "torch", "transformers", "accelerate", "timm", "numpy", "pillow", "pyarrow")
_PATIENCE = timedelta(days=2)
"""How long a process waits for the others: the launcher ends them all when one fails, so it need not be short."""

T = TypeVar("T")


@dataclass(frozen=True)
class Done:
    """A finished table: where it is, and what it counts."""

    table: Path
    counts: Counts


def predict(settings: PredictArguments) -> Done:
    """Read every film of the source and write the table; see `recipes/predict.py`.

    Each process takes parts in turn; a part's rows, batches and therefore figures do not depend on which.

    Returns:
        the same on every process.

    Raises:
        SettingsError, ModelError, PrecisionError, QuantisationError, SourceError, OutputFolderError, NoDropoutError:
            before any film is read.
        FilmTooLargeError: the memory does not hold the model's work on one film.
        SourceError: also where the list or a Parquet file breaks off half way.
        LostFilmsError: the parts do not hold every film once.
    """
    state = start_processes(settings.use_cpu, _PATIENCE)
    folder = OutputFolder(Path(settings.output_dir), overwrite=settings.overwrite, resume=settings.resume)
    _on_main(state, folder.check)
    pipe = load(str(settings.model), state.device)
    weights = fingerprint(pipe.network, pipe.image_processor)
    int8_folder = Path(settings.int8) if settings.int8 else None
    int8 = set_precision(pipe.network, pipe.image_processor, settings.precision, int8_folder)
    settings = replace(settings, source=_on_main(state, lambda: fetched(settings.source)))
    source = open_source(settings, pipe.hierarchy.names)
    reader = _reader(pipe, source, settings)
    about_model = {"sha256": weights} | ({"int8_sha256": int8} if int8 else {})
    survey = _on_main(state, source.survey)
    ranges = [
        range(start, min(start + settings.part_size, survey.n_films))
        for start in range(0, survey.n_films, settings.part_size)
    ]
    run = _on_main(state, lambda: describe(settings, pipe, about_model, source, survey, state))
    missing = _on_main(state, lambda: folder.claim(run, ranges))
    _make_parts(missing[state.process_index :: state.num_processes], ranges, source, reader, settings, folder, state)
    state.wait_for_everyone()
    return _on_main(state, lambda: _finish(folder, ranges, survey, reader.schema, run, settings.format))


def _on_main(state: PartialState, work: Callable[[], T]) -> T:
    """The result of the main process on every process; or its error, so that none waits for what never comes."""
    outcome: list[Any] = [None]
    if state.is_main_process:
        try:
            outcome = [(work(), None)]
        except Exception as raised:  # whatever it is, the others must not wait for this process; raised again below
            outcome = [(None, raised)]
    if state.num_processes > 1:
        broadcast_object_list(outcome)
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def load(name: str, device: torch.device) -> ChestXRayClassificationPipeline:
    """A model and its processor, in float32 on a device, as loaded.

    Raises:
        ModelError: no such folder, weights or processor are missing, or no model of the project.
    """
    model, processor = load_model(name), load_processor(name)
    for tensor in (*model.parameters(), *model.buffers()):
        # On one process transformers leaves weights where the file is mapped, at any address, on several it copies
        # them to addresses of whole cache lines; rounding depends on that, and the table should not.
        tensor.data = tensor.data.clone()
    try:
        return ChestXRayClassificationPipeline(model.to(device), image_processor=processor, device=device)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name}: {error}") from error


def _reader(pipe: ChestXRayClassificationPipeline, source: Source, settings: PredictArguments) -> Reader:
    if settings.dropout_passes:
        check_passes(pipe.network, settings.dropout_passes)
    reader = Reader(
        pipe,
        source.columns,
        n_passes=settings.dropout_passes,
        seed=settings.seed,
        heatmaps=settings.heatmaps,
        batch_size=BatchSize(settings.batch_size) if settings.batch_size else BatchSize.for_device(pipe.device),
    )
    if settings.heatmaps:
        check_heatmaps(pipe.network, settings.precision)
    if settings.heatmaps and not reader.thresholds:
        raise ModelError(
            f"{settings.model}: stores no operating points, so that nothing is decided positive and no heatmap would "
            "be drawn; train it to the end, or leave out --heatmaps"
        )
    return reader


def describe(
    settings: PredictArguments,
    pipe: ChestXRayClassificationPipeline,
    hashes: dict[str, Any],
    source: Source,
    survey: Survey,
    state: PartialState,
) -> dict[str, Any]:
    """All that `predict.yaml` holds before the counts: enough to repeat the table, nothing of the user's folders."""
    config, name = pipe.network.config, Path(str(settings.model))
    return {
        "model": {
            "name": name.resolve().name if name.is_dir() else str(settings.model),
            "type": config.model_type,
            "labels": list(config.label_names),
        }
        | hashes,
        "settings": settings.held_on_resume(),
        "source": {"name": source.path.resolve().name, "kind": source.kind, **asdict(survey)}
        | {"left_out": list(survey.left_out)},
        "versions": {"python": platform.python_version(), **{each: version(each) for each in _VERSIONED}},
        "processes": state.num_processes,
        "device": state.device.type,
    }


def fingerprint(model: CXRPreTrainedModel, processor: CXRImageProcessor) -> str:
    """Of the weights, the config (calibration and operating points are in it) and how films are prepared."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")}
    digest = hashlib.sha256(json.dumps([config, processor.fingerprint], sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _make_parts(
    numbers: Sequence[int],
    ranges: Sequence[range],
    source: Source,
    reader: Reader,
    settings: PredictArguments,
    folder: OutputFolder,
    state: PartialState,
) -> None:
    """Read the films of these parts, batch by batch, and write each part when it is whole."""
    mine = [ranges[i] for i in numbers]
    decode = partial(read_film, processor=reader.pipe.image_processor)
    size = reader.batch_size
    films = in_order(decode, source.rows(mine), settings.num_workers, 2 * size.films)
    pictures = folder.path / HEATMAPS
    if settings.heatmaps:
        pictures.mkdir(exist_ok=True)
    hidden = not state.is_main_process
    with tqdm(total=sum(map(len, mine)), desc="Predicting", unit=" films", disable=hidden, leave=False) as bar:
        for number, expected in zip(numbers, mine, strict=True):
            rows: list[dict[str, Any]] = []
            while batch := list(islice(films, min(size.films, len(expected) - len(rows)))):
                read, overlays = reader.read(batch)
                rows += read
                for name, overlay in overlays.items():
                    Image.fromarray(overlay).save(pictures / name)
                bar.update(len(batch))
            if [row[NUMBER] for row in rows] != list(expected):
                raise SourceError(
                    f"{source.path}: ended after {len(rows)} of the rows {expected}; it was longer before"
                )
            folder.write_part(number, pa.Table.from_pylist(rows, schema=reader.schema))


def _finish(
    folder: OutputFolder, ranges: Sequence[range], survey: Survey, schema: pa.Schema, run: dict[str, Any], form: str
) -> Done:
    counts = folder.join(ranges, survey.ids_sha256, schema, form)
    return Done(folder.finish(run | {"counts": asdict(counts)}, form), counts)
