"""Parquet shards in a folder or on the Hub: what their small columns say, and films by row group."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import url_to_fs

from hf_cxr.data.index import BLANK
from hf_cxr.errors import UserError

SUFFIX = ".parquet"
PROVENANCE = "provenance.json"
SMALL = ("id", "patient", "study", "view", "sex", "age", "findings")
SPLITS = ("train", "validation", "test")
_SPLIT = re.compile(rf"({'|'.join(SPLITS)})(?![A-Za-z])")
_ABOUT = ("size", "mtime", "blob_id")


class ShardError(UserError, ValueError):
    """Shards that cannot be read; the message says which file, and what to do."""


@dataclass(frozen=True)
class Shard:
    """One Parquet file: its path below the data set's folder, its split, and what its file system says of it."""

    name: str
    split: str
    stamp: str
    size: int


def list_shards(data_dir: str) -> list[Shard]:
    """Parquet files below a folder or an address that fsspec knows, sorted by split and name.

    The split is the beginning of the file's name, as `datasets` writes it: `train-00000-of-00003.parquet`.

    Raises:
        ShardError: there are none, one's split cannot be told, it cannot be listed, or there is no train split.
    """
    fs, root = _file_system(data_dir)
    try:
        found = fs.find(root, detail=True)
    except (OSError, ValueError) as error:
        raise ShardError(f"{data_dir}: cannot be listed ({type(error).__name__}: {_first_line(error)})") from None
    shards = []
    for path, about in found.items():
        name = path.removeprefix(root).lstrip("/")
        if not name.endswith(SUFFIX):
            continue
        split = _SPLIT.match(name.rsplit("/", 1)[-1])
        if split is None:
            raise ShardError(
                f"{data_dir}: {name} says of no split; expected names such as train-00000-of-00003{SUFFIX}, with "
                "train, validation or test"
            )
        stamp = repr([about.get(key) for key in _ABOUT])
        shards.append(Shard(name, split[1], stamp, int(about["size"])))
    if not any(shard.split == "train" for shard in shards):
        raise ShardError(
            f"{data_dir}: {len(shards)} Parquet files, none of a split train; expected such as train-00000-of-00001"
            f"{SUFFIX} (hf_cxr.data.write_shards and recipes/push_dataset.py write them)"
        )
    return sorted(shards, key=lambda shard: (SPLITS.index(shard.split), shard.name))


@contextmanager
def opened(data_dir: str, name: str) -> Iterator[pq.ParquetFile]:
    """A shard, open for reading.

    Raises:
        ShardError: it cannot be read as Parquet.
    """
    fs, root = _file_system(data_dir)
    try:
        with fs.open(f"{root}/{name}", "rb") as raw, pq.ParquetFile(raw) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"{data_dir}: {name} cannot be read ({type(error).__name__}: {_first_line(error)})") from None


def read_text(data_dir: str, name: str) -> str | None:
    """A small file beside the shards; None where there is none."""
    fs, root = _file_system(data_dir)
    path = f"{root}/{name}"
    return str(fs.read_text(path)) if fs.exists(path) else None


@dataclass(frozen=True)
class SmallColumns:
    """All of a shard but its films.

    Attributes:
        films: `id, patient, study, view, sex, age`, and `group` and `at`: row group, and row in it.
        findings: (N, F) int8 with `BLANK`. names: the F findings. sha256: of films and findings, and the file's size.
    """

    films: pd.DataFrame
    findings: npt.NDArray[np.int8]
    names: tuple[str, ...]
    sha256: str


def small_columns(data_dir: str, shard: Shard) -> SmallColumns:
    """Read what a shard says of its films, and no film.

    Raises:
        ShardError: a column is missing, or `findings` is no struct of whole numbers.
    """
    with opened(data_dir, shard.name) as file:
        schema = file.schema_arrow
        if missing := [name for name in ("image", *SMALL) if name not in schema.names]:
            raise ShardError(f"{data_dir}: {shard.name} lacks columns {', '.join(missing)}; it has {schema.names}")
        if not pa.types.is_struct(schema.field("findings").type):
            raise ShardError(
                f"{data_dir}: {shard.name}: findings is {schema.field('findings').type}, expected a struct"
            )
        table = file.read(columns=list(SMALL))
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    findings = table["findings"].combine_chunks()
    names = tuple(findings.type.field(i).name for i in range(findings.type.num_fields))
    try:
        cells = [part.cast(pa.int8()).fill_null(BLANK).to_numpy(zero_copy_only=False) for part in findings.flatten()]
    except pa.ArrowInvalid as error:
        raise ShardError(f"{data_dir}: {shard.name}: findings: {error}; expected 1, 0, -1 or null") from None
    values = np.stack(cells, axis=1) if cells else np.empty((len(table), 0), np.int8)
    films = table.select(SMALL[:-1]).to_pandas()
    films["age"] = films["age"].astype("Int32")
    hashed = pd.util.hash_pandas_object(films, index=False).to_numpy()
    films["group"] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    films["at"] = np.concatenate([np.arange(n, dtype=np.int32) for n in counts] or [np.empty(0, np.int32)])
    digest = hashlib.sha256(f"{shard.size} {names} ".encode() + hashed.tobytes() + values.tobytes())
    return SmallColumns(films, values, names, digest.hexdigest())


def film_bytes(data_dir: str, name: str, group: int, rows: Sequence[int] | npt.NDArray[np.int32]) -> pa.Array:
    """The files of these films of one row group, undecoded; null where the shard has a path only.

    A row group is read whole. Returns a binary array as long as `rows`.
    """
    with opened(data_dir, name) as file:
        column = file.read_row_group(group, columns=["image"])["image"].combine_chunks()
    if pa.types.is_struct(column.type):
        column = column.field("bytes")
    return column.take(pa.array(rows, pa.int32()))


def is_remote(data_dir: str) -> bool:
    """Whether it is an address, such as `hf://datasets/organisation/name`, rather than a folder."""
    return "://" in data_dir


def _file_system(data_dir: str) -> tuple[fsspec.AbstractFileSystem, str]:
    fs, root = url_to_fs(data_dir)
    return fs, str(root).rstrip("/")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
