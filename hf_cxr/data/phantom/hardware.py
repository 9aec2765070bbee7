"""Lines, tubes and pacemakers, and broken ribs: CheXpert's observations that NIH does not label."""

from __future__ import annotations

import numpy as np

from hf_cxr.data.phantom.anatomy import SIDES, Chest, Side
from hf_cxr.data.phantom.bones import rib_height, rib_origin
from hf_cxr.data.phantom.opacities import Rng, pick_side
from hf_cxr.data.phantom.projection import Scene
from hf_cxr.data.phantom.texture import Field, Mask, soft_step, stroke


def break_ribs(chest: Chest, site: Rng, film: Rng) -> tuple[tuple[Side, int, float, float], ...]:
    """Two to four neighbouring ribs of one side: (side, rib, place across, step in mm) each."""
    side = pick_side(site)
    first, count = int(site.integers(2, 5)), int(site.integers(2, 5))
    across = site.uniform(0.55, 0.85)
    return tuple(
        (
            side,
            first + i,
            across + site.uniform(-0.05, 0.05),
            site.choice([-1.0, 1.0]) * film.uniform(5.0, 8.0),
        )
        for i in range(count)
    )


def draw_fracture(scene: Scene, site: Rng, film: Rng) -> Mask:
    """Displaced ends are drawn with the ribs; here the swelling around them, and the mask."""
    chest = scene.chest
    mask = np.zeros(scene.y.shape, dtype=bool)
    for side, rib, across, _ in chest.fractures:
        sign = -1.0 if side == "right" else 1.0
        lateral = across * chest.half_width_mm
        drop = float(rib_height(chest, np.asarray(lateral, dtype=np.float32)))
        y = rib_origin(chest) + rib * chest.rib_spacing_mm + drop
        reach = scene.distance((chest.midline_mm + sign * lateral, y))
        scene.density += np.float32(0.10) * np.exp(-((reach / 9.0) ** 2))
        mask |= reach < 15.0
    return mask


def draw_support_devices(scene: Scene, site: Rng, film: Rng) -> Mask:
    """One to three of: endotracheal tube, central line, gastric tube, pacemaker, monitor leads."""
    kinds = ("tube", "line", "gastric", "pacemaker", "leads")
    chosen = site.choice(len(kinds), size=int(site.integers(1, 4)), replace=False, p=[0.2, 0.3, 0.15, 0.2, 0.15])
    drawn = np.zeros_like(scene.y)
    for kind in sorted(int(i) for i in chosen):
        drawn = np.maximum(drawn, _DEVICES[kinds[kind]](scene, site))
    scene.overlay += np.float32(film.uniform(0.34, 0.55)) * drawn
    return drawn > 0.35


def _tube(scene: Scene, site: Rng) -> Field:
    chest = scene.chest
    x = chest.midline_mm + chest.tracheal_shift_mm
    tip = chest.apex_mm + site.uniform(0.22, 0.33) * chest.cage_mm
    return np.minimum(stroke([np.array([[x + 2.0, 0.0], [x, tip]])], scene.size, 3.2), 1.0)


def _line(scene: Scene, site: Rng) -> Field:
    chest = scene.chest
    sign = -1.0 if site.random() < 0.7 else 1.0
    x, top = chest.midline_mm, chest.apex_mm
    tip = [x - 20.0, top + site.uniform(0.42, 0.55) * chest.cage_mm]
    if site.random() < 0.5:
        path = [[x + sign * 48.0, 0.0], [x + sign * 34.0, top + 10.0], [x - 18.0, top + 70.0], tip]
    else:
        path = [
            [x + sign * 120.0, top + 62.0],
            [x + sign * 70.0, top + 34.0],
            [x + sign * 22.0, top + 44.0],
            [x - 18.0, top + 72.0],
            tip,
        ]
    return np.minimum(stroke([_smooth(path)], scene.size, 2.4), 1.0)


def _gastric(scene: Scene, site: Rng) -> Field:
    chest = scene.chest
    x, bottom = chest.midline_mm, chest.dome_mm["left"]
    path = [
        [x + 5.0, 0.0],
        [x + 3.0, bottom - 80.0],
        [x + 8.0, bottom],
        [x + site.uniform(40.0, 70.0), bottom + 35.0],
    ]
    return np.minimum(stroke([_smooth(path)], scene.size, 2.4), 1.0)


def _pacemaker(scene: Scene, site: Rng) -> Field:
    chest = scene.chest
    sign = 1.0 if site.random() < 0.8 else -1.0
    box = (chest.midline_mm + sign * 0.72 * chest.half_width_mm, chest.apex_mm + site.uniform(48.0, 66.0))
    case = soft_step(19.0 - scene.distance(box, 1.25, 0.5 * sign), 2.5)
    heart_x, heart_y, half_width, _ = chest.heart_box_mm()
    path = [
        list(box),
        [chest.midline_mm + sign * 30.0, chest.apex_mm + 40.0],
        [chest.midline_mm - 18.0, heart_y - 70.0],
        [chest.midline_mm - 20.0, heart_y + 8.0],
        [heart_x + 0.4 * half_width, heart_y + 26.0],
    ]
    lead = np.minimum(stroke([_smooth(path)], scene.size, 2.2), 1.0)
    return np.maximum(case, lead)


def _leads(scene: Scene, site: Rng) -> Field:
    chest = scene.chest
    drawn = np.zeros_like(scene.y)
    paths = []
    for side in SIDES:
        sign = -1.0 if side == "right" else 1.0
        for down in (0.12, 0.85):
            spot = (
                chest.midline_mm + sign * site.uniform(0.6, 0.95) * chest.half_width_mm,
                chest.apex_mm + (down + site.uniform(-0.05, 0.05)) * chest.cage_mm,
            )
            drawn = np.maximum(drawn, soft_step(6.5 - scene.distance(spot), 2.5))
            leave = [chest.midline_mm + sign * 60.0, scene.size * scene.mm]
            paths.append(_smooth([list(spot), [spot[0] - sign * 25.0, spot[1] + 60.0], leave]))
    return np.maximum(drawn, 0.8 * np.minimum(stroke(paths, scene.size, 1.8), 1.0))


def _smooth(points: list[list[float]]) -> Field:
    """A rounded path through the neighbourhood of the points: three rounds of corner cutting (Chaikin)."""
    path = np.asarray(points, dtype=np.float32)
    for _ in range(3):
        cut = np.stack([0.75 * path[:-1] + 0.25 * path[1:], 0.25 * path[:-1] + 0.75 * path[1:]], axis=1)
        path = np.concatenate([path[:1], cut.reshape(-1, 2), path[-1:]]).astype(np.float32)
    return path


_DEVICES = {"tube": _tube, "line": _line, "gastric": _gastric, "pacemaker": _pacemaker, "leads": _leads}
