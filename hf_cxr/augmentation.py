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

    @property
    def moves_pixels(self) -> bool:
        """Whether there is anything geometric to do."""
        return any((self.flip, self.rotation, self.scale, self.shift))


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
        (B, 1, S, S) float32 in [0, 1]. What rotation or shift brings in from outside is black.
    """
    films = films_B1SS.float() / 255 if films_B1SS.dtype == torch.uint8 else films_B1SS
    draws = uniform(seed, epoch, index_B, _N_DRAWS)
    centred = 2 * draws - 1
    if config.moves_pixels:
        angle = centred[:, 0] * math.radians(config.rotation)
        zoom = 1 / (1 + centred[:, 1] * config.scale)
        mirror = 1 - 2 * (draws[:, 2] < config.flip).float()
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        # Whole pixels: flips and shifts alone then move pixels without interpolating between them.
        size = films.shape[-1]
        across, down = (2 / size * (config.shift * size * centred[:, 3:5]).round()).unbind(1)
        matrix_B23 = torch.stack([cos * mirror, -sin, across, sin * mirror, cos, down], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(matrix_B23, list(films.shape), align_corners=False)
        films = F.grid_sample(films, grid, mode="bicubic", padding_mode="zeros", align_corners=False)
        films = films.clamp(0, 1)  # cubic convolution overshoots
    if config.contrast or config.brightness:
        mean = films.mean((1, 2, 3), keepdim=True)
        gain = (1 + config.contrast * centred[:, 5]).view(-1, 1, 1, 1)
        offset = (config.brightness * centred[:, 6]).view(-1, 1, 1, 1)
        films = ((films - mean) * gain + mean + offset).clamp(0, 1)
    return films
