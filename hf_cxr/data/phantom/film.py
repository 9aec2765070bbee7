"""One film from a patient, a film number and a set of signs: a pure function of its arguments."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from hf_cxr.data.phantom.anatomy import Sex, View, draw_chest, expose
from hf_cxr.data.phantom.bones import lay_bones
from hf_cxr.data.phantom.findings import DRAW, RESHAPE, SIGNS
from hf_cxr.data.phantom.projection import Film, Scene, develop, lay_soft_tissue
from hf_cxr.data.phantom.texture import FIELD_MM, Mask

MIN_SIZE = 64
"""Below this a nodule is under three pixels and the 14 mm border to invisibility is crossed."""


@dataclass(frozen=True)
class Patient:
    """`number` counts from 1; `age` in years at the film in question."""

    number: int
    sex: Sex
    age: int


@dataclass(frozen=True)
class RenderedFilm:
    """image: uint8 (H, W); masks: bool (H, W) for each sign drawn; heart and thorax: bool (H, W)."""

    image: Film
    masks: dict[str, Mask]
    heart: Mask
    thorax: Mask
    mm_per_pixel: float


def random_stream(seed: int, patient: int, film: int, purpose: str) -> np.random.Generator:
    """An independent stream for one purpose; `film` is -1 for what holds for all films of a patient.

    Streams do not depend on the order in which films are made, nor on which other signs are drawn, so a
    film with and without a sign differs by that sign alone.
    """
    return np.random.default_rng(np.random.SeedSequence((seed, patient, film + 1, zlib.crc32(purpose.encode()))))


def render_film(
    patient: Patient, film: int, view: View, signs: Collection[str], *, image_size: int = 128, seed: int = 0
) -> RenderedFilm:
    """Render film number `film` (from 0) of a patient, showing `signs` (names of `SIGNS`).

    Raises ValueError for an unknown sign or an `image_size` under `MIN_SIZE`.
    """
    unknown = sorted(set(signs) - set(SIGNS))
    if unknown:
        raise ValueError(f"render_film: unknown signs {unknown}; expected names from {list(SIGNS)}")
    if image_size < MIN_SIZE:
        raise ValueError(f"render_film: image_size={image_size}; expected {MIN_SIZE} pixels or more")

    def stream(purpose: str, of_film: bool) -> np.random.Generator:
        return random_stream(seed, patient.number, film if of_film else -1, purpose)

    chest = draw_chest(stream("chest", False), patient.sex, patient.age)
    chest, exposure = expose(chest, stream("exposure", True), view)
    for sign, reshape in RESHAPE.items():
        if sign in signs:
            chest = reshape(chest, stream(sign, False), stream(f"{sign} shape", True))
    scene = Scene(chest, image_size)
    lay_soft_tissue(scene, stream("vessels", False))
    masks = {sign: draw(scene, stream(sign, False), stream(sign, True)) for sign, draw in DRAW.items() if sign in signs}
    lay_bones(scene)
    image = develop(scene, exposure, stream("grain", True))
    return RenderedFilm(image, masks, scene.heart_mask(), scene.thorax_mask(), FIELD_MM / image_size)
