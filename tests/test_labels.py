from dataclasses import replace

import numpy as np
import pytest

from hf_cxr.hierarchy import Hierarchy, Node, load_taxonomy
from hf_cxr.labels import LabelError, LabelPolicy, encode, labels_without_positives

NAN = np.nan


def encoded(hierarchy, cells, policy=None, all_columns=False, **kwargs):
    """Encode films given as {finding: value}; returns a lookup (row, name) -> value."""
    columns = list(dict.fromkeys(name for film in cells for name in film))
    if all_columns:  # blank where a film does not say
        columns = list(hierarchy.of_kind("finding", "device", "no_finding"))
    raw = np.array([[film.get(name, NAN) for name in columns] for film in cells], np.float32)
    result = encode(columns, raw, hierarchy, policy or LabelPolicy(blank="zeros"), **kwargs)
    return result, lambda row, name: result.values[row, result.names.index(name)]


def test_closure_reaches_the_root_through_both_parents(chexpert):
    result, value = encoded(chexpert, [{"Pneumonia": 1}, {"Pneumonia": 0}], all_columns=True)
    for name in ("Consolidation", "Fluid Accumulation", "Opacity", "Abnormal"):
        assert value(0, name) == 1
        assert value(1, name) == 0
    assert value(0, "Cardiac") == 0
    assert result.n_closed["Consolidation"] == 1


def test_an_unknown_child_leaves_its_groups_unknown_unless_another_is_positive(chexpert):
    policy = LabelPolicy(uncertain="ignore", blank="zeros")
    _, value = encoded(chexpert, [{"Edema": -1}, {"Edema": -1, "Atelectasis": 1}], policy)
    assert np.isnan(value(0, "Edema"))
    assert np.isnan(value(0, "Fluid Accumulation"))
    assert np.isnan(value(0, "Abnormal"))
    assert np.isnan(value(1, "Fluid Accumulation"))
    assert value(1, "Opacity") == value(1, "Abnormal") == 1


@pytest.mark.parametrize(
    ("policy", "low", "high"),
    [
        ("ones", 1, 1),
        ("zeros", 0, 0),
        ("smooth_ones", 0.55, 0.85),
        ("smooth_zeros", 0, 0.3),
        ("smooth_ones(0.6,0.8)", 0.6, 0.8),
    ],
)
def test_uncertain_policies(policy, low, high):
    hierarchy = load_taxonomy("chexpert_irvin")
    films = [{"Fracture": -1}] * 200
    result, _ = encoded(hierarchy, films, LabelPolicy(uncertain=policy, seed=3))
    drawn = result.values[:, result.names.index("Fracture")]
    assert drawn.min() >= low
    assert drawn.max() <= high
    assert (drawn.std() > 0) == (low < high)
    again, _ = encoded(hierarchy, films, LabelPolicy(uncertain=policy, seed=3))
    np.testing.assert_array_equal(result.values, again.values)
    assert result.n_uncertain["Fracture"] == 200


def test_policies_may_differ_by_label(chexpert):
    policy = LabelPolicy(uncertain={"Edema": "ones", "default": "zeros"}, blank="zeros")
    _, value = encoded(chexpert, [{"Edema": -1, "Atelectasis": -1}], policy)
    assert value(0, "Edema") == 1
    assert value(0, "Atelectasis") == 0


def test_evaluation_never_scores_a_guess(chexpert):
    policy = LabelPolicy(uncertain="smooth_ones", blank="zeros").for_evaluation()
    _, value = encoded(chexpert, [{"Edema": -1}], policy)
    assert np.isnan(value(0, "Edema"))


def test_r1s_uncertain_node(chexpert):
    """Positive where none of the 14 observations is; with the policy zeros, as R1 builds it."""
    policy = LabelPolicy(uncertain="zeros", blank="zeros")
    _, value = encoded(chexpert, [{"Edema": -1}, {"No Finding": 1}, {"Fracture": 1}], policy, all_columns=True)
    assert [value(row, "Uncertain") for row in range(3)] == [1, 0, 0]
    assert [value(row, "Abnormal") for row in range(3)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("conflict", "parent", "child"), [("child_wins", 1, 1), ("parent_wins", 0, 0), ("unknown", NAN, NAN)]
)
def test_conflict_policies(chexpert, conflict, parent, child):
    films = [{"Consolidation": 0, "Pneumonia": 1}, {"Consolidation": 0, "Pneumonia": 0}]
    result, value = encoded(chexpert, films, LabelPolicy(blank="zeros", conflict=conflict))
    np.testing.assert_equal([value(0, "Consolidation"), value(0, "Pneumonia")], [parent, child])
    assert result.n_conflicts["Consolidation > Pneumonia"] == 1
    assert value(1, "Consolidation") == 0


@pytest.mark.parametrize("cell", [NAN, -1])
@pytest.mark.parametrize("conflict", ["child_wins", "parent_wins", "unknown", "error"])
def test_a_blank_or_uncertain_parent_is_no_conflict(chexpert, cell, conflict):
    """Also where the policy turns it into a 0: 93 % of CheXpert's Cardiomegaly has a blank parent."""
    policy = LabelPolicy(uncertain="zeros", blank="zeros", conflict=conflict)
    result, value = encoded(chexpert, [{"Pneumonia": 1, "Consolidation": cell}], policy)
    assert result.n_conflicts == {}
    assert value(0, "Pneumonia") == value(0, "Consolidation") == 1


def test_conflict_error_names_the_edge(chexpert):
    with pytest.raises(LabelError, match=r"'Pneumonia'.*'Consolidation' explicitly negative"):
        encoded(chexpert, [{"Consolidation": 0, "Pneumonia": 1}], LabelPolicy(conflict="error"))


def test_gate_definitions_differ_on_devices():
    nodes = (
        Node("Abnormal", "gate"),
        Node("No Finding", "no_finding"),
        Node("Edema"),
        Node("Support Devices", "device"),
    )
    films = [{"No Finding": 1, "Edema": 0, "Support Devices": 1}, {"No Finding": 0, "Edema": 0, "Support Devices": 1}]
    for definition, expected in (("any_finding", [0, 0]), ("not_no_finding", [0, 1])):
        _, value = encoded(Hierarchy("h", nodes, definition), films)
        assert [value(0, "Abnormal"), value(1, "Abnormal")] == expected


def test_gate_without_its_column_is_an_error(nih):
    with pytest.raises(LabelError, match="needs a column 'No Finding'"):
        encoded(nih.with_gate_definition("not_no_finding"), [{"Edema": 1}])


def test_no_finding_column_that_is_no_node_still_defines_the_gate(nih):
    _, value = encoded(nih.with_gate_definition("not_no_finding"), [{"No Finding": 1}, {"No Finding": 0, "Mass": 1}])
    assert [value(0, "Abnormal"), value(1, "Abnormal")] == [0, 1]


def test_unknown_column_and_strange_value(nih):
    with pytest.raises(LabelError, match="column 'Gout' is no node of taxonomy 'nih'"):
        encoded(nih, [{"Gout": 1}])
    with pytest.raises(LabelError, match=r"row 1, 'Mass': got 2\.0"):
        encoded(nih, [{"Mass": 1}, {"Mass": 2}])


def test_unannotated_findings_are_unknown_not_negative(nih):
    result, value = encoded(nih, [{"Pneumonia": 1}, {"Pneumonia": 0}])
    assert "Mass" in result.unannotated
    assert np.isnan(value(0, "Mass"))
    assert value(0, "Abnormal") == 1
    assert np.isnan(value(1, "Abnormal"))
    assert "Mass" in labels_without_positives(result)


def test_without_closure_the_raw_breaks_stay(chexpert):
    result, value = encoded(chexpert, [{"Pneumonia": 1, "Consolidation": 0}], close=False)
    assert value(0, "Consolidation") == 0
    assert value(0, "Fluid Accumulation") == 1
    assert result.n_conflicts == {}


def test_bad_policies():
    for bad in ({"uncertain": "maybe"}, {"blank": "ones"}, {"conflict": "both"}, {"uncertain": "ones(0.1,0.2)"}):
        with pytest.raises(LabelError):
            LabelPolicy(**bad)


def test_closed_labels_against_a_slow_loop(chexpert):
    """Random hard tables: closure by naive recursion over descendants."""
    random = np.random.default_rng(0)
    columns = [n.name for n in chexpert.nodes if n.kind in ("finding", "device")]
    raw = random.choice([0, 1, NAN], size=(300, len(columns)), p=[0.5, 0.2, 0.3]).astype(np.float32)
    result = encode(columns, raw, chexpert, LabelPolicy(blank="ignore"))
    kinds = {n.name: n.kind for n in chexpert.nodes}

    def slow(film, name):
        below = [slow(film, child) for child in chexpert.children[name]]
        own = film.get(name, NAN)
        if own == 1 or any(v == 1 for v in below):
            return 1
        if kinds[name] in ("group", "gate"):
            return NAN if any(np.isnan(v) for v in below) else 0
        return own

    for row in range(len(raw)):
        film = dict(zip(columns, raw[row], strict=True))
        for name in (*columns, *chexpert.of_kind("group")):
            np.testing.assert_equal(float(result.values[row, result.names.index(name)]), slow(film, name), name)


def test_a_finer_finding_that_the_source_lacks_is_absent_with_what_is_above_it(nih):
    """A model adapted to a hospital with finer findings is evaluated on films that are labelled without them."""
    below = Node("Bacterial pneumonia", "finding", ("Pneumonia",))
    beside = Node("Fracture", "finding", ("Other",))
    raw = np.zeros((3, len(nih.findings)))
    raw[1, nih.findings.index("Mass")] = 1
    raw[2, nih.findings.index("Pneumonia")] = np.nan
    gates = {}
    for node in (below, beside):
        larger = replace(nih, nodes=(*nih.nodes, node))
        gates[node.name] = encode(nih.findings, raw, larger, LabelPolicy()).values[:, 0]
    np.testing.assert_array_equal(gates["Bacterial pneumonia"], [0, 1, np.nan])
    np.testing.assert_array_equal(gates["Fracture"], [np.nan, 1, np.nan])
    # where the source has the finer finding, it has to be known
    said = np.column_stack([raw, [np.nan, np.nan, 1]])
    gate = encode((*nih.findings, below.name), said, replace(nih, nodes=(*nih.nodes, below)), LabelPolicy()).values[
        :, 0
    ]
    np.testing.assert_array_equal(gate, [np.nan, 1, 1])
