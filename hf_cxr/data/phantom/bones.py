"""Bones: ribs before and behind, clavicles, spine, laid over whatever the lungs show."""

from __future__ import annotations

import math

import numpy as np

from hf_cxr.data.phantom.anatomy import SIDES, Chest
from hf_cxr.data.phantom.projection import Scene
from hf_cxr.data.phantom.texture import Field, soft_step


def rib_height(chest: Chest, lateral: Field) -> Field:
    """How far below its spinal end a posterior rib lies, in mm, at a distance from the midline."""
    reach = lateral / np.float32(chest.half_width_mm)
    return np.asarray(chest.rib_slope * (52.0 * reach**2 - 12.0 * reach), dtype=np.float32)


def rib_origin(chest: Chest) -> float:
    """Height (y) of the first posterior rib at the spine."""
    return chest.apex_mm + 2.0


def lay_bones(scene: Scene) -> None:
    """Ribs (posterior, anterior), clavicles, spine: added to the density."""
    chest, y = scene.chest, scene.y
    cage = soft_step(y - chest.apex_mm + 6.0, 6.0) * soft_step(chest.apex_mm + 1.12 * chest.cage_mm - y, 20.0)
    for side in SIDES:
        lateral = scene.lateral[side]
        # Few ribs are seen through the abdomen.
        covered = soft_step(y - scene.dome_at(side) - 12.0, 24.0)
        here = (
            cage
            * (1.0 - 0.75 * covered)
            * soft_step(scene.wall_at + 4.0 - lateral, 3.0)
            * soft_step(lateral - 12.0, 4.0)
        )
        fall = y - rib_height(chest, lateral) - np.float32(rib_origin(chest))
        broken = np.ones_like(y)
        for place, rib, across, step in chest.fractures:
            if place == side:
                beyond = lateral - np.float32(across * chest.half_width_mm)
                own = np.rint(fall / chest.rib_spacing_mm) == rib
                fall = fall - np.where((beyond > 0) & own, np.float32(step), np.float32(0.0))
                broken = np.where(own & (np.abs(beyond) < 2.6), np.float32(0.0), broken)
        scene.density += np.float32(chest.bone) * here * broken * _rib_profile(fall, chest.rib_spacing_mm, 4.6)
        end = np.float32(rib_origin(chest)) + rib_height(chest, np.float32(chest.half_width_mm) + 0.0 * y)
        front = y - end - np.float32(0.62 * chest.rib_slope) * (scene.wall_at - lateral)
        fade = soft_step(lateral - np.float32(0.42 * chest.half_width_mm), 26.0)
        front_profile = _rib_profile(front, chest.rib_spacing_mm, 5.2)
        scene.density += np.float32(0.6 * chest.bone) * here * fade * front_profile
        clavicle = y - (chest.apex_mm + 30.0 - 0.16 * lateral + 6.0 * np.sin(lateral / 26.0))
        ends = soft_step(lateral - 10.0, 5.0) * soft_step(158.0 - lateral, 8.0)
        scene.density += np.float32(1.25 * chest.bone) * ends * soft_step(5.5 - np.abs(clavicle), 3.0)
    offset = np.abs(scene.x - np.float32(chest.midline_mm))
    vertebrae = 0.8 + 0.2 * np.cos(y * np.float32(2.0 * math.pi / 25.0))
    scene.density += np.float32(0.9 * chest.bone) * soft_step(17.0 - offset, 5.0) * vertebrae


def _rib_profile(fall: Field, spacing_mm: float, half_mm: float) -> Field:
    nearest = np.abs(fall - np.rint(fall / spacing_mm) * np.float32(spacing_mm))
    rim = np.float32(0.65) + np.float32(0.45) * np.minimum(nearest / half_mm, 1.0) ** 2
    return np.asarray(soft_step(half_mm - nearest, 2.5) * rim, dtype=np.float32)
