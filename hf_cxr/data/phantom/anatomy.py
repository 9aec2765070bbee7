"""The numbers of a chest: what a patient is born with, and what one exposure makes of it.

Coordinates are millimetres from the film's top left corner, x to the right, y down, on a film of
`FIELD_MM` by `FIELD_MM`. As on a real frontal film the patient's right lies on the image's left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hf_cxr.data.phantom.texture import FIELD_MM

Side = Literal["right", "left"]
SIDES: tuple[Side, Side] = ("right", "left")
View = Literal["PA", "AP"]
Sex = Literal["M", "F"]


@dataclass(frozen=True)
class Chest:
    """One chest on one film; lengths in mm, densities in units where lung is about 0.25, heart 0.74."""

    midline_mm: float
    apex_mm: float
    half_width_mm: float
    cage_mm: float
    dome_mm: dict[Side, float]
    sulcus_mm: float
    wall_mm: float
    mediastinum_mm: float
    aortic_knob_mm: float
    cardiothoracic_ratio: float
    heart_roundness: float
    lung_density: float
    vessel_gain: float
    breast_mm: float
    rib_spacing_mm: float
    rib_slope: float
    bone: float
    tracheal_shift_mm: float
    gastric_bubble: float
    tilt: float = 0.0
    fractures: tuple[tuple[Side, int, float, float], ...] = ()
    """(side, rib counted from the top, place as a fraction of the half width, step in mm)."""

    def heart_box_mm(self) -> tuple[float, float, float, float]:
        """Centre x, centre y, half width, half height of the heart; its width is ratio * thorax width."""
        width = self.cardiothoracic_ratio * 2.0 * self.half_width_mm
        # A third of the heart lies right of the midline; its floor rests on the left dome.
        centre_y = self.dome_mm["left"] + 4.0 - 0.31 * width
        return self.midline_mm + 0.16 * width, centre_y, 0.5 * width, self.heart_roundness * width


@dataclass(frozen=True)
class Exposure:
    """How a film was taken: view, tone curve (contrast, midpoint, in density), noise (grey, 0 to 1)."""

    view: View
    contrast: float
    midpoint: float
    noise: float
    blur_mm: float
    unevenness: float


def draw_chest(rng: np.random.Generator, sex: Sex, age: int) -> Chest:
    """A patient's chest at full inspiration, before any finding. `age` in years."""
    grown = 0.74 + 0.26 * min(age, 18) / 18.0
    frame = grown * rng.normal(1.0 if sex == "M" else 0.93, 0.035)
    stoutness = float(np.clip(rng.normal(0.5, 0.2), 0.05, 1.0))
    half_width = float(np.clip(138.0 * frame, 92.0, 152.0))
    cage = float(np.clip(258.0 * frame * rng.normal(1.0, 0.03), 175.0, 290.0))
    apex = 192.0 - 0.56 * cage + rng.normal(0.0, 4.0)
    right_dome = apex + cage * rng.normal(0.80, 0.02)
    return Chest(
        midline_mm=FIELD_MM / 2.0,
        apex_mm=apex,
        half_width_mm=half_width,
        cage_mm=cage,
        dome_mm={"right": right_dome, "left": right_dome + rng.uniform(3.0, 15.0) * grown},
        sulcus_mm=rng.uniform(32.0, 46.0) * grown,
        wall_mm=(14.0 + 26.0 * stoutness) * grown,
        mediastinum_mm=rng.uniform(22.0, 27.0) * grown,
        aortic_knob_mm=rng.uniform(4.0, 9.0) + 0.09 * max(age - 40, 0),
        cardiothoracic_ratio=float(np.clip(rng.normal(0.425 + 0.0004 * (age - 45), 0.025), 0.36, 0.465)),
        heart_roundness=rng.uniform(0.39, 0.46),
        lung_density=rng.uniform(0.23, 0.30),
        vessel_gain=rng.uniform(0.85, 1.2),
        breast_mm=rng.uniform(45.0, 66.0) * grown if sex == "F" and age >= 14 else 0.0,
        rib_spacing_mm=cage / rng.uniform(10.4, 11.6),
        rib_slope=rng.uniform(0.8, 1.2),
        bone=rng.uniform(0.065, 0.105) - 0.0003 * max(age - 50, 0),
        tracheal_shift_mm=rng.normal(0.0, 1.5),
        gastric_bubble=rng.uniform(0.0, 1.0),
    )


def expose(chest: Chest, rng: np.random.Generator, view: View) -> tuple[Chest, Exposure]:
    """The same chest on one film: position, breath and magnification, and the film's own settings.

    AP films are taken lying or sitting: shallower breath, a magnified heart, lower contrast, more noise.
    """
    bedside = view == "AP"
    breath = rng.normal(-10.0, 6.0) if bedside else rng.normal(0.0, 4.5)
    shift_x, shift_y = rng.normal(0.0, 4.5), rng.normal(0.0, 5.0)
    turn = rng.normal(0.0, 3.5 if bedside else 1.8)
    ratio = chest.cardiothoracic_ratio + (rng.uniform(0.015, 0.045) if bedside else 0.0)
    placed = replace(
        chest,
        midline_mm=chest.midline_mm + shift_x,
        apex_mm=chest.apex_mm + shift_y,
        dome_mm={side: dome + breath + shift_y for side, dome in chest.dome_mm.items()},
        sulcus_mm=chest.sulcus_mm * rng.uniform(0.9, 1.1),
        mediastinum_mm=chest.mediastinum_mm * (1.1 if bedside else 1.0),
        # 0.475 leaves a margin to 0.5 for the raster, so that the label and the picture never disagree.
        cardiothoracic_ratio=min(ratio - 0.0008 * breath, 0.475),
        lung_density=chest.lung_density + rng.normal(0.0, 0.012) - 0.001 * breath,
        tracheal_shift_mm=chest.tracheal_shift_mm + turn,
        tilt=rng.normal(0.0, 0.028 if bedside else 0.014),
    )
    exposure = Exposure(
        view=view,
        contrast=rng.normal(4.3 if bedside else 4.8, 0.35),
        midpoint=rng.normal(0.47, 0.03),
        noise=rng.uniform(0.018, 0.034) if bedside else rng.uniform(0.010, 0.022),
        blur_mm=rng.uniform(0.6, 2.0) if bedside else rng.uniform(0.4, 1.2),
        unevenness=rng.normal(0.0, 0.03 if bedside else 0.015),
    )
    return placed, exposure
