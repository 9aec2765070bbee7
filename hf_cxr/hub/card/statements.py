"""Statements on the data sets, in `model_cards/datasets`: terms of use, origin of the labels, noise and biases."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from hf_cxr.errors import UserError

FOLDER = Path(__file__).resolve().parents[3] / "model_cards"
"""The repository's, beside the package: it is no part of an installed wheel."""


class CardError(UserError, ValueError):
    """A card cannot be made of this folder; the message says what is missing or does not belong together."""


@dataclass(frozen=True)
class DataSet:
    """What a card's metadata say of a data set.

    Attributes:
        title: for readers. of_patients: whether its films show anybody. labels: whose they are, in a sentence.
        hub_id: of a public copy on the Hub, None where there is none that may be named.
        official_test: films in its own test list, None where no such list is what papers report.
        licence: metadata of a model that was trained on it. use: what its terms leave, where they bind the weights.
    """

    title: str
    labels: str
    of_patients: bool = True
    hub_id: str | None = None
    official_test: int | None = None
    licence: dict[str, str] = field(default_factory=lambda: {"license": "apache-2.0"})
    use: str = "research that is not commercial"


DATA_SETS = {
    "phantom": DataSet("the phantom of hf_cxr", "Its labels are what was drawn.", of_patients=False),
    "nih": DataSet(
        "NIH ChestX-ray14",
        "Its labels were mined from reports, with [known errors](#training-data); its figures are agreement with such "
        "labels.",
        hub_id="alkzar90/NIH-Chest-X-ray-dataset",  # a third party's copy of all films; NIH has none of its own there
        official_test=25596,
    ),
    "chexpert": DataSet(
        "CheXpert",
        "Its training labels were mined from reports, with [known errors](#training-data); those of the published test "
        "films are radiologists'.",
        licence={
            "license": "other",
            "license_name": "chexpert-research-use",
            "license_link": "https://stanfordmlgroup.github.io/competitions/chexpert/",
        },
    ),
    "hospital": DataSet(
        "a hospital's own films",
        "Its labels are the hospital's own words, in routine; nobody else has checked them.",
        licence={"license": "other", "license_name": "as-the-institution-says"},
        use="who may have them, and for what, is for the institution to say",
    ),
}


@dataclass(frozen=True)
class Statement:
    """A data set's statement: its name, what metadata say of it, and the Markdown text."""

    name: str
    about: DataSet
    text: str

    def under(self, level: int) -> str:
        """The text to stand under a heading of this level: its title left out, its headings that much smaller."""
        body = re.sub(r"\A# .*\n+", "", self.text)
        return re.sub(r"^#(#+ )", "#" * level + r"\1", body, flags=re.MULTILINE).strip()


def card_folder(folder: Path | None = None) -> Path:
    """The folder of the template and the statements.

    Raises:
        CardError: it is not there.
    """
    folder = folder or FOLDER
    if not (folder / "template.md.jinja").is_file():
        raise CardError(
            f"{folder} has no template.md.jinja: cards are made with the repository, whose model_cards are no part of "
            "an installed package; clone it and install it by pip install -e ., or name its folder by templates="
        )
    return folder


def read_statement(name: str, folder: Path | None = None) -> Statement:
    """The statement on a data set.

    Args:
        name: of the data set. folder: see `card_folder`.

    Raises:
        CardError: there is none, and without one nothing is published.
    """
    path = card_folder(folder) / "datasets" / f"{name}.md"
    if name not in DATA_SETS or not path.is_file():
        raise CardError(
            f"no statement on the data set {name!r}; there are some on {', '.join(DATA_SETS)}. Write "
            f"model_cards/datasets/{name}.md (terms of use, origin and noise of the labels) and name it in "
            "hf_cxr/hub/card/statements.py"
        )
    return Statement(name, DATA_SETS[name], path.read_text(encoding="utf-8"))
