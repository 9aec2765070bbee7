"""Project a chest onto a film: soft tissue, lungs, heart and vessels, then the tone curve.

A `Scene` holds the film while findings are drawn on it. Densities add, and the tone curve saturates, so
a rib or a nodule over the heart is fainter than the same one over lung, as on a real film.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hf_cxr.data.phantom.anatomy import SIDES, Chest, Exposure, Side
from hf_cxr.data.phantom.texture import FIELD_MM, Field, Mask, lattice_noise, soft_step, stroke

Film = NDArray[np.uint8]

HEART_DENSITY = 0.74
ABDOMEN_DENSITY = 0.80
TISSUE_DENSITY = 0.60


@dataclass
class Scene:
    """A film in the making; every array is float32 or bool (H, W), every length mm."""

    chest: Chest
    size: int
    mm: float = field(init=False)
    x: Field = field(init=False)
    y: Field = field(init=False)
    wall_at: Field = field(init=False)
    """Inner half width of the rib cage at each pixel's height."""
    lateral: dict[Side, Field] = field(init=False)
    """Distance from the midline, positive towards the named side."""
    depth: dict[Side, Field] = field(init=False)
    """How far inside the lung, horizontally from its borders or vertically from apex and dome."""
    lung: dict[Side, Field] = field(init=False)
    """Soft lung mask in [0, 1], the part behind the heart included."""
    heart: Field = field(init=False)
    markings: Field = field(init=False)
    density: Field = field(init=False)
    overlay: Field = field(init=False)
    """Metal and plastic, added after the bones."""

    def __post_init__(self) -> None:
        chest, size = self.chest, self.size
        self.mm = FIELD_MM / size
        axis = ((np.arange(size) + 0.5) * self.mm).astype(np.float32)
        half = np.float32(FIELD_MM / 2.0)
        column, row = axis[None, :] - half, axis[:, None] - half
        self.x = column + np.float32(chest.tilt) * row + half
        self.y = row - np.float32(chest.tilt) * column + half
        self.wall_at = cage_half_width(chest, self.y)
        self.lateral, self.depth, self.lung = {}, {}, {}
        for side in SIDES:
            sign = np.float32(-1.0 if side == "right" else 1.0)
            self.lateral[side] = sign * (self.x - np.float32(chest.midline_mm))
            self.depth[side] = self._lung_depth(side)
            self.lung[side] = soft_step(self.depth[side], max(self.mm, 2.5))
        self.heart = soft_step(self._heart_depth(), max(self.mm, 4.0))
        self.markings = np.zeros((size, size), np.float32)
        self.density = np.zeros((size, size), np.float32)
        self.overlay = np.zeros((size, size), np.float32)

    def dome_at(self, side: Side) -> Field:
        """Height (y) of the diaphragm at each pixel's distance from the midline."""
        chest = self.chest
        peak = 0.46 * chest.half_width_mm
        offset = self.lateral[side] - np.float32(peak)
        reach = np.where(offset > 0, chest.half_width_mm - peak, peak * 1.5).astype(np.float32)
        return np.float32(chest.dome_mm[side]) + np.float32(chest.sulcus_mm) * (offset / reach) ** 2

    def _lung_depth(self, side: Side) -> Field:
        chest, lateral = self.chest, self.lateral[side]
        top = self.y - np.float32(chest.apex_mm) - np.float32(0.02) * (lateral - np.float32(46.0)) ** 2
        knob = 0.0
        if side == "left":
            height = chest.apex_mm + 0.27 * chest.cage_mm
            knob = chest.aortic_knob_mm * np.exp(-(((self.y - height) / 14.0) ** 2))
        # Great vessels and hila fill the waist between the upper mediastinum and the heart.
        hilum = 10.0 * np.exp(-(((self.y - chest.apex_mm - 0.52 * chest.cage_mm) / 38.0) ** 2))
        inner = lateral - np.float32(chest.mediastinum_mm) - knob - hilum
        outer = self.wall_at - lateral
        depth = np.minimum(np.minimum(outer, top), np.minimum(inner, self.dome_at(side) - self.y))
        return np.asarray(depth, dtype=np.float32)

    def _heart_depth(self) -> Field:
        centre_x, centre_y, half_width, half_height = self.chest.heart_box_mm()
        across = (self.x - np.float32(centre_x)) / np.float32(half_width)
        # A shear leaves the width untouched, so the cardiothoracic ratio stays the drawn one.
        down = (self.y - np.float32(centre_y)) / np.float32(half_height) - np.float32(0.42) * across
        return np.asarray((1.0 - np.sqrt(across**2 + down**2)) * np.float32(half_width), dtype=np.float32)

    def heart_mask(self) -> Mask:
        """The whole heart shadow, the part over the diaphragm included; bool (H, W)."""
        return self.heart >= 0.5

    def thorax_mask(self) -> Mask:
        """Between the inner borders of the ribs, apex to the end of the cage; bool (H, W)."""
        across = np.abs(self.x - self.chest.midline_mm) <= self.wall_at
        end = self.chest.apex_mm + 1.02 * self.chest.cage_mm
        return np.asarray(across & (self.y >= self.chest.apex_mm) & (self.y <= end), dtype=np.bool_)

    def both_lungs(self) -> Field:
        """Soft mask of both lungs, the parts behind the heart included; values in [0, 1]."""
        return self.lung["right"] + self.lung["left"]

    def place(self, side: Side, across: float, down: float) -> tuple[float, float]:
        """A point of the visible lung: `across` 0 medial to 1 lateral, `down` 0 apex to 1 dome; mm."""
        chest = self.chest
        y = chest.apex_mm + down * (chest.dome_mm[side] - chest.apex_mm)
        centre_x, centre_y, half_width, half_height = chest.heart_box_mm()
        sign = -1.0 if side == "right" else 1.0
        inner = chest.mediastinum_mm
        if abs(y - centre_y) < half_height * 1.1:
            inner = max(inner, half_width + sign * (centre_x - chest.midline_mm))
        outer = float(cage_half_width(chest, np.asarray([y], dtype=np.float32))[0])
        return chest.midline_mm + sign * (inner + across * (outer - inner)), y

    def distance(self, point: tuple[float, float], stretch: float = 1.0, turn: float = 0.0) -> Field:
        """Distance in mm to a point; with `stretch` the ellipse's long axis lies at `turn` radians."""
        dx, dy = self.x - np.float32(point[0]), self.y - np.float32(point[1])
        along = dx * np.float32(math.cos(turn)) + dy * np.float32(math.sin(turn))
        across = dy * np.float32(math.cos(turn)) - dx * np.float32(math.sin(turn))
        return np.asarray(np.sqrt((along / stretch) ** 2 + across**2), dtype=np.float32)


def cage_half_width(chest: Chest, y: Field) -> Field:
    """Inner half width of the rib cage in mm at height `y` (any shape), widest three quarters down."""
    down = np.clip((y - chest.apex_mm) / chest.cage_mm, 0.0, 1.1)
    rise = 0.32 + 0.68 * (1.0 - (1.0 - np.minimum(down / 0.75, 1.0)) ** 2) ** 0.62
    taper = 1.0 - 0.5 * np.clip(down - 0.75, 0.0, None) ** 2
    return np.asarray(chest.half_width_mm * rise * taper, dtype=np.float32)


def lay_soft_tissue(scene: Scene, vessels: np.random.Generator) -> None:
    """Body, abdomen, lungs with their vessels, mediastinum, airway, heart: fills density and markings."""
    chest, x, y = scene.chest, scene.x, scene.y
    offset = np.abs(x - np.float32(chest.midline_mm))
    apex = chest.apex_mm
    heights = [apex - 60.0, apex - 26.0, apex - 10.0, apex + 12.0, apex + 95.0, apex + 125.0]
    shoulder = np.interp(y, heights, [52.0, 60.0, 120.0, 210.0, 205.0, 100.0]).astype(np.float32)
    body = soft_step(np.maximum(shoulder, scene.wall_at + chest.wall_mm) - offset, 8.0)
    stout = np.float32(TISSUE_DENSITY - 0.10 + 0.0035 * chest.wall_mm)
    density = body * stout * (1.0 - 0.12 * (offset / 192.0) ** 2)
    central = np.exp(-((offset / np.float32(1.15 * chest.mediastinum_mm)) ** 4))
    density += body * 0.12 * central
    below = np.minimum(*(np.where(scene.lateral[s] >= 0, scene.dome_at(s), 9e9) for s in SIDES))
    abdomen = soft_step(y - below, max(scene.mm, 3.0)) * body * soft_step(scene.wall_at + 2.0 - offset, 14.0)
    density += abdomen * np.clip(ABDOMEN_DENSITY - density, 0.0, None)
    if chest.gastric_bubble > 0.45:
        spot = (chest.midline_mm + 62.0, chest.dome_mm["left"] + 20.0)
        density -= 0.22 * chest.gastric_bubble * soft_step(14.0 - scene.distance(spot, 1.7), 5.0) * abdomen
    lung = scene.both_lungs()
    density += lung * (np.float32(chest.lung_density) - density)
    if chest.breast_mm > 0:
        for side in SIDES:
            sign = -1.0 if side == "right" else 1.0
            spot = (chest.midline_mm + sign * 0.58 * chest.half_width_mm, apex + 0.66 * chest.cage_mm)
            density += 0.10 * soft_step(chest.breast_mm - scene.distance(spot), 22.0) * body
    airway = apex + 0.36 * chest.cage_mm
    trachea = np.abs(x - chest.midline_mm - chest.tracheal_shift_mm) - 8.0
    density -= 0.15 * soft_step(-trachea, 4.0) * soft_step(airway - y, 8.0) * body
    scene.density += density + scene.heart * np.clip(HEART_DENSITY - density, 0.0, None)
    scene.markings += _vessels(scene, vessels) * lung * (1.0 - 0.6 * scene.heart)


def _vessels(scene: Scene, rng: np.random.Generator) -> Field:
    chest = scene.chest
    thick, thin = [], []
    along = np.linspace(0.0, 1.0, 9)
    for side in SIDES:
        sign = -1.0 if side == "right" else 1.0
        root_y = chest.apex_mm + (0.44 if side == "right" else 0.41) * chest.cage_mm
        for angle in np.linspace(-1.25, 1.35, 11) + rng.normal(0.0, 0.08, 11):
            length = rng.uniform(55.0, 95.0) * chest.half_width_mm / 138.0
            bend = angle + rng.normal(0.0, 0.5) * along
            steps = np.stack([sign * np.cos(bend), np.sin(bend)], 1) * length / 9.0
            root = (chest.midline_mm + sign * (chest.mediastinum_mm + 3.0), root_y + 14.0 * math.sin(angle))
            path = np.cumsum(np.vstack([root, steps]), axis=0)
            thick.append(path[:5])
            thin.append(path)
            fork = path[rng.integers(4, 7)]
            turned = bend[:6] + rng.choice([-0.6, 0.6])
            thin.append(fork + np.cumsum(np.stack([sign * np.cos(turned), np.sin(turned)], 1) * length / 13.0, axis=0))
        thick.append(np.array([[root[0], root_y - 14.0], [root[0] + sign * 5.0, root_y], [root[0], root_y + 22.0]]))
    field_ = 0.085 * stroke(thick, scene.size, 6.0) + 0.06 * stroke(thin, scene.size, 2.6)
    return np.float32(chest.vessel_gain) * np.minimum(field_, np.float32(0.22))


def develop(scene: Scene, exposure: Exposure, rng: np.random.Generator) -> Film:
    """Scatter, tone curve, blur and noise; uint8 (H, W), dense tissue bright."""
    total = scene.density + scene.markings + scene.overlay
    total = total + 0.02 * lattice_noise(rng, scene.size, 48.0)
    total = total + np.float32(exposure.unevenness) * (scene.x / 192.0 - 1.0)
    blur = exposure.blur_mm / scene.mm
    if blur > 0.3:
        total = gaussian_filter(total, blur)
    grey = 1.0 / (1.0 + np.exp(-exposure.contrast * (total - exposure.midpoint)))
    floor, ceiling = 0.10, 0.92
    grey = (grey - floor) / (ceiling - floor)
    grey = grey + np.float32(exposure.noise) * rng.standard_normal(grey.shape, dtype=np.float32)
    return np.asarray(np.clip(grey, 0.0, 1.0) * 255.0 + 0.5, dtype=np.uint8)
