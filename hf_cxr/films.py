"""Where data and labels meet: decoded films with encoded labels, ready for a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from hf_cxr.arguments import DataArguments, PolicyArguments, Settings, SettingsError
from hf_cxr.data import DataProblems, FilmDataset, FilmStream, decode, findings_matrix, load_splits, map_of
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.hospital_taxonomy import JoinedTaxonomy, join_taxonomy
from hf_cxr.labels import EncodedLabels, LabelError, encode, labels_without_positives
from hf_cxr.memory import give_back, in_a_child
from hf_cxr.models import CXRImageProcessor
from hf_cxr.training_arguments import CXRTrainingArguments


@dataclass(frozen=True)
class Films:
    """Decoded films of every split with their labels.

    Attributes:
        decoded: Arrow rows with `pixels` and metadata; not of a training split that is streamed.
        labels: encoded for their use: training policies on the training split, hard and uncertain-unknown on the
            others.
        provenance: where the data come from and what was left out.
        encode_unclosed: makes the training labels before closure; None of one split.
        joined: how a hospital's findings met the taxonomy; None where the films have the taxonomy's own.
        stream: training films, from labels and rows of them; None where they are decoded.
    """

    hierarchy: Hierarchy
    decoded: dict[str, datasets.Dataset]
    labels: dict[str, EncodedLabels]
    provenance: dict[str, Any]
    encode_unclosed: Callable[[], EncodedLabels] | None = None
    joined: JoinedTaxonomy | None = None
    stream: Callable[[NDArray[np.float32], Any], FilmStream] | None = None

    def dataset(self, split: str, names: tuple[str, ...] | None = None, rows: Any = None) -> FilmDataset | FilmStream:
        """Films of a split; on wish only these labels and these rows."""
        encoded = self.labels[split]
        values = encoded.values
        if names not in (None, encoded.names):  # taken as they are, they need not be copied
            values = values[:, [encoded.names.index(n) for n in names]]
        if split == "train" and self.stream is not None:
            return self.stream(values, rows)
        decoded = self.decoded[split]
        if rows is not None:
            values, decoded = values[rows], decoded.select(rows)
        return FilmDataset(decoded, values)

    def pixels(self, split: str, rows: NDArray[np.intp] | None = None) -> NDArray[np.uint8]:
        """All films of a split, or these rows of it, (N, S, S), in memory."""
        decoded = self.decoded[split] if rows is None else self.decoded[split].select(rows)
        raw = decoded["pixels"][:]
        side = math.isqrt(len(raw[0]))
        return np.frombuffer(bytearray().join(raw), dtype=np.uint8).reshape(len(raw), side, side)

    def unclosed_labels(self, names: tuple[str, ...]) -> torch.Tensor:
        """Training labels before closure, (N, L): how often the source itself breaks the hierarchy. Not kept."""
        assert self.encode_unclosed is not None  # there is a training split
        encoded = self.encode_unclosed()
        return torch.from_numpy(encoded.values[:, [encoded.names.index(name) for name in names]])

    def prevalence(self, names: tuple[str, ...], rows: Any = None) -> dict[str, float]:
        """Mean training target of each label over the films (or these rows) where it is known."""
        encoded = self.labels["train"]
        values = encoded.values if rows is None else encoded.values[rows]
        columns = {n: values[:, encoded.names.index(n)] for n in names}
        return {n: float(np.nanmean(c)) if (~np.isnan(c)).any() else 0.5 for n, c in columns.items()}


def prepare_films(settings: Settings) -> Films:
    """Build the data set, decode every film once, encode the labels; all errors in the data come up here.

    Raises:
        DataProblems, LabelError: see `data` and `labels`; also a label without a positive training film, unless
            `allow_empty_labels`. HierarchyError: a hospital's map does not fit the taxonomy.
    """
    data, labels = settings.data, settings.labels
    films = prepare(
        data,
        labels,
        processor_of(settings),
        labels.hierarchy(),
        seed=settings.training.seed,
        may_stream=data.streaming,
    )
    if data.streaming:
        n_films = len(films.labels["train"].values)
        films.provenance["stream"] = last_step(n_films, settings.training)
    if (empty := labels_without_positives(films.labels["train"])) and not labels.allow_empty_labels:
        raise LabelError(
            f"no training film is positive for {', '.join(empty)}: nothing can be learned of them. Set "
            "allow_empty_labels to train all the same, or use a taxonomy without them."
        )
    return films


def processor_of(settings: Settings) -> CXRImageProcessor:
    """What reads the films of a training run; the statistics of its model's own processor come with the model."""
    side = settings.model.image_size
    return CXRImageProcessor(
        fit=settings.model.fit, lateral=settings.data.wants_lateral, size={"height": side, "width": side}
    )


def prepare_split(
    data: DataArguments, labels: PolicyArguments, processor: CXRImageProcessor, hierarchy: Hierarchy, split: str
) -> Films:
    """One split for the evaluation of a model, decoded as by its processor; otherwise as `prepare`."""
    return prepare(data, labels, processor, hierarchy, only=split)


def prepare(
    data: DataArguments,
    labels: PolicyArguments,
    processor: CXRImageProcessor,
    hierarchy: Hierarchy,
    *,
    only: str | None = None,
    seed: int = 0,
    may_stream: bool = False,
) -> Films:
    """Films for a model's taxonomy.

    Args:
        data, labels: which films, and what uncertain, blank and conflicting cells mean.
        processor, hierarchy: the model's. Of a hospital's films, `hierarchy` is joined with its map: with all splits,
            nodes that only the map has are added; with one, they count as their parents.
        only: this split alone; its labels are then for evaluation, whichever it is. seed: of smoothed labels.
        may_stream: whether the caller can do without decoded training films, see `DataArguments.streaming`.

    Raises:
        DataProblems, LabelError: see `data` and `labels`. SettingsError: the data set has no such split, or streaming
            is asked for and may not be.
        HierarchyError: a hospital's map does not fit the taxonomy.
    """
    if data.streaming and not may_stream:
        raise SettingsError("streaming: only recipes/train.py reads films while it trains; leave it out here")
    options = data.builder_options()
    mapped = map_of(data.dataset, data.data_dir, **options)
    joined = None if mapped is None else join_taxonomy(mapped, hierarchy, extend=only is None)
    stream, rows = None, {}
    if data.streaming:
        decoded, provenance, rows["train"] = _streamed(data, options, processor)
        stream = _stream(data, rows["train"], processor)
    else:
        decoded, provenance = _decoded(data, options, processor, only)
    rows |= decoded
    if joined is not None:
        hierarchy = joined.hierarchy
        provenance["hospital"] = joined.summary()
    policy = labels.policy(seed)

    def encoded(split: str, **how: Any) -> EncodedLabels:
        columns, raw = findings_matrix(rows[split])
        if joined is not None:
            columns, raw = joined.columns(columns, raw)
        for_training = split == "train" and only is None
        return encode(columns, raw, hierarchy, policy if for_training else policy.for_evaluation(), **how)

    films = Films(
        hierarchy,
        decoded,
        {split: encoded(split) for split in rows},
        provenance,
        partial(encoded, "train", close=False) if only is None else None,
        joined,
        stream,
    )
    give_back()
    return films


def _streamed(
    data: DataArguments, options: dict[str, Any], processor: CXRImageProcessor
) -> tuple[dict[str, datasets.Dataset], dict[str, Any], datasets.Dataset]:
    """The small splits decoded, and of the training films all but the films."""
    with PartialState().main_process_first():
        splits, provenance = in_a_child(load_splits, data.dataset, data.data_dir, data.cache_dir, **options)
    decoded: dict[str, datasets.Dataset] = {}
    unreadable: dict[str, int] = {}
    for split in splits:
        if split != "train":
            own, of_split = _decoded(data, options, processor, split)
            decoded |= own
            unreadable |= of_split["unreadable"]
    return decoded, provenance | {"unreadable": unreadable}, splits["train"]


def _stream(
    data: DataArguments, train: datasets.Dataset, processor: CXRImageProcessor
) -> Callable[[NDArray[np.float32], Any], FilmStream]:
    def stream(values: NDArray[np.float32], chosen: Any) -> FilmStream:
        return FilmStream(
            train,
            values,
            str(data.data_dir),
            processor.read,
            processor.size["height"],
            window=data.stream_window,
            skip_unreadable=data.skip_missing,
            chosen=chosen,
        )

    return stream


def last_step(n_films: int, training: CXRTrainingArguments) -> dict[str, int]:
    """What the last, incomplete step of an epoch of a stream does, for every process to make as many: films that come
    a second time in an epoch, and films left out of it (other ones each epoch)."""
    n_step = training.world_size * training.train_batch_size
    over = n_films % n_step
    if training.dataloader_drop_last:
        return {"films_repeated": 0, "films_left_out": over}
    return {"films_repeated": (n_step - over) % n_step if training.world_size > 1 else 0, "films_left_out": 0}


def _decoded(
    data: DataArguments, options: dict[str, Any], processor: CXRImageProcessor, only: str | None
) -> tuple[dict[str, datasets.Dataset], dict[str, Any]]:
    state = PartialState()
    with state.main_process_first():  # the others find the finished tables
        splits, provenance = in_a_child(load_splits, data.dataset, data.data_dir, data.cache_dir, **options)
    if only and only not in splits:
        raise SettingsError(f"data set {data.dataset} has no split '{only}'; it has {', '.join(splits)}")
    # All processes decode at once, on all machines. Waiting for the first one would also end, after half an hour at
    # most, at the time limit that the process group has for every exchange.
    decoded, problems = {}, []
    for split in [only] if only else list(splits):
        try:
            decoded[split], n_unreadable = decode(
                splits[split],
                processor.read,
                image_size=processor.size["height"],
                fingerprint_of_read=processor.fingerprint,
                num_proc=data.num_proc,
                skip_unreadable=data.skip_missing,
                progress=state.is_local_main_process,
            )
        except DataProblems as found:  # those of the other splits are to be told with them
            problems.append(found)
            continue
        provenance.setdefault("unreadable", {})[split] = n_unreadable
    if problems:
        raise DataProblems.together(problems)
    return decoded, provenance


def label_summary(films: Films) -> dict[str, Any]:
    """What the labels were made of, a split each, for `run.yaml`."""
    summary: dict[str, Any] = {split: encoded.summary() for split, encoded in films.labels.items()}
    return summary | {"without_positives": labels_without_positives(films.labels["train"])}


def image_statistics(films: FilmDataset | FilmStream, n_films: int = 2048) -> tuple[float, float]:
    """Mean and standard deviation of the pixels in [0, 1], over evenly spaced films, or row groups of a stream."""
    if isinstance(films, FilmStream):
        rows = films.spread(n_films)
    else:
        rows = np.linspace(0, len(films) - 1, min(n_films, len(films))).astype(int).tolist()
    pixels = torch.stack([film["pixel_values"] for film in films.__getitems__(rows)]).double() / 255
    return round(pixels.mean().item(), 4), round(pixels.std().item(), 4)
