"""`--dataset shards`: Parquet files that `write_shards` or `recipes/push_dataset.py` wrote, as a data set of films."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import pandas as pd

from hf_cxr.data.base import BUILDER_VERSION, FilmBuilder
from hf_cxr.data.index import FILM_COLUMNS, FilmIndex
from hf_cxr.data.options import FilmConfig
from hf_cxr.data.problems import MALFORMED_CELL, ProblemLog
from hf_cxr.data.shards import PROVENANCE, ShardError, film_bytes, is_remote, list_shards, read_text, small_columns

PLACE = {"shard": datasets.Value("string"), "group": datasets.Value("int32"), "at": datasets.Value("int32")}
"""Columns that say where a film stands: its Parquet file, row group, and row in it."""


@dataclass
class ShardConfig(FilmConfig):
    """Options of `Shards`; `data_dir` is a folder or `hf://datasets/organisation/name`.

    Attributes:
        streaming: leave the training films where they are: rows of the train split then have a null `image`, and
            `PLACE` besides (`hf_cxr.data.FilmStream`).
    """

    streaming: bool = False

    def __post_init__(self) -> None:
        given = self.data_dir
        super().__post_init__()
        if given is not None and is_remote(given):
            self.data_dir = given.rstrip("/")
        if type(self.streaming) is not bool:
            raise ValueError(f"streaming is {self.streaming!r}; expected True or False")

    @property
    def folder(self) -> Path:
        """See `FilmConfig`; an address as it is, of which only the last name is of use."""
        return Path(str(self.data_dir)) if is_remote(str(self.data_dir)) else super().folder

    @property
    def cuts_validation(self) -> bool:
        """Whether there are no validation shards."""
        return all(shard.split != "validation" for shard in list_shards(str(self.data_dir)))


class Shards(FilmBuilder):
    """Films in Parquet files, a row each: `image` {bytes, path} and the other columns of a `FilmBuilder`.

    Splits are told by the files' names. Without validation shards, validation patients are cut from the training
    patients as for every other data set. All but the films is read at construction.

    Raises:
        ShardError: shards cannot be read, or differ in their findings.
    """

    BUILDER_CONFIG_CLASS: ClassVar[type[FilmConfig]] = ShardConfig

    def __init__(self, data_dir: str | Path | None = None, cache_dir: str | Path | None = None, **options: Any) -> None:
        config = self.config_of(data_dir, options)
        self.index = self._assemble(config, with_images=False)
        self._images_checked = True  # there are no image files; bytes are judged when they are decoded
        identity = [f"Shards {BUILDER_VERSION}", config.shown(), self.index.sources]
        stamps = [config.data_dir, config.options(), [shard.stamp for shard in list_shards(config.data_dir)]]
        self.fingerprint, digest = _digest(identity), _digest([identity, stamps])
        about = read_text(config.data_dir, PROVENANCE)
        self.source = {} if about is None else json.loads(about)
        # past FilmBuilder, which looks at image files
        datasets.GeneratorBasedBuilder.__init__(
            self,
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            data_dir=config.data_dir,
            hash=digest,
            **config.options(),
        )

    @classmethod
    def collect(cls, config: FilmConfig, with_images: bool) -> FilmIndex:
        """See `FilmBuilder`; `image` is empty, and there are `PLACE` columns besides.

        Raises:
            ShardError: image files are asked for.
        """
        if with_images:
            raise ShardError("shards have no image files to look at; check the data set that they were written from")
        folder, problems = str(config.data_dir), ProblemLog()
        _ = config.folder  # raises where there is none
        shards = list_shards(folder)
        read = [small_columns(folder, shard) for shard in shards]
        for shard, columns in zip(shards, read, strict=True):
            if columns.names != read[0].names:
                raise ShardError(
                    f"{folder}: {shard.name} and {shards[0].name} differ in their findings: "
                    f"{sorted(set(columns.names) ^ set(read[0].names)) or 'another order'}; write them together"
                )
        frames = []
        for shard, columns in zip(shards, read, strict=True):
            where = {"shard": shard.name, "file": shard.name, "split": shard.split}
            frames.append(columns.films.assign(**where, row=range(1, len(columns.films) + 1)))
        films = pd.concat(frames, ignore_index=True)
        for column in ("id", "patient"):
            blank = films[films[column].isna() | (films[column] == "")]
            problems.add(MALFORMED_CELL, list(blank["file"]), list(blank["row"]), [f"{column} is blank"] * len(blank))
        films["image"] = ""
        index = FilmIndex(
            films[[*FILM_COLUMNS, *PLACE]],
            np.concatenate([columns.findings for columns in read]),
            read[0].names,
            problems,
            sources={shard.name: columns.sha256 for shard, columns in zip(shards, read, strict=True)},
            test_source=next((shard.name for shard in shards if shard.split == "test"), None),
        )
        index.check_ids()
        return index

    def _info(self) -> datasets.DatasetInfo:
        info = super()._info()
        if self.config.streaming:
            info.features = datasets.Features({**info.features, **PLACE})
        return info

    def _generate_examples(self, split: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        places = self.index.films[self.index.films["split"] == split].groupby(["shard", "group"], sort=False)["at"]
        images = self._images(places) if split != "train" or not self.config.streaming else None
        named = self.index.films.loc[self.index.films["split"] == split, list(PLACE)]
        columns = (named[column].to_numpy() for column in PLACE)
        for (key, film), *place in zip(super()._generate_examples(split), *columns, strict=True):
            film["image"] = None if images is None else {"bytes": next(images), "path": film["id"]}
            yield key, film | (dict(zip(PLACE, place, strict=True)) if self.config.streaming else {})

    def _images(self, places: Any) -> Iterator[bytes | None]:
        for (shard, group), rows in places:
            for film in film_bytes(self.config.data_dir, shard, int(group), rows.to_numpy()):
                yield film.as_py()

    @property
    def record(self) -> dict[str, Any]:
        """See `FilmBuilder`; and what the shards say of where they come from."""
        source = {key: self.source[key] for key in ("dataset", "fingerprint") if key in self.source}
        return {**super().record, "synthetic": bool(self.source.get("synthetic")), "source": source}


def _digest(identity: Any) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
