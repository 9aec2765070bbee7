"""Whether heatmaps point at the findings: scored against masks, or against NIH's boxes. numpy in, numbers out.

    pointing game    the heatmap's greatest value lies in the finding (Zhang et al. 2018, IJCV 126, 1084)
    IoU              of the finding and the pixels from a threshold up
    inside           share of the heatmap's sum in the finding (energy-based pointing game; Wang et al. 2020, CVPRW)

Each has a value that a map gets which knows nothing: `area`, the finding's share of the film, is it for the share
inside (an even map) and about it for the pointing game without tolerance. Compare also with an untrained network's maps
(`explain.untrained`): in films where the finding is the brightest spot, an untrained network finds it too.

Shapes: N films, H × W pixels of a heatmap.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from hf_cxr.errors import UserError

Array = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

NIH_BOX_LABELS = {"Infiltrate": "Infiltration"}
"""Names that NIH's box file writes otherwise than its label table."""
NIH_BOX_PIXELS = 1024
NIH_BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h]"


class BoxError(UserError, ValueError):
    """A box file, or a box, that cannot be used."""


@dataclass(frozen=True)
class Box:
    """A finding's box on a film, as shares of its width and height.

    Attributes:
        image: the film's file name. label: the finding, by its name in the label table.
        left, top, width, height: in [0, 1] from the top left corner.
    """

    image: str
    label: str
    left: float
    top: float
    width: float
    height: float

    def mask(self, height: int, width: int) -> Mask:
        """(H, W): pixels whose centre lies in the box, or the one that holds the box's centre if none does.

        The heatmap must show the whole film, unpadded: NIH's are square, so `fit` does not matter for them.
        """
        y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
        rows = (y >= self.top) & (y < self.top + self.height)
        columns = (x >= self.left) & (x < self.left + self.width)
        for inside, start, length in ((rows, self.top, self.height), (columns, self.left, self.width)):
            if not inside.any():
                inside[min(int((start + length / 2) * len(inside)), len(inside) - 1)] = True
        return rows[:, None] & columns


def read_nih_boxes(path: str | os.PathLike[str], *, pixels: int = NIH_BOX_PIXELS) -> list[Box]:
    """`BBox_List_2017.csv` of NIH ChestX-ray14: 984 boxes of eight findings on 880 films.

    Its header names one column `Bbox [x,y,w,h]`, which its own commas break into four, and ends in three empty ones,
    as do the rows: the first six fields count. "Infiltrate" is Infiltration.

    Args:
        path: the file, or the phantom's.
        pixels: width and height of the films that boxes are given in; NIH's are 1024 (the phantom's its image size).

    Raises:
        BoxError: another header, or a row that is short, has no numbers, a box without area or outside the film, or
            anything beyond the sixth field; names the row.
    """
    with open(path, encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.reader(stream))
    header = [cell.strip() for cell in rows[0]] if rows else []
    if header[:6] != NIH_BOX_HEADER.split(",") or any(header[6:]):
        raise BoxError(f"{path}: header {header}; expected {NIH_BOX_HEADER}, then nothing")
    return [_box(row, pixels, f"{path}, row {number}") for number, row in enumerate(rows[1:], start=2) if any(row)]


def _box(row: list[str], pixels: int, where: str) -> Box:
    try:
        image, label, left, top, width, height = row[0].strip(), row[1].strip(), *(float(cell) for cell in row[2:6])
    except (ValueError, IndexError) as error:
        raise BoxError(f"{where}: {row}; expected image, finding and four numbers x, y, w, h") from error
    sized = 0 < width <= pixels and 0 < height <= pixels
    inside = -width < left < pixels and -height < top < pixels
    if not (image and label and sized and inside) or any(cell.strip() for cell in row[6:]):
        raise BoxError(
            f"{where}: {row}; expected a film, a finding and a box with area inside {pixels} × {pixels} pixels, then "
            "nothing; boxes in other pixels need pixels=…"
        )
    return Box(image, NIH_BOX_LABELS.get(label, label), *(edge / pixels for edge in (left, top, width, height)))


def boxes_to_masks(boxes: Iterable[Box], height: int, width: int) -> dict[tuple[str, str], Mask]:
    """`{(image, label): (H, W)}`, the union of a film's boxes of one finding."""
    masks: dict[tuple[str, str], Mask] = {}
    for box in boxes:
        key = (box.image, box.label)
        masks[key] = masks.get(key, np.zeros((height, width), bool)) | box.mask(height, width)
    return masks


def pointing_hit(heatmap_HW: Array, mask_HW: Mask, tolerance: float = 0.0) -> float:
    """Whether the greatest value lies in the mask or within `tolerance` pixels of it: 1 or 0, between if tied.

    Among tied greatest values their share that hits counts. A map without a value above 0 points nowhere: 0.
    """
    heatmap_HW, mask_HW = _check(heatmap_HW, mask_HW)
    if heatmap_HW.max() <= 0:
        return 0.0
    near = distance_transform_edt(~mask_HW) <= tolerance if tolerance else mask_HW
    return float(near[heatmap_HW == heatmap_HW.max()].mean())


def iou(heatmap_HW: Array, mask_HW: Mask, threshold: float = 0.5) -> float:
    """Intersection over union of the mask and the pixels of at least `threshold` times the greatest value.

    In [0, 1]; 0 for a map without a value above 0. `threshold` in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold}; expected a share of the greatest value, in (0, 1]")
    heatmap_HW, mask_HW = _check(heatmap_HW, mask_HW)
    marked = (heatmap_HW >= threshold * heatmap_HW.max()) & (heatmap_HW > 0)
    return float((marked & mask_HW).sum() / (marked | mask_HW).sum())


def share_inside(heatmap_HW: Array, mask_HW: Mask) -> float:
    """Share of the heatmap's sum inside the mask, in [0, 1]; 0 for a map without a value above 0.

    Depends on the scaling: a map stretched from its least value has lost the even part that lay everywhere.
    """
    heatmap_HW, mask_HW = _check(heatmap_HW, mask_HW)
    total = heatmap_HW.sum()
    return float(heatmap_HW[mask_HW].sum() / total) if total > 0 else 0.0


@dataclass(frozen=True)
class LocalisationScore:
    """Means over the films that show a finding and have a heatmap of it; None if there is none.

    Attributes:
        n: films scored. n_empty: of these, with a map without a value above 0 (scored 0: it points nowhere).
        n_without_map: films that show the finding but whose heatmap is NaN (a two-stage model's gate cleared them);
            not scored.
        pointing, iou, inside: see `pointing_hit`, `iou`, `share_inside`. area: mean share of the film in the mask.
        undefined: why the figures are None, else None.
    """

    n: int
    n_empty: int
    n_without_map: int
    pointing: float | None
    iou: float | None
    inside: float | None
    area: float | None
    undefined: str | None = None


@dataclass(frozen=True)
class FilmScore:
    """One film's heatmap of a finding that it shows: `pointing`, `iou`, `inside`, `area`, each in [0, 1].

    `empty`: the map has no value above 0.
    """

    pointing: float
    iou: float
    inside: float
    area: float
    empty: bool


def score_film(
    heatmap_HW: Array, mask_HW: Mask, *, tolerance: float | None = None, threshold: float = 0.5
) -> FilmScore | None:
    """Score one heatmap; None where it is NaN throughout, since the model did not look.

    Args:
        heatmap_HW: at least 0. mask_HW: bool, where the finding is, at the heatmap's size.
        tolerance: in pixels; None takes 15 / 500 of the longer side, about Zhang et al.'s 15 pixels on VOC films.
        threshold: see `iou`.

    Raises:
        ValueError: shapes differ, the mask is not bool or empty, a value is negative or (not throughout) NaN.
    """
    if np.isnan(heatmap_HW).all():
        return None
    tolerance = _tolerance(mask_HW) if tolerance is None else tolerance
    return FilmScore(
        pointing_hit(heatmap_HW, mask_HW, tolerance),
        iou(heatmap_HW, mask_HW, threshold),
        share_inside(heatmap_HW, mask_HW),
        float(mask_HW.mean()),
        bool(np.max(heatmap_HW) <= 0),
    )


def mean_score(scores: Sequence[FilmScore | None]) -> LocalisationScore:
    """Means over the films that show a finding, None among them where the model did not look."""
    looked = [score for score in scores if score is not None]
    reason = None
    if not looked:
        reason = "no heatmap of a film that shows the finding" if scores else "no film shows the finding"
    pointing, overlap, inside, area = (
        float(np.mean([getattr(score, name) for score in looked])) if looked else None
        for name in ("pointing", "iou", "inside", "area")
    )
    n_empty = sum(score.empty for score in looked)
    return LocalisationScore(len(looked), n_empty, len(scores) - len(looked), pointing, overlap, inside, area, reason)


def score_localisation(
    heatmaps_NHW: Array, masks_NHW: Mask, *, tolerance: float | None = None, threshold: float = 0.5
) -> LocalisationScore:
    """Score one finding's heatmaps; films whose mask has no true pixel do not show it and are left out.

    Args and errors as `score_film`, for N films.
    """
    heatmaps_NHW, masks_NHW = np.asarray(heatmaps_NHW), np.asarray(masks_NHW)
    if heatmaps_NHW.shape != masks_NHW.shape or heatmaps_NHW.ndim != 3:
        raise ValueError(
            f"heatmaps {heatmaps_NHW.shape}, masks {masks_NHW.shape}; expected (N, H, W) alike: draw the boxes or "
            "scale the masks at the heatmaps' size"
        )
    pairs = zip(heatmaps_NHW, masks_NHW, strict=True)
    return mean_score([score_film(h, m, tolerance=tolerance, threshold=threshold) for h, m in pairs if m.any()])


def _tolerance(mask_HW: Mask) -> float:
    return 0.03 * max(mask_HW.shape)


def _check(heatmap_HW: Array, mask_HW: Mask) -> tuple[Array, Mask]:
    heatmap, mask = np.asarray(heatmap_HW), np.asarray(mask_HW)
    if heatmap.shape != mask.shape or heatmap.ndim != 2 or mask.dtype != bool or not mask.any():
        raise ValueError(
            f"heatmap {heatmap.shape}, mask {mask.shape} of {mask.dtype} with {int(mask.sum())} pixels; expected both "
            "(H, W), the mask bool with at least one true pixel"
        )
    if not np.isfinite(heatmap).all() or heatmap.min() < 0:
        raise ValueError(f"heatmap with values {heatmap.min()} to {heatmap.max()}; expected finite ones, 0 or more")
    return heatmap.astype(np.float64, copy=False), mask
