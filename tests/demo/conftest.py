import pytest
import torch

from hf_cxr.predict.run import load
from tests.demo.films import make_folder, with_nasty_label


@pytest.fixture(scope="session")
def hierarchy(nih):
    return with_nasty_label(nih)


@pytest.fixture(scope="session")
def model_folder(hierarchy, tmp_path_factory):
    return make_folder(hierarchy, tmp_path_factory.mktemp("demo") / "tiny")


@pytest.fixture(scope="session")
def read(model_folder):
    return load(str(model_folder), torch.device("cpu"))
