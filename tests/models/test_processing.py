import numpy as np
import pytest
import torch
from PIL import Image

from hf_cxr.models.processing import CXRImageProcessor, FilmError, film_to_gray, fit_to_square, normalise

RAMP = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))


def gray(image):
    return np.asarray(film_to_gray(image))


def test_every_form_of_one_film_gives_the_same_pixels(tmp_path):
    rgb = np.stack([RAMP] * 3, axis=-1)
    opaque = np.dstack([rgb, np.full(RAMP.shape, 255, np.uint8)])
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    forms = [
        RAMP, RAMP[None], RAMP[..., None], rgb, np.moveaxis(rgb, -1, 0), torch.from_numpy(RAMP), RAMP / 255.0,
        RAMP.astype(np.uint16) * 257, Image.fromarray(RAMP), Image.fromarray(rgb), Image.fromarray(opaque),
        Image.fromarray(RAMP).convert("P"), Image.fromarray(RAMP).convert("LA"), Image.open(tmp_path / "sixteen.png"),
    ]  # fmt: skip
    for form in forms:
        np.testing.assert_array_equal(gray(form), RAMP)


def test_sixteen_bits_do_not_saturate(tmp_path):
    values = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "film.png")
    got = gray(Image.open(tmp_path / "film.png"))
    np.testing.assert_array_equal(got, np.rint(values.astype(float) * 255 / 65535))
    assert len(np.unique(got)) == 256


def test_colours_become_luminance():
    film = np.zeros((4, 4, 3), np.uint8)
    film[..., 1] = 200
    film[0, 0] = 0
    assert gray(film)[1, 1] == round(0.587 * 200)


@pytest.mark.parametrize(
    ("film", "message"),
    [
        (np.zeros((8, 8), np.uint8), "value 0 in every pixel"),
        (RAMP.astype(float), r"expected \[0, 1\]"),
        (np.full((8, 8), np.nan), r"expected \[0, 1\]"),
        (RAMP.astype(np.int32), "dtype int32"),
        (np.zeros((2, 8, 8, 8), np.uint8), "shape"),
        (Image.new("CMYK", (8, 8)), "image mode 'CMYK'"),
    ],
)
def test_what_is_no_film_is_refused(film, message):
    with pytest.raises(FilmError, match=message):
        film_to_gray(film)


def test_a_film_that_varies_in_one_pixel_only_is_not_blank():
    for shape in ((9, 9), (8, 5), (1, 4), (4, 1)):
        film = np.full(shape, 7, np.uint8)
        with pytest.raises(FilmError, match="value 7 in every pixel"):
            film_to_gray(film)
        film[0, 0] = 8
        np.testing.assert_array_equal(gray(film), film)


def test_pad_keeps_proportions_and_borders():
    film = Image.fromarray(np.full((40, 20), 200, np.uint8))
    padded = fit_to_square(film, 80, "pad")
    assert padded.shape == (80, 80)
    columns = np.flatnonzero(padded.max(axis=0))
    assert (columns.min(), columns.max()) == (20, 59)
    assert (fit_to_square(film, 80, "crop") == 200).all()
    assert (fit_to_square(film, 80, "stretch") == 200).all()


def test_a_film_of_the_right_size_is_not_touched():
    film = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    np.testing.assert_array_equal(fit_to_square(Image.fromarray(film), 64), film)


def test_processor_is_the_training_path_to_the_last_bit(tmp_path):
    processor = CXRImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.47], image_std=[0.24])
    processor.save_pretrained(tmp_path)
    loaded = CXRImageProcessor.from_pretrained(tmp_path)
    Image.fromarray(RAMP).save(tmp_path / "film.png")
    training = normalise(
        torch.from_numpy(processor.prepare(Image.open(tmp_path / "film.png")).copy())[None, None], 0.47, 0.24
    )
    for form in (str(tmp_path / "film.png"), tmp_path / "film.png", [RAMP], RAMP[None, None]):
        assert torch.equal(loaded(form, return_tensors="pt")["pixel_values"], training)
    assert loaded.fit == "pad"


def test_each_film_by_its_own_statistics_removes_exposure(make_model, tmp_path):
    config = make_model(image_mean=None, image_std=None).config
    processor = CXRImageProcessor.for_model(config)
    processor.save_pretrained(tmp_path)
    film = np.random.default_rng(0).random((32, 32)) * 0.5
    plain, exposed = CXRImageProcessor.from_pretrained(tmp_path)([film, film * 1.5 + 0.2], return_tensors="pt")[
        "pixel_values"
    ]
    torch.testing.assert_close(plain, exposed, atol=0.05, rtol=0)
    assert plain.mean().item() == pytest.approx(0, abs=1e-5)
    assert plain.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    pixels = torch.from_numpy(np.stack([processor.prepare(f) for f in (film, film * 1.5 + 0.2)]))[:, None]
    assert torch.equal(normalise(pixels, None, None), torch.stack([plain, exposed]))


def test_processor_says_which_film(tmp_path):
    with pytest.raises(FilmError, match="film 1: "):
        CXRImageProcessor()([RAMP, np.zeros((8, 8), np.uint8)])
    with pytest.raises(FilmError, match="expected one of pad, crop, stretch"):
        CXRImageProcessor(fit="squash")
