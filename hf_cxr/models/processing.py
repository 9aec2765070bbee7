"""Image processor: any film -> the tensor the model was trained on, by the same code as in training.

Two halves: `film_to_gray` and `fit_to_square` give the uint8 film of training size (what the training cache
stores), `normalise` gives the model's input. Both are used by training and by inference.
"""

from io import BytesIO
from os import PathLike
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from huggingface_hub.utils import httpx  # the client that transformers fetches images with
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.utils import TensorType

from .dicom import is_dataset, is_dicom, read_dicom
from .film_errors import DicomRefusedError, FilmError

FITS = ("pad", "crop", "stretch")
MOST_WHITE = 0.5
"""Share of white pixels above which an RGB image was surely saturated: 3,990 real 8-bit films have at most 0.018."""


def film_to_gray(image: Any, lateral: bool = False) -> Image.Image:
    """Any image -> 8-bit gray PIL image ("L").

    Args:
        image: PIL image (gray 1, 8 or 16 bit, palette, RGB, RGBA, LA); or array/tensor of shape (H, W), (1, H, W),
            (H, W, 1), (3, H, W) or (H, W, 3) with dtype uint8, uint16 or float in [0, 1]; or a pydicom `Dataset`.
        lateral: whether a DICOM film may be lateral.

    16-bit values are taken at full scale: 65535 is white (v · 255 / 65535, rounded). Equal colour channels are
    one channel; others become luminance (ITU-R 601). Alpha is dropped. Pixels are taken as they are stored: an
    orientation in EXIF is not applied, here as in training. DICOM: see `read_dicom`.

    Raises:
        FilmError: another type, shape or range, a broken file, or a film that is one value throughout.
        DicomRefusedError: no chest film, or none that can be read.
    """
    if is_dataset(image):
        film = read_dicom(image, lateral=lateral).image
    else:
        film = _from_pil(image) if isinstance(image, Image.Image) else _from_array(image)
    middle = film.height // 2
    low, high = film.crop((0, middle, film.width, middle + 1)).getextrema()
    if low == high:  # a row in the middle seldom is, and all of a film takes long to look at
        low, high = film.getextrema()
    if low == high:
        raise FilmError(f"film of size {film.size} has the value {low} in every pixel: blank, or wrongly scaled")
    return film


def _from_pil(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # Pillow's plug-ins raise more than OSError on broken data
        if isinstance(error, MemoryError) or getattr(error, "errno", None):
            raise  # the machine's fault
        raise FilmError(f"{type(error).__name__}: {error}") from error
    if image.mode == "L":
        return image
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit PNG opens as "I;16" or "I"
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535 or image.mode == "F":
            raise FilmError(f"{image.mode} image with values {values.min()} to {values.max()}; expected 0 to 65535")
        return Image.fromarray(_sixteen_to_eight(values))
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    if image.mode in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa"):
        colours = np.asarray(image.convert("RGB"))
        if (colours[..., :1] == colours).all():
            return Image.fromarray(np.ascontiguousarray(colours[..., 0]))
        return image.convert("RGB").convert("L")
    raise FilmError(f"image mode {image.mode!r}; expected gray, palette or RGB(A)")


def _from_array(image: Any) -> Image.Image:
    values = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if values.ndim == 3 and values.shape[0] in (1, 3):
        values = np.moveaxis(values, 0, -1)
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[-1] != 3):
        raise FilmError(f"array of shape {np.shape(image)}; expected (H, W) with 1 or 3 channels first or last")
    if values.dtype == np.uint16:
        values = _sixteen_to_eight(values)
    elif np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 1:
            raise FilmError(f"float film with values {values.min()} to {values.max()}; expected [0, 1]")
        values = np.rint(values * 255).astype(np.uint8)
    elif values.dtype != np.uint8:
        raise FilmError(f"film of dtype {values.dtype}; expected uint8, uint16 or float in [0, 1]")
    return _from_pil(Image.fromarray(np.ascontiguousarray(values)))


def _sixteen_to_eight(values: NDArray[Any]) -> NDArray[np.uint8]:
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def fit_to_square(film: Image.Image, size: int, fit: str = "pad") -> NDArray[np.uint8]:
    """Gray film -> (size, size) uint8.

    Args:
        film: PIL image of mode "L", any size.
        size: target in pixels.
        fit: `"pad"` scales the longer side and pads with black, so that proportions (the cardiothoracic ratio)
            and borders are kept; `"crop"` scales the shorter side and crops the centre; `"stretch"` ignores the
            aspect ratio, as R1 does. Antialiased bilinear; a film of the right size is not touched.
    """
    if fit not in FITS:
        raise FilmError(f"fit: got {fit!r}, expected one of {', '.join(FITS)}")
    width, height = film.size
    if (width, height) != (size, size):
        if fit == "stretch" or width == height:
            film = film.resize((size, size), Image.Resampling.BILINEAR)
        else:
            side = max(width, height) if fit == "pad" else min(width, height)
            scaled = (max(1, round(width * size / side)), max(1, round(height * size / side)))
            film = film.resize(scaled, Image.Resampling.BILINEAR)
            left, top = (scaled[0] - size) // 2, (scaled[1] - size) // 2
            film = film.crop((left, top, left + size, top + size))  # outside the film a crop is black
    return np.asarray(film)


def normalise(pixels_B1SS: Tensor, mean: float | None, std: float | None) -> Tensor:
    """Films -> float32 model input `(x − mean) / std`.

    Args:
        pixels_B1SS: uint8, or float in [0, 1].
        mean, std: statistics of films in [0, 1]; None takes each film's own, which removes its exposure.
    """
    owned = pixels_B1SS.float().div_(255) if pixels_B1SS.dtype == torch.uint8 else pixels_B1SS.clone()
    return normalise_(owned, mean, std)


def normalise_(pixels_B1SS: Tensor, mean: float | None, std: float | None) -> Tensor:
    """The same in place, of films in [0, 1]: a batch of training is written once instead of three times."""
    if mean is None or std is None:
        centred = pixels_B1SS.sub_(pixels_B1SS.mean((1, 2, 3), keepdim=True))
        # `torch.std` takes eight times as long on a CPU. Row by row: one sum over a large film would be off by 1e-5.
        norm = torch.linalg.vector_norm(torch.linalg.vector_norm(centred, dim=3), dim=(1, 2))
        deviation = norm[:, None, None, None] / centred.shape[1:].numel() ** 0.5
        return centred.div_(deviation.clamp(min=1 / 255))
    return pixels_B1SS.sub_(mean).div_(std)


class CXRImageProcessor(TorchvisionBackend):
    """Films in any form -> `{"pixel_values": (B, 1, S, S) float32}`.

    Args:
        size: `{"height": S, "width": S}`.
        fit: see `fit_to_square`.
        lateral: whether DICOM films may be lateral; other files do not say what they show.
        image_mean, image_std: lists of one number each, of films in [0, 1]; None takes each film's own.
    """

    model_input_names = ["pixel_values"]
    size: Any = {"height": 224, "width": 224}
    image_mean: Any = [0.5]
    image_std: Any = [0.25]

    def __init__(self, fit: str = "pad", lateral: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if fit not in FITS:
            raise FilmError(f"fit: got {fit!r}, expected one of {', '.join(FITS)}")
        self.fit = fit
        self.lateral = lateral

    @classmethod
    def for_model(cls, config: Any, fit: str = "pad", lateral: bool = False) -> "CXRImageProcessor":
        """The processor of a model's config."""
        size = {"height": config.image_size, "width": config.image_size}
        mean, std = config.image_mean, config.image_std
        return cls(
            fit=fit,
            lateral=lateral,
            size=size,
            image_mean=None if mean is None else [mean],
            image_std=None if std is None else [std],
        )

    def prepare(self, image: Any) -> NDArray[np.uint8]:
        """One film -> (S, S) uint8, before normalisation: what the training cache holds.

        Raises:
            FilmError: see `film_to_gray`.
        """
        return fit_to_square(film_to_gray(image, self.lateral), int(self.size.height), self.fit)

    def read(self, source: Any) -> tuple[NDArray[np.uint8], str | None]:
        """A file, or its bytes -> (S, S) uint8 as of `prepare`, and the view that its header states, if it has one.

        Raises:
            FilmError, DicomRefusedError: it is not taken. OSError: it cannot be read.
        """
        try:
            opened, view = self._opened(source)
        except UnidentifiedImageError:  # whose text has an address in memory
            raise FilmError("not a picture in a format that Pillow reads, nor DICOM") from None
        with opened:  # a broken film would keep its file open
            return self.prepare(opened), view

    @property
    def fingerprint(self) -> str:
        """Changes whenever `prepare` or `read` would give other pixels, or refuse other films."""
        return f"v1-{self.size.height}-{self.fit}{'-lateral' if self.lateral else ''}"

    def preprocess(self, images: Any, return_tensors: str | TensorType | None = None, **kwargs: Any) -> BatchFeature:
        """A film or a list of films -> batch.

        Args:
            images: as for `open` and `film_to_gray`; 16-bit films as a path, bytes or uint16 array rather than through
                transformers' `load_image` (which its own `pipeline("image-classification")` calls): it makes every
                value above 255 white.

        Raises:
            FilmError: a film cannot be used; says which, counted from 0.
            DicomRefusedError: the same, of a DICOM file.
            OSError: a file cannot be opened. httpx.HTTPError: a URL cannot be fetched.
        """
        films = []
        for position, image in enumerate(_as_list(images)):
            try:
                films.append(self._opened_and_prepared(image))
            except DicomRefusedError as error:
                raise DicomRefusedError(f"film {position}: {error}", error.code) from None
            except FilmError as error:
                raise FilmError(f"film {position}: {error}") from None
        pixels = torch.from_numpy(np.stack(films))[:, None]
        mean, std = (None if value is None else value[0] for value in (self.image_mean, self.image_std))
        batch = {"pixel_values": normalise(pixels, mean, std)}
        return BatchFeature(batch, tensor_type=return_tensors)

    def _opened_and_prepared(self, image: Any) -> NDArray[np.uint8]:
        if _is_source(image):
            return self.read(image)[0]
        film = self.prepare(image)
        _check_not_saturated(image)
        return film

    def open(self, image: Any) -> Any:
        """Open a path, URL, bytes or binary file: a PIL image, with its 16 bits; pass anything else through.

        DICOM is known by its first bytes, or by the suffix .dcm or .dicom, and comes back as the 8-bit film.

        Raises:
            FilmError: a picture has more than PIL.Image.MAX_IMAGE_PIXELS pixels.
            DicomRefusedError: see `read_dicom`.
            OSError: a file cannot be opened, or (UnidentifiedImageError) is no picture.
            httpx.HTTPError: a URL cannot be fetched.
        """
        return self._opened(image)[0] if _is_source(image) else image

    def _opened(self, source: Any) -> tuple[Image.Image, str | None]:
        """A picture, and the view that its header states; a DICOM file's has one."""
        if isinstance(source, str) and source.startswith(("http://", "https://")):
            answer = httpx.get(source, timeout=None, follow_redirects=True).raise_for_status()
            return self._read(BytesIO(answer.content), urlsplit(source).path)
        if isinstance(source, (bytes, bytearray, memoryview)):
            return self._read(BytesIO(source))
        if isinstance(source, (str, PathLike)):
            with open(source, "rb") as file:
                if is_dicom(file, str(source)):
                    return self._read(file, str(source))
            return _picture(source), None  # by its path, which the picture then knows
        return self._read(source)

    def _read(self, file: Any, name: str = "") -> tuple[Image.Image, str | None]:
        file.seek(0)
        if not is_dicom(file, name):
            return _picture(file), None
        film = read_dicom(file, lateral=self.lateral)
        return film.image, film.view


def _is_source(image: Any) -> bool:
    """Whether this is something to open rather than a film."""
    return isinstance(image, (str, PathLike, bytes, bytearray, memoryview)) or (
        hasattr(image, "read") and not isinstance(image, Image.Image)
    )


def _picture(source: Any) -> Image.Image:
    try:
        picture = Image.open(source)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise FilmError(str(error)) from None
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and picture.width * picture.height > limit:  # up to twice as many Pillow only warns
        picture.close()
        raise FilmError(f"{picture.width:,} × {picture.height:,} pixels; expected at most {limit:,}")
    return picture


def _check_not_saturated(image: Any) -> None:
    """Refuse what transformers' `load_image` makes of a 16-bit film: RGB, all values above 255 white."""
    if not isinstance(image, Image.Image) or image.mode != "RGB":
        return
    white = min(image.histogram()[255::256]) / max(1, image.width * image.height)
    if white > MOST_WHITE:
        raise FilmError(
            f"{white:.0%} of the pixels are white: a 16-bit film that was converted to RGB, as by "
            'pipeline("image-classification"); pass its path or its uint16 array to the processor, or use '
            'pipeline("chest-xray-classification")'
        )


def _as_list(images: Any) -> list[Any]:
    """One film, a list of films, or an array with a batch axis -> list of films."""
    if isinstance(images, (list, tuple)):
        return [film for image in images for film in _as_list(image)]
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]
