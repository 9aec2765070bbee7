"""Signs inside the lung: each rule draws on a scene and returns the mask of what it drew.

A rule takes its lasting traits (side, place, kind) from `site`, the same on all films of a patient, and
what changes from film to film (size, density) from `film`.
"""

from __future__ import annotations

import math

import numpy as np

from hf_cxr.data.phantom.anatomy import SIDES, Side
from hf_cxr.data.phantom.projection import Scene
from hf_cxr.data.phantom.texture import Field, Mask, lattice_noise, soft_step, stroke

Rng = np.random.Generator

NODULE_MM = (17.0, 28.5)
"""Diameters of nodules; the radiological border between nodule and mass is 30 mm."""
MASS_MM = (34.0, 72.0)


def pick_side(rng: Rng) -> Side:
    """Right or left, evenly; one draw."""
    return SIDES[int(rng.integers(2))]


def _seen(scene: Scene, side: Side) -> Field:
    """The lung an opacity shows in: in full beside the heart, half behind it."""
    return scene.lung[side] * (1.0 - 0.5 * scene.heart)


def draw_infiltration(scene: Scene, site: Rng, film: Rng) -> Mask:
    """Ill-defined patches, several, in one or both lungs, mostly in the middle and lower zones."""
    both = site.random() < 0.5
    first = pick_side(site)
    sides = SIDES if both else (first,)
    gain = film.uniform(0.11, 0.25)
    mottle = np.clip(0.85 + 0.4 * lattice_noise(film, scene.size, 13.0), 0.0, 1.6)
    haze = np.zeros_like(scene.y)
    for side in sides:
        for _ in range(int(site.integers(3, 6))):
            centre = scene.place(side, site.uniform(0.15, 0.8), site.uniform(0.35, 0.92))
            spread = site.uniform(11.0, 19.0) * film.uniform(0.9, 1.15)
            blob = np.exp(-0.5 * (scene.distance(centre, 1.4, site.uniform(0, math.pi)) / spread) ** 2)
            haze = np.maximum(haze, blob * _seen(scene, side))
    haze = haze * mottle
    scene.density += np.float32(gain) * haze
    return np.asarray(haze > 0.35)


def draw_consolidation(scene: Scene, site: Rng, film: Rng) -> Mask:
    """One dense confluent region with an uneven but clear border; vessels vanish in it."""
    side = pick_side(site)
    centre = scene.place(side, site.uniform(0.3, 0.75), site.uniform(0.35, 0.88))
    radius = site.uniform(24.0, 40.0) * film.uniform(0.9, 1.15)
    reach = scene.distance(centre, site.uniform(1.0, 1.35), site.uniform(0, math.pi))
    ragged = radius - reach + 7.0 * lattice_noise(film, scene.size, 16.0)
    dense = soft_step(ragged, 11.0) * _seen(scene, side)
    scene.density += np.float32(film.uniform(0.20, 0.34)) * dense
    scene.markings *= 1.0 - 0.8 * dense
    return dense > 0.5


def draw_pneumonia(scene: Scene, site: Rng, film: Rng) -> Mask:
    """A lobe made opaque up to its fissure, with air in the bronchi showing as dark branches."""
    side = pick_side(site)
    chest = scene.chest
    lateral = scene.lateral[side]
    fissure = chest.apex_mm + site.uniform(0.44, 0.52) * chest.cage_mm + 0.10 * lateral
    upper = site.random() < 0.4
    # The fissure is a sharp edge; away from it the lobe fades.
    above = fissure - scene.y
    edge, fade = (soft_step(above, 3.0), above) if upper else (soft_step(-above, 3.0), -above)
    lobe = edge * np.exp(-0.5 * (np.clip(fade - 30.0, 0.0, None) / 26.0) ** 2) * _seen(scene, side)
    lobe = lobe * np.clip(0.95 + 0.16 * lattice_noise(film, scene.size, 20.0), 0.4, 1.3)
    sign = -1.0 if side == "right" else 1.0
    root = np.array([chest.midline_mm + sign * (chest.mediastinum_mm + 4.0), chest.apex_mm + 0.46 * chest.cage_mm])
    heading = -0.7 if upper else 0.7
    branches = []
    for angle in heading + np.array([-0.45, 0.0, 0.45]) + site.normal(0.0, 0.1, 3):
        length = site.uniform(50.0, 75.0)
        branches.append(np.stack([root, root + length * np.array([sign * math.cos(angle), math.sin(angle)])]))
    air = np.minimum(stroke(branches, scene.size, 4.0), 1.0)
    scene.density += np.float32(film.uniform(0.24, 0.36)) * lobe * (1.0 - 0.75 * air)
    scene.markings *= 1.0 - 0.85 * np.minimum(lobe, 1.0)
    return np.asarray(lobe > 0.4)


def draw_nodule(scene: Scene, site: Rng, film: Rng) -> Mask:
    """One to three round spots under 30 mm."""
    mask = np.zeros(scene.y.shape, dtype=bool)
    gain = film.uniform(0.34, 0.48)
    for _ in range(int(site.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))):
        side = pick_side(site)
        centre = scene.place(side, site.uniform(0.2, 0.85), site.uniform(0.15, 0.85))
        radius = 0.5 * min(site.uniform(*NODULE_MM) * film.uniform(0.95, 1.05), NODULE_MM[1])
        inside = radius - scene.distance(centre)
        scene.density += np.float32(gain) * soft_step(inside, 3.0) * (1.0 - 0.3 * scene.heart)
        mask |= inside >= 0
    return mask


def draw_mass(scene: Scene, site: Rng, film: Rng) -> Mask:
    """One lobulated, well-defined opacity over 30 mm."""
    side = pick_side(site)
    centre = scene.place(side, site.uniform(0.2, 0.75), site.uniform(0.2, 0.8))
    radius = 0.5 * max(site.uniform(*MASS_MM) * film.uniform(0.95, 1.1), MASS_MM[0])
    angle = np.arctan2(scene.y - centre[1], scene.x - centre[0])
    lobes = 1.0 + 0.07 * np.cos(3.0 * angle + site.uniform(0, 6.3)) + 0.05 * np.cos(5.0 * angle + site.uniform(0, 6.3))
    inside = radius * lobes - scene.distance(centre)
    # A mass may touch the mediastinum or the wall, it does not leave the chest.
    solid = soft_step(inside, 6.0) * soft_step(scene.wall_at - scene.lateral[side], 3.0)
    scene.density += np.float32(film.uniform(0.30, 0.42)) * solid * (1.0 - 0.4 * scene.heart)
    scene.markings *= 1.0 - 0.8 * solid
    return solid > 0.5


def draw_atelectasis(scene: Scene, site: Rng, film: Rng) -> Mask:
    """Bands above a raised dome, or a lobe collapsed to a wedge; `reshape` has raised the dome already."""
    side = collapsed_side(site)
    lobar = site.random() < 0.4
    gain = film.uniform(0.17, 0.36)
    sign = -1.0 if side == "right" else 1.0
    opacity = np.zeros_like(scene.y)
    if lobar:
        # Against the mediastinum from hilum to dome, with a straight outer border.
        top = scene.chest.apex_mm + 0.42 * scene.chest.cage_mm
        slope = site.uniform(0.55, 0.85)
        border = 14.0 + scene.chest.mediastinum_mm + slope * (scene.y - top) - scene.lateral[side]
        opacity = soft_step(border, 4.0) * soft_step(scene.y - top, 14.0) * scene.lung[side]
    else:
        for _ in range(int(site.integers(2, 4))):
            centre = scene.place(side, site.uniform(0.3, 0.65), site.uniform(0.68, 0.9))
            turn = sign * site.normal(-0.15, 0.25)
            along = scene.distance(centre, stretch=site.uniform(8.0, 11.0), turn=turn)
            band = soft_step(site.uniform(3.6, 5.4) * film.uniform(0.9, 1.1) - along, 2.5)
            opacity = np.maximum(opacity, band * scene.lung[side] * (1.0 - 0.4 * scene.heart))
    scene.density += np.float32(gain) * opacity
    return opacity > 0.4


def collapsed_side(site: Rng) -> Side:
    """The side of an atelectasis: the first draw of its site, which `reshape` needs too."""
    return pick_side(site)


def draw_edema(scene: Scene, site: Rng, film: Rng) -> Mask:
    """Haze around both hila like a bat's wings, fat vessels, short septal (Kerley B) lines at the bases."""
    chest = scene.chest
    gain, reach = film.uniform(0.09, 0.23), site.uniform(34.0, 46.0) * film.uniform(0.92, 1.1)
    haze = np.zeros_like(scene.y)
    lines = []
    for side in SIDES:
        sign = -1.0 if side == "right" else 1.0
        hilum = (
            chest.midline_mm + sign * (chest.mediastinum_mm + 20.0),
            chest.apex_mm + 0.50 * chest.cage_mm,
        )
        wing = np.exp(-0.5 * (scene.distance(hilum, 1.5, math.pi / 2) / reach) ** 2) * scene.lung[side]
        haze = np.maximum(haze, wing)
        for step in range(6):
            x, y = scene.place(side, 0.97, 0.78 + 0.035 * step)
            lines.append(np.array([[x, y], [x - sign * 16.0, y - 1.5]]))
    kerley = np.minimum(stroke(lines, scene.size, 1.6), 1.0) * scene.both_lungs()
    scene.markings *= np.float32(1.0 + 0.8 * gain / 0.3)
    fluff = np.clip(0.9 + 0.22 * lattice_noise(film, scene.size, 14.0), 0.3, 1.6)
    scene.density += np.float32(gain) * haze * fluff + np.float32(0.16) * kerley
    return (haze > 0.35) | (kerley > 0.3)


def draw_fibrosis(scene: Scene, site: Rng, film: Rng) -> Mask:
    """A net of fine lines at both bases and under the pleura."""
    cell = site.uniform(7.0, 9.5)
    # The zero crossings of smooth noise are a net.
    net = np.clip(1.0 - np.abs(lattice_noise(site, scene.size, cell)) / 0.42, 0.0, 1.0)
    gain = film.uniform(0.11, 0.24)
    reach = site.uniform(0.28, 0.48)
    where = np.zeros_like(scene.y)
    for side in SIDES:
        down = (scene.y - scene.chest.apex_mm) / (scene.chest.dome_mm[side] - scene.chest.apex_mm)
        rim = soft_step(16.0 - (scene.wall_at - scene.lateral[side]), 14.0) * soft_step(down - 0.3, 0.2)
        base = soft_step((down - 1.0 + reach) * 100.0, 26.0)
        where = np.maximum(where, np.maximum(base, 0.8 * rim) * scene.lung[side] * (1.0 - 0.6 * scene.heart))
    scene.density += np.float32(gain) * where * net + np.float32(0.03) * where
    return where > 0.4


def draw_hernia(scene: Scene, site: Rng, film: Rng) -> Mask:
    """The stomach behind the heart: a round pouch, air above a fluid level."""
    chest = scene.chest
    radius = site.uniform(18.0, 34.0) * film.uniform(0.92, 1.08)
    centre = (chest.midline_mm + site.uniform(-4.0, 26.0), chest.dome_mm["left"] - 0.62 * radius)
    inside = radius - scene.distance(centre, 1.2)
    pouch = soft_step(inside, 3.0)
    rim = np.exp(-((inside - 2.0) ** 2) / 8.0)
    air = pouch * soft_step(centre[1] + film.uniform(-0.1, 0.35) * radius - scene.y, 2.5)
    scene.density += np.float32(0.10) * (pouch - air) + np.float32(0.10) * rim
    scene.density -= np.float32(film.uniform(0.15, 0.32)) * air
    return pouch > 0.5
