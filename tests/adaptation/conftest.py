"""A hospital of 64 patients, drawn: its pictures, its table, its words."""

from textwrap import dedent

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hf_cxr.data.phantom import Patient, render_film

MAP = """
    hospital: elsewhere
    taxonomy: nih
    table: films.csv
    images: films
    columns: {image: file, patient: patient}
    labels:
      column: reading
      words: {normal: No Finding, fluid: Effusion, big heart: Big heart, huge heart: Huge heart}
    unmentioned: {absent: all}
    new_nodes:
      Big heart: {parent: Cardiomegaly}
      Huge heart: {parent: Cardiomegaly}
"""
SIGNS = {"normal": (), "fluid": ("Effusion",), "big heart": ("Cardiomegaly",), "huge heart": ("Cardiomegaly", "Edema")}


@pytest.fixture(scope="package")
def hospital(tmp_path_factory):
    """The map."""
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "films").mkdir()
    rows = []
    for number in range(64):
        reading = list(SIGNS)[number % 4]
        image = render_film(Patient(number + 1, "F", 50), 0, "PA", SIGNS[reading], image_size=64).image
        Image.fromarray(np.asarray(image)).save(folder / "films" / f"{number}.png")
        rows.append({"file": f"{number}.png", "patient": number, "reading": reading})
    pd.DataFrame(rows).to_csv(folder / "films.csv", index=False)
    (folder / "map.yaml").write_text(dedent(MAP))
    return folder / "map.yaml"
