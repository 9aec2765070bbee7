import pytest
import yaml

from hf_cxr.hierarchy import Hierarchy, HierarchyError, Node, load_taxonomy, taxonomy_names
from hf_cxr.models import CXRDenseNetConfig

R1_EDGES = {
    "Abnormal": ["Opacity", "Cardiac", "Other"],
    "Opacity": ["Lung Opacity", "Lung Lesion", "Fluid Accumulation", "Missing Lung Tissue"],
    "Fluid Accumulation": ["Edema", "Consolidation", "Pleural Effusion", "Pneumonia"],
    "Missing Lung Tissue": ["Atelectasis", "Pneumothorax", "Pleural Other"],
    "Cardiac": ["Enlarged Cardiomediastinum", "Cardiomegaly"],
    "Other": ["Fracture", "Support Devices"],
    "Enlarged Cardiomediastinum": ["Cardiomegaly"],
    "Consolidation": ["Pneumonia"],
}


def test_chexpert_is_r1s_graph(chexpert):
    assert len(chexpert.names) == 21
    assert set(chexpert.edges) == {(p, c) for p, children in R1_EDGES.items() for c in children}
    assert len(chexpert.edges) == 20
    assert chexpert.ancestors("Pneumonia") == {"Consolidation", "Fluid Accumulation", "Opacity", "Abnormal"}
    assert chexpert.parents["No Finding"] == chexpert.parents["Uncertain"] == ()
    assert len(chexpert.subsets["competition"]) == 5


def test_irvin_tree():
    irvin = load_taxonomy("chexpert_irvin")
    assert set(irvin.edges) == {
        ("Enlarged Cardiomediastinum", "Cardiomegaly"),
        *(("Lung Opacity", c) for c in ("Lung Lesion", "Edema", "Consolidation", "Atelectasis")),
        ("Consolidation", "Pneumonia"),
    }


def test_nih_has_its_14_findings_below_the_gate(nih):
    assert len(nih.findings) == 14
    assert set(nih.findings) <= nih.descendants("Abnormal")
    assert nih.resolve("Infiltrate") == "Infiltration"
    # closure must not rewrite the truth of a published label
    assert not {parent for parent, _ in nih.edges} & set(nih.findings)


@pytest.mark.parametrize("name", taxonomy_names())
def test_every_taxonomy_loads_and_survives_the_config(name):
    hierarchy = load_taxonomy(name)
    order = hierarchy.topological_order
    assert all(order.index(p) < order.index(c) for p, c in hierarchy.edges)
    config = CXRDenseNetConfig.from_dict(CXRDenseNetConfig(**hierarchy.to_config()).to_dict())
    again = Hierarchy.from_config(config)
    assert (again.names, again.edges, again.gate_definition) == (
        hierarchy.names, hierarchy.edges, hierarchy.gate_definition,
    )  # fmt: skip


def test_flat_keeps_findings_and_gate(nih):
    flat = load_taxonomy("nih", flat=True)
    assert flat.edges == ()
    assert set(flat.names) == {*nih.findings, "Abnormal"}


def test_subset_bridges_left_out_nodes(nih):
    below = nih.subset([n for n in nih.names if n not in ("Abnormal", "Opacity", "Fluid Accumulation")])
    assert below.gate is None
    assert below.parents["Effusion"] == ()
    bridged = nih.subset(["Abnormal", "Effusion", "Edema", "Cardiac"])
    assert set(bridged.edges) == {("Abnormal", "Effusion"), ("Abnormal", "Edema"), ("Abnormal", "Cardiac")}


def node(name, *parents, aliases=()):
    return {"name": name, "parents": list(parents), "aliases": list(aliases)}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("a", "b"), node("b", "a"), node("c")], r"cycle among the nodes \['a', 'b'\]"),
        ([node("a", "a")], "cycle"),
        ([node("a", "x")], "parent 'x' of node 'a'"),
        ([node("a"), node("a")], "'a' of node 'a' is already"),
        ([node("a", aliases=["z"]), node("b", aliases=["z"])], "'z' of node 'b' is already a name or alias of 'a'"),
        ([node("a"), node("b", aliases=["a"])], "'a' of node 'b'"),
        ([node("a"), node("b", "a", "a")], "lists a parent twice"),
        ([{"name": "a", "kind": "thing"}], "node 'a' has kind 'thing'"),
        ([{"name": "a", "kind": "gate"}], "gate 'a' needs a definition"),
        ([{"name": "a", "parent": "b"}], r"node 'a' has unknown keys \['parent'\]"),
        ([{"kind": "gate"}], "needs a 'name'"),
    ],
)
def test_errors_name_the_node_and_the_file(tmp_path, nodes, message):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"nodes": nodes}))
    with pytest.raises(HierarchyError, match=message) as caught:
        load_taxonomy(file)
    assert "mine.yaml" in str(caught.value)


def test_unknown_taxonomy_lists_the_known():
    with pytest.raises(HierarchyError, match="chexpert, chexpert_irvin, nih"):
        load_taxonomy("padchest")


def test_frozen(nih):
    with pytest.raises(AttributeError):
        nih.name = "other"
    with pytest.raises(AttributeError):
        Node("a").kind = "group"
