"""Where data and labels meet: decoded films with encoded labels, ready for a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from hf_cxr.arguments import DataArguments, PolicyArguments, Settings, SettingsError
from hf_cxr.data import DataProblems, FilmDataset, decode, findings_matrix, load_splits, map_of
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.hospital_taxonomy import JoinedTaxonomy, join_taxonomy
from hf_cxr.labels import EncodedLabels, LabelError, encode, labels_without_positives
from hf_cxr.models import CXRImageProcessor


@dataclass(frozen=True)
class Films:
    """Decoded films of every split with their labels.

    Attributes:
        decoded: Arrow rows with `pixels` and metadata. labels: encoded for their use: training policies on the
            training split, hard and uncertain-unknown on the others.
        provenance: where the data come from and what was left out.
        unclosed: training labels before closure, None of one split.
        joined: how a hospital's findings met the taxonomy; None where the films have the taxonomy's own.
    """

    hierarchy: Hierarchy
    decoded: dict[str, datasets.Dataset]
    labels: dict[str, EncodedLabels]
    provenance: dict[str, Any]
    unclosed: EncodedLabels | None = None
    joined: JoinedTaxonomy | None = None

    def dataset(self, split: str, names: tuple[str, ...] | None = None, rows: Any = None) -> FilmDataset:
        """Films of a split; on wish only these labels and these rows."""
        encoded, decoded = self.labels[split], self.decoded[split]
        values = encoded.values[:, [encoded.names.index(n) for n in names or encoded.names]]
        if rows is not None:
            values, decoded = values[rows], decoded.select(rows)
        return FilmDataset(decoded, values)

    def pixels(self, split: str) -> NDArray[np.uint8]:
        """All films of a split, (N, S, S), in memory."""
        raw = self.decoded[split]["pixels"][:]
        side = math.isqrt(len(raw[0]))
        return np.frombuffer(bytearray().join(raw), dtype=np.uint8).reshape(len(raw), side, side)

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
    size, data, labels = settings.model.image_size, settings.data, settings.labels
    processor = CXRImageProcessor(
        fit=settings.model.fit, lateral=data.wants_lateral, size={"height": size, "width": size}
    )
    films = prepare(data, labels, processor, labels.hierarchy(), seed=settings.training.seed)
    if (empty := labels_without_positives(films.labels["train"])) and not labels.allow_empty_labels:
        raise LabelError(
            f"no training film is positive for {', '.join(empty)}: nothing can be learned of them. Set "
            "allow_empty_labels to train all the same, or use a taxonomy without them."
        )
    return films


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
) -> Films:
    """Films for a model's taxonomy.

    Args:
        data, labels: which films, and what uncertain, blank and conflicting cells mean.
        processor, hierarchy: the model's. Of a hospital's films, `hierarchy` is joined with its map: with all splits,
            nodes that only the map has are added; with one, they count as their parents.
        only: this split alone; its labels are then for evaluation, whichever it is. seed: of smoothed labels.

    Raises:
        DataProblems, LabelError: see `data` and `labels`. SettingsError: the data set has no such split.
        HierarchyError: a hospital's map does not fit the taxonomy.
    """
    options = data.builder_options()
    mapped = map_of(data.dataset, data.data_dir, **options)
    joined = None if mapped is None else join_taxonomy(mapped, hierarchy, extend=only is None)
    decoded, provenance = _decoded(data, options, processor, only)
    if joined is not None:
        hierarchy = joined.hierarchy
        provenance["hospital"] = joined.summary()
    policy = labels.policy(seed)

    def encoded(split: str, **how: Any) -> EncodedLabels:
        columns, raw = findings_matrix(decoded[split])
        if joined is not None:
            columns, raw = joined.columns(columns, raw)
        for_training = split == "train" and only is None
        return encode(columns, raw, hierarchy, policy if for_training else policy.for_evaluation(), **how)

    return Films(
        hierarchy,
        decoded,
        {split: encoded(split) for split in decoded},
        provenance,
        encoded("train", close=False) if only is None else None,
        joined,
    )


def _decoded(
    data: DataArguments, options: dict[str, Any], processor: CXRImageProcessor, only: str | None
) -> tuple[dict[str, datasets.Dataset], dict[str, Any]]:
    with PartialState().main_process_first():  # the others find the finished cache
        splits, provenance = load_splits(data.dataset, data.data_dir, data.cache_dir, **options)
        if only and only not in splits:
            raise SettingsError(f"data set {data.dataset} has no split '{only}'; it has {', '.join(splits)}")
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


def image_statistics(films: FilmDataset, n_films: int = 2048) -> tuple[float, float]:
    """Mean and standard deviation of the pixels in [0, 1], over evenly spaced films."""
    rows = np.linspace(0, len(films) - 1, min(n_films, len(films))).astype(int).tolist()
    pixels = torch.stack([film["pixel_values"] for film in films.__getitems__(rows)]).double() / 255
    return round(pixels.mean().item(), 4), round(pixels.std().item(), 4)
