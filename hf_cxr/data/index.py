"""The index of a data set: one row a film, known before any image is decoded or any Arrow written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from hf_cxr.data.images import MISSING, header_faults, stat_images
from hf_cxr.data.problems import DUPLICATE_ID, MISSING_IMAGE, UNREADABLE_IMAGE, ProblemLog
from hf_cxr.data.splits import check_disjoint, patient_disjoint_split

BLANK = -128  # a cell that says nothing, in an int8 matrix that cannot hold null

FILM_COLUMNS = ("id", "patient", "study", "view", "sex", "age", "split", "image", "file", "row")


@dataclass
class FilmIndex:
    """Every film of a data set, with what the source says about it.

    Attributes:
        films: (N, 10) `id, patient, study, view, sex, age, split, image, file, row`: `age` in years (Int32);
            `split` one of train, validation, test (null only where a problem was logged); `image` an absolute
            path, or empty where none was looked for; `file` and `row` the table and line that name the film.
        findings: (N, F) int8, 1 present, 0 absent, -1 uncertain, -128 blank.
        names: the F finding names, as the source spells them.
        problems: what was found wrong so far.
        notes: facts for the record that are no errors, such as the number of impossible ages.
        sources: SHA-256 of each table and list read, by file name.
        skipped: films left out, by reason.
        test_source: name of the file the test split comes from, None where there is no test split.
    """

    films: pd.DataFrame
    findings: np.ndarray
    names: tuple[str, ...]
    problems: ProblemLog
    notes: dict[str, int] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    test_source: str | None = None

    def __len__(self) -> int:
        return len(self.films)

    def keep(self, mask: np.ndarray) -> None:
        """Keep the films where the (N,) bool mask is true."""
        self.films = self.films[mask].reset_index(drop=True)
        self.findings = self.findings[mask]

    def check_ids(self) -> None:
        """Log every film whose id an earlier row has."""
        twice = self.films["id"].duplicated() & (self.films["id"] != "")
        again = self.films[twice]
        details = [f"{film!r} is already the id of an earlier row" for film in again["id"]]
        self.problems.add(DUPLICATE_ID, list(again["file"]), list(again["row"]), details)

    def cut_validation(self, fraction: float, seed: int) -> None:
        """Move whole patients from train to validation.

        The cut is made over all rows, before any choice of view and before films are skipped: which patients
        are held out then depends on the tables, the fraction and the seed alone, and a model trained on one
        view never meets its training patients in another view's validation.
        """
        train = np.flatnonzero(self.films["split"] == "train")
        patients = self.films["patient"].to_numpy()[train]
        held = patient_disjoint_split(patients, self.findings[train] == 1, fraction, seed)
        self.films.loc[train[held], "split"] = "validation"

    def check_patients(self) -> None:
        """Raise if a patient stands in two splits (`splits.check_disjoint`)."""
        check_disjoint({str(s): set(p) for s, p in self.films.groupby("split", sort=False)["patient"]})

    def choose_view(self, view: str) -> None:
        """Keep `frontal`, `lateral`, `PA`, `AP` or `all` films; unknown projections are frontal."""
        lateral = (self.films["view"] == "LATERAL").to_numpy(dtype=bool)
        if view == "frontal":
            self.keep(~lateral)
        elif view == "lateral":
            self.keep(lateral)
        elif view != "all":
            self.keep((self.films["view"] == view).to_numpy(dtype=bool))

    def check_images(self, skip_missing: bool, stats: np.ndarray | None = None) -> None:
        """Log, or with `skip_missing` leave out and count, films whose image is missing or unreadable.

        Args:
            stats: (N, 2) from `images.stat_images`, when already at hand.
        """
        paths = list(self.films["image"])
        sizes = (stat_images(paths) if stats is None else stats)[:, 0]
        faults = np.full(len(self), "", dtype=object)
        faults[sizes == MISSING] = "no such file"
        faults[sizes == 0] = "the file is empty"
        there = np.flatnonzero(sizes > 0)
        faults[there] = header_faults([paths[i] for i in there])
        # a row whose path could not be read is a problem of its own already
        missing = (sizes == MISSING) & (self.films["image"] != "").to_numpy(dtype=bool)
        unreadable = (sizes != MISSING) & (faults != "")
        for kind, mask in ((MISSING_IMAGE, missing), (UNREADABLE_IMAGE, unreadable)):
            if skip_missing:
                self.skipped[kind] = int(mask.sum())
            else:
                bad = self.films[mask]
                files, rows, images = (list(bad[column]) for column in ("file", "row", "image"))
                self.problems.add(kind, files, rows, list(faults[mask]), images)
        if skip_missing:
            self.keep(~(missing | unreadable))

    def check_splits(self, expected: Sequence[str]) -> None:
        """Raise ValueError if a split that should be there has no film left."""
        counts = self.films["split"].value_counts()
        empty = [split for split in expected if not counts.get(split, 0)]
        if empty:
            raise ValueError(
                f"no films in split {', '.join(empty)}: received {dict(counts)}, skipped {self.skipped}; "
                f"expected some in each of {', '.join(expected)}. Check the view and the image folder."
            )

    def counts(self) -> dict[str, dict[str, int]]:
        """Films and patients of each split."""
        groups = {str(s): p for s, p in self.films.groupby("split", sort=False)["patient"]}
        order = [split for split in ("train", "validation", "test") if split in groups]
        return {s: {"films": len(groups[s]), "patients": int(groups[s].nunique())} for s in order}
