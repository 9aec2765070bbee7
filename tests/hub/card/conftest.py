import re
import shutil

import pytest

from hf_cxr.hub.card import render_card
from tests.hub.card.runs import ENERGY, make_run


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A run on NIH's labels, made once; with a later report, `looked.json`."""
    return make_run(tmp_path_factory.mktemp("card") / "nih", "--head_dropout", "0.2", looked=True, energy=ENERGY)


@pytest.fixture
def run(made, tmp_path):
    """A run of its own for a test."""
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture(scope="session")
def card(made):
    return render_card(made, "clinic/cxr-tiny")


@pytest.fixture
def section():
    """`section(card, title)`: the text under a heading."""
    return lambda card, title: re.search(rf"^## {title}\n(.*?)(?=^## )", card, re.DOTALL | re.MULTILINE)[1]
