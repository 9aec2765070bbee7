"""The hierarchy as text and as a picture: every node, every parent."""

import pytest

from hf_cxr import load_taxonomy
from hf_cxr.evaluation import EvalReport
from hf_cxr.hub.card import tree_figure
from hf_cxr.hub.card.tree_figure import draw_hierarchy, rows_of, text_tree
from tests.hub.card.runs import make_run


def test_every_node_stands_under_each_of_its_parents(chexpert):
    lines = text_tree(chexpert).splitlines()
    assert sum("Pneumonia" in line for line in lines) == 2
    assert any("Pneumonia (also under Fluid Accumulation)" in line for line in lines)
    assert any("Cardiomegaly (also under Enlarged Cardiomediastinum)" in line for line in lines)
    assert len(lines) == len(chexpert.names) + 2
    assert lines[0] == "Abnormal"
    assert "Uncertain" in lines  # at the margin: it has no parent


def test_a_row_a_node_under_its_deepest_parent(chexpert):
    rows = rows_of(chexpert)
    assert sorted(name for name, _, _ in rows) == sorted(chexpert.names)
    by_name = {name: (depth, parent) for name, depth, parent in rows}
    assert by_name["Pneumonia"] == (4, "Consolidation")
    assert by_name["Cardiomegaly"] == (3, "Enlarged Cardiomediastinum")
    order = [name for name, _, _ in rows]
    assert all(order.index(parent) < order.index(child) for child, (_, parent) in by_name.items() if parent)


@pytest.mark.parametrize(
    ("taxonomy", "further"),
    [("chexpert", {("Cardiac", "Cardiomegaly"), ("Fluid Accumulation", "Pneumonia")}), ("chexpert_irvin", set())],
)
def test_an_arrow_for_each_further_parent_right_of_the_names_on_its_way(taxonomy, further, tmp_path, monkeypatch):
    drawn = []
    draw = tree_figure._draw_further
    monkeypatch.setattr(tree_figure, "_draw_further", lambda axes, *at: (drawn.append(at), draw(axes, *at)))
    hierarchy = load_taxonomy(taxonomy)
    folder = make_run(tmp_path / "run", taxonomy=taxonomy, dataset="chexpert")
    report = EvalReport.from_json(folder / "eval_report.json")
    draw_hierarchy(report, hierarchy, tmp_path / "tree.png", "A tree")
    names = [name for name, _, _ in rows_of(hierarchy)]
    assert {(names[top], names[bottom]) for top, bottom, *_ in drawn} == further
    for top, bottom, start, target, column in drawn:
        assert column > max(start, target)
        longest = max(len(name) for name in names[top : bottom + 1])
        assert column > 0.075 * longest  # inches
    assert (tmp_path / "tree.png").stat().st_size > 20_000
