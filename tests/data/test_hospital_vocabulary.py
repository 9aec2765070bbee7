from dataclasses import replace

import numpy as np
import pytest
from hospital_files import MAP, findings, read, write_hospital

from hf_cxr.data import DataProblems, finding_counts
from hf_cxr.data.vocabulary import ABSENT, PRESENT, UNCERTAIN, UNKNOWN, join_rows, split_words

WORDS = """
    table: films.csv
    columns: {image: file, patient: patient}
    labels:
      column: finding
      words:
        effusion: Effusion
        no effusion: {absent: Effusion}
        effusion?: {uncertain: Effusion}
        mass: [Mass, Lung Lesion]
        normal: No Finding
        bacterial: Bacterial pneumonia
        no pneumonia: {absent: Pneumonia}
        lobar: Lobar pneumonia
      ignore: [scoliosis]
      incomplete: [unchanged]
    new_nodes:
      Bacterial pneumonia: {parent: Pneumonia}
      Lobar pneumonia: {parent: Bacterial pneumonia}
"""
NAMES = ("Effusion", "Mass", "Lung Lesion", "Bacterial pneumonia", "Pneumonia", "Lobar pneumonia", "No Finding")


def said_of(tmp_path, cells, text=WORDS):
    """What is known of one film for each cell; the films are of patients of their own."""
    lines = [f'f{i}.png,{i},"{cell}"' for i, cell in enumerate([*cells, "scoliosis", "scoliosis", "scoliosis"])]
    index = read(write_hospital(tmp_path, text, images=False, films="\n".join(["file,patient,finding", *lines])))
    known = [{n: v for n, v in film.items() if v is not None} for film in findings(index).values()]
    return known[: len(cells)], index


@pytest.mark.parametrize(
    ("cell", "separator", "words"),
    [
        ("a|b | C  d", "|", ["a", "b", "c d"]),
        ("a, b", ",", ["a", "b"]),
        ("a, b", "|", ["a, b"]),
        ("a - b", " - ", ["a", "b"]),
        ("['a', ' b, c', \"d's\"]", "list", ["a", "b, c", "d's"]),
        ('["a", "b"]', "list", ["a", "b"]),
        ("['a' 'b']", "list", ["a", "b"]),
        ("['']", "list", []),
        ("[]", "list", []),
        ("nan", "list", []),
        ("plain", "list", ["plain"]),
        (" || ", "|", []),
    ],
)
def test_words_of_a_cell(cell, separator, words):
    assert split_words(cell, separator) == words


def test_what_is_not_mentioned_is_unknown(tmp_path):
    known, index = said_of(
        tmp_path, ["effusion", "no effusion|mass", "EFFUSION? ", "normal", "scoliosis", "", "mass|mass"]
    )
    assert index.names == (*NAMES[:3], "Bacterial pneumonia", "Pneumonia", "Lobar pneumonia", "No Finding")
    lesion = {"Mass": 1, "Lung Lesion": 1}
    assert known == [{"Effusion": 1}, {"Effusion": 0, **lesion}, {"Effusion": -1}, {"No Finding": 1}, {}, {}, lesion]
    assert index.notes["films without a reading"] == 1
    counts = finding_counts(index)
    assert counts["Effusion"] == {"present": 1, "absent": 1, "uncertain": 1, "unknown": 7}


def test_the_strongest_statement_holds(tmp_path):
    known, _ = said_of(tmp_path, ["effusion?|effusion|no effusion", "no effusion|effusion?"])
    assert known == [{"Effusion": 1}, {"Effusion": -1}]


def test_new_nodes_pass_truth_up_and_denials_down(tmp_path):
    known, index = said_of(tmp_path, ["bacterial", "lobar", "no pneumonia", "no pneumonia|bacterial"])
    pneumonia = {"Bacterial pneumonia": 1, "Pneumonia": 1}
    denied = {"Bacterial pneumonia": 0, "Pneumonia": 0, "Lobar pneumonia": 0}
    assert known == [pneumonia, {**pneumonia, "Lobar pneumonia": 1}, denied, pneumonia]
    assert index.notes["films with a new finding whose parent is denied"] == 1


def test_a_blank_cell_may_mean_normal(tmp_path):
    known, index = said_of(tmp_path, ["", "effusion"], WORDS.replace("normal: No Finding", '"": No Finding'))
    assert known == [{"No Finding": 1}, {"Effusion": 1}]
    assert "films without a reading" not in index.notes


def test_what_is_absent_without_being_mentioned(tmp_path):
    text = WORDS + "    unmentioned: {absent: [Effusion], absent_if_normal: {all_but: [Mass]}}\n"
    known, index = said_of(
        tmp_path, ["normal", "scoliosis", "bacterial", "", "unchanged", "normal|effusion", "normal|unchanged"], text
    )
    normal = {**dict.fromkeys(NAMES, 0), "No Finding": 1}
    del normal["Mass"]
    assert known == [
        normal,
        {"Effusion": 0},
        # what contradicts No Finding denies it
        {"Effusion": 0, "Bacterial pneumonia": 1, "Pneumonia": 1, "No Finding": 0},
        {},
        {},
        {**normal, "Effusion": 1},
        {"No Finding": 1},
    ]
    assert index.notes["films with No Finding and a finding"] == 1
    assert index.notes["films with an incomplete reading"] == 2


def test_words_that_are_not_known_are_listed_with_counts_and_the_nearest(tmp_path):
    cells = ["Efusion", "efusion|normal", "Pneumonie", "pneumonie|Zyste", "effusion"]
    with pytest.raises(DataProblems) as caught:
        said_of(tmp_path, cells)
    message = str(caught.value)
    assert caught.value.totals == {"unknown finding": 1}
    assert "films.csv, row 2: 3 words of column 'finding' are neither mapped nor ignored" in message
    lines = [line.strip() for line in message.split("\n") if "rows" in line]
    assert lines == [
        "'efusion': 2 rows (did you mean 'effusion'?)",
        "'pneumonie': 2 rows (did you mean 'no pneumonia'?)",
        "'zyste': 1 rows",
    ]


CODED = """
    table: films.csv
    columns: {image: file, patient: patient}
    labels:
      coding: chexpert
      columns:
        Edema: Edema
        card: {finding: Cardiomegaly, coding: {j: present, n: absent, "?": uncertain, k.A.: unknown}}
        No Finding: No Finding
    unmentioned: {absent: [Cardiomegaly], absent_if_normal: all}
"""


def test_one_column_a_finding(tmp_path):
    films = 'file,patient,Edema,card,No Finding\na,1,1.0,J,\nb,2,-1,n,\nc,3,"0,0",?,\nd,4,,,1\ne,5,nan,k.a.,\nf,6,,,\n'
    index = read(write_hospital(tmp_path, CODED, images=False, films=films))
    assert list(findings(index).values()) == [
        {"Edema": 1, "Cardiomegaly": 1, "No Finding": 0},
        {"Edema": -1, "Cardiomegaly": 0, "No Finding": None},
        {"Edema": 0, "Cardiomegaly": -1, "No Finding": None},
        {"Edema": 0, "Cardiomegaly": 0, "No Finding": 1},
        {"Edema": None, "Cardiomegaly": 0, "No Finding": None},
        {"Edema": None, "Cardiomegaly": None, "No Finding": None},
    ]


def test_codes_that_are_not_known(tmp_path):
    films = "file,patient,Edema,card,No Finding\na,1,2,j,1\nb,2,1,ja,\nc,3,,,\n"
    with pytest.raises(DataProblems) as caught:
        read(write_hospital(tmp_path, CODED, images=False, films=films))
    assert "films.csv, row 2: Edema is '2', expected '1' or '0' or '-1' or blank" in str(caught.value)
    assert "films.csv, row 3: card is 'ja', expected blank or 'j' or 'n' or '?' or 'k.a.'" in str(caught.value)


def by_hand(keys, readers, agreement, strengths, n_keys):
    joined = np.zeros((n_keys, strengths.shape[1]), np.int8)
    for key in range(n_keys):
        for finding in range(strengths.shape[1]):
            said = [(readers[i], strengths[i, finding]) for i in range(len(keys)) if keys[i] == key]
            for_it = {reader for reader, strength in said if strength == PRESENT}
            if len(for_it) >= agreement:
                joined[key, finding] = PRESENT
            elif for_it or any(strength == UNCERTAIN for _, strength in said):
                joined[key, finding] = UNCERTAIN
            elif any(strength == ABSENT for _, strength in said):
                joined[key, finding] = ABSENT
    return joined


@pytest.mark.parametrize("agreement", [1, 2, 3])
def test_readers_agree_as_counted_by_hand(agreement):
    rng = np.random.default_rng(agreement)
    keys, readers = rng.integers(0, 20, 200), rng.integers(0, 4, 200)
    strengths = rng.choice([UNKNOWN, UNKNOWN, ABSENT, UNCERTAIN, PRESENT], (200, 3)).astype(np.int8)
    got = join_rows(keys, readers, agreement, strengths, 21)
    np.testing.assert_array_equal(got, by_hand(keys, readers, agreement, strengths, 21))
    one_reader = join_rows(keys, None, 1, strengths, 21)
    np.testing.assert_array_equal(one_reader, by_hand(keys, np.zeros(200, int), 1, strengths, 21))


def test_a_row_a_finding(tmp_path):
    text = WORDS.replace("labels:", "labels:\n      rows: finding\n      reader: rad\n      agreement: 2")
    films = "file,patient,finding,rad\n" + "".join(
        f"{film},{patient},{word},{rad}\n"
        for film, patient, word, rad in (
            ("a", 1, "effusion", "R1"), ("a", 1, "effusion", "r1 "), ("a", 1, "mass", "R2"), ("b", 2, "effusion", "R1"),
            ("a", 1, "mass", "R3"), ("b", 2, "effusion", "R2"), ("c", 3, "normal", "R1"), ("c", 3, "normal", "R2"),
        )
    )  # fmt: skip
    index = read(write_hospital(tmp_path, text, images=False, films=films))
    known = {film: {n: v for n, v in said.items() if v is not None} for film, said in findings(index).items()}
    assert known == {
        "a": {"Effusion": -1, "Mass": 1, "Lung Lesion": 1},
        "b": {"Effusion": 1},
        "c": {"No Finding": 1},
    }
    films = films.replace("b,2,effusion,R2", "b,4,effusion,R2")
    with pytest.raises(DataProblems, match=r"row 7: patient is '4', but '2' in row 5 of the same film; give it one"):
        read(write_hospital(tmp_path / "other", text, images=False, films=films))


def test_folding_is_not_in_the_way_of_a_map_made_in_code(tmp_path):
    from hf_cxr.data import load_map

    mapped = load_map(write_hospital(tmp_path, MAP))
    assert replace(mapped, name="x").said == {"Effusion", "Bacterial pneumonia", "No Finding"}
    assert mapped.findings == ("Effusion", "Bacterial pneumonia", "Pneumonia", "No Finding")
