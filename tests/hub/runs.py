"""A finished run for the tests of publishing, trained once, and copies of it to be spoiled."""

import runpy
import shutil

import pytest
import yaml

from hf_cxr.data.phantom import generate
from tests.conftest import REPO
from tests.test_train_recipe import TINY


def train_once(folder):
    """A tiny run on phantom films, by the recipe."""
    data = generate(folder / "phantom", n_images=300, image_size=64, progress=False)
    settings = TINY | {"num_train_epochs": 1, "head_dropout": 0.2, "allow_empty_labels": True}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings))
    words = [folder / "tiny.yaml", "--data_dir", data, "--cache_dir", folder / "cache", "--output_dir", folder / "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["recipes/train.py", *map(str, words)])
        runpy.run_path(str(REPO / "recipes" / "train.py"), run_name="__main__")
    return folder / "run"


def copy_of(run, into):
    return shutil.copytree(run, into / "copy")
