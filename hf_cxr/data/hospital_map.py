"""What a hospital's map says, as plain data; `map_reading.load_map` makes it of the YAML file.

`hf_cxr/data/hospital.py` explains the file. Nothing here knows a taxonomy: findings are the names that the map uses,
and `hf_cxr.hospital_taxonomy` sees what a model's taxonomy has of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hf_cxr.data.index import BLANK

NO_FINDING = "No Finding"
STATES = {"present": 1, "absent": 0, "uncertain": -1, "unknown": BLANK}
CODINGS: dict[str, dict[str, int]] = {
    "chexpert": {"1": 1, "0": 0, "-1": -1, "": BLANK},
    "yes_no": {"yes": 1, "no": 0, "": BLANK},
}
LIST_TEXT = "list"  # the separator of cells such as ['pneumonia', 'normal']
FILM_KEYS = ("image", "study", "patient")


@dataclass(frozen=True)
class TableSource:
    """Where a table is: file names of which the first that is there is read, and how.

    Attributes:
        names: relative to the data folder, or absolute; each also with `.gz`.
        sheet: of an Excel file; None is the first. encoding, delimiter: of a text table; None finds out.
    """

    names: tuple[str, ...]
    sheet: str | None = None
    encoding: str | None = None
    delimiter: str | None = None


@dataclass(frozen=True)
class Choices:
    """A column with a few words and what each means; `values` come before the builder's own words.

    `otherwise` is what any other word means; None makes it an error.
    """

    column: str
    values: Mapping[str, str] = field(default_factory=dict)
    otherwise: str | None = None


@dataclass(frozen=True)
class AgeColumns:
    """Age in a column of its own, or from the years or dates of birth and of the film."""

    column: str | None = None
    born: str | None = None
    on: str | None = None
    date_format: str | None = None


@dataclass(frozen=True)
class Columns:
    """Columns of the films' table. `patient` None: not known, each film counts as a patient."""

    image: str
    patient: str | None
    study: str | None = None
    view: Choices | None = None
    sex: Choices | None = None
    age: AgeColumns | None = None


@dataclass(frozen=True)
class Images:
    """The folder, and where in it: literal texts and columns, each with how many letters are taken (None: all)."""

    folder: str
    path: tuple[tuple[str, str | None, int | None], ...]  # (literal before, column, letters)


@dataclass(frozen=True)
class NewNode:
    """A finding that the taxonomy lacks."""

    name: str
    parents: tuple[str, ...]
    kind: str = "finding"


@dataclass(frozen=True)
class Said:
    """What a word says: findings that it makes present, absent or uncertain."""

    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.present, *self.absent, *self.uncertain)


@dataclass(frozen=True)
class CodedColumn:
    """A column of one finding; `coding` from folded cells to 1, 0, -1 and -128 (unknown)."""

    column: str
    finding: str
    coding: Mapping[str, int]


@dataclass(frozen=True)
class Labels:
    """Where the findings stand and how.

    Attributes:
        table: None where they stand in the films' own table. by: what of the film (`image`, `study`, `patient`) and
            the other table's column with it.
        keep_unmatched: films without a row there, and rows without a film, are counted rather than an error.
        per_finding: several rows a film, one for each finding (and reader).
        reader, agreement: the column that names readers, and how many must say present; fewer is uncertain.
        column, separator, words, ignore, incomplete: of a column with words, all folded (`near.folded`).
        coded: columns of one finding each.
    """

    table: TableSource | None = None
    by: tuple[str, str] | None = None
    keep_unmatched: bool = False
    per_finding: bool = False
    reader: str | None = None
    agreement: int = 1
    column: str | None = None
    separator: str = "|"
    words: Mapping[str, Said] = field(default_factory=dict)
    ignore: frozenset[str] = frozenset()
    incomplete: frozenset[str] = frozenset()
    coded: tuple[CodedColumn, ...] = ()


@dataclass(frozen=True)
class Scope:
    """Some of the map's findings: those `named`, or with `all_but` every one but those."""

    named: tuple[str, ...] = ()
    all_but: bool = False

    def of(self, findings: Iterable[str]) -> tuple[str, ...]:
        """Which of `findings`; never `No Finding`."""
        return tuple(f for f in findings if (f in self.named) != self.all_but and f != NO_FINDING)


@dataclass(frozen=True)
class SplitSource:
    """A split that the hospital gives: a column, in a table of its own or not, or lists."""

    column: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    table: TableSource | None = None
    by: tuple[str, str] | None = None
    lists: Mapping[str, str] = field(default_factory=dict)
    of: str = "image"


@dataclass(frozen=True)
class HospitalMap:
    """A hospital's tables and vocabulary.

    Attributes:
        path, sha256: of the YAML file. name: the hospital's, for reports. packaged: one of the ready maps.
        taxonomies: whose nodes the findings are, by name or path; empty: those of the model at hand.
        findings: every name that a word, a column or a new node's parent has, `No Finding` last.
        absent: absent wherever a film's reading does not mention them. absent_if_normal: the same where the reading
            is `No Finding`.
        split: None where it is to be cut.
    """

    path: Path
    sha256: str
    name: str
    packaged: bool
    taxonomies: tuple[str, ...]
    new_nodes: tuple[NewNode, ...]
    findings: tuple[str, ...]
    table: TableSource
    images: Images
    columns: Columns
    labels: Labels
    absent: Scope = Scope()
    absent_if_normal: Scope = Scope()
    split: SplitSource | None = None

    @property
    def said(self) -> frozenset[str]:
        """The findings that a word or a column says; the others follow from new nodes."""
        words = (finding for word in self.labels.words.values() for finding in word.findings)
        return frozenset((*words, *(column.finding for column in self.labels.coded)))
