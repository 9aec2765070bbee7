import shutil

import numpy as np
import pytest
from film_folders import CHEXPERT_FINDINGS, CHEXPERT_HEADER, chexpert_rows, write_text

from hf_cxr.data import CheXpert, DataProblems, findings_matrix, load_splits
from hf_cxr.data.chexpert import FINDINGS, read_index

PREFIXES = ["CheXpert-v1.0-small/", "CheXpert-v1.0/", ""]


def build(folder, cache, **options):
    builder = CheXpert(data_dir=folder, cache_dir=cache, **options)
    builder.download_and_prepare()
    return builder


def problems_of(folder, **options):
    with pytest.raises(DataProblems) as caught:
        read_index(folder, **options)
    return caught.value


def ids(split):
    return list(split["id"])


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("place", ["folder", "parent"])
@pytest.mark.parametrize("name", ["CheXpert-v1.0-small", "anything"])
def test_every_prefix_and_folder_gives_the_same_rows(chexpert, cache, prefix, place, name):
    root = chexpert(folder=name, prefix=prefix)
    splits = build(root if place == "folder" else root.parent, cache, view="all").as_dataset()
    assert {key: len(split) for key, split in splits.items()} == {"train": 36, "validation": 4, "test": 6}
    film = {**splits["test"][1], "image": None}
    assert film.pop("findings") == {
        **dict.fromkeys(FINDINGS),
        "Cardiomegaly": 1,
        "Edema": -1,
        "Fracture": 0,
    }
    assert film == {
        "image": None,
        "id": "test/patient00201/study1/view2_lateral.jpg",
        "patient": "patient00201",
        "study": "patient00201/study1",
        "view": "LATERAL",
        "sex": None,
        "age": None,
    }
    films = [film for part in ("train", "validation") for film in splits[part]]
    first = next(film for film in films if film["patient"] == "patient00001")
    assert (first["view"], first["sex"], first["age"]) == ("AP", "F", 41)
    assert first["image"].size == (24, 24)
    assert splits["train"].features["findings"]["Edema"].dtype == "int8"


def test_batch_folders(chexpert, cache):
    root = chexpert(prefix="CheXpert-v1.0/", test=False)
    batches = root.parent / "batches"
    tables = batches / "CheXpert-v1.0 batch 1 (validate & csv)"
    tables.mkdir(parents=True)
    for i, patient in enumerate(sorted((root / "train").iterdir())):
        batch = batches / f"CheXpert-v1.0 batch {2 + i % 3} (train {1 + i % 3})"
        batch.mkdir(exist_ok=True)
        patient.rename(batch / patient.name)
    (root / "valid").rename(tables / "valid")
    rows = (root / "train.csv").read_text().split("\n")
    # the paths of one release name the batch, those of another do not
    rows[1] = rows[1].replace("CheXpert-v1.0/train/", "CheXpert-v1.0 batch 2 (train 1)/")
    write_text(tables / "train.csv", rows[:-1])
    (root / "valid.csv").rename(tables / "valid.csv")
    splits = build(batches, cache).as_dataset()
    assert sorted(ids(splits["train"]) + ids(splits["validation"])) == [
        f"train/patient{i:05d}/study1/view1_frontal.jpg" for i in range(1, 21)
    ]
    assert splits["test"][0]["image"].size == (24, 24)
    assert ids(splits["test"])[0] == "valid/patient00101/study1/view1_frontal.jpg"


@pytest.mark.parametrize(
    ("validation", "test", "valid", "expected"),
    [
        ("fraction", True, True, ("train", "test", "test.csv")),
        ("fraction", False, True, ("train", "valid", "valid.csv")),
        ("fraction", False, False, ("train", None, None)),
        ("official", True, True, ("valid", "test", "test.csv")),
        ("official", False, True, ("valid", None, None)),
    ],
)
def test_where_the_splits_come_from(chexpert, cache, validation, test, valid, expected):
    folder = chexpert(test=test, valid=valid)
    splits, provenance = load_splits("chexpert", folder, cache, validation=validation)
    assert {film.split("/")[0] for film in ids(splits["validation"])} == {expected[0]}
    assert len(splits["train"]) == (18 if validation == "fraction" else 20)
    assert provenance["test_source"] == expected[2]
    if expected[1] is None:
        assert set(splits) == {"train", "validation"}
    else:
        assert {film.split("/")[0] for film in ids(splits["test"])} == {expected[1]}


def test_official_validation_needs_its_table(chexpert, cache):
    with pytest.raises(FileNotFoundError, match=r"no valid\.csv"):
        CheXpert(data_dir=chexpert(valid=False), cache_dir=cache, validation="official")


def test_official_patients_in_train_are_a_leak(chexpert):
    rows = chexpert_rows("train", range(1, 21), "train/")
    rows += [row.replace("patient00001", "patient00102") for row in rows[:1]]
    folder = chexpert(train_rows=rows)
    with pytest.raises(ValueError, match=r"1 patient\(s\) are in both .*: patient00102"):
        read_index(folder, check_images=False, validation="official")


@pytest.mark.parametrize(
    ("view", "views"),
    [
        ("frontal", {"AP", "PA", None}),
        ("all", {"AP", "PA", None, "LATERAL"}),
        ("PA", {"PA"}),
        ("lateral", {"LATERAL"}),
    ],
)
def test_views_of_the_real_marks(chexpert, view, views):
    rows = chexpert_rows("train", range(1, 21), "train/")
    rows[0] = rows[0].replace("Frontal,AP", "Frontal,PA")
    rows[2] = rows[2].replace("Frontal,AP", "Frontal,LL")
    rows[4] = rows[4].replace("Frontal,AP", "Frontal,")
    rows[6] = rows[6].replace("Male", "Unknown").replace("Female", "Unknown")
    index = read_index(chexpert(train_rows=rows), check_images=False, view=view)
    train = index.films[index.films["split"] != "test"]
    assert {None if mark != mark else mark for mark in train["view"]} == views
    assert index.notes["frontals marked LL or RL"] == 1
    if view == "frontal":
        assert len(train) == 20
        assert train["sex"].isna().sum() == 1


@pytest.mark.parametrize("described", [True, False])
def test_replacement_labels(chexpert, cache, tmp_path, described):
    folder = chexpert()
    other = tmp_path / "visualchexbert.csv"
    rows = chexpert_rows("train", range(1, 21), "CheXpert-v1.0/train/", described)
    rows = [row.replace(",-1.0,", ",1.0,") for row in reversed(rows)]
    write_text(other, [CHEXPERT_HEADER if described else f"Path,{CHEXPERT_FINDINGS}", *rows])
    splits, provenance = load_splits("chexpert", folder, cache, train_csv=str(other))
    names, matrix = findings_matrix(splits["train"])
    assert (matrix[:, names.index("Edema")] == 1).all()
    assert set(splits["train"]["view"]) == {"AP"}
    assert set(splits["train"]["sex"]) == {"M", "F"}
    film = next(f for f in splits["train"] if f["patient"] in ("patient00003", "patient00004"))
    assert film["age"] == 40 + int(film["patient"][-5:])
    assert provenance["options"]["train_csv"] == "visualchexbert.csv"
    # what the folder's own table adds is part of the cache's name
    own = folder / "train.csv"
    own.write_text(own.read_text().replace("Female,43", "Male,43"))
    assert (load_splits("chexpert", folder, cache, train_csv=str(other))[1] != provenance) is not described


def test_replacement_labels_must_list_the_same_films(chexpert, tmp_path):
    other = tmp_path / "visualchexbert.csv"
    rows = chexpert_rows("train", range(2, 22), "CheXpert-v1.0/train/", described=False)
    write_text(other, [f"Path,{CHEXPERT_FINDINGS}", *rows])
    error = problems_of(chexpert(), check_images=False, train_csv=str(other))
    assert error.totals == {"row without a counterpart": 4}
    assert [(p.file.rsplit("/")[-1], p.row) for p in error.problems] == [
        ("visualchexbert.csv", 40),
        ("visualchexbert.csv", 41),
        ("train.csv", 2),
        ("train.csv", 3),
    ]


def test_every_problem_is_collected_into_one_error(chexpert, cache):
    rows = chexpert_rows("train", range(1, 21), "train/")
    rows[0] = rows[0].replace(",1.0,", ",2,")
    rows[1] = rows[1].replace("0.0", "x")
    rows[2] = rows[2].replace("Frontal,AP", "Frontal,up")
    rows[3] = rows[3].replace("view2_lateral.jpg", "")
    rows[5] = rows[5].replace(",43,", ",43.5,")
    rows.append(rows[8].replace("train/", "CheXpert-v1.0/train/", 1))
    folder = chexpert(train_rows=rows)
    table = folder / "train.csv"
    table.write_text(table.read_text().replace("Pleural Other", "Pleural Extra", 1))
    (folder / "train/patient00009/study1/view1_frontal.jpg").unlink()
    (folder / "train/patient00010/study1/view1_frontal.jpg").write_bytes(b"")
    (folder / "valid").rename(folder / "gone")
    with pytest.raises(DataProblems) as caught:
        build(folder, cache, view="all", validation="official")
    error = caught.value
    assert error.totals == {
        "malformed cell": 5,
        "missing column": 1,
        "unknown finding": 1,
        "duplicate id": 1,
        "missing image": 8 + 1,
        "unreadable image": 1,
    }
    named = {(p.kind, p.file.rsplit("/")[-1], p.row) for p in error.problems}
    assert ("duplicate id", "train.csv", 42) in named
    assert ("unreadable image", "train.csv", 20) in named
    assert ("unknown finding", "train.csv", 1) in named
    assert not list(cache.rglob("*.arrow"))


def test_images_of_views_not_asked_for_need_not_be_there(chexpert, cache):
    folder = chexpert()
    for path in folder.rglob("*lateral.jpg"):
        path.unlink()
    assert len(build(folder, cache).as_dataset()["train"]) == 18


def test_skipping(chexpert, cache):
    folder = chexpert()
    shutil.rmtree(folder / "train/patient00003")
    builder = build(folder, cache, skip_missing=True)
    assert builder.skipped == {"missing image": 1, "unreadable image": 0}
    splits = builder.as_dataset()
    assert "patient00003" not in {*splits["train"]["patient"], *splits["validation"]["patient"]}


def test_two_data_sets_in_one_folder_are_ambiguous(chexpert):
    chexpert()
    root = chexpert(folder="CheXpert-v1.0")
    with pytest.raises(ValueError, match=r"several .* train\.csv: CheXpert-v1\.0, CheXpert-v1\.0-small"):
        read_index(root.parent, check_images=False)
    assert len(read_index(root, check_images=False)) == 23


def test_without_a_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no train\.csv .*stanfordmlgroup"):
        read_index(tmp_path)


def test_findings_matrix_follows_the_rows_in_use(chexpert, cache):
    split = build(chexpert(), cache).as_dataset()["train"]
    names, matrix = findings_matrix(split)
    assert names == FINDINGS
    assert matrix.dtype == np.float32
    assert matrix.shape == (18, 14)
    slow = [[np.nan if v is None else v for v in film["findings"].values()] for film in split]
    np.testing.assert_array_equal(matrix, np.asarray(slow, dtype=np.float32))
    np.testing.assert_array_equal(findings_matrix(split.select([5, 2, 2]))[1], matrix[[5, 2, 2]])
    with pytest.raises(ValueError, match="expected `findings` among them"):
        findings_matrix(split.remove_columns("findings"))
