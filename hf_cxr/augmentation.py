"""Augmentation of a batch on the model's device, reproducible from (seed, epoch, index).

A film's augmentation depends on nothing but the run's seed, the epoch and the film's index in the training
split. Batch order, number of processes, workers and resuming in mid-epoch change nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_N_DRAWS = 8
_FILMS_A_THREAD = 4


@dataclass(frozen=True)
class AugmentationConfig:
    """Ranges of the random changes; a default of 0 everywhere changes nothing.

    Rotation and scale interpolate, by cubic convolution: bilinear interpolation blurs training films that evaluation
    sees sharp. Flips and shifts alone move whole pixels.

    Args:
        flip: probability of a horizontal flip. There is no vertical flip: no film is read upside down.
        rotation: largest angle in degrees, either way.
        scale: largest relative change of size, e.g. 0.1 for a factor in [0.9, 1.1].
        shift: largest translation as a fraction of the image, either way and axis; in whole pixels.
        brightness: largest change added to intensities in [0, 1], either way.
        contrast: largest relative change of the deviation from the film's mean.
    """

    flip: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0

    def __post_init__(self) -> None:
        ceilings = {"flip": 1, "rotation": 180, "scale": 0.9, "shift": 1, "brightness": 1, "contrast": 1}
        for name, ceiling in ceilings.items():
            if not 0 <= getattr(self, name) <= ceiling:
                raise ValueError(f"augmentation {name}: got {getattr(self, name)}, expected 0 to {ceiling}")


def uniform(seed: int, epoch: int, index_B: Tensor, n_draws: int) -> Tensor:
    """(B, n_draws) float32 in [0, 1), a pure function of (seed, epoch, index, draw).

    Counter-based: splitmix64 (Steele et al. 2014) of the packed counter, in wrapping int64 arithmetic, hence
    equal on every device.
    """
    draw = torch.arange(n_draws, device=index_B.device)
    stream = _signed(epoch * 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03)
    mixed = (index_B.long()[:, None] * n_draws + draw + stream) * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ _shift_right(mixed, shift)) * _signed(factor)
    mixed = mixed ^ _shift_right(mixed, 31)
    return _shift_right(mixed, 40).float() / (1 << 24)


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's >> on int64 carries the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def augment(films_B1SS: Tensor, index_B: Tensor, config: AugmentationConfig, *, seed: int, epoch: int) -> Tensor:
    """Augment a batch of films.

    Args:
        films_B1SS: uint8, or float in [0, 1].
        index_B: each film's index in the training split.
        config: ranges.
        seed, epoch: of the run.

    Returns:
        (B, 1, S, S) float32 in [0, 1], the caller's to write into. What rotation or shift brings in is black.
    """
    draws = uniform(seed, epoch, index_B, _N_DRAWS)
    if films_B1SS.device.type != "cpu":
        return _changed(films_B1SS, draws, config)
    # A core's cache holds a few films and their grids: a quarter less time than the whole batch at once.
    n = _FILMS_A_THREAD * torch.get_num_threads()
    out = torch.empty(films_B1SS.shape)
    for part, films, drawn in zip(out.split(n), films_B1SS.split(n), draws.split(n), strict=True):
        part.copy_(_changed(films, drawn, config))
    return out


def _changed(films_B1SS: Tensor, draws: Tensor, config: AugmentationConfig) -> Tensor:
    """A batch changed as its draws say, (B, `_N_DRAWS`)."""
    centred = 2 * draws - 1
    mirrored_B = draws[:, 2] < config.flip
    # Whole pixels: flips and shifts alone then move pixels without interpolating between them.
    shift_B2 = (config.shift * films_B1SS.shape[-1] * centred[:, 3:5]).round()
    turns = bool(config.rotation or config.scale)
    if not turns and (config.flip or config.shift):
        films_B1SS = _move(films_B1SS, mirrored_B, shift_B2.long())
    films = films_B1SS.float().div_(255) if films_B1SS.dtype == torch.uint8 else films_B1SS.clone()
    if turns:
        angle = centred[:, 0] * math.radians(config.rotation)
        zoom = 1 / (1 + centred[:, 1] * config.scale)
        films = _turn(films, angle, zoom, mirrored_B, shift_B2)
    if config.contrast or config.brightness:
        mean = films.mean((1, 2, 3), keepdim=True)
        gain = (1 + config.contrast * centred[:, 5]).view(-1, 1, 1, 1)
        offset = (config.brightness * centred[:, 6]).view(-1, 1, 1, 1)
        films = films.mul_(gain).add_(mean - mean * gain + offset).clamp_(0, 1)
    return films


def _move(films_B1SS: Tensor, mirrored_B: Tensor, shift_B2: Tensor) -> Tensor:
    """Mirror and shift by whole pixels, of any type; what comes in from outside is 0."""
    size = films_B1SS.shape[-1]
    place = torch.arange(size, device=films_B1SS.device)
    column_BS = torch.where(mirrored_B[:, None], size - 1 - place, place) + shift_B2[:, :1]
    row_BS = place + shift_B2[:, 1:]
    inside_BSS = _inside(row_BS, size)[:, :, None] & _inside(column_BS, size)[:, None, :]
    film_B = torch.arange(len(films_B1SS), device=films_B1SS.device)[:, None, None]
    row_BS, column_BS = row_BS.clamp(0, size - 1), column_BS.clamp(0, size - 1)
    return (films_B1SS[film_B, 0, row_BS[:, :, None], column_BS[:, None, :]] * inside_BSS)[:, None]


def _inside(place: Tensor, size: int) -> Tensor:
    return (place >= 0) & (place < size)


def _turn(films_B1SS: Tensor, angle_B: Tensor, zoom_B: Tensor, mirrored_B: Tensor, shift_B2: Tensor) -> Tensor:
    """Rotate, scale, mirror and shift, in this order, by cubic convolution.

    Places are complex numbers from -1 - i to 1 + i, x + iy, so that the (S, S) of them are made by one addition:
    `F.affine_grid` takes about as long as the interpolation itself.
    """
    size = films_B1SS.shape[-1]
    place_S = (2 * torch.arange(size, device=films_B1SS.device) + 1) / size - 1
    turn_B1 = torch.polar(zoom_B, angle_B)[:, None]
    column_BS = turn_B1 * (place_S * (1 - 2 * mirrored_B.float())[:, None])
    row_BS = turn_B1 * 1j * place_S + torch.view_as_complex(2 / size * shift_B2)[:, None]
    grid_BSS2 = torch.view_as_real(column_BS[:, None, :] + row_BS[:, :, None])
    films = F.grid_sample(films_B1SS, grid_BSS2, mode="bicubic", padding_mode="zeros", align_corners=False)
    return films.clamp_(0, 1)  # cubic convolution overshoots
