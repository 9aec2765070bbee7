"""Signs of the pleural space: air, fluid, scar. The rules follow the contract of `opacities`."""

from __future__ import annotations

import numpy as np

from hf_cxr.data.phantom.anatomy import SIDES
from hf_cxr.data.phantom.opacities import Rng, pick_side
from hf_cxr.data.phantom.projection import Scene
from hf_cxr.data.phantom.texture import Field, Mask, lattice_noise, soft_step

FLUID_DENSITY = 0.70


def draw_pneumothorax(scene: Scene, site: Rng, film: Rng) -> Mask:
    """Air over the apex and down the side: dark, without lung markings, inside a thin pleural line."""
    side = pick_side(site)
    chest = scene.chest
    gap = site.uniform(17.0, 45.0) * film.uniform(0.85, 1.2)
    end = site.uniform(0.5, 0.95)
    down = (scene.y - chest.apex_mm) / np.float32(chest.dome_mm[side] - chest.apex_mm)
    lateral = scene.lateral[side]
    top = scene.y - np.float32(chest.apex_mm) - np.float32(0.02) * (lateral - np.float32(46.0)) ** 2
    from_rim = np.minimum(scene.wall_at - lateral, top)
    width = np.float32(gap) * np.clip(1.0 - down / np.float32(end), 0.0, 1.0) ** 0.6
    inside = width - from_rim
    air = soft_step(inside, 2.0) * scene.lung[side] * (width > 2.0)
    line = np.exp(-((inside / max(1.3, 0.6 * scene.mm)) ** 2)) * scene.lung[side] * (width > 4.0)
    scene.markings *= 1.0 - air
    empty = np.float32(chest.lung_density - film.uniform(0.09, 0.15))
    scene.density += air * (empty - scene.density) + np.float32(film.uniform(0.14, 0.24)) * line
    scene.density += np.float32(0.05) * (scene.lung[side] - air) * np.float32(gap / 46.0)
    return np.asarray(air > 0.5)


def draw_effusion(scene: Scene, site: Rng, film: Rng) -> Mask:
    """Fluid in the costophrenic angle, its upper border a meniscus that climbs the chest wall."""
    first = pick_side(site)
    both = site.random() < 0.3
    amount = site.uniform(17.0, 85.0)
    mask = np.zeros(scene.y.shape, dtype=bool)
    for side in SIDES if both else (first,):
        chest = scene.chest
        opaque = film.uniform(0.60, 0.95)
        height = amount * film.uniform(0.75, 1.25) * (1.0 if side == first else 0.7)
        angle = chest.dome_mm[side] + 0.75 * chest.sulcus_mm
        reach = np.clip(scene.lateral[side] / scene.wall_at, 0.0, 1.0)
        surface = angle - np.float32(height) * (0.45 + 0.55 * reach**4)
        fluid = soft_step(scene.y - surface, 4.0) * scene.lung[side]
        scene.density += fluid * np.clip(FLUID_DENSITY - scene.density, 0.0, None) * np.float32(opaque)
        scene.markings *= 1.0 - 0.9 * fluid
        mask |= fluid > 0.5
    return mask


def draw_pleural_thickening(scene: Scene, site: Rng, film: Rng) -> Mask:
    """A dense wavy band along the inner chest wall, sometimes over the apex, on one side or both."""
    first = pick_side(site)
    both = site.random() < 0.4
    start, length = site.uniform(-0.1, 0.3), site.uniform(0.5, 0.75)
    thickness = site.uniform(11.0, 20.0) * film.uniform(0.92, 1.1)
    gain = film.uniform(0.32, 0.45)
    wave = 1.0 + 0.22 * lattice_noise(site, scene.size, 22.0)
    mask = np.zeros(scene.y.shape, dtype=bool)
    for side in SIDES if both else (first,):
        chest = scene.chest
        down = (scene.y - chest.apex_mm) / np.float32(chest.dome_mm[side] - chest.apex_mm)
        lateral = scene.lateral[side]
        top = scene.y - np.float32(chest.apex_mm) - np.float32(0.02) * (lateral - np.float32(46.0)) ** 2
        rim: Field = np.minimum(scene.wall_at - lateral, top)
        span = soft_step((down - start) * 100.0, 14.0) * soft_step((start + length - down) * 100.0, 14.0)
        band = soft_step(thickness * wave - rim, 2.5) * span * scene.lung[side]
        scene.density += np.float32(gain) * band
        mask |= band > 0.4
    return mask
