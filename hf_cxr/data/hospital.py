"""Any hospital's films: tables as it exports them, its own words for findings, one YAML file that explains both.

A complete `my_hospital.yaml`; every scalar is read as text, so `no`, `007` and `1.0` need no quotes::

    hospital: st_elsewhere          # a name for reports; by default the file's
    taxonomy: nih                   # whose nodes the findings below are: names or files, one or several;
                                    # without it, those of the model at hand

    table: films.csv                # CSV, TSV, Parquet or Excel (.xlsx), each CSV also as .gz; or in full:
    # table: {file: [films.xlsx, films.csv], sheet: Films, encoding: cp1252, delimiter: ";"}
    images: images                  # the folder of PNG, JPEG or DICOM files; or, with columns in braces:
    # images: {folder: images, path: "p{PatNo:.2}/{PatNo}/{File}.png"}      # {PatNo:.2}: its first two letters

    columns:                        # of that table; what is not named here is not read
      image: File                   # the film's file, with or without ending, below the folder
      patient: PatNo                # ~ where it is not known: each film then counts as a patient
      study: Accession              # optional, as all that follow
      view: {column: Projection, values: {d.v.: PA, liegend: AP, seitlich: LATERAL, CT: leave_out}, otherwise: unknown}
      sex: {column: Geschlecht, values: {w: F}}
      age: Alter                    # 58, 058Y, 10M, 40-44, 90+; or from dates or years:
      # age: {born: Geburtsdatum, on: Aufnahme, date_format: "%d/%m/%Y"}

    labels:                         # words, of one column:
      table: reports.csv            # where they stand in a table of their own,
      by: {study: Accession No}     # its column with the study (or image, or patient) of each row
      unmatched: keep               # films without labels and labels without films: counted, rather than an error
      column: Diagnose
      separator: ";"                # "|" by default; `list` for cells such as ['a', 'b']
      words:
        Pleuraerguss: Effusion                              # the finding is present
        fraglicher Erguss: {uncertain: Effusion}
        kein Erguss: {absent: Effusion}
        Pneumonie rechts: Pneumonia
        bakterielle Pneumonie: Bacterial pneumonia          # present, and so its parent
        Rundherd: [Nodule, Lung Lesion]                     # two nodes, of two taxonomies, say
        o.B.: No Finding
      ignore: [Skoliose, Z.n. OP]                           # words that say nothing about a finding
      incomplete: [unverändert]     # what such a film does not mention stays unknown
      # rows: finding               # the table has a row a finding instead of a row a film,
      # reader: Befunder            # by several readers,
      # agreement: 2                # of whom two must agree; what only one says is uncertain
    # labels:                       # or one column a finding:
    #   coding: chexpert            # 1, 0, -1, blank; or yes_no; or cells with their meanings
    #   columns:
    #     Erguss: Effusion
    #     Herz: {finding: Cardiomegaly, coding: {vergrößert: present, grenzwertig: uncertain, normal: absent}}

    unmentioned:                    # what is not mentioned is unknown, but:
      absent: [Effusion]            # absent wherever a reading does not mention it; `all`; or {all_but: […]}
      absent_if_normal: all         # the same where the reading is No Finding
    new_nodes:                      # findings that the taxonomy lacks, each under a parent that it has
      Bacterial pneumonia: {parent: Pneumonia}

    split: {column: Set, values: {A: train, B: test}}       # the hospital's own, or as lists of file names:
    # split: {lists: {train: train.txt, test: test.txt}, of: patient}
                                    # without it: cut by patient, and kept in splits/

Words, headers, codes and file names match whatever their case and spaces; two files whose names differ in these alone
are two films all the same. Identifiers of patients and studies match whatever a spreadsheet made of them: `007`, `7`
and `7.0` are one. A word that is neither mapped nor ignored is an error that lists all of
them with their counts and the nearest known word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import datasets

from hf_cxr.data.base import FilmBuilder
from hf_cxr.data.hospital_cells import LEAVE_OUT
from hf_cxr.data.hospital_films import read_films
from hf_cxr.data.hospital_images import locate_images
from hf_cxr.data.hospital_map import HospitalMap
from hf_cxr.data.hospital_splits import cut_splits, given_splits
from hf_cxr.data.index import BLANK, FilmIndex
from hf_cxr.data.map_reading import load_map, packaged_maps
from hf_cxr.data.options import FilmConfig
from hf_cxr.data.pseudonyms import KEY_FILE, OLDEST, Pseudonyms

IDS = {"id": "image", "patient": "patient", "study": "study"}
"""Columns of a row that identify, and what."""


@dataclass
class HospitalConfig(FilmConfig):
    """Options of the hospital builder, besides `FilmConfig`'s.

    Attributes:
        data_dir: the folder that paths in the map are relative to; or the map, whose own folder it then is.
        map: the YAML file, or a ready map's name, where `data_dir` is not the map.
        test_fraction: of all patients, held out for testing where the hospital gives no split, in (0, 1).
        splits_dir: where lists that are cut are kept; `splits` beside the map by default, or in `data_dir` with a
            ready map. They name patients as the tables do, and stay where these stay.
        key_file: of the pseudonyms; `pseudonyms.key` beside the map by default.
    """

    map: str | None = None
    test_fraction: float = 0.2
    splits_dir: str | None = None
    key_file: str | None = None

    def __post_init__(self) -> None:
        given = None if self.data_dir is None else Path(self.data_dir).expanduser()
        if given is not None and given.suffix in (".yaml", ".yml") and not given.is_dir():
            if self.map is not None:
                raise ValueError(f"data_dir {given} is a map, and map is {self.map!r}; expected one of the two")
            self.map, self.data_dir = str(given), str(given.absolute().parent)
        super().__post_init__()
        if self.map is not None and self.map not in packaged_maps():
            self.map = os.path.abspath(os.path.expanduser(self.map))
        for name in ("splits_dir", "key_file"):
            if (path := getattr(self, name)) is not None:
                setattr(self, name, os.path.abspath(os.path.expanduser(path)))
        fraction = self.test_fraction
        if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            raise ValueError(f"test_fraction is {fraction!r}; expected 0 < fraction < 1")

    @property
    def cuts_validation(self) -> bool:
        """Not the builder's base: saved splits have their validation patients."""
        return False


class Hospital(FilmBuilder):
    """A hospital's own films, as its map explains them.

    Findings are the nodes that the map names, 1, 0, -1 (uncertain) or null (unknown); which of them a model's
    taxonomy has is for `hf_cxr.hospital_taxonomy` to say.

    Rows say nothing of anybody: `id`, `patient` and `study` are pseudonyms (`data.pseudonyms`), ages are capped at 90,
    and the path in `image` is not written but looked up whenever the rows are loaded. With a ready map, whose data set
    is published, they are as they are there.

    Splits: the hospital's own; where these have no validation films, they are cut from the training patients. Without
    any, test and validation patients are cut, stratified and seeded, and kept in `splits_dir`, from where they are
    read again. `record["test_source"]` says which.

    Args:
        data_dir: the map, or the folder of its tables; see `HospitalConfig`.

    Raises:
        DataProblems: mistakes in the map (on construction), or in the tables or with the images (on preparation).
        FileNotFoundError: there is no such map or table.
        hospital_splits.SplitError, hospital_table.TableError: films cannot be split, or a table not be read.
        pseudonyms.PseudonymError: the key cannot be kept or read.
    """

    BUILDER_CONFIG_CLASS = HospitalConfig
    MAP: ClassVar[str | None] = None
    pseudonyms: Pseudonyms | None = None

    def _further_identity(self, config: FilmConfig) -> dict[str, str]:
        assert isinstance(config, HospitalConfig)
        mapped = self.hospital_map(config)
        if mapped.packaged:
            return {}
        self.pseudonyms = Pseudonyms(Path(config.key_file or mapped.path.parent / KEY_FILE))
        # The second tells caches apart that were written when the ids of images were folded, as patients' are.
        return {"pseudonyms": self.pseudonyms.fingerprint, "image_ids": "verbatim"}

    def _info(self) -> datasets.DatasetInfo:
        info = super()._info()
        if self.pseudonyms is not None:
            info.features = datasets.Features({name: kind for name, kind in info.features.items() if name != "image"})
        return info

    def _generate_examples(self, split: str) -> Iterator[tuple[Any, dict[str, Any]]]:
        for key, film in super()._generate_examples(split):
            if self.pseudonyms is not None:
                del film["image"]
                film |= {name: self.pseudonyms.of(kind, film[name]) for name, kind in IDS.items()}
                film["age"] = None if film["age"] is None else min(film["age"], OLDEST)
            yield key, film

    def as_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """As of any builder, with the column `image`, whose paths are in memory only."""
        rows = super().as_dataset(*args, **kwargs)
        if self.pseudonyms is None:
            return rows
        films = self.index.films
        path_of = {
            self.pseudonyms.of("image", film): path for film, path in zip(films["id"], films["image"], strict=True)
        }
        if len(path_of) != len(films):
            raise AssertionError(f"{len(films)} films have {len(path_of)} ids: some would get another's pixels")

        def with_images(split: datasets.Dataset) -> datasets.Dataset:
            paths: list[Any] = [{"bytes": None, "path": path_of[film]} for film in split["id"]]
            return split.add_column("image", paths, feature=datasets.Image())

        if isinstance(rows, datasets.Dataset):
            return with_images(rows)
        return datasets.DatasetDict({name: with_images(split) for name, split in rows.items()})

    @classmethod
    def collect(cls, config: FilmConfig, with_images: bool) -> FilmIndex:
        """The films of the hospital's tables."""
        assert isinstance(config, HospitalConfig)
        mapped = cls.hospital_map(config)
        folder = config.folder
        index, table = read_films(mapped, folder)
        given_splits(index, table, mapped, folder)
        if with_images:
            locate_images(index, table, mapped.images, folder)
        kept = (index.films["view"] != LEAVE_OUT).to_numpy(dtype=bool)
        if not kept.all():
            index.notes["films left out by their view"] = int((~kept).sum())
            index.keep(kept)
        if len(index.problems) or not len(index):
            return index
        if mapped.split is None:
            fractions = {"test": config.test_fraction, "validation": config.validation_fraction}
            beside = folder if mapped.packaged else mapped.path.parent
            cut_splits(index, Path(config.splits_dir or beside / "splits"), fractions, config.split_seed)
        elif not (index.films["split"] == "validation").any():
            index.cut_validation(config.validation_fraction, config.split_seed)
        return index

    @classmethod
    def hospital_map(cls, config: HospitalConfig) -> HospitalMap:
        """The map in use.

        Raises:
            FileNotFoundError: none is named, or it is not there. DataProblems: it has mistakes.
        """
        chosen = config.map or cls.MAP
        if chosen is None:
            raise FileNotFoundError(
                f"no map for {config.data_dir}; give the YAML file as data_dir, or as the option map, or one of the "
                f"ready maps: {', '.join(packaged_maps())}"
            )
        return load_map(chosen)


def read_index(data_dir: str | Path, *, check_images: bool = True, **options: Any) -> FilmIndex:
    """The index of a hospital's films, without building anything; splits that are cut are saved.

    Args:
        data_dir: see `HospitalConfig`.
        check_images: look for the image files and read their headers; False needs no images at all.
        options: fields of `HospitalConfig`.

    Raises:
        DataProblems: anything in the map, the tables or the images is wrong; all of it is collected first.
        FileNotFoundError: the map or a table is not there.
    """
    return Hospital.read_index(data_dir, check_images=check_images, **options)


def finding_counts(index: FilmIndex) -> dict[str, dict[str, int]]:
    """Films in which each finding is present, absent, uncertain and unknown."""
    states = {"present": 1, "absent": 0, "uncertain": -1, "unknown": BLANK}
    return {
        name: {state: int((index.findings[:, i] == value).sum()) for state, value in states.items()}
        for i, name in enumerate(index.names)
    }
