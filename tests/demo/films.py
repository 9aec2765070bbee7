"""A model and films for the tests of the demo."""

from dataclasses import replace

import numpy as np
from PIL import Image

from hf_cxr.demo import phantoms
from hf_cxr.hierarchy import Node
from tests.pipeline.helpers import operating_points
from tests.predict.films import save, tiny

NASTY = '<img src=x onerror="window.hacked=1"> {{7*7}} ${7*7} `&\'"'
GATE, LABELS = 0.1, 0.05


def with_nasty_label(nih):
    return replace(nih, nodes=(*nih.nodes, Node(NASTY, parents=("Other",))))


def make_folder(hierarchy, folder, head_dropout=0.3):
    model = tiny("densenet", hierarchy, head_dropout=head_dropout)
    model.config.operating_points = operating_points(dict.fromkeys(hierarchy.names, LABELS), GATE)
    return save(model, folder)


def phantom(number=1, kind="Effusion", deep=False):
    """(512, 400) gray, 8 or 16 bits: no square, so that the processor pads it; not all black at its sides."""
    values = np.asarray(phantoms.draw(kind, number))[:, 56:456] // 2 + 60
    return Image.fromarray(values.astype(np.uint16) * 257 if deep else values.astype(np.uint8))


def put(image, path):
    image.save(path)
    return path
