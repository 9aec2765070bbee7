"""The signs the phantom can draw, in the order they are laid on a film, and the data sets' names for them.

A sign acts in up to two places: `RESHAPE` changes the chest before it is projected (a big heart, a flat
diaphragm), `DRAW` lays opacity or air on the scene. Either way it has a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from hf_cxr.data.phantom import hardware, opacities, pleura
from hf_cxr.data.phantom.anatomy import Chest
from hf_cxr.data.phantom.opacities import Rng
from hf_cxr.data.phantom.projection import Scene
from hf_cxr.data.phantom.texture import Mask

NIH_FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
UNLABELLED_BY_NIH = ("Enlarged Cardiomediastinum", "Fracture", "Support Devices")
"""Drawn in both layouts; in NIH's they are what they are in its films: seen, not labelled."""
SIGNS = NIH_FINDINGS + UNLABELLED_BY_NIH

OBSERVATION_SIGNS: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": ("Enlarged Cardiomediastinum", "Cardiomegaly"),
    "Cardiomegaly": ("Cardiomegaly",),
    "Lung Opacity": (
        "Infiltration", "Fibrosis", "Nodule", "Mass", "Edema", "Consolidation", "Pneumonia", "Atelectasis",
    ),
    "Lung Lesion": ("Nodule", "Mass"),
    "Edema": ("Edema",),
    "Consolidation": ("Consolidation", "Pneumonia"),
    "Pneumonia": ("Pneumonia",),
    "Atelectasis": ("Atelectasis",),
    "Pneumothorax": ("Pneumothorax",),
    "Pleural Effusion": ("Effusion",),
    "Pleural Other": ("Pleural_Thickening",),
    "Fracture": ("Fracture",),
    "Support Devices": ("Support Devices",),
}  # fmt: skip
"""CheXpert's observations (bar No Finding, in its column order) and the signs that make each true.

Parents are closed upward along CheXpert's own tree (Irvin et al. 2019, Fig. 1). Emphysema and Hernia
have no observation there.
"""


def _enlarge_heart(chest: Chest, site: Rng, film: Rng) -> Chest:
    ratio = site.uniform(0.53, 0.61) + film.uniform(-0.01, 0.01)
    return replace(chest, cardiothoracic_ratio=ratio)


def _hyperinflate(chest: Chest, site: Rng, film: Rng) -> Chest:
    lower = site.uniform(5.0, 19.0) * film.uniform(0.85, 1.15)
    # An enlarged heart stays enlarged: the two labels may meet, and the ratio decides the second.
    narrow = 1.0 if chest.cardiothoracic_ratio > 0.5 else site.uniform(0.82, 0.92)
    return replace(
        chest,
        dome_mm={side: dome + lower for side, dome in chest.dome_mm.items()},
        sulcus_mm=chest.sulcus_mm * site.uniform(0.35, 0.70),
        lung_density=chest.lung_density - film.uniform(0.02, 0.065),
        vessel_gain=chest.vessel_gain * site.uniform(0.50, 0.80),
        rib_slope=chest.rib_slope * 0.6,
        cardiothoracic_ratio=chest.cardiothoracic_ratio * narrow,
    )


def _raise_dome(chest: Chest, site: Rng, film: Rng) -> Chest:
    side = opacities.collapsed_side(site)
    raised = dict(chest.dome_mm)
    raised[side] -= film.uniform(8.0, 20.0)
    return replace(chest, dome_mm=raised)


def _widen_mediastinum(chest: Chest, site: Rng, film: Rng) -> Chest:
    return replace(chest, mediastinum_mm=chest.mediastinum_mm * site.uniform(1.45, 1.85) * film.uniform(0.97, 1.03))


def _break_ribs(chest: Chest, site: Rng, film: Rng) -> Chest:
    return replace(chest, fractures=hardware.break_ribs(chest, site, film))


RESHAPE: dict[str, Callable[[Chest, Rng, Rng], Chest]] = {
    "Cardiomegaly": _enlarge_heart,
    "Enlarged Cardiomediastinum": _widen_mediastinum,
    "Emphysema": _hyperinflate,
    "Atelectasis": _raise_dome,
    "Fracture": _break_ribs,
}


def _heart(scene: Scene, site: Rng, film: Rng) -> Mask:
    return scene.heart_mask()


def _lungs(scene: Scene, site: Rng, film: Rng) -> Mask:
    return scene.both_lungs() > 0.5


def _mediastinum(scene: Scene, site: Rng, film: Rng) -> Mask:
    chest = scene.chest
    band = np.abs(scene.x - chest.midline_mm) < chest.mediastinum_mm + 2.0
    upper = (scene.y > chest.apex_mm) & (scene.y < chest.apex_mm + 0.5 * chest.cage_mm)
    return np.asarray(band & upper)


DRAW: dict[str, Callable[[Scene, Rng, Rng], Mask]] = {
    "Cardiomegaly": _heart,
    "Emphysema": _lungs,
    "Enlarged Cardiomediastinum": _mediastinum,
    "Fibrosis": opacities.draw_fibrosis,
    "Edema": opacities.draw_edema,
    "Infiltration": opacities.draw_infiltration,
    "Pneumonia": opacities.draw_pneumonia,
    "Consolidation": opacities.draw_consolidation,
    "Atelectasis": opacities.draw_atelectasis,
    "Nodule": opacities.draw_nodule,
    "Mass": opacities.draw_mass,
    "Hernia": opacities.draw_hernia,
    # Air in the pleural space displaces whatever the lung showed there; fluid and scar lie outside it.
    "Pneumothorax": pleura.draw_pneumothorax,
    "Pleural_Thickening": pleura.draw_pleural_thickening,
    "Effusion": pleura.draw_effusion,
    "Fracture": hardware.draw_fracture,
    "Support Devices": hardware.draw_support_devices,
}
