"""What every builder of the project shares: its features, and a cache that is never stale."""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
from datasets.builder import Key

from hf_cxr.data.images import images_digest, stat_images
from hf_cxr.data.index import BLANK, FilmIndex
from hf_cxr.data.options import FilmConfig

BUILDER_VERSION = "1.0.0"  # raise it whenever the same folder would give other rows
SPLITS = ("train", "validation", "test")
RECORD_FILE = "films.json"
CHUNK = 4096


class FilmBuilder(datasets.GeneratorBasedBuilder):
    """A `datasets` builder over a folder of films and its tables.

    Rows: `image` (path, decoded on access), `id`, `patient`, `study`, `view` (PA, AP, LATERAL or null),
    `sex` (M, F or null), `age` (years or null), and `findings`, a struct of int8: 1 present, 0 absent,
    -1 uncertain, null unknown.

    `datasets` reuses a cache by name alone. Here its `hash` covers the contents of the tables and lists, the
    options, the folder, this builder's version, and every image's path, size and modification time, so
    anything that changes gives a new cache. `fingerprint` covers the same but for folder and times: it is that of
    the same data set copied elsewhere.

    Args:
        data_dir: the folder; each builder's docstring says what it must hold.
        cache_dir: of the Arrow files; `datasets`' own by default.
        options: fields of the builder's `BUILDER_CONFIG_CLASS`.

    Raises:
        DataProblems: on `download_and_prepare`, before anything is written: all that is wrong in the tables
            and with the images.
        FileNotFoundError: on construction, when the folder, a table or a list is not there.
        ValueError: on construction, for an option out of range or patients in two splits.
    """

    VERSION = datasets.Version(BUILDER_VERSION)
    BUILDER_CONFIG_CLASS: ClassVar[type[FilmConfig]] = FilmConfig
    FINDINGS: ClassVar[tuple[str, ...]] = ()

    def __init__(self, data_dir: str | Path | None = None, cache_dir: str | Path | None = None, **options: Any) -> None:
        config = self.config_of(data_dir, options)
        self.index = self._assemble(config, with_images=True)
        paths = list(self.index.films["image"])
        self._stats = stat_images(paths)
        self._images_checked = False
        inside = [path.removeprefix(config.data_dir) for path in paths]
        self.fingerprint = _digest(
            builder=f"{type(self).__name__} {BUILDER_VERSION}",
            options=config.shown(),
            sources=self.index.sources,
            images=images_digest(inside, self._stats[:, :1]),
        )
        digest = _digest(
            fingerprint=self.fingerprint,
            data_dir=config.data_dir,
            options=config.options(),
            images=images_digest(paths, self._stats),
            **self._further_identity(config),
        )
        super().__init__(
            cache_dir=None if cache_dir is None else os.fspath(cache_dir),
            data_dir=config.data_dir,
            hash=digest,
            **config.options(),
        )

    @classmethod
    @abstractmethod
    def collect(cls, config: FilmConfig, with_images: bool) -> FilmIndex:
        """Read the tables into an index of all films; log problems rather than raise them.

        `split` is train or test (or validation, where the source has one), `image` is filled in when
        `with_images`.
        """

    def _further_identity(self, config: FilmConfig) -> dict[str, str]:
        """What else the rows depend on."""
        return {}

    @classmethod
    def read_index(cls, data_dir: str | Path, *, check_images: bool = True, **options: Any) -> FilmIndex:
        """The index without building anything; with `check_images=False` no image needs to be there.

        Raises:
            DataProblems: anything in the tables, or the images, is wrong; all of it is collected first.
        """
        index = cls._assemble(cls.config_of(data_dir, options), with_images=check_images)
        if check_images:
            index.check_images(bool(options.get("skip_missing", False)))
        index.problems.raise_any()
        return index

    @classmethod
    def config_of(cls, data_dir: str | Path | None, options: dict[str, Any]) -> Any:
        """The checked configuration, an instance of `BUILDER_CONFIG_CLASS`."""
        known = cls.BUILDER_CONFIG_CLASS.option_names()
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f"{cls.__name__} has no option {', '.join(unknown)}; known: {', '.join(known)}")
        folder = None if data_dir is None else os.fspath(data_dir)
        return cls.BUILDER_CONFIG_CLASS(data_dir=folder, **options)

    @classmethod
    def _assemble(cls, config: FilmConfig, with_images: bool) -> FilmIndex:
        index = cls.collect(config, with_images)
        if not len(index):
            raise ValueError(f"the tables in {config.data_dir} have no rows; expected one a film")
        # rows that are wrong have no patient or split to rely on; they are raised, with the images', later on
        if not len(index.problems):
            if config.cuts_validation:
                index.cut_validation(config.validation_fraction, config.split_seed)
            index.check_patients()
        index.choose_view(config.view)
        return index

    def _info(self) -> datasets.DatasetInfo:
        text = datasets.Value("string")
        return datasets.DatasetInfo(
            description=type(self).__doc__ or "",
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "id": text,
                    "patient": text,
                    "study": text,
                    "view": text,
                    "sex": text,
                    "age": datasets.Value("int32"),
                    "findings": {name: datasets.Value("int8") for name in self.index.names},
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        if not self._images_checked:
            self.index.check_images(self.config.skip_missing, self._stats)
            self._images_checked = True
        self.index.problems.raise_any()
        splits = [split for split in SPLITS if split != "test" or self.index.test_source]
        self.index.check_splits(splits)
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in splits]

    def _generate_examples(self, split: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        chosen = np.flatnonzero(self.index.films["split"] == split)
        columns = ["image", "id", "patient", "study", "view", "sex", "age"]
        for start in range(0, len(chosen), CHUNK):
            rows = chosen[start : start + CHUNK]
            films = self.index.films.iloc[rows][columns].astype(object)
            values = self.index.findings[rows].astype(object)
            values[values == BLANK] = None
            cells = films.where(films.notna(), None).to_numpy().tolist()
            for i, (film, findings) in enumerate(zip(cells, values.tolist(), strict=True), start=start):
                said = dict(zip(self.index.names, findings, strict=True))
                yield Key(0, i), {**dict(zip(columns, film, strict=True)), "findings": said}

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        super()._download_and_prepare(*args, **kwargs)
        record = {
            "splits": self.index.counts(),
            "skipped": self.index.skipped,
            "notes": self.index.notes,
            "test_source": self.index.test_source,
        }
        with self._fs.open(f"{self._output_dir}/{RECORD_FILE}", "w") as file:
            json.dump(record, file, indent=1)

    @property
    def record(self) -> dict[str, Any]:
        """What was written: films and patients per split, films skipped, notes, test source.

        Read from the cache folder, so a reused cache has it too.

        Raises:
            FileNotFoundError: nothing has been prepared yet.
        """
        with self._fs.open(f"{self._output_dir}/{RECORD_FILE}") as file:
            return dict(json.load(file))

    @property
    def skipped(self) -> dict[str, int]:
        """Films left out because of a missing or unreadable image, by reason; empty without the option."""
        return dict(self.record["skipped"])


def _digest(**identity: Any) -> str:
    """32 hex digits for plain data."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
