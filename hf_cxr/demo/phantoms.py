"""Synthetic films for visitors without one, drawn when asked for."""

from __future__ import annotations

from PIL import Image

from hf_cxr.data.phantom import Patient, render_film

SHOWN = {
    "No finding": (),
    "Cardiomegaly": ("Cardiomegaly",),
    "Effusion": ("Effusion",),
    "Pneumothorax": ("Pneumothorax",),
    "Infiltration": ("Infiltration",),
    "Several findings": ("Cardiomegaly", "Effusion", "Mass"),
}
"""What can be asked for, and the signs of `phantom.SIGNS` that are drawn for it."""

SIZE = 512
"""Pixels a side: fine enough to look at, and drawn in less than a tenth of a second."""


def draw(kind: str, number: int) -> Image.Image:
    """The film of synthetic patient `number` (from 1) with what `kind` (a key of `SHOWN`) says, mode "L".

    The same arguments give the same film.
    """
    patient = Patient(number, "F" if number % 2 else "M", 30 + 17 * number % 50)
    return Image.fromarray(render_film(patient, 0, "PA", SHOWN[kind], image_size=SIZE).image)
