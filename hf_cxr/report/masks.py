"""Where findings lie on films: NIH's boxes or the phantom's masks, for the localisation scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hf_cxr.arguments import DataArguments
from hf_cxr.data import PHANTOM_OPTIONS, phantom_folder
from hf_cxr.data.phantom import OBSERVATION_SIGNS, SIGNS, load_mask
from hf_cxr.inspection import Masks
from hf_cxr.localisation import BoxError, Mask, boxes_to_masks, read_nih_boxes

NIH_BOXES = "BBox_List_2017.csv"


def find_masks(
    data: DataArguments, boxes: str | None, films: Sequence[str], names: Sequence[str], size: int
) -> tuple[Masks, str] | None:
    """Masks of a data set's films, and what they are, or None where it has none.

    Args:
        data: the data set.
        boxes: a box file in NIH's format, boxes in pixels of 1024² films; default: the phantom's masks, or
            `BBox_List_2017.csv` in the data set's folder.
        films: file name of each row. names: labels of the model. size: S of the heatmaps, which show the whole film.

    Raises:
        BoxError: a box file that cannot be read, or `boxes` has no box of a film and label that are there.
        FileNotFoundError: `boxes` does not exist.
    """
    folder = Path(data.data_dir) if data.data_dir else None
    if data.dataset == "phantom":
        asked = {key: value for key, value in data.builder_options().items() if key in PHANTOM_OPTIONS}
        folder = phantom_folder(folder, asked)
    if not boxes and folder and (folder / "phantom.json").is_file():
        signs = [name for name in names if name in SIGNS or name in OBSERVATION_SIGNS]
        return lambda row: _phantom(folder, films[row], signs, size), "the phantom's masks"
    path = Path(boxes) if boxes else folder / NIH_BOXES if folder else None
    if path is None or not (boxes or path.is_file()):
        return None
    read = [box for box in read_nih_boxes(path) if box.image in set(films) and box.label in names]
    if not read and not boxes:
        return None
    if not read:
        raise BoxError(f"{path}: no box is of a film of this split and a label of the model")
    by_film: dict[str, dict[str, Mask]] = {}
    for (image, label), mask in boxes_to_masks(read, size, size).items():
        by_film.setdefault(image, {})[label] = mask
    return lambda row: by_film.get(films[row], {}), f"{len(read)} boxes of {path.name}"


def _phantom(folder: Path, film: str, names: Sequence[str], size: int) -> dict[str, Mask]:
    found = {}
    for name in names:
        mask = load_mask(folder, film, name)
        if mask.any():
            found[name] = np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
    return found
