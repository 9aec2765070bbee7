"""The values of a radiograph -> 8-bit grays, as its DICOM header says, or by percentiles where that shows nothing.

Everything is computed once for each value that occurs, in float64; pixels are then looked up in the rounded result.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .film_errors import DicomRefusedError

Floats = NDArray[np.float64]

PERCENTILES = (0.5, 99.5)
BORDER = 0.01  # of the pixels: a lowest or highest value that has more is a border or saturation, not anatomy
LEAST_GRAYS = 128  # of 256 between the percentiles; with fewer a window is over twice as wide as the values
MOST_CLIPPED = 0.9  # of the pixels black or white; with more there is nothing left to see


def eight_bits(pixels: NDArray[Any], dataset: Any, library: Any) -> tuple[NDArray[np.uint8], list[str]]:
    """Stored values -> grays as they are shown, the lungs dark, and what was decided.

    Args:
        pixels: (H, W), signed or unsigned, of 8 or 16 bits.
        dataset: the image's pydicom `Dataset`, without empty elements.
        library: pydicom.

    Returns:
        (H, W) uint8, padding 0; notes, of which the first says what made the grays.

    Raises:
        DicomRefusedError: one value throughout, or a modality transformation that cannot be used.
    """
    codes = pixels.view(f"u{pixels.itemsize}")
    counts = np.bincount(codes.ravel(), minlength=2 ** (8 * pixels.itemsize))
    stored = np.arange(len(counts), dtype=codes.dtype).view(pixels.dtype).astype(np.int64)  # of each code
    padded = _padded(stored, pixels.dtype, dataset)
    present = np.flatnonzero((counts > 0) & ~padded)
    grays, notes = _shown(stored[present], counts[present], dataset, library)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grays = 255 - grays
        notes.append("MONOCHROME1: inverted")
    if n_padded := counts[padded].sum():
        notes.append(f"padding: {n_padded / pixels.size:.2%} of the pixels made black")
    table = np.zeros(len(counts), np.uint8)
    table[present] = np.rint(grays)
    return table[codes], notes


def _padded(stored: NDArray[np.int64], dtype: np.dtype[Any], dataset: Any) -> NDArray[np.bool_]:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(len(stored), bool)
    try:
        ends = np.array([int(value), int(dataset.get("PixelPaddingRangeLimit", value))])
    except (TypeError, ValueError):
        raise DicomRefusedError("PixelPaddingValue or its limit is no number", "broken") from None
    if dtype.itemsize == 2:  # that of signed pixels is often written as if it were unsigned: 63536 for -2000
        ends = ends.astype(dtype)
    return (stored >= ends.min()) & (stored <= ends.max())


def _shown(
    stored: NDArray[np.int64], counts: NDArray[np.int64], dataset: Any, library: Any
) -> tuple[Floats, list[str]]:
    """Grays in [0, 255] of values that occur so often, not yet inverted."""
    values = _modality(stored, dataset, library)
    if not len(values) or values.min() == values.max():
        raise DicomRefusedError("one value in every pixel: blank, or wrongly scaled", "blank")
    faults = []
    for name, show in _ways(values, dataset, library):
        try:
            grays = np.clip(show(), 0, 255)
        except Exception as error:  # whatever the header holds there
            faults.append(f"{name} cannot be used ({type(error).__name__})")
            continue
        if fault := _fault(grays, counts):
            faults.append(f"{name} {fault}")
        else:
            return grays, ["; ".join([*faults, name])]
    why = "; ".join(faults) or "no window"
    if dataset.BitsStored <= 8 and "ModalityLUTSequence" not in dataset:
        lowest = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
        ends = _modality(np.array([lowest, lowest + 2**dataset.BitsStored - 1]), dataset, library)
        grays = (values - ends.min()) / (ends.max() - ends.min()) * 255
        return np.clip(grays, 0, 255), [f"{why}: all {2**dataset.BitsStored} values of its {dataset.BitsStored} bits"]
    low, high = _percentiles(values, _inside(values, counts))
    if low == high:
        low, high = float(values.min()), float(values.max())
    grays = np.clip((values - low) / (high - low), 0, 1) * 255
    return grays, [f"{why}: percentiles {PERCENTILES[0]}–{PERCENTILES[1]}"]


def _modality(stored: NDArray[np.int64], dataset: Any, library: Any) -> NDArray[Any]:
    try:
        values: NDArray[Any] = library.pixels.apply_modality_lut(stored, dataset)
    except Exception as error:  # whatever the header holds there
        reason = f"its modality LUT or rescaling cannot be used ({type(error).__name__})"
        raise DicomRefusedError(reason, "broken") from None
    if not np.isfinite(values).all():
        raise DicomRefusedError("its rescaling gives values that are not finite", "broken")
    return values


def _ways(values: NDArray[Any], dataset: Any, library: Any) -> Iterator[tuple[str, Callable[[], Floats]]]:
    """What the header offers, best first: a name and how to get grays, 0 to 255 and beyond."""

    def by_lut() -> Floats:
        n_entries, first, depth = (int(number) for number in dataset.VOILUTSequence[0].LUTDescriptor)
        whole = np.rint(values).astype(np.int64).clip(first, first + (n_entries or 2**16) - 1)
        shown: Floats = library.pixels.apply_voi(whole, dataset) * (255 / (2**depth - 1))
        return shown

    def by_window() -> Floats:
        # pydicom shows in the range of the stored values: these shall be 8 bits.
        screen = library.Dataset()
        screen.PhotometricInterpretation, screen.BitsStored, screen.PixelRepresentation = "MONOCHROME2", 8, 0
        for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
            if keyword in dataset:
                screen[keyword] = dataset[keyword]
        with np.errstate(over="ignore"):  # the foot of a steep sigmoid
            shown: Floats = library.pixels.apply_windowing(values, screen)
        return shown

    if "VOILUTSequence" in dataset:
        yield "VOI LUT", by_lut
    if "WindowCenter" in dataset and "WindowWidth" in dataset:
        n_windows = dataset["WindowWidth"].VM
        width = dataset.WindowWidth if n_windows == 1 else dataset.WindowWidth[0]
        which = f" (the first of {n_windows})" if n_windows > 1 else ""
        yield f"window {str(width).removesuffix('.0')} wide{which}", by_window


def _fault(grays: Floats, counts: NDArray[np.int64]) -> str | None:
    """What is wrong with a window or VOI LUT that makes these grays."""
    clipped = counts[(grays < 0.5) | (grays >= 254.5)].sum() / counts.sum()
    if clipped > MOST_CLIPPED:
        return f"leaves the film nearly blank ({clipped:.0%} of it black or white)"
    low, high = _percentiles(grays, counts)
    return "is far wider than the values" if high - low < LEAST_GRAYS else None


def _inside(values: NDArray[Any], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    inside, total = counts.copy(), counts.sum()
    for end in (values == values.min(), values == values.max()):
        if counts[end].sum() > BORDER * total:
            inside[end] = 0
    return inside if inside.any() else counts


def _percentiles(values: NDArray[Any], counts: NDArray[np.int64]) -> tuple[float, float]:
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    low, high = values[order][np.searchsorted(below, np.array(PERCENTILES) / 100 * below[-1])]
    return float(low), float(high)
