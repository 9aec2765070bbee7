"""A reading as HTML: the film with its heatmaps, what the gate says, and the tree of findings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from hf_cxr.demo.pictures import data_uri, layer
from hf_cxr.demo.words import Notice, doubt_legend, doubt_notice, doubt_of, gate_notice, percent
from hf_cxr.hierarchy import Hierarchy

# Every value is escaped: labels come from the model's config, names of files from visitors.
_TEMPLATES = Environment(
    loader=PackageLoader("hf_cxr.demo"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_TEMPLATES.filters["percent"] = percent
_TEMPLATES.filters["doubt"] = doubt_of


@dataclass(frozen=True)
class Shown:
    """A film on the page.

    Attributes:
        picture: of the square that the model reads (`pictures.square`).
        caption: what the film is, and what of it is shown.
    """

    picture: Image.Image
    caption: str


def template(name: str, **values: Any) -> str:
    """A template of the demo, filled in."""
    return _TEMPLATES.get_template(name).render(**values)


def render(
    reading: Mapping[str, Any],
    shown: Shown,
    hierarchy: Hierarchy,
    *,
    n_passes: int | None,
    max_entropy: float | None,
    n_members: int = 0,
) -> str:
    """What the page shows of one film.

    Args:
        reading: of `ChestXRayClassificationPipeline`, with heatmaps of all labels.
        n_passes, max_entropy: with which it was made. n_members: of an ensemble that made it, else 0.
    """
    notices = [
        doubt_notice(reading, max_entropy, hierarchy),
        gate_notice(reading["gate"], reading["operating_points_from"]),
    ]
    maps = reading["heatmaps"]
    return template(
        "result.html.jinja",
        notices=[notice for notice in notices if notice],
        film=data_uri(shown.picture),
        caption=shown.caption,
        layers={name: None if heat is None else data_uri(layer(heat)) for name, heat in maps.items()},
        words={name: _map_words(name, heat) for name, heat in maps.items()},
        position={name: i for i, name in enumerate(maps)},
        chosen=first_choice(reading, hierarchy),
        findings=reading["findings"],
        legend=doubt_legend(n_passes, n_members),
    )


def problem(text: str) -> str:
    """What the page shows in the place of a film that cannot be read."""
    notice = Notice("problem", "This film could not be read", (text,))
    return template("notice.html.jinja", notices=[notice])


def first_choice(reading: Mapping[str, Any], hierarchy: Hierarchy) -> str:
    """The label whose heatmap is shown at first: the most probable finding below no other that has a map."""
    probability, maps = reading["probabilities"], reading["heatmaps"]
    seen = [name for name in hierarchy.names if maps[name] is not None]
    leaves = [name for name in seen if name in hierarchy.findings and not hierarchy.children[name]]
    return max(leaves or seen, key=probability.__getitem__)


def _map_words(name: str, heat: np.ndarray | None) -> str:
    if heat is None:
        return f"No heatmap of {name}: the finding model did not look"
    return f"Heatmap of {name}" if heat.any() else f"Heatmap of {name}: empty, nothing speaks for it"
