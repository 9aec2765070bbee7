"""The statements on the data sets: complete, and fit to stand in a card as well as alone."""

import re

import pytest

from hf_cxr.hub.card.statements import DATA_SETS, read_statement

PARTS = (
    "Terms of use", "Where the labels come from", "Known label noise", "Known biases", "Population", "Splits", "Limits",
    "References",
)  # fmt: skip


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_every_statement_is_whole(name):
    text = read_statement(name).text
    assert text.startswith("# ")
    assert tuple(re.findall(r"^## (.*)$", text, re.MULTILINE)) == PARTS


@pytest.mark.parametrize("name", sorted(DATA_SETS))
def test_what_it_cites_is_listed(name):
    body, references = read_statement(name).text.split("## References")
    cited = set(re.findall(r"\[(\d)\]", body))
    assert cited == set(re.findall(r"^(\d)\. ", references, re.MULTILINE))


def test_under_a_heading_it_has_smaller_ones():
    text = read_statement("nih").under(3)
    assert not re.search(r"^#{1,3} ", text, re.MULTILINE)
    assert re.findall(r"^#### (.*)$", text, re.MULTILINE) == list(PARTS)
    assert not text.startswith("#")
