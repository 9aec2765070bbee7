"""Image processor: any film -> the tensor the model was trained on, by the same code as in training.

Two halves: `film_to_gray` and `fit_to_square` give the uint8 film of training size (what the training cache
stores), `normalise` gives the model's input. Both are used by training and by inference.
"""

from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import load_image
from transformers.utils import TensorType

FITS = ("pad", "crop", "stretch")


class FilmError(ValueError):
    """An input that is no film: wrong type, range or shape, or without any contrast."""


def film_to_gray(image: Any) -> Image.Image:
    """Any image -> 8-bit gray PIL image ("L").

    Args:
        image: PIL image (gray 1, 8 or 16 bit, palette, RGB, RGBA, LA); or array/tensor of shape (H, W), (1, H, W),
            (H, W, 1), (3, H, W) or (H, W, 3) with dtype uint8, uint16 or float in [0, 1].

    16-bit values are taken at full scale: 65535 is white (v · 255 / 65535, rounded). Equal colour channels are
    one channel; others become luminance (ITU-R 601). Alpha is dropped.

    Raises:
        FilmError: another type, shape or range, or a film that is one value throughout.
    """
    film = _from_pil(image) if isinstance(image, Image.Image) else _from_array(image)
    low, high = film.getextrema()
    if low == high:
        raise FilmError(f"film of size {film.size} has the value {low} in every pixel: blank, or wrongly scaled")
    return film


def _from_pil(image: Image.Image) -> Image.Image:
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
    scaled = pixels_B1SS.float() / 255 if pixels_B1SS.dtype == torch.uint8 else pixels_B1SS
    if mean is None or std is None:
        deviation, own_mean = torch.std_mean(scaled, (1, 2, 3), correction=0, keepdim=True)
        return (scaled - own_mean) / deviation.clamp(min=1 / 255)
    return (scaled - mean) / std


class CXRImageProcessor(TorchvisionBackend):
    """Films in any form -> `{"pixel_values": (B, 1, S, S) float32}`.

    Args:
        size: `{"height": S, "width": S}`.
        fit: see `fit_to_square`.
        image_mean, image_std: lists of one number each, of films in [0, 1]; None takes each film's own.
    """

    model_input_names = ["pixel_values"]
    size: Any = {"height": 224, "width": 224}
    image_mean: Any = [0.5]
    image_std: Any = [0.25]

    def __init__(self, fit: str = "pad", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if fit not in FITS:
            raise FilmError(f"fit: got {fit!r}, expected one of {', '.join(FITS)}")
        self.fit = fit

    @classmethod
    def for_model(cls, config: Any, fit: str = "pad") -> "CXRImageProcessor":
        """The processor of a model's config."""
        size = {"height": config.image_size, "width": config.image_size}
        mean, std = config.image_mean, config.image_std
        return cls(
            fit=fit,
            size=size,
            image_mean=None if mean is None else [mean],
            image_std=None if std is None else [std],
        )

    def prepare(self, image: Any) -> NDArray[np.uint8]:
        """One film -> (S, S) uint8, before normalisation: what the training cache holds.

        Raises:
            FilmError: see `film_to_gray`.
        """
        return fit_to_square(film_to_gray(image), int(self.size.height), self.fit)

    @property
    def fingerprint(self) -> str:
        """Changes whenever `prepare` would give other pixels."""
        return f"v1-{self.size.height}-{self.fit}"

    def preprocess(self, images: Any, return_tensors: str | TensorType | None = None, **kwargs: Any) -> BatchFeature:
        """A film or a list of films (paths and URLs too) -> batch.

        Raises:
            FilmError: a film cannot be used; says which, counted from 0.
        """
        films = []
        for position, image in enumerate(_as_list(images)):
            try:
                films.append(self.prepare(self.open(image)))
            except FilmError as error:
                raise FilmError(f"film {position}: {error}") from None
        pixels = torch.from_numpy(np.stack(films))[:, None]
        mean, std = (None if value is None else value[0] for value in (self.image_mean, self.image_std))
        batch = {"pixel_values": normalise(pixels, mean, std)}
        return BatchFeature(batch, tensor_type=return_tensors)

    def open(self, image: Any) -> Any:
        """Open a path or URL with PIL, keeping 16 bits; pass anything else through."""
        if not isinstance(image, (str, PathLike)):
            return image
        if str(image).startswith(("http://", "https://")):
            return load_image(str(image))
        return Image.open(image)


def _as_list(images: Any) -> list[Any]:
    """One film, a list of films, or an array with a batch axis -> list of films."""
    if isinstance(images, (list, tuple)):
        return [film for image in images for film in _as_list(image)]
    return list(images) if getattr(images, "ndim", 0) == 4 else [images]
