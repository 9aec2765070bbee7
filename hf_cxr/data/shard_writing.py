"""A prepared data set into a folder of Parquet shards, with the films inside."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from datasets.table import embed_table_storage
from datasets.utils import tqdm

from hf_cxr.data.shards import PROVENANCE, SUFFIX, ShardError

ROW_GROUP = 128
"""Films a row group: what is read at once. 50 MB of 1024² PNG, and small enough that a shuffled window has several."""


def write_shards(
    splits: Mapping[str, datasets.Dataset],
    provenance: Mapping[str, Any],
    folder: str | Path,
    *,
    films_per_shard: int = 4096,
    films_per_row_group: int = ROW_GROUP,
) -> Path:
    """Write what `load_splits` returned as `recipes/push_dataset.py` would to the Hub, for `--dataset shards`.

    The folder appears whole or not at all. Files are read one row group at a time.

    Args:
        splits, provenance: of `load_splits`, not decoded; `provenance` goes into `provenance.json`.
        folder: new or empty.

    Raises:
        ShardError: the folder holds something. ValueError: a count below 1. OSError: a film's file is gone, or the disk
            is full.
    """
    folder = Path(folder)
    if films_per_shard < 1 or films_per_row_group < 1:
        raise ValueError(
            f"received {films_per_shard} films a shard, {films_per_row_group} a row group; expected 1 or more"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ShardError(f"{folder} is there and not empty; choose another folder")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    n_films = sum(len(films) for films in splits.values())
    try:
        with tqdm(desc="Writing shards", total=n_films, unit=" films") as bar:
            for split, films in splits.items():
                n_shards = math.ceil(len(films) / films_per_shard)
                for number in range(n_shards):
                    rows = range(number * films_per_shard, min((number + 1) * films_per_shard, len(films)))
                    name = f"{split}-{number:05d}-of-{n_shards:05d}{SUFFIX}"
                    _write(films, rows, partial / name, films_per_row_group)
                    bar.update(len(rows))
        (partial / PROVENANCE).write_text(json.dumps(provenance, indent=2), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write(films: datasets.Dataset, rows: range, path: Path, n_rows: int) -> None:
    arrow = films.with_format("arrow")
    with pq.ParquetWriter(path, films.features.arrow_schema) as writer:
        for start in range(rows.start, rows.stop, n_rows):
            table = arrow[start : min(start + n_rows, rows.stop)].cast(films.features.arrow_schema)
            writer.write_table(embed_table_storage(table), row_group_size=n_rows)
