import base64
import io

import numpy as np
import pytest
from PIL import Image

from hf_cxr.demo import phantoms
from hf_cxr.demo.pictures import FINEST, data_uri, layer, square
from hf_cxr.models import CXRImageProcessor
from hf_cxr.predict.overlays import overlay
from tests.demo.films import phantom


def decoded(uri):
    head, content = uri.split(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_layer_over_its_film_is_the_overlay_of_batch_prediction():
    random = np.random.default_rng(0)
    film, heat = random.integers(0, 256, (24, 24), np.uint8), random.random((24, 24)).astype(np.float32)
    heat[:4] = 0
    seen = np.asarray(decoded(data_uri(layer(heat))).convert("RGBA"), float)
    share = seen[..., 3:] / 255 * 0.6  # as the browser does it with the slider at 60 %
    shown = film[..., None] * (1 - share) + seen[..., :3] * share
    np.testing.assert_allclose(shown, overlay(film, heat).astype(float), atol=4)  # maps in 256 steps of colour
    np.testing.assert_array_equal(shown[:4], np.repeat(film[:4, :, None], 3, 2))


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("size", [32, 96, 250, 600])
def test_the_picture_is_what_the_model_reads_but_finer(size, turned, fit):
    film = phantom().rotate(90, expand=True) if turned else phantom()
    picture = square(film, size, fit)
    read = CXRImageProcessor(fit=fit, size={"height": size, "width": size}).prepare(film)
    finer = picture.size[0] // size
    assert picture.size == (finer * size,) * 2
    assert finer == max(1, 512 // size)
    coarse = np.asarray(picture.resize((size, size), Image.Resampling.BOX), float)
    assert np.abs(coarse - read).mean() < 3
    # Black bars, and with them the whole film, begin at the same pixel.
    np.testing.assert_array_equal((coarse > 0).any(0), (read > 0).any(0))
    np.testing.assert_array_equal((coarse > 0).any(1), (read > 0).any(1))


def test_large_films_are_shown_smaller():
    assert square(Image.new("L", (3000, 2000), 9), 128, "pad").size == (FINEST, FINEST)
    assert square(Image.new("L", (3000, 2000), 9), 224, "pad").size == (672, 672)


def test_pictures_are_lossless():
    film = square(phantom(), 64, "pad")
    np.testing.assert_array_equal(np.asarray(decoded(data_uri(film))), np.asarray(film))


@pytest.mark.parametrize("kind", phantoms.SHOWN)
def test_phantoms_are_drawn_anew_and_the_same_again(kind):
    one, other = (np.asarray(phantoms.draw(kind, number)) for number in (1, 2))
    assert one.shape == (512, 512)
    assert (one != other).any()
    np.testing.assert_array_equal(one, np.asarray(phantoms.draw(kind, 1)))
    if phantoms.SHOWN[kind]:
        assert (one != np.asarray(phantoms.draw("No finding", 1))).any()
