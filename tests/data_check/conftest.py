import numpy as np
import pytest

from hf_cxr import load_taxonomy
from hf_cxr.data_check.base import load_base
from hf_cxr.film_reference import FilmReference
from hf_cxr.models import SINGLE_STAGE, CXRImageProcessor
from tests.conftest import BACKBONES
from tests.data_check.hospitals import phantom

SIDE = 32


@pytest.fixture(scope="session")
def phantoms():
    """400 synthetic films as a model of 32 pixels takes them, none of a patient in the hospitals."""
    processor = CXRImageProcessor(size={"height": SIDE, "width": SIDE})
    return np.stack([processor.prepare(phantom(number, 64)) for number in range(1000, 1400)])


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory, phantoms):
    """A tiny model that was not trained, beside it what synthetic films look like."""
    folder = tmp_path_factory.mktemp("base")
    config_class, model_class = SINGLE_STAGE["cxr-densenet"]
    hierarchy = load_taxonomy("nih").to_config()
    model_class(config_class(**BACKBONES["densenet"], image_size=SIDE, **hierarchy)).save_pretrained(folder)
    CXRImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    base = load_base(str(folder), lateral=False)
    FilmReference.fit(phantoms, base.features(phantoms), np.arange(len(phantoms)) // 2).save(folder)
    return folder
