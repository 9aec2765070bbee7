"""A DICOM file -> the 8-bit gray film that it shows, or the reason why it is not taken for a chest film.

pydicom and its decoders are looked for when a film is read: without them everything else of this folder works.
"""

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .dicom_grays import eight_bits
from .dicom_header import WANTED, check_pixels, check_subject, laterality, n_bytes, remarks
from .film_errors import DicomRefusedError

SUFFIXES = (".dcm", ".dicom")
INSTALL = 'pip install "hf_cxr[dicom]" (pydicom 3, pylibjpeg[all], pyjpegls)'
DEFLATED = "1.2.840.10008.1.2.1.99"
ELEMENT_BYTES = 12  # of an empty element
SPARE_BYTES = 2**24  # of a file, beside its pixels
GRAY_STEP = 8  # between the channels of a gray film after lossy compression
GRAY_SHARE = 0.999
JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7)


@dataclass(frozen=True, eq=False)
class DicomFilm:
    """All that is kept of a DICOM file.

    Attributes:
        image: mode "L", neither turned nor mirrored.
        notes: what was decided, in words; the first says what made the grays.
        view: PA, AP, LATERAL, or None where the header does not say.
        laterality: R, L, U (unpaired), B (both), or None.
        photometric: the file's photometric interpretation.
    """

    image: Image.Image
    notes: tuple[str, ...]
    view: str | None
    laterality: str | None
    photometric: str


def read_dicom(source: Any, *, lateral: bool = False) -> DicomFilm:
    """Read a chest film. What its header tells against it is said before any pixel is read.

    Values go through the modality transformation, then through the VOI LUT or else the first window. Where there is
    none, or none that leaves enough to see, films of up to 8 bits are taken as they are, as a PNG of the same pixels
    would be, and others from the 0.5th to the 99.5th percentile of the values inside the film. MONOCHROME1 is inverted
    after that; padding becomes black. Values are rounded once.

    Args:
        source: path, bytes, binary file that can be sought in, or pydicom `Dataset` (which is left as it was).
        lateral: whether lateral films are taken, too.

    Raises:
        DicomRefusedError: it is not taken; `code` and the message say why.
        OSError: the file cannot be opened or read.
        ImportError: pydicom is not installed.
    """
    library = _library()
    if is_dataset(source):
        dataset = _kept(source, library)
        view = _check(dataset, "PixelData" in dataset, lateral, library)
    else:
        with _opened(source) as file:
            header = _parsed(file, library, stop_before_pixels=True)
            if "Modality" not in header and "Rows" not in header:
                raise DicomRefusedError("no DICOM image", "broken")
            start, end = file.tell(), file.seek(0, 2)
            view = _check(header, end - start > ELEMENT_BYTES, lateral, library)
            if end - start > 2 * n_bytes(header) + SPARE_BYTES:
                raise DicomRefusedError(f"{end - start:,} bytes for {n_bytes(header):,} of pixels", "too_large")
            dataset = _parsed(file, library)
        if "PixelData" not in dataset:
            raise DicomRefusedError("ends within its pixels: truncated", "broken")
    pixels = _decoded(dataset, library)
    is_gray = pixels.ndim == 2
    grays, notes = eight_bits(pixels, dataset, library) if is_gray else (_one_channel(pixels), ["gray, as colours"])
    return DicomFilm(
        image=Image.fromarray(grays),
        notes=(*notes, *remarks(dataset)),
        view=view,
        laterality=laterality(dataset),
        photometric=str(dataset.PhotometricInterpretation),
    )


def is_dataset(image: Any) -> bool:
    """Whether this is a pydicom `Dataset`."""
    module = sys.modules.get("pydicom.dataset")
    return module is not None and isinstance(image, module.Dataset)


def is_dicom(file: BinaryIO, name: str = "") -> bool:
    """Whether a file holds DICOM, by its first bytes or else by its name; leaves it at its beginning."""
    head = file.read(132)
    file.seek(0)
    return head[128:] == b"DICM" or name.lower().endswith(SUFFIXES)


def _library() -> Any:
    try:  # transformers asks for whatever a file of remote code imports, unless it stands in a try
        import pydicom
        import pydicom.encaps
        import pydicom.pixels
    except ImportError:
        raise ImportError(f"reading DICOM needs pydicom, version 3 or later: {INSTALL}") from None
    return pydicom


@contextmanager
def _opened(source: Any) -> Iterator[BinaryIO]:
    if isinstance(source, (str, PathLike)):
        with open(source, "rb") as file:
            yield file
    else:
        yield BytesIO(source) if isinstance(source, (bytes, bytearray, memoryview)) else source


def _parsed(file: BinaryIO, library: Any, **until: Any) -> Any:
    """What is wanted of a file, which is left where reading stopped."""
    try:
        file.seek(128)
        if file.read(4) == b"DICM":  # looked into before pydicom inflates the whole file, however large it becomes
            meta = library.filereader.read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
            if meta.get("TransferSyntaxUID") == DEFLATED:
                raise DicomRefusedError("deflated as a whole; expected at most its pixels to be compressed", "syntax")
        file.seek(0)
        dataset = library.dcmread(file, force=True, specific_tags=list(WANTED), **until)
    except DicomRefusedError:
        raise
    except Exception as error:  # its text may hold values of the header
        raise _broken("not readable as DICOM", error) from None
    return _kept(dataset, library)


def _kept(dataset: Any, library: Any) -> Any:
    """A data set of what is wanted and not empty, with a transfer syntax."""
    kept = library.Dataset()
    for keyword in WANTED:
        try:
            value = dataset[keyword].value if keyword in dataset else None
            if value is not None and getattr(value, "__len__", lambda: 1)():
                kept[keyword] = dataset[keyword]
        except Exception as error:  # pydicom converts values when they are asked for, and raises whatever that gives
            raise _broken(f"{keyword} cannot be read", error) from None
    syntax = getattr(dataset, "file_meta", {}).get("TransferSyntaxUID")
    if not syntax:
        implicit, little = dataset.original_encoding
        explicit = library.uid.ExplicitVRBigEndian if little is False else library.uid.ExplicitVRLittleEndian
        syntax = library.uid.ImplicitVRLittleEndian if implicit else explicit
    kept.file_meta = library.dataset.FileMetaDataset()
    kept.file_meta.TransferSyntaxUID = syntax
    return kept


def _broken(what: str, error: Exception) -> Exception:
    """The refusal of a file at which reading failed; what the machine is to blame for stays what it is."""
    is_machine = isinstance(error, MemoryError) or getattr(error, "errno", None)
    return error if is_machine else DicomRefusedError(f"{what} ({type(error).__name__})", "broken")


def _check(dataset: Any, has_pixels: bool, lateral: bool, library: Any) -> str | None:
    """Refuse what the header tells against; the view."""
    view = check_subject(dataset, lateral)
    if not has_pixels:
        raise DicomRefusedError("no pixel data", "no_pixels")
    check_pixels(dataset)
    syntax = dataset.file_meta.TransferSyntaxUID
    name = "of a private kind" if syntax.is_private else f"'{syntax.name}'"
    try:
        decoder = library.pixels.get_decoder(syntax)
    except NotImplementedError:  # pydicom's word for a syntax that it does not know
        expected = "pixels stored uncompressed or as JPEG, JPEG 2000, JPEG-LS or RLE"
        raise DicomRefusedError(f"transfer syntax {name}; expected {expected}", "syntax") from None
    if not decoder.is_available:
        raise DicomRefusedError(f"no decoder for transfer syntax {name}: {INSTALL}", "syntax")
    return view


def _decoded(dataset: Any, library: Any) -> NDArray[Any]:
    """(H, W), or (H, W, 3) in RGB."""
    syntax, shape = dataset.file_meta.TransferSyntaxUID, (dataset.Rows, dataset.Columns)
    decoder = library.pixels.get_decoder(syntax)
    try:
        if decoder.is_native:
            expected, given = library.pixels.utils.get_expected_length(dataset), len(dataset.PixelData)
            row = max(2, n_bytes(dataset) // dataset.Rows)
            if not expected <= given < expected + row:  # less than a row of padding
                raise DicomRefusedError(f"{given:,} bytes of pixels; expected {expected:,}", "broken")
        elif syntax != library.uid.RLELossless:
            coded = _coded_shape(library.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1))
            if coded != (*shape, dataset.SamplesPerPixel):
                raise DicomRefusedError(f"{shape} pixels by its header, but {coded[:2]} in the image", "broken")
        # pydicom tries pylibjpeg first, which takes three times as long for JPEG-LS.
        plugin = "pyjpegls" if "pyjpegls" in decoder.available_plugins else ""
        pixels: NDArray[Any] = decoder.as_array(dataset, decoding_plugin=plugin)[0]
    except DicomRefusedError:
        raise
    except Exception as error:  # of pixels, whose text names nobody
        raise _broken(f"its pixels cannot be decoded: {' '.join(str(error).split())[:200]}", error) from None
    if pixels.shape[:2] != shape:
        raise DicomRefusedError(f"{shape} pixels by its header, but {pixels.shape} decoded", "broken")
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))


def _coded_shape(frame: bytes) -> tuple[int, ...]:
    """Rows, columns and samples by the compressed image's own header: a decoder would make room for these.

    Raises:
        DicomRefusedError: it has no such header, or no end.
    """
    if b"\xff\xd9" not in frame[-10:]:  # some decoders make up what is missing
        raise DicomRefusedError("the compressed image has no end: truncated", "broken")
    if (at := frame.find(b"\xff\x4f\xff\x51", 0, 2**16)) >= 0:  # JPEG 2000
        right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
        return bottom - top, right - left, int.from_bytes(frame[at + 40 : at + 42])
    at = 2
    while at + 10 <= len(frame) and frame[at] == 0xFF:  # JPEG, JPEG-LS: segment by segment
        if frame[at + 1] in JPEG_FRAMES:
            return struct.unpack_from(">2HB", frame, at + 5)
        at += 1 if frame[at + 1] == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4])
    raise DicomRefusedError("the compressed image has no header", "broken")


def _one_channel(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    spread = pixels.max(axis=2) - pixels.min(axis=2)
    if (spread <= GRAY_STEP).mean() < GRAY_SHARE:
        raise DicomRefusedError("colours: a screen, or drawings on a film; expected a film", "photometric")
    gray = np.ascontiguousarray(pixels[..., 1])
    if gray.min() == gray.max():
        raise DicomRefusedError("one value in every pixel: blank", "blank")
    return gray
