"""Where findings lie on films: NIH's boxes or the phantom's masks, for the localisation scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hf_cxr.arguments import DataArguments
from hf_cxr.data import PHANTOM_OPTIONS, phantom_folder
from hf_cxr.data.phantom import SIGNS, load_mask
from hf_cxr.inspection import Masks
from hf_cxr.localisation import Mask, boxes_to_masks, read_nih_boxes

NIH_BOXES = "BBox_List_2017.csv"


def find_masks(data: DataArguments, boxes: str | None, films: Sequence[str], size: int) -> tuple[Masks, str] | None:
    """Masks of a data set's films, and what they are, or None where it has none.

    Args:
        data: the data set. boxes: a box file in NIH's format; default: `BBox_List_2017.csv` in the data set's folder.
        films: file name of each row. size: S of the heatmaps, which show the whole square film.

    Raises:
        BoxError: a box file that cannot be read. FileNotFoundError: `boxes` does not exist.
    """
    folder = Path(data.data_dir) if data.data_dir else None
    if data.dataset == "phantom":
        asked = {key: value for key, value in data.builder_options().items() if key in PHANTOM_OPTIONS}
        folder = phantom_folder(folder, asked)
    if folder and (folder / "phantom.json").is_file():
        return lambda row: _phantom(folder, films[row], size), "the phantom's masks"
    path = Path(boxes) if boxes else folder / NIH_BOXES if folder else None
    if path is None or not (boxes or path.is_file()):
        return None
    by_film: dict[str, dict[str, Mask]] = {}
    for (image, label), mask in boxes_to_masks(read_nih_boxes(path), size, size).items():
        by_film.setdefault(image, {})[label] = mask
    return lambda row: by_film.get(films[row], {}), path.name


def _phantom(folder: Path, film: str, size: int) -> dict[str, Mask]:
    found = {}
    for name in SIGNS:
        mask = load_mask(folder, film, name)
        if mask.any():
            found[name] = np.asarray(Image.fromarray(mask).resize((size, size), Image.Resampling.NEAREST))
    return found
