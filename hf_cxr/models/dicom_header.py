"""What a DICOM header says for and against a chest film. Data sets are pydicom's, with non-empty elements only."""

import re
from collections.abc import Iterator
from typing import Any

from PIL import Image

from .film_errors import DicomRefusedError

MODALITIES = ("CR", "DX", "RG", "XR")
"""Computed and digital radiography and digitised film; XR, no term of the standard, is written for all of them. Not RF:
fluoroscopy is a series at a low dose, often with contrast medium."""
BODY_PARTS = ("CHEST", "THORAX", "LUNG")
CHEST_CODES = ("T-D3000", "51185008", "T-28000", "39607008")
"""Chest and lung in SNOMED RT and CT."""
VIEWS = {
    **dict.fromkeys(("PA", "POSTEROANTERIOR"), "PA"),
    **dict.fromkeys(("AP", "ANTEROPOSTERIOR"), "AP"),
    **dict.fromkeys(("LL", "RL", "LLAT", "RLAT", "LAT", "LATERAL", "LEFTLATERAL", "RIGHTLATERAL"), "LATERAL"),
    "FRONTAL": None,
}
"""Views by their letters. All others are refused: obliques, decubitus, axial ones."""
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

WANTED = (
    "PresentationIntentType", "Modality", "BodyPartExamined", "AnatomicRegionSequence", "ViewPosition",
    "ViewCodeSequence", "PatientPosition", "PatientOrientation", "Laterality", "ImageLaterality",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "RescaleIntercept", "RescaleSlope",
    "ModalityLUTSequence", "PixelData",
)  # fmt: skip
"""All that is read of a file. Nothing here names anybody."""
LYING = re.compile("(HF|FF|LF|RF|AF|PF)(P|S|DR|DL)|(SEMI)?ERECT|STANDING|SITTING|SUPINE|PRONE")


def check_subject(dataset: Any, lateral: bool) -> str | None:
    """The view: PA, AP, LATERAL, or None where it is not stated.

    A body part or view that is not stated is accepted; a modality must be.

    Raises:
        DicomRefusedError: not a radiograph, not of the chest, or of a view that is not wanted.
    """
    if (modality := dataset.get("Modality")) not in MODALITIES:
        raise DicomRefusedError(f"modality {_quoted(modality)}; expected {', '.join(MODALITIES)}", "modality")
    part = dataset.get("BodyPartExamined")
    code, region = _coded(dataset, "AnatomicRegionSequence")
    if _letters(part):
        is_chest = _letters(part) in BODY_PARTS
    else:
        is_chest = not region or code in CHEST_CODES or any(name in _letters(region) for name in BODY_PARTS)
    if not is_chest:
        raise DicomRefusedError(f"body part {_quoted(part or region)}; expected {BODY_PARTS[0]}", "body_part")
    view, where = _view(dataset)
    if view == "LATERAL" and not lateral:
        raise DicomRefusedError(f"lateral view ({where}); expected a frontal one, AP or PA", "view")
    return view


def _view(dataset: Any) -> tuple[str | None, str]:
    """The view and the element that says so: the ones that are for it, else the position, where some write it."""
    stated = {
        "ViewPosition": dataset.get("ViewPosition"),
        "ViewCodeSequence": _coded(dataset, "ViewCodeSequence")[1],
        "PatientPosition": dataset.get("PatientPosition"),
    }
    for keyword, said in stated.items():
        word = _letters(said).removesuffix("VIEW").removesuffix("PROJECTION")
        if not word or (keyword == "PatientPosition" and LYING.fullmatch(word)):
            continue
        if word not in VIEWS:
            raise DicomRefusedError(f"view {_quoted(said)} ({keyword}); expected AP or PA", "view")
        return VIEWS[word], keyword
    rows, _ = _orientation(dataset)
    return "LATERAL" if rows[:1] in ("A", "P") else None, "PatientOrientation"


def check_pixels(dataset: Any) -> None:
    """Whether the pixels that the header describes can be those of a film; none of them is looked at.

    Raises:
        DicomRefusedError: several frames, other forms of pixels, too many, or no sense in it.
    """
    if (n_frames := _whole(dataset, "NumberOfFrames", 1)) > 1:
        raise DicomRefusedError(f"{n_frames} frames; expected one", "multi_frame")
    kind, n_samples = dataset.get("PhotometricInterpretation"), _whole(dataset, "SamplesPerPixel")
    allocated, stored = _whole(dataset, "BitsAllocated"), _whole(dataset, "BitsStored")
    signed = _whole(dataset, "PixelRepresentation")
    high_bit = _whole(dataset, "HighBit", stored - 1)
    gray = n_samples == 1 and kind in ("MONOCHROME1", "MONOCHROME2") and allocated in (8, 16)
    colour = n_samples == 3 and kind in COLOURS and allocated == stored == 8 and not signed
    if not (gray or colour) or not 1 < stored <= allocated or high_bit != stored - 1 or signed not in (0, 1):
        raise DicomRefusedError(
            f"{_quoted(kind)}, {n_samples} samples a pixel, each of {stored} bits up to bit {high_bit} of {allocated}; "
            "expected MONOCHROME1 or MONOCHROME2 of 2 to 16 bits, or RGB of 8",
            "photometric",
        )
    rows, columns = _whole(dataset, "Rows"), _whole(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise DicomRefusedError(f"{rows} rows and {columns} columns", "broken")
    if Image.MAX_IMAGE_PIXELS is not None and rows * columns > Image.MAX_IMAGE_PIXELS:
        limit = f"at most {Image.MAX_IMAGE_PIXELS:,} pixels (PIL.Image.MAX_IMAGE_PIXELS)"
        raise DicomRefusedError(f"{rows:,} × {columns:,} pixels; expected {limit}", "too_large")


def n_bytes(dataset: Any) -> int:
    """What the pixels take uncompressed."""
    return int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated) // 8


def laterality(dataset: Any) -> str | None:
    """R, L, U or B, if stated."""
    stated = (dataset.get("ImageLaterality"), dataset.get("Laterality"))
    return next((str(side) for side in stated if side in ("R", "L", "U", "B")), None)


def remarks(dataset: Any) -> Iterator[str]:
    """What whoever looks at the film should know, in words."""
    if dataset.get("PresentationIntentType") == "FOR PROCESSING":
        yield "for processing: a detector's values, not yet what readers look at"
    rows, columns = _orientation(dataset)
    if rows and (rows[0] not in "LAP" or columns[0] != "F"):
        yield f"rows run towards {rows} and columns towards {columns}, usually L and F: left as stored"


def _orientation(dataset: Any) -> tuple[str, str]:
    """The patient's side (L, R, A, P, H, F or several of them) at the end of rows and columns; blank if not stated."""
    stated = dataset.get("PatientOrientation", "")
    ends = [_letters(end) for end in stated] if len(stated) == 2 else []
    return (ends[0], ends[1]) if ends and all(end and set(end) <= set("LRAPHF") for end in ends) else ("", "")


def _coded(dataset: Any, keyword: str) -> tuple[str, str]:
    """Value and meaning of a coded element; blank if not stated."""
    if keyword not in dataset:
        return "", ""
    try:
        item = dataset[keyword].value[0]
        return str(item.get("CodeValue", "")), str(item.get("CodeMeaning", ""))
    except Exception as error:  # pydicom converts values when they are asked for
        raise DicomRefusedError(f"{keyword} cannot be read ({type(error).__name__})", "broken") from None


def _whole(dataset: Any, keyword: str, default: int | None = None) -> int:
    try:
        return int(dataset.get(keyword, default))
    except (TypeError, ValueError):
        raise DicomRefusedError(f"{keyword} is missing or no number", "broken") from None


def _letters(text: Any) -> str:
    return re.sub("[^A-Z]", "", str(text or "").upper())


def _quoted(text: Any) -> str:
    return repr(str(text)[:32]) if text else "not stated"
