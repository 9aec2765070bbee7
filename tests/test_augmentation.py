import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_cxr.augmentation import AugmentationConfig, augment, uniform

ALL = AugmentationConfig(flip=0.5, rotation=15, scale=0.1, shift=0.05, brightness=0.1, contrast=0.1)


@pytest.fixture
def films():
    return torch.randint(0, 256, (16, 1, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_nothing_set_changes_nothing(films):
    assert torch.equal(augment(films, torch.arange(16), AugmentationConfig(), seed=0, epoch=0), films.float() / 255)


def test_a_film_depends_on_seed_epoch_and_index_only(films):
    whole = augment(films, torch.arange(16), ALL, seed=1, epoch=2)
    shuffled = torch.randperm(16)
    torch.testing.assert_close(augment(films[shuffled], shuffled, ALL, seed=1, epoch=2), whole[shuffled])
    torch.testing.assert_close(augment(films[5:6], torch.tensor([5]), ALL, seed=1, epoch=2)[0], whole[5])
    for seed, epoch in ((1, 3), (2, 2)):
        assert not torch.allclose(augment(films, torch.arange(16), ALL, seed=seed, epoch=epoch), whole)


def test_range_shape_and_type(films):
    out = augment(films, torch.arange(16), ALL, seed=0, epoch=0)
    assert out.shape == films.shape
    assert out.dtype == torch.float32
    assert out.min() >= 0
    assert out.max() <= 1


def test_flip_is_a_mirror(films):
    out = augment(films, torch.arange(16), AugmentationConfig(flip=1.0), seed=0, epoch=0)
    torch.testing.assert_close(out, films.flip(-1).float() / 255, atol=1e-4, rtol=0)


def test_flips_and_shifts_do_not_blur(films):
    out = augment(films, torch.arange(16), AugmentationConfig(flip=0.5, shift=0.1), seed=0, epoch=0)
    source = films.float() / 255
    for before, after in zip(source[:, 0], out[:, 0], strict=True):
        matches = [
            (candidate - after[2:-2, 2:-2]).abs().max()
            for flipped in (before, before.flip(-1))
            for dy in range(5)
            for dx in range(5)
            for candidate in [flipped[dy : dy + 20, dx : dx + 20]]
        ]
        assert min(matches) < 1e-3


def test_half_of_the_films_are_flipped():
    films = torch.zeros(4000, 1, 4, 4)
    films[..., 0] = 1
    out = augment(films, torch.arange(4000), AugmentationConfig(flip=0.5), seed=0, epoch=0)
    assert (out[:, 0, 0, 0] < 0.5).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_rotation_and_shift_stay_within_their_ranges():
    films = torch.zeros(500, 1, 65, 65)
    films[..., 32, 52] = 1  # 20 pixels right of the centre
    out = augment(films, torch.arange(500), AugmentationConfig(rotation=10), seed=0, epoch=0)
    where = out.flatten(1).argmax(1)
    angle = np.degrees(np.arctan2((where // 65 - 32).numpy(), (where % 65 - 32).numpy()))
    assert 7 < np.abs(angle).max() < 12
    shifted = augment(films, torch.arange(500), AugmentationConfig(shift=0.1), seed=0, epoch=0)
    columns = shifted.amax(2).flatten(1).argmax(1)
    assert 4 <= (columns - 52).abs().max() <= 7


def test_brightness_and_contrast_ranges():
    films = torch.full((300, 1, 8, 8), 0.5)
    films[:, :, :, 4:] = 0.7
    bright = augment(films, torch.arange(300), AugmentationConfig(brightness=0.1), seed=0, epoch=0)
    offset = bright.mean((1, 2, 3)) - 0.6
    assert 0.08 < offset.abs().max() <= 0.1001
    contrast = augment(films, torch.arange(300), AugmentationConfig(contrast=0.2), seed=0, epoch=0)
    spread = (contrast[:, 0, 0, 4] - contrast[:, 0, 0, 0]) / 0.2
    assert spread.min() >= 0.7999
    assert spread.max() <= 1.2001
    assert spread.std() > 0.05
    torch.testing.assert_close(contrast.mean((1, 2, 3)), torch.full((300,), 0.6))


def test_draws_are_uniform_and_uncorrelated():
    draws = uniform(3, 7, torch.arange(20_000), 8).numpy()
    assert draws.min() >= 0
    assert draws.max() < 1
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(draws.var(axis=0), 1 / 12, atol=0.002)
    correlation = np.corrcoef(draws.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.03
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    epochs = np.corrcoef(draws[:, 0], uniform(3, 8, torch.arange(20_000), 8)[:, 0])[0, 1]
    assert max(abs(neighbours), abs(epochs)) < 0.03


def test_ranges_are_checked():
    with pytest.raises(ValueError, match="flip: got 2"):
        AugmentationConfig(flip=2)


def test_rotation_keeps_fine_structure():
    """A grating of 5 pixels a period, rotated, is the grating computed at the rotated places: little is blurred."""
    size, config = 64, AugmentationConfig(rotation=10)
    y, x = (torch.stack(torch.meshgrid(*2 * [torch.arange(size) - (size - 1) / 2], indexing="ij"))).double()
    out = augment(
        (0.5 + 0.4 * torch.sin(2 * np.pi * x / 5)).float().expand(20, 1, -1, -1),
        torch.arange(20),
        config,
        seed=0,
        epoch=0,
    )
    angle = torch.deg2rad(10 * (2 * uniform(0, 0, torch.arange(20), 8)[:, 0].double() - 1)).view(-1, 1, 1)
    expected = 0.5 + 0.4 * torch.sin(2 * np.pi * (angle.cos() * x - angle.sin() * y) / 5)
    inside = (slice(None), slice(12, -12), slice(12, -12))
    error = (out[:, 0] - expected)[inside].abs().amax((1, 2))
    assert error.max() < 0.06  # bilinear interpolation is off by 0.073
    assert angle.abs().max() > np.radians(8)


@pytest.mark.parametrize("change", [{"rotation": 15, "scale": 0.1}, {"flip": 0.5, "rotation": 15, "shift": 0.1}])
def test_turned_films_are_those_of_torchs_own_affine_grid(films, change):
    """In double precision; the augmentation's own grid is of complex numbers in single precision."""
    config, size = AugmentationConfig(**change), films.shape[-1]
    draws = uniform(1, 2, torch.arange(16), 8).double()
    centred = 2 * draws - 1
    angle, zoom = centred[:, 0] * math.radians(config.rotation), 1 / (1 + centred[:, 1] * config.scale)
    mirror = 1 - 2 * (draws[:, 2] < config.flip).double()
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    across, down = (2 / size * (config.shift * size * centred[:, 3:5]).round()).unbind(1)
    matrix = torch.stack([cos * mirror, -sin, across, sin * mirror, cos, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, [16, 1, size, size], align_corners=False)
    expected = F.grid_sample(films.double() / 255, grid, "bicubic", "zeros", align_corners=False).clamp(0, 1)
    out = augment(films, torch.arange(16), config, seed=1, epoch=2)
    torch.testing.assert_close(out.double(), expected, atol=1e-4, rtol=0)
