"""The HTML of a result, read back."""

from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from hf_cxr.demo.result import Shown, first_choice, problem, render
from hf_cxr.demo.words import percent
from hf_cxr.predict.run import load
from tests.conftest import join_stages
from tests.demo.films import LABELS, NASTY, make_folder, phantom
from tests.pipeline.helpers import FEW, every_node, lively, operating_points, processor, reader


class Page(HTMLParser):
    """Rows of the tree with their depth; every tag with its attributes."""

    def __init__(self, html):
        super().__init__()
        self.rows, self.tags, self._depth, self._in = [], [], 0, ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        self._depth += tag == "ul"
        kind = (attributes.get("class") or "").split()
        if "cxr-row" in kind:
            self.rows.append({"depth": self._depth, "yes": "yes" in kind, "checked": False})
        if tag == "input" and attributes["type"] == "radio":
            self.rows[-1].update(
                at=attributes["value"], words=attributes["data-words"], checked="checked" in attributes
            )
        if tag == "span" and self.rows:
            self._in = kind[0] if kind else ""
            for part in ("fill", "point"):
                if part in kind:
                    self.rows[-1][part] = float(attributes["style"].split(":")[1].rstrip("%"))

    def handle_endtag(self, tag):
        self._depth -= tag == "ul"
        self._in = ""

    def handle_data(self, data):
        if self._in and self.rows:
            row = self.rows[-1]
            row[self._in] = row.get(self._in, "") + data.replace("\u00a0", " ")


def shown(read, film=None, **options):
    film = phantom() if film is None else film
    reading = read(film, heatmaps=True, **options)
    limits = {"n_passes": options.get("n_passes"), "max_entropy": options.get("max_entropy")}
    return reading, render(reading, Shown(Image.new("L", (8, 8)), "A film"), read.hierarchy, **limits)


def test_every_label_has_its_row_in_the_tree(read, hierarchy):
    reading, html = shown(read, n_passes=4)
    rows, nodes = Page(html).rows, list(every_node(reading["findings"]))
    assert len(rows) == len(nodes) == len(hierarchy.names)
    for row, (label, node) in zip(rows, nodes, strict=True):
        assert row["name"].startswith(label)
        assert row["depth"] == 1 + len(hierarchy.ancestors(label))  # one path to each label of this taxonomy
        assert row["probability"].startswith(percent(node["probability"]).replace("\u00a0", " "))
        assert row["yes"] == node["decision"]
        assert row["decision"] == ("positive" if node["decision"] else "negative")
        assert row["fill"] == pytest.approx(100 * node["probability"], abs=0.01)
        assert row["point"] == pytest.approx(100 * node["threshold"], abs=0.01)
        assert f"doubt {node['entropy']:.2f}" in row["more"]
    assert {row["yes"] for row in rows} == {True, False}
    assert sum(row["checked"] for row in rows) == 1


def test_labels_are_escaped(read):
    _, html = shown(read)
    page = Page(html)
    assert any(row["name"] == NASTY for row in page.rows)
    assert [row["words"] for row in page.rows if NASTY in row["name"]] == [f"Heatmap of {NASTY}"]
    assert not any("onerror" in attributes or attributes.get("src") == "x" for _, attributes in page.tags)
    assert "<script" not in problem("<script>alert(1)</script>")


def test_a_label_with_two_parents_stands_under_both(chexpert, tmp_path):
    read = load(str(make_folder(chexpert, tmp_path / "m")), torch.device("cpu"))
    _, html = shown(read)
    rows = [row for row in Page(html).rows if row["name"] == "Cardiomegaly"]
    assert len(rows) == 2
    assert rows[0]["at"] == rows[1]["at"]
    pictures = [a["data-at"] for tag, a in Page(html).tags if tag == "img" and a["class"] == "layer"]
    assert pictures == [str(i) for i in range(len(chexpert.names))]


def test_first_the_most_probable_finding_below_no_other(chexpert):
    most = {"Abnormal": 0.99, "Opacity": 0.98, "No Finding": 0.95, "Consolidation": 0.9, "Fracture": 0.85}
    probabilities = dict.fromkeys(chexpert.names, 0.1) | most
    maps = dict.fromkeys(chexpert.names, np.ones((2, 2)))
    reading = {"probabilities": probabilities, "heatmaps": maps}
    assert first_choice(reading, chexpert) == "Fracture"
    unseen = dict.fromkeys(chexpert.names) | {"Abnormal": np.ones((2, 2))}
    assert first_choice({**reading, "heatmaps": unseen}, chexpert) == "Abnormal"


def test_empty_maps_are_said_to_be_empty(read, hierarchy):
    reading = read(phantom(), heatmaps=True)
    reading["heatmaps"]["Mass"] = np.zeros((32, 32), np.float32)
    html = render(reading, Shown(Image.new("L", (8, 8)), "A film"), hierarchy, n_passes=None, max_entropy=None)
    words = {row["name"]: row["words"] for row in Page(html).rows}
    assert words["Mass"] == "Heatmap of Mass: empty, nothing speaks for it"


def test_without_thresholds_nothing_is_decided(hierarchy, tmp_path):
    read = load(str(make_folder(hierarchy, tmp_path / "m", head_dropout=0.0)), torch.device("cpu"))
    read.network.config.operating_points = None
    rows = Page(html := shown(read)[1]).rows
    assert {row["decision"] for row in rows} == {"undecided"}
    assert not any("point" in row or row["yes"] for row in rows)
    assert "No verdict" in html
    assert "of the probability itself" in html
    assert "±" not in "".join(row["probability"] for row in rows)


def test_what_a_cleared_film_of_two_stages_shows(make_model, nih):
    few = nih.subset(FEW)
    gate = lively(make_model("densenet", nih.subset(FEW[:1])))
    both = join_stages(gate, lively(make_model("densenet", nih.subset(FEW[1:]), link="conditional")), few, 0.999999)
    both.config.operating_points = operating_points(dict.fromkeys(FEW, LABELS), 0.999999)
    assert processor(both).fit == "pad"
    reading, html = shown(reader(both), max_entropy=0.01)
    page = Page(html)
    assert reading["gate"]["cleared"]
    assert "The finding model did not look at this film" in html
    assert "Left to a reader" in html
    words = {row["name"]: row["words"] for row in page.rows}
    assert words["Mass"] == "No heatmap of Mass: the finding model did not look"
    assert [a["data-at"] for tag, a in page.tags if tag == "img" and a["class"] == "layer"] == ["0"]
    assert {row["decision"] for row in page.rows} == {"negative"}
