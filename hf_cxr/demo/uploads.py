"""An uploaded file, read once and deleted; and in words what is wrong with one that is no film."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from hf_cxr.errors import UserError
from hf_cxr.models import CXRImageProcessor, FilmError
from hf_cxr.models.dicom import SUFFIXES, is_dicom
from hf_cxr.models.processing import film_to_gray

FORMATS = "PNG, JPEG or DICOM (.dcm)"
LONGEST = 10
"""Times a film may be as long as wide: scaled by its shorter side, a small file of one row would fill the memory."""

_BROKEN = f"The file is broken or incomplete. Export the film again as {FORMATS}, or choose another."
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
"""Of PNG and JPEG. Pillow would also try formats that no film comes in, some of which start other programs."""


class UploadError(UserError, ValueError):
    """A file that cannot be shown; the message says to its visitor why and what to do."""


def read_upload(path: Path, processor: CXRImageProcessor) -> Image.Image:
    """The film in an upload, 8-bit gray (mode "L") at its full size; the file is deleted whatever happens.

    Raises:
        UploadError: no film, a broken or blank one, or one that is no longer there.
    """
    # Libraries name the file in their warnings, and visitors name their files after patients.
    nameless = path.with_name(f"film{path.suffix.lower() if path.suffix.lower() in SUFFIXES else ''}")
    try:
        path.rename(nameless)
        with nameless.open("rb") as file:
            known = file.read(8).startswith(_STARTS)
            file.seek(0)
            if not known and not is_dicom(file, nameless.name):
                raise UploadError(f"This is not a film that can be read here: expected a {FORMATS} file.")
        with processor.open(nameless) as image:
            if max(image.size) > LONGEST * min(image.size):
                raise UploadError(f"No chest film has {image.width:,} × {image.height:,} pixels. Choose another.")
            return film_to_gray(image, processor.lateral)
    except FilmError as error:
        raise UploadError(_advice(error)) from None
    except FileNotFoundError:
        # Gradio keeps equal files of the same name once: somebody else's turn has deleted it.
        raise UploadError("The file was gone before its turn. Choose it again.") from None
    except UnidentifiedImageError:
        raise UploadError(_BROKEN) from None
    except ImportError:
        raise UploadError("DICOM cannot be read here. Export the film as PNG or JPEG.") from None
    finally:
        forget(nameless)


def _advice(error: FilmError) -> str:
    if error.__cause__ is not None:  # a decoder's error, in a decoder's words
        return _BROKEN
    if isinstance(error.__context__, Image.DecompressionBombError):
        return "This film has too many pixels. Export it with some 2,000 a side, which suffice."
    return f"This cannot be used as a film: {str(error).removesuffix('.')}. Export the film again, or choose another."


def forget(path: Path) -> None:
    """Delete an upload, and the folder in which Gradio put it unless another is there."""
    path.unlink(missing_ok=True)
    try:
        path.parent.rmdir()
    except OSError:
        return
