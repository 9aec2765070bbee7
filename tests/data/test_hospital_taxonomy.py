import json
from dataclasses import replace
from textwrap import dedent
from types import SimpleNamespace

import numpy as np
import pytest
from hospital_files import MAP, read, write_hospital

from hf_cxr.data import VinDrCXR, findings_matrix, load_map, load_splits
from hf_cxr.hierarchy import Hierarchy, HierarchyError, load_taxonomy
from hf_cxr.hospital_taxonomy import join_taxonomy
from hf_cxr.labels import LabelPolicy, encode


@pytest.fixture(scope="module")
def nih():
    return load_taxonomy("nih")


def of_words(tmp_path, *words, more="", taxonomy="nih"):
    """A map that says these findings, each by a word of its own."""
    said = "\n".join(f"    w{i}: {finding}" for i, finding in enumerate(words))
    text = f"table: films.csv\ncolumns: {{image: file, patient: patient}}\ntaxonomy: {taxonomy}\n"
    path = tmp_path / "words.yaml"
    path.write_text(f"{text}labels:\n  column: finding\n  words:\n{said}\n{dedent(more)}")
    return load_map(path)


def uses(joined):
    return {meeting.finding: (meeting.node, meeting.use) for meeting in joined.meetings}


def as_config(hierarchy):
    """The hierarchy as it comes out of a model's config, which keeps no aliases."""
    config = hierarchy.to_config()
    names = [config["id2label"][i] for i in range(len(hierarchy.names))]
    return Hierarchy.from_config(SimpleNamespace(label_names=names, **config))


def matrix(index):
    raw = index.findings.astype(np.float32)
    return np.where(raw == -128, np.nan, raw)


SHARED = {
    ("padchest", "nih"): (
        "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
        "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
    ),
    ("padchest", "chexpert"): (
        "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema",
        "Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
        "Support Devices",
    ),
    ("vindr_cxr", "nih"): (
        "Lung Lesion", "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Pneumothorax", "Consolidation",
        "Fibrosis", "Pleural_Thickening",
    ),
    ("vindr_cxr", "chexpert"): (
        "No Finding", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Consolidation", "Atelectasis", "Pneumothorax",
        "Pleural Effusion", "Pleural Other",
    ),
    ("mimic_cxr_jpg", "nih"): (
        "Lung Lesion", "Atelectasis", "Cardiomegaly", "Effusion", "Pneumonia", "Pneumothorax", "Consolidation", "Edema",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "taxonomy"), SHARED)
@pytest.mark.parametrize("stored", [False, True])
def test_ready_maps_share_these_nodes(name, taxonomy, stored):
    base = load_taxonomy(taxonomy)
    joined = join_taxonomy(load_map(name), as_config(base) if stored else base)
    assert joined.scored == SHARED[name, taxonomy]
    assert joined.new_nodes == ()
    assert joined.hierarchy.names == base.names
    assert joined.hierarchy.edges == base.edges
    left = [meeting for meeting in joined.meetings if meeting.use == "not scored"]
    assert all(meeting.node is None and meeting.why for meeting in left)


@pytest.mark.parametrize("name", ["mimic_cxr_jpg", "brax"])
@pytest.mark.parametrize("taxonomy", ["chexpert", "chexpert_irvin"])
def test_chexpert_coded_sets_share_all_of_chexpert(name, taxonomy):
    base = load_taxonomy(taxonomy)
    joined = join_taxonomy(load_map(name), base)
    assert set(joined.scored) == set(base.of_kind("finding", "device", "no_finding"))
    assert joined.unannotated == ()
    assert joined.hierarchy.gate_definition == base.gate_definition


def test_names_that_are_nearly_right_are_suggested(tmp_path, nih):
    words = ("Pleural effusion", "Cardiomegally", "Pleural thickening", "Zebra", "Effusion", "Pleural Effusion")
    with pytest.raises(HierarchyError) as caught:
        join_taxonomy(of_words(tmp_path, *words), nih)
    message = str(caught.value)
    for part in (
        "words.yaml:",
        "no node 'Pleural effusion' in nih; did you mean 'Effusion'? Else add it under `new_nodes` with its parent",
        "no node 'Cardiomegally' in nih; did you mean 'Cardiomegaly'?",
        "no node 'Pleural thickening' in nih; did you mean 'Pleural_Thickening'?",
        "no node 'Zebra' in nih; add it under `new_nodes`",
        "'Pleural Effusion' and 'Effusion' are both node 'Effusion'; use one",
    ):
        assert part in message


def test_the_gate_cannot_be_mapped_but_stood_under(tmp_path, nih):
    with pytest.raises(HierarchyError, match=r"'Abnormal' is the gate of nih, .* a new node under it such as"):
        join_taxonomy(of_words(tmp_path, "Abnormal", "Effusion"), nih)
    more = "new_nodes: {Other abnormality: {parent: Abnormal}}\n"
    joined = join_taxonomy(of_words(tmp_path, "Other abnormality", "Effusion", more=more), nih)
    assert uses(joined)["Abnormal"] == (None, "not scored")
    assert joined.hierarchy.parents["Other abnormality"] == ("Abnormal",)


def test_old_outputs_stay_where_they_are(tmp_path, nih):
    mapped = load_map(write_hospital(tmp_path, MAP))
    joined = join_taxonomy(mapped, nih)
    assert joined.hierarchy.names == (*nih.names, "Bacterial pneumonia")
    assert joined.hierarchy.nodes[: len(nih.names)] == tuple(
        replace(node, aliases=joined.hierarchy.nodes[i].aliases) for i, node in enumerate(nih.nodes)
    )
    assert joined.new_nodes == ("Bacterial pneumonia",)
    assert joined.hierarchy.parents["Bacterial pneumonia"] == ("Pneumonia",)
    assert joined.hierarchy.name == "nih+small"
    assert nih.names == load_taxonomy("nih").names
    # a model that was adapted to this hospital has the node: it is shared then, and nothing grows
    again = join_taxonomy(mapped, as_config(joined.hierarchy))
    assert uses(again)["Bacterial pneumonia"] == ("Bacterial pneumonia", "scored")
    assert again.new_nodes == ()
    # a model as it is has no output for it
    without = join_taxonomy(mapped, nih, extend=False)
    assert uses(without)["Bacterial pneumonia"] == (None, "counted as parent")
    assert without.scored == ("Effusion", "Pneumonia")


@pytest.mark.parametrize(
    ("node", "parent", "part"),
    [
        ("Bacterial", "Pneumonai", "no parent 'Pneumonai' in nih (did you mean 'Pneumonia'?)"),
        ("Mass", "Opacity", "new node 'Mass' is in nih already, as 'Mass' under Lung Lesion; rename it"),
        ("Pleural Effusion", "Pneumonia", "is in nih already, as 'Effusion' under Fluid Accumulation"),
    ],
)
def test_new_nodes_that_cannot_be(tmp_path, nih, node, parent, part):
    mapped = of_words(tmp_path, node, "Atelectasis", more=f"new_nodes: {{{node}: {{parent: {parent}}}}}\n")
    with pytest.raises(HierarchyError) as caught:
        join_taxonomy(mapped, nih)
    assert part in str(caught.value)


def test_a_flat_taxonomy_takes_new_nodes_without_edges(tmp_path, nih):
    joined = join_taxonomy(load_map(write_hospital(tmp_path, MAP)), nih.flat())
    assert joined.hierarchy.names[-1] == "Bacterial pneumonia"
    assert joined.hierarchy.edges == ()


def test_a_taxonomy_file_beside_the_map(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "name: own\ngate_definition: any_finding\n"
        "nodes: [{name: G, kind: gate}, {name: Zyste, parents: [G], aliases: [Cyst]}]\n"
    )
    mapped = of_words(tmp_path, "Cyst", "Effusion", taxonomy="[own.yaml, nih]")
    joined = join_taxonomy(mapped, load_taxonomy(tmp_path / "own.yaml"))
    assert uses(joined) == {"Cyst": ("Zyste", "scored"), "Effusion": (None, "not scored")}
    assert next(m.why for m in joined.meetings if m.finding == "Effusion") == "no node of own; one of nih"


def test_groups_that_the_hospital_annotates_itself(tmp_path, nih):
    """VinDr's Nodule/Mass is NIH's group: scored by its own word there, derived where its children are annotated."""
    joined = join_taxonomy(of_words(tmp_path, "Lung Lesion", "Nodule"), nih)
    assert uses(joined)["Lung Lesion"] == ("Lung Lesion", "scored")
    assert "Lung Lesion" in joined.hierarchy.of_kind("finding")
    columns, raw = joined.columns(("Lung Lesion", "Nodule"), np.array([[1, np.nan], [0, 0], [np.nan, 1]], np.float32))
    encoded = encode(columns, raw, joined.hierarchy, LabelPolicy())
    values = dict(zip(encoded.names, encoded.values.T, strict=True))
    np.testing.assert_array_equal(values["Lung Lesion"], [1, 0, 1])
    np.testing.assert_array_equal(values["Nodule"], [np.nan, 0, 1])
    whole = join_taxonomy(of_words(tmp_path, "Lung Lesion", "Nodule", "Mass"), nih)
    assert uses(whole)["Lung Lesion"] == (None, "not scored")
    assert "Lung Lesion" in whole.hierarchy.of_kind("group")


@pytest.mark.parametrize(
    ("taxonomy", "words", "definition", "gate"),
    [
        (
            "nih",
            ("Effusion", "No Finding"),
            "not_no_finding",
            "not_no_finding: the hospital does not annotate Atelectasis",
        ),
        ("nih", ("Effusion",), "any_finding", "not scored: no film is known to be normal, without Atelectasis"),
        ("own", ("Effusion",), "any_finding", "any_finding, as the model's"),
        ("own", ("Effusion", "No Finding"), "any_finding", "any_finding, as the model's"),
    ],
)
def test_the_gate_is_what_the_films_can_answer(tmp_path, nih, taxonomy, words, definition, gate):
    base = nih if taxonomy == "nih" else nih.subset(["Abnormal", "Fluid Accumulation", "Effusion"])
    joined = join_taxonomy(of_words(tmp_path, *words), base)
    assert joined.hierarchy.gate_definition == definition
    assert joined.gate.startswith(gate)
    asked = join_taxonomy(of_words(tmp_path, *words), base.with_gate_definition("not_no_finding"))
    assert asked.hierarchy.gate_definition == ("not_no_finding" if "No Finding" in words else "any_finding")


def test_the_report_is_plain_and_complete(tmp_path, nih):
    joined = join_taxonomy(load_map("vindr_cxr"), nih)
    summary = json.loads(json.dumps(joined.summary()))
    assert summary["scored"] == list(joined.scored)
    assert [m["finding"] for m in summary["findings"]] == list(load_map("vindr_cxr").findings)
    text = str(joined)
    assert "vindr_cxr on taxonomy nih: 9 nodes are scored." in text
    assert "Pleural Effusion: scored (the taxonomy calls it Effusion)" in text
    assert "Lung Opacity: not scored (no node of nih; one of chexpert, chexpert_irvin)" in text
    assert "unknown on every film: Mass, Nodule, Pneumonia, Edema, Emphysema, Hernia" in text


def test_columns_of_another_map_are_refused(tmp_path, nih):
    joined = join_taxonomy(load_map(write_hospital(tmp_path, MAP)), nih)
    with pytest.raises(HierarchyError, match="Zebra: no finding of the map of small"):
        joined.columns(("Effusion", "Zebra"), np.zeros((1, 2), np.float32))


def test_the_real_vindr_table_becomes_labels_of_either_model(published_tables, tmp_path):
    index = VinDrCXR.read_index(published_tables, check_images=False, splits_dir=str(tmp_path / "splits"))
    mapped, raw = load_map("vindr_cxr"), matrix(index)
    for name in ("nih", "chexpert"):
        joined = join_taxonomy(mapped, load_taxonomy(name), extend=False)
        encoded = encode(*joined.columns(index.names, raw), joined.hierarchy, LabelPolicy())
        counts = encoded.counts()
        for node in joined.scored:
            assert counts[node]["positive"] > 0 < counts[node]["negative"], node
        assert counts["Abnormal"]["negative"] == 10_606
        assert counts["Abnormal"]["positive"] >= 3_600
        for node in joined.unannotated:
            assert counts[node]["negative"] == 0, node


KERMANY = """
    hospital: guangzhou
    taxonomy: nih
    table: {folder}/readings.csv
    images: {folder}/images
    columns: {{image: image, patient: patient}}
    labels:
      column: reading
      words:
        normal: No Finding
        bacterial pneumonia: Bacterial pneumonia
        viral pneumonia: Viral pneumonia
    new_nodes:
      Bacterial pneumonia: {{parent: Pneumonia}}
      Viral pneumonia: {{parent: Pneumonia}}
    unmentioned:
      absent: [Bacterial pneumonia, Viral pneumonia]
      absent_if_normal: all
"""


def test_kermany_is_a_new_hospital(real_data, tmp_path, cache, nih):
    """990 children, with their films: read, split, joined with NIH's taxonomy and encoded."""
    path = tmp_path / "guangzhou.yaml"
    path.write_text(dedent(KERMANY.format(folder=real_data / "kermany224")))
    splits, provenance = load_splits("hospital", path, cache)
    assert provenance["splits"] == {
        "train": {"films": 714, "patients": 714},
        "validation": {"films": 78, "patients": 78},
        "test": {"films": 198, "patients": 198},
    }
    joined = join_taxonomy(load_map(path), nih)
    assert joined.new_nodes == ("Bacterial pneumonia", "Viral pneumonia")
    assert joined.scored == ("Pneumonia", "Bacterial pneumonia", "Viral pneumonia")
    total = dict.fromkeys(("Abnormal", *joined.scored), 0)
    for split in splits.values():
        encoded = encode(*joined.columns(*findings_matrix(split)), joined.hierarchy, LabelPolicy(), close=True)
        assert not any(encoded.n_conflicts.values())
        counts = encoded.counts()
        for name in total:
            assert counts[name]["unknown"] == 0
            assert counts[name]["positive"] and counts[name]["negative"]  # noqa: PT018
            total[name] += counts[name]["positive"]
        assert counts["Effusion"] == {"positive": 0, "negative": 0, "unknown": len(split)}
    assert total == {"Abnormal": 660, "Pneumonia": 660, "Bacterial pneumonia": 330, "Viral pneumonia": 330}
    assert splits["test"][0]["image"].size == (224, 224)
    # for a model as it is, both kinds count as Pneumonia
    plain = join_taxonomy(load_map(path), nih, extend=False)
    encoded = encode(*plain.columns(*findings_matrix(splits["test"])), plain.hierarchy, LabelPolicy())
    assert encoded.names == nih.names
    assert encoded.counts()["Pneumonia"]["unknown"] == 0


def test_indices_and_rows_say_the_same(tmp_path, cache):
    path = write_hospital(tmp_path)
    index = read(path)
    splits, _ = load_splits("hospital", path, cache)
    names, raw = findings_matrix(splits["test"])
    assert names == index.names
    np.testing.assert_array_equal(raw, matrix(index)[(index.films["split"] == "test").to_numpy()])
