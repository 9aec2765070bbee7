import re
from textwrap import dedent

import pytest
from hospital_files import MAP, findings, read, write_hospital

from hf_cxr.data import DataProblems, hospital, load_map
from hf_cxr.data.hospital_map import NO_FINDING, NewNode, Said, Scope


def example() -> str:
    """The example of the module's docstring."""
    block = hospital.__doc__.split("need no quotes::\n")[1].split("\nWords, headers,")[0]
    return dedent(block)


def mistakes(tmp_path, text):
    path = tmp_path / "map.yaml"
    path.write_text(dedent(text), "utf-8")
    with pytest.raises(DataProblems) as caught:
        load_map(path)
    return str(caught.value)


def test_the_documented_example_reads_these_tables(tmp_path):
    films = (
        "File;PatNo;Accession;Projection;Geschlecht;Alter;Set;Name\n"
        "a.png;007;A1;d.v.;w;58;A;Müller\n"
        "b.png;7;A2;SEITLICH;W;058Y;a;Müller\n"
        "c.png;8;A3;liegend; m ;40-44;B;Maier\n"
        "d.png;9;A4;CT;m;90+;B;Huber\n"
        "e.png;10;A5;;;;A;Huber\n"
    )
    reports = (
        "Accession No;Diagnose\n"
        'A1;"Pleuraerguss ; bakterielle  pneumonie"\n'
        "A2;o.B.\n"
        "A3;fraglicher Erguss;\n"
        "A4;kein Erguss\n"
        "A9;Skoliose\n"
    ).replace("fraglicher Erguss;", '"fraglicher Erguss;Rundherd;unverändert"')
    path = write_hospital(tmp_path, example(), images=False, films=films.encode("cp1252"), reports=reports)
    index = read(path)
    shown = index.films.astype(object).where(index.films.notna(), None)
    assert shown[["id", "patient", "study", "view", "sex", "age"]].to_numpy().tolist() == [
        ["a.png", "7", "A1", "PA", "F", 58],
        ["b.png", "7", "A2", "LATERAL", "F", 58],
        ["c.png", "8", "A3", "AP", "M", 42],
        ["e.png", "10", "A5", None, None, None],
    ]
    splits = dict(zip(index.films["id"], index.films["split"], strict=True))
    assert splits["c.png"] == "test"
    assert splits["a.png"] == splits["b.png"]
    assert {splits["a.png"], splits["e.png"]} == {"train", "validation"}
    said = findings(index)
    unknown = dict.fromkeys(index.names)
    effusion, bacterial = {"Effusion": 1}, {"Bacterial pneumonia": 1, "Pneumonia": 1}
    assert said == {
        "a.png": unknown | effusion | bacterial | {NO_FINDING: 0},
        "b.png": {**dict.fromkeys(index.names, 0), NO_FINDING: 1},
        "c.png": unknown | {"Effusion": -1, "Nodule": 1, "Lung Lesion": 1, NO_FINDING: 0},
        "e.png": unknown,
    }
    assert index.notes["films without a row of labels"] == 1
    assert index.notes["rows of labels without a film"] == 1
    assert index.notes["films left out by their view"] == 1


def test_the_alternatives_in_the_example_are_maps_too(tmp_path):
    lines = example().split("\n")
    alternatives = [i for i, line in enumerate(lines) if re.match(r"\s*# (table|images|age|split): ", line)]
    assert len(alternatives) == 4
    for i in alternatives:
        key = re.match(r"\s*# (\w+):", lines[i])[1]
        end = i - 1 if lines[i - 1].strip().startswith(key) else i - 2
        changed = [*lines[:end], lines[i].replace("# ", "", 1), *lines[i + 1 :]]
        if key == "split":
            changed = [line for line in changed if "that has its own" not in line]
        path = tmp_path / f"{key}.yaml"
        path.write_text("\n".join(changed), "utf-8")
        assert load_map(path) != load_map(write_hospital(tmp_path / "first", example(), images=False, films="File\n"))
    start = next(i for i, line in enumerate(lines) if line.startswith("# labels:"))
    end = next(i for i, line in enumerate(lines) if line.startswith("unmentioned:"))
    first = next(i for i, line in enumerate(lines) if line.startswith("labels:"))
    coded = [line.removeprefix("# ") for line in lines[start:end] if line.startswith("#")]
    kept = [line for line in lines[end:] if "acterial" not in line and "new_nodes" not in line and "normal" not in line]
    path = tmp_path / "coded.yaml"
    path.write_text("\n".join([*lines[:first], coded[0], *("  " + line.lstrip("#") for line in coded[1:]), *kept]))
    columns = {column.column: (column.finding, dict(column.coding)) for column in load_map(path).labels.coded}
    assert columns == {
        "Erguss": ("Effusion", {"1": 1, "0": 0, "-1": -1, "": -128}),
        "Herz": ("Cardiomegaly", {"": -128, "vergrössert": 1, "grenzwertig": -1, "normal": 0}),
    }


def test_scalars_stay_text_and_words_fold(tmp_path):
    text = """
        table: no.csv
        columns: {image: 007, patient: ~}
        labels:
          column: 1.0
          words: {no: {absent: Effusion}, "YES  ": Effusion, 1e3: {uncertain: [Effusion, Mass]}, "": No Finding}
          ignore: [Off]
        unmentioned: {absent: {all_but: [Mass]}}
    """
    path = tmp_path / "my.yaml"
    path.write_text(dedent(text))
    mapped = load_map(path)
    assert (mapped.table.names, mapped.columns.image, mapped.columns.patient) == (("no.csv",), "007", None)
    assert mapped.labels.column == "1.0"
    assert mapped.labels.words == {
        "no": Said(absent=("Effusion",)),
        "yes": Said(present=("Effusion",)),
        "1e3": Said(uncertain=("Effusion", "Mass")),
        "": Said(present=(NO_FINDING,)),
    }
    assert mapped.labels.ignore == {"off"}
    assert mapped.name == "my"
    assert mapped.findings == ("Effusion", "Mass", NO_FINDING)
    assert mapped.absent == Scope(("Mass",), all_but=True)
    assert mapped.absent.of(mapped.findings) == ("Effusion",)


def test_new_nodes_stand_parents_first(tmp_path):
    text = MAP.replace("bacterial: Bacterial pneumonia", "b: Lobar, c: Bacterial pneumonia").replace(
        "new_nodes: {", "new_nodes: {Lobar: {parent: Bacterial pneumonia}, "
    )
    mapped = load_map(write_hospital(tmp_path, text))
    assert mapped.new_nodes == (
        NewNode("Bacterial pneumonia", ("Pneumonia",)),
        NewNode("Lobar", ("Bacterial pneumonia",)),
    )
    assert mapped.findings == ("Effusion", "Lobar", "Bacterial pneumonia", "Pneumonia", NO_FINDING)


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path):
    said = mistakes(
        tmp_path,
        """\
        tabel: films.csv
        table: films.csv
        columns: {image: file}
        labels:
          column: words
          words:
            effusion: Effusion
            Effusion: {presnt: Mass}
        unmentioned: {absent: [Efusion]}
        new_nodes:
          Bacterial: {parent: Pneumonia}
        """,
    )
    for line, part in (
        (1, "no key 'tabel' (did you mean 'table'?)"),
        (3, "columns needs the key 'patient'"),
        (8, "no key 'presnt' (did you mean 'present'?)"),
        (8, "word 'Effusion' says nothing"),
        (8, "word 'Effusion' stands twice, spelled in two ways"),
        (9, "'Efusion', which no word or column says (did you mean 'Effusion'?)"),
        (11, "no word or column says new node 'Bacterial'"),
    ):
        assert re.search(rf"map\.yaml, row {line}: .*{re.escape(part)}", said), (part, said)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("taxonomy: nih", "table: other.csv", "'table' stands twice; the first is in row 3"),
        ("column: finding", "separator: ;", "`words` belong to `column`"),
        ("ignore: [scoliosis]", "ignore: [normal]", "word 'normal' is under `ignore` too"),
        ("ignore: [scoliosis]", "rows: findings", "rows is 'findings'; expected film or finding"),
        ("ignore: [scoliosis]", "agreement: 2", "agreement needs `reader`"),
        ("ignore: [scoliosis]", "reader: rad", "a reader belongs to `rows: finding`"),
        ("ignore: [scoliosis]", "table: labels.csv", "`table` and `by` belong together"),
        ("patient: patient}", "patient: patient, age: {born: b}}", "either `column`, or `born` and `on`"),
        ("patient: patient}", "patient: p, view: {column: v, values: {x: PAA}}}", "view 'x' means 'PAA'"),
        ("images: images", "images: {path: 'p{patient'}", "path is 'p{patient'"),
        ("images: images", "images: {path: '{0!r}'}", "braces hold a column's name"),
        ("images: images", "split: {column: a, lists: {train: b}}", "either `column` or `lists`"),
        ("images: images", "split: {lists: {train: b}, of: study}", "split go by study"),
        ("images: images", "unmentioned: {absent_if_normal: [Mass]}", "'Mass', which no word or column says"),
        ("{parent: Pneumonia}", "{parent: Bacterial pneumonia}", "each other's parents"),
        ("{parent: Pneumonia}", "{parent: No Finding}", "neither a new node nor a parent"),
        ("{parent: Pneumonia}", "{parent: Pneumonia, kind: group}", "expected finding or device"),
    ],
)
def test_mistakes_say_what_was_expected(tmp_path, old, new, part):
    assert old in MAP
    assert part in mistakes(tmp_path, MAP.replace(old, new))


def test_labels_by_study_need_the_column(tmp_path):
    text = MAP.replace("column: finding", "table: l.csv\n      by: {study: s}\n      column: finding")
    assert "labels go by study, but `columns` names no column 'study'" in mistakes(tmp_path, text)


def test_two_columns_of_one_finding_and_unknown_codings(tmp_path):
    text = """
        table: a.csv
        columns: {image: i, patient: p}
        labels: {columns: {a: {finding: Mass, coding: chexprt}, b: Mass, c: {finding: Nodule, coding: {x: maybe}}}}
    """
    said = mistakes(tmp_path, text)
    for part in ("coding is 'chexprt'", "two columns say 'Mass'", "column 'b' has no coding", "'x' means 'maybe'"):
        assert part in said


@pytest.mark.parametrize("text", ["a: b: c", "words: [", "- a", "", "key: \xff".encode("latin-1")])
def test_what_is_no_yaml(tmp_path, text):
    path = tmp_path / "map.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataProblems, match=r"map\.yaml"):
        load_map(path)


def test_a_map_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="ready map: brax, mimic_cxr_jpg, padchest, vindr_cxr"):
        load_map("padchst")
