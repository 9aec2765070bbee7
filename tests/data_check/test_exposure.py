import numpy as np
import pytest
from PIL import Image, ImageOps

from hf_cxr.data_check.exposure import Exposure, exposure
from tests.conftest import TEST_DATA
from tests.data_check.hospitals import phantom

GOOD = Exposure()


def test_good_films_are_good_and_their_inversions_are_inverted():
    films = [phantom(i) for i in range(20)]
    assert {exposure(film) for film in films} == {GOOD}
    assert {exposure(ImageOps.invert(film)) for film in films} == {Exposure(inverted=True)}


def test_next_to_blank():
    flat = np.random.default_rng(0).normal(120, 3, (64, 64)).round().astype(np.uint8)
    assert exposure(Image.fromarray(flat)) == Exposure(blank=True)
    assert exposure(Image.new("L", (20, 30), 7)) == Exposure(blank=True)


def test_white_or_black_over_most_of_it():
    film = np.asarray(phantom(2))
    white, black = film.copy(), film.copy()
    white[40:], black[: 80 * len(film) // 100] = 255, 0
    assert exposure(Image.fromarray(white)) == Exposure(saturated=True)
    assert exposure(Image.fromarray(black)) == Exposure(saturated=True)


@pytest.mark.slow
def test_real_films_of_children():
    """What the module's docstring says of kermany224."""
    paths = sorted((TEST_DATA / "kermany224" / "images").glob("*"))
    if not paths:
        pytest.skip(f"real test data not found at {TEST_DATA}; set HF_CXR_TEST_DATA")
    films = [Image.open(path).convert("L") for path in paths]
    assert {exposure(film) for film in films} == {GOOD}
    assert {exposure(ImageOps.invert(film)) for film in films} == {Exposure(inverted=True)}
