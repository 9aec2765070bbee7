import shutil

import pytest
from hospital_files import MAP, read, rows, write_hospital

from hf_cxr.data import DataProblems
from hf_cxr.data.hospital_splits import SplitError


def patients_of(index):
    groups = index.films.groupby("split")["patient"].agg(set).to_dict()
    return {split: groups.get(split, set()) for split in ("train", "validation", "test")}


def listed(folder):
    return {
        split: {line for line in (folder / f"{split}.txt").read_text().splitlines() if not line.startswith("#")}
        for split in ("train", "validation", "test")
    }


def with_split(split, columns="image: file, patient: patient"):
    return MAP.replace("image: file, patient: patient", columns) + f"    split: {split}\n"


def test_cut_by_patient_saved_and_used_again(tmp_path):
    path = write_hospital(tmp_path, images=False, films=rows(40))
    first = patients_of(read(path))
    assert {split: len(patients) for split, patients in first.items()} == {"train": 29, "validation": 3, "test": 8}
    assert not first["train"] & first["test"] and not first["validation"] & (first["train"] | first["test"])  # noqa: PT018
    assert listed(tmp_path / "splits") == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["films.csv", "small.yaml", "splits"]
    before = {p: p.read_bytes() for p in (tmp_path / "splits").iterdir()}
    assert patients_of(read(path)) == first
    assert {p: p.read_bytes() for p in (tmp_path / "splits").iterdir()} == before
    # the cut is a function of the data and the seed, not of the order of the rows
    lines = rows(40).splitlines()
    turned = write_hospital(tmp_path / "turned", images=False, films="\n".join([lines[0], *lines[:0:-1]]) + "\n")
    assert patients_of(read(turned)) == first
    assert patients_of(read(turned, splits_dir=tmp_path / "seed", split_seed=1)) != first
    assert read(path).test_source == "splits/test.txt"


def test_each_split_has_each_finding(tmp_path):
    index = read(write_hospital(tmp_path, images=False, films=rows(40)))
    for split in ("train", "validation", "test"):
        assert (index.findings[index.films["split"] == split] == 1).any(axis=0).all()


def test_corrected_labels_and_new_films_of_a_patient_change_no_split(tmp_path):
    path = write_hospital(tmp_path, images=False, films=rows())
    first = patients_of(read(path))
    films = tmp_path / "films.csv"
    films.write_text(rows().replace("p3_0.png,003,scoliosis", "p3_0.png,003,effusion") + "p3_2.png,3,normal\n")
    assert patients_of(read(path)) == first


def test_changed_data_are_an_error(tmp_path):
    path = write_hospital(tmp_path, images=False, films=rows())
    read(path)
    (tmp_path / "films.csv").write_text(rows(22))
    with pytest.raises(SplitError, match=r"2 patients are in the tables, but in none of the lists: 21, 22\. Put them"):
        read(path)
    (tmp_path / "films.csv").write_text(rows(18))
    with pytest.raises(SplitError, match=r"2 patients are in the lists, but not in the tables: 19, 20\."):
        read(path)
    train = tmp_path / "splits" / "train.txt"
    train.write_text("\n".join(line for line in train.read_text().split("\n") if line not in ("19", "20")))
    for name in ("validation", "test"):
        other = tmp_path / "splits" / f"{name}.txt"
        other.write_text("\n".join(line for line in other.read_text().split("\n") if line not in ("19", "20")))
    assert sum(map(len, patients_of(read(path)).values())) == 18


@pytest.mark.parametrize("option", [{"split_seed": 3}, {"test_fraction": 0.3}, {"validation_fraction": 0.2}])
def test_another_cut_than_the_saved_one_is_an_error(tmp_path, option):
    path = write_hospital(tmp_path, images=False, films=rows())
    read(path)
    with pytest.raises(SplitError, match=r"was cut with test 0\.2, validation 0\.1, seed 0, asked for is .* cut anew"):
        read(path, **option)
    shutil.rmtree(tmp_path / "splits")
    read(path, **option)


def test_saved_lists_that_are_broken(tmp_path):
    path = write_hospital(tmp_path, images=False, films=rows())
    read(path)
    test, train = (tmp_path / "splits" / f"{name}.txt" for name in ("test", "train"))
    with test.open("a") as file:
        file.write(train.read_text().split("\n")[1] + "\n")
    with pytest.raises(SplitError, match=r"test\.txt: patient '\d+' is in train\.txt too; keep one"):
        read(path)
    test.unlink()
    with pytest.raises(SplitError, match=r"lacks test\.txt"):
        read(path)


def test_nothing_is_written_while_anything_is_wrong(tmp_path):
    path = write_hospital(tmp_path, images=False, films=rows().replace("scoliosis", "skoliosis"))
    with pytest.raises(DataProblems):
        read(path)
    assert not (tmp_path / "splits").exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    path = write_hospital(tmp_path, images=False, films=rows())
    (tmp_path / "file").write_text("")
    with pytest.raises(SplitError, match="name another splits_dir"):
        read(path, splits_dir=tmp_path / "file" / "splits")


def test_too_few_patients(tmp_path):
    path = write_hospital(tmp_path, images=False, films=rows(2))
    with pytest.raises(SplitError, match="2 patients cannot be cut"):
        read(path)
    path = write_hospital(tmp_path / "more", images=False, films=rows(3))
    with pytest.raises(SplitError, match="leaves fewer than two patients"):
        read(path, test_fraction=0.9)


def test_the_hospitals_own_column(tmp_path):
    films = "file,patient,finding,Set\na,1,normal,TRAIN\nb,2,effusion,b\nc,3,normal,val\nd,1,effusion,training\n"
    path = write_hospital(tmp_path, with_split("{column: set, values: {B: test}}"), images=False, films=films)
    index = read(path)
    assert patients_of(index) == {"train": {"1"}, "validation": {"3"}, "test": {"2"}}
    assert index.test_source == "column set of films.csv"
    assert not (tmp_path / "splits").exists()


def test_validation_is_cut_where_the_hospital_has_none(tmp_path):
    films = "\n".join(f"{line},{'train' if i < 31 else 'test'}" for i, line in enumerate(rows().splitlines()))
    path = write_hospital(
        tmp_path, with_split("{column: Set}"), images=False, films=films.replace("finding,train", "finding,Set")
    )
    parts = patients_of(read(path))
    assert parts["test"] == {"16", "17", "18", "19", "20"}
    assert len(parts["train"] | parts["validation"]) == len(parts["train"]) + len(parts["validation"]) == 15
    assert parts["validation"]
    assert patients_of(read(path, split_seed=1, validation_fraction=0.2))["test"] == parts["test"]


def test_a_column_without_test_films_has_no_test_split(tmp_path):
    films = "file,patient,finding,Set\na,1,normal,train\nb,2,effusion,val\n"
    path = write_hospital(tmp_path, with_split("{column: Set}"), images=False, films=films)
    assert read(path).test_source is None


def test_patients_in_two_splits_and_cells_that_are_none(tmp_path):
    films = "file,patient,finding,Set\na,01,normal,train\nb,1,effusion,test\nc,2,normal,maybe\nd,1,normal,val\n"
    path = write_hospital(tmp_path, with_split("{column: Set}"), images=False, films=films)
    with pytest.raises(DataProblems) as caught:
        read(path)
    assert caught.value.totals == {"malformed cell": 1, "patient in two splits": 1}
    assert "row 3: patient '1' is in test here, and in train in row 2; give the patient to one" in str(caught.value)
    assert "row 4: Set is 'maybe', expected one of 'train'" in str(caught.value)


def test_blank_patients_are_not_one_patient(tmp_path):
    films = "file,patient,finding,Set\na,,normal,train\nb,,effusion,test\n"
    path = write_hospital(tmp_path, with_split("{column: Set}"), images=False, films=films)
    with pytest.raises(DataProblems) as caught:
        read(path)
    assert caught.value.totals == {"malformed cell": 2}


def test_a_split_table_of_its_own(tmp_path):
    films = "file,patient,finding\na.png,1,normal\nb.png,2,effusion\nc.png,3,normal\n"
    sets = "name,Set\nC,validate\nA.PNG,train\nb,test\nz,test\n"
    text = with_split("{table: sets.csv, by: {image: name}, column: Set}")
    path = write_hospital(tmp_path, text, images=False, films=films, sets=sets)
    assert patients_of(read(path)) == {"train": {"1"}, "validation": {"3"}, "test": {"2"}}
    (tmp_path / "sets.csv").write_text("name,Set\na,train\na,test\nb,test\n")
    with pytest.raises(DataProblems) as caught:
        read(path)
    assert "sets.csv, row 3: an earlier row is about the same image 'a'; keep one" in str(caught.value)
    assert "films.csv, row 4: c.png has no row in sets.csv; add one" in str(caught.value)


@pytest.mark.parametrize(
    ("of", "names"), [("image", ("p{}_0.png", "P{}_1")), ("patient", ("{:03d}", "{:03d}")), ("study", ("s{}", "S{}"))]
)
def test_lists_of_the_hospital(tmp_path, of, names):
    films = rows(6).replace("patient,", "patient,study,")
    for i in range(1, 7):
        films = films.replace(f",{i:03d},", f",{i:03d},s{i},")
    text = with_split(
        f"{{lists: {{train: a.txt, validation: b.txt, test: c.txt}}, of: {of}}}",
        "image: file, patient: patient, study: study",
    )
    path = write_hospital(tmp_path, text, images=False, films=films)
    for name, patients in (("a", (1, 2, 3)), ("b", (4, 5)), ("c", (6,))):
        (tmp_path / f"{name}.txt").write_text("\n".join(n.format(p) for p in patients for n in names))
    index = read(path)
    assert patients_of(index) == {"train": {"1", "2", "3"}, "validation": {"4", "5"}, "test": {"6"}}
    assert index.test_source == "c.txt"


def test_lists_that_do_not_fit(tmp_path):
    text = with_split("{lists: {train: a.txt, test: b.txt}}")
    path = write_hospital(
        tmp_path, text, images=False, films="file,patient,finding\na,1,normal\nb,1,normal\nc,2,normal\nd,3,normal\n"
    )
    (tmp_path / "a.txt").write_text("a\nc\nx\n")
    (tmp_path / "b.txt").write_text("b\nc\n")
    with pytest.raises(DataProblems) as caught:
        read(path)
    for part in (
        "a.txt, row 3: image 'x' is in no row of the table",
        "b.txt, row 2: image 'c' is also in a.txt",
        "films.csv, row 5: image 'd' is in none of a.txt, b.txt",
        "films.csv, row 3: patient '1' is in test here, and in train in row 2",
    ):
        assert part in str(caught.value)
    (tmp_path / "b.txt").unlink()
    with pytest.raises(FileNotFoundError):
        read(path)
