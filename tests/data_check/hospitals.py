"""Small hospitals of synthetic films, whole or with faults planted."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

from PIL import Image

from hf_cxr.data.phantom import Patient, render_film

SIZE = 96
MAP = """
    hospital: elsewhere
    taxonomy: nih
    table: films.csv
    images: images
    columns: {image: file, patient: patient, sex: sex, age: age, view: view}
    labels:
      column: words
      words:
        effusion: Effusion
        heart: Cardiomegaly
        pneumonia: Pneumonia
        no pneumonia: {absent: Pneumonia}
        bacterial: Bacterial pneumonia
        normal: No Finding
    new_nodes: {Bacterial pneumonia: {parent: Pneumonia}}
    split: {column: split}
"""
WORDS = ("effusion", "heart", "pneumonia|bacterial", "no pneumonia", "normal")
HEADER = "file,patient,sex,age,view,words,split"


def phantom(number: int, size: int = SIZE) -> Image.Image:
    """The film of synthetic patient `number`."""
    sign = ("Effusion",) if number % 5 == 0 else ("Cardiomegaly",) if number % 5 == 1 else ()
    return Image.fromarray(render_film(Patient(number + 1, "M", 40), 0, "PA", sign, image_size=size).image)


@dataclass
class Row:
    """A row of the table, and how its file is written; None: not at all."""

    file: str
    patient: str
    words: str
    split: str
    sex: str = "F"
    age: str = "40"
    view: str = "PA"
    picture: Image.Image | bytes | None = None

    def text(self) -> str:
        return ",".join((self.file, self.patient, self.sex, self.age, self.view, self.words, self.split))


@dataclass
class Hospital:
    """`rows` and what comes after them; `write` puts all of it into a folder."""

    rows: list[Row] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def write(self, folder: Path, text: str = MAP) -> Path:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        lines = [HEADER, *(row.text() for row in self.rows), *self.lines]
        (folder / "films.csv").write_text("\n".join(lines) + "\n")
        for row in self.rows:
            path = folder / "images" / row.file
            if isinstance(row.picture, Image.Image):
                row.picture.save(path)
            elif row.picture is not None:
                path.write_bytes(row.picture)
        (folder / "elsewhere.yaml").write_text(dedent(text))
        return folder / "elsewhere.yaml"

    def at(self, *rows: Row) -> str:
        """How the check names rows."""
        return " = ".join(f"films.csv, row {self.rows.index(row) + 2}" for row in rows)


def whole(n_films: int = 60, splits: Sequence[str] = ("train", "train", "validation", "test")) -> Hospital:
    """A hospital without any fault: a film a patient, every word in every split."""
    return Hospital(
        [
            Row(f"anna-{i}.png", f"smith{i}", WORDS[i % 5], splits[i // 5 % len(splits)], picture=phantom(i))
            for i in range(n_films)
        ]
    )
