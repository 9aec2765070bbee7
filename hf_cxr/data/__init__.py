"""Chest film data sets as `datasets` builders: raw findings and images, with no policy and no taxonomy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from filelock import FileLock

from hf_cxr.data.base import BUILDER_VERSION, FilmBuilder
from hf_cxr.data.cache import PartDone, decode, decode_part
from hf_cxr.data.chexpert import CheXpert, CheXpertConfig
from hf_cxr.data.film_dataset import FilmDataset
from hf_cxr.data.hospital import Hospital, HospitalConfig, finding_counts
from hf_cxr.data.hospital_map import HospitalMap
from hf_cxr.data.map_reading import load_map
from hf_cxr.data.nih import TABLES, NIHChestXray14
from hf_cxr.data.options import FilmConfig
from hf_cxr.data.phantom.generation import DESCRIPTION, generate
from hf_cxr.data.pieces import CacheError
from hf_cxr.data.problems import DataProblems
from hf_cxr.data.published_hospitals import BRAX, MIMICCXRJPG, PadChest, VinDrCXR
from hf_cxr.data.shard_builder import ShardConfig, Shards
from hf_cxr.data.shard_writing import write_shards
from hf_cxr.data.shards import ShardError
from hf_cxr.data.splits import check_disjoint, patient_disjoint_split
from hf_cxr.data.stream_order import StreamOrder
from hf_cxr.data.streaming import FilmStream
from hf_cxr.data.tables import find_file

__all__ = [
    "BRAX",
    "BUILDERS",
    "MIMICCXRJPG",
    "CacheError",
    "CheXpert",
    "CheXpertConfig",
    "DataProblems",
    "FilmBuilder",
    "FilmConfig",
    "FilmDataset",
    "FilmStream",
    "Hospital",
    "HospitalConfig",
    "HospitalMap",
    "NIHChestXray14",
    "PadChest",
    "PartDone",
    "ShardConfig",
    "ShardError",
    "Shards",
    "StreamOrder",
    "VinDrCXR",
    "check_disjoint",
    "decode",
    "decode_part",
    "finding_counts",
    "findings_matrix",
    "load_map",
    "load_splits",
    "map_of",
    "patient_disjoint_split",
    "phantom_folder",
    "write_shards",
]

BUILDERS: dict[str, type[FilmBuilder]] = {
    "nih": NIHChestXray14,
    "chexpert": CheXpert,
    "phantom": NIHChestXray14,  # drawn in NIH's layout
    "hospital": Hospital,
    "padchest": PadChest,
    "vindr_cxr": VinDrCXR,
    "mimic_cxr_jpg": MIMICCXRJPG,
    "brax": BRAX,
    "shards": Shards,
}
PHANTOM_OPTIONS = {"n_images": 2000, "image_size": 128, "seed": 0}


def load_splits(
    name: str, data_dir: str | Path | None = None, cache_dir: str | Path | None = None, **options: Any
) -> tuple[datasets.DatasetDict, dict[str, Any]]:
    """Build a data set, or reuse its cache, and say where it comes from.

    `phantom` draws films first where the folder has none. Besides the NIH builder's options it takes
    `n_images`, `image_size` and `seed`; its default folder is `~/.cache/hf_cxr/phantom-…`.

    Args:
        name: one of `BUILDERS`.
        data_dir: the data set's folder, or a hospital's map; only `phantom` has a default.
        cache_dir: of the Arrow files; `datasets`' own by default.
        options: fields of the builder's configuration, such as `view` or `validation_fraction`.

    Returns:
        The splits train, validation and (if there is one) test, and the provenance: `dataset`, `data_dir`
        (the folder's last name only), `builder_version`, `fingerprint`, `options`, `synthetic` (whether the films
        are the phantom's, in whatever layout they are read), `splits` (films and patients of each), `skipped`,
        `notes`, `test_source`. It is plain JSON.

    Raises:
        ValueError: the data set or an option is unknown, or an option out of range.
        FileNotFoundError: the folder, a table or a list is not there.
        DataProblems: something in the tables or with the images is wrong.
        FileExistsError: `phantom` with options that differ from the films already in the folder.
    """
    if name not in BUILDERS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(BUILDERS)}")
    builder_class = BUILDERS[name]
    drawn = dict(PHANTOM_OPTIONS) if name == "phantom" else {}
    known = (*builder_class.BUILDER_CONFIG_CLASS.option_names(), *drawn)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"{name} has no option {', '.join(unknown)}; known: {', '.join(known)}")
    asked = {key: options.pop(key) for key in list(options) if key in drawn}
    if name == "phantom":
        data_dir = phantom_folder(data_dir, asked)
    if data_dir is None:
        raise ValueError(f"{name} needs data_dir, the folder with its tables and images; received None")
    builder = builder_class(data_dir=data_dir, cache_dir=cache_dir, **options)
    builder.download_and_prepare()
    splits = builder.as_dataset()
    provenance = {
        "dataset": name,
        "data_dir": builder.config.folder.name,
        "builder_version": BUILDER_VERSION,
        "fingerprint": builder.fingerprint,
        "options": builder.config.shown(),
        "synthetic": (builder.config.folder / DESCRIPTION).is_file(),
        **builder.record,
    }
    return splits, provenance


def map_of(name: str, data_dir: str | Path | None = None, **options: Any) -> HospitalMap | None:
    """The map of a hospital's films, which explains its findings; None where findings are a taxonomy's own.

    Args:
        name, data_dir, options: as of `load_splits`.

    Raises:
        FileNotFoundError: there is no such map. DataProblems: it has mistakes.
    """
    builder_class = BUILDERS[name]
    if not issubclass(builder_class, Hospital):
        return None
    return builder_class.hospital_map(builder_class.config_of(data_dir, options))


def phantom_folder(data_dir: str | Path | None, asked: Mapping[str, Any]) -> Path:
    """The folder of the phantom's films, drawn now if it has no table yet.

    Args:
        data_dir: the folder; default: in `~/.cache/hf_cxr`, by what was asked for.
        asked: some of `PHANTOM_OPTIONS`.
    """
    choices = {**PHANTOM_OPTIONS, **asked}
    default = "phantom-{n_images}-{image_size}-{seed}".format(**choices)
    folder = Path.home() / ".cache" / "hf_cxr" / default if data_dir is None else Path(data_dir).expanduser()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # the ranks of one run must not draw the same films at once
    with FileLock(f"{folder}.lock"):
        if asked or data_dir is None or find_file([folder], TABLES) is None:
            generate(folder, layout="nih", **choices)
    return folder


def findings_matrix(dataset: datasets.Dataset) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """The `findings` of every film as one matrix.

    Args:
        dataset: of a builder, decoded or not, N films.

    Returns:
        The F names, and (N, F) float32: 1 present, 0 absent, -1 uncertain, NaN unknown. No policy is applied.

    Raises:
        ValueError: there is no struct column `findings`.
    """
    if "findings" not in dataset.column_names:
        raise ValueError(f"received columns {dataset.column_names}, expected `findings` among them")
    column = dataset.select_columns(["findings"]).with_format("arrow")[:]["findings"]
    if not pa.types.is_struct(column.type):
        raise ValueError(f"`findings` is {column.type}, expected a struct of one number a finding")
    names = tuple(column.type.field(i).name for i in range(column.type.num_fields))
    values = [part.cast(pa.float32()).to_numpy() for part in column.flatten()]
    matrix = np.stack(values, axis=1) if values else np.empty((len(dataset), 0))
    return names, matrix.astype(np.float32)
