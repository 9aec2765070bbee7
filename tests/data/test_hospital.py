import os
import shutil

import pytest
from film_folders import write_image
from hospital_files import MAP, findings, read, rows, write_hospital
from PIL import Image

from hf_cxr.data import DataProblems, Hospital, findings_matrix, hospital, load_splits
from hf_cxr.data.pseudonyms import Pseudonyms


def problems_of(path, **options):
    with pytest.raises(DataProblems) as caught:
        hospital.read_index(path, **{"view": "all", **options})
    return str(caught.value)


def test_films_come_out_as_of_any_other_builder(tmp_path, cache):
    text = MAP.replace("patient: patient}", "patient: patient, sex: sex, age: age}")
    films = (
        rows().replace("finding\n", "finding,sex,age,Name,Birthday\n").replace("\np", "\nq", 1).replace("\nq", "\np", 1)
    )
    lines = films.splitlines()
    films = "\n".join([lines[0], *(f"{line},m,58,SECRET^NAME,1961-02-05" for line in lines[1:])]) + "\n"
    path = write_hospital(tmp_path, text, films=films)
    splits, provenance = load_splits("hospital", path, cache)
    assert {name: len(split) for name, split in splits.items()} == {
        split: counts["films"] for split, counts in provenance["splits"].items()
    }
    assert sum(map(len, splits.values())) == 40
    film = next(film for film in splits["train"] if film["findings"]["Bacterial pneumonia"])
    assert film["image"].size == (24, 24)
    assert {key: film[key] for key in ("view", "sex", "age", "findings")} == {
        "view": None,
        "sex": "M",
        "age": 58,
        "findings": {"Effusion": None, "Bacterial pneumonia": 1, "Pneumonia": 1, "No Finding": None},
    }
    pseudonyms = Pseudonyms(tmp_path / "pseudonyms.key")
    patient = next(p for p in range(1, 21) if pseudonyms.of("patient", str(p)) == film["patient"])
    assert film["id"] in {pseudonyms.of("image", f"p{patient}_{i}.png") for i in range(2)}
    assert film["study"] in {pseudonyms.of("study", f"p{patient}_{i}") for i in range(2)}
    assert pseudonyms.of("patient", f"{patient:03d}") == film["patient"]
    names, matrix = findings_matrix(splits["train"])
    assert names == ("Effusion", "Bacterial pneumonia", "Pneumonia", "No Finding")
    assert matrix.shape == (len(splits["train"]), 4)
    assert provenance["test_source"] == "splits/test.txt"
    assert provenance["options"]["map"] == "small.yaml"
    # columns that the map does not name are nowhere in what is written
    written = b"".join(file.read_bytes() for file in cache.rglob("*") if file.is_file())
    assert film["id"].encode() in written
    for text in (b"_0.png", b"SECRET", b"1961-02-05"):
        assert text not in written


@pytest.mark.parametrize("names", [("IM1.png", "im1.png"), ("0001", "1")])
def test_films_whose_names_nearly_meet_keep_their_own_pixels_and_labels(tmp_path, cache, names):
    one, other = names
    films = rows().replace("p1_0.png,001", f"{one},001").replace("p2_0.png,002", f"{other},002")
    path = write_hospital(tmp_path, films=films)
    splits, _ = load_splits("hospital", path, cache)
    rows_of = {film["id"]: film for split in splits.values() for film in split}
    assert len(rows_of) == 40
    pseudonyms = Pseudonyms(tmp_path / "pseudonyms.key")
    for name, finding in ((one, "No Finding"), (other, "Bacterial pneumonia")):
        film = rows_of[pseudonyms.of("image", name)]
        assert film["findings"][finding] == 1
        with Image.open(tmp_path / "images" / (name if "." in name else f"{name}.png")) as image:
            assert image.tobytes() == film["image"].tobytes()


def test_the_cache_follows_the_map_the_tables_and_the_splits(tmp_path, cache):
    path = write_hospital(tmp_path)
    prints = [Hospital(path, cache).fingerprint]
    assert Hospital(tmp_path, cache, map=str(path)).fingerprint == prints[0]
    path.write_text(path.read_text().replace("ignore: [scoliosis]", "ignore: [scoliosis, x]"))
    prints.append(Hospital(path, cache).fingerprint)
    (tmp_path / "films.csv").write_text(rows().replace("p3_0.png,003,scoliosis", "p3_0.png,003,normal"))
    prints.append(Hospital(path, cache).fingerprint)
    train, validation = (tmp_path / "splits" / f"{name}.txt" for name in ("train", "validation"))
    moved = train.read_text().split("\n")[1]
    train.write_text(train.read_text().replace(f"\n{moved}\n", "\n", 1))
    validation.write_text(validation.read_text() + f"{moved}\n")
    prints.append(Hospital(path, cache).fingerprint)
    assert len(set(prints)) == 4
    copy = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}_copy")
    assert Hospital(copy / "small.yaml", cache).fingerprint == prints[-1]


@pytest.mark.parametrize("table", ["same", "other"])
def test_a_cache_follows_moved_patients(tmp_path, cache, table):
    """Splits that are moved by hand are another data set, or else the cache would give the old one."""
    path = write_hospital(tmp_path)
    first = load_splits("hospital", path, cache)[0]
    names = ("train", "validation") if table == "same" else ("train", "test")
    one, two = (tmp_path / "splits" / f"{name}.txt" for name in names)
    moved = one.read_text().split("\n")[1]
    one.write_text(one.read_text().replace(f"\n{moved}\n", "\n", 1))
    two.write_text(two.read_text() + f"{moved}\n")
    moved = Pseudonyms(tmp_path / "pseudonyms.key").of("patient", moved)
    assert moved in first["train"]["patient"]
    again = load_splits("hospital", path, cache)[0]
    assert moved in again[names[1]]["patient"]
    assert moved not in again["train"]["patient"]


STUDIES = """
    table: films.csv
    images: images
    columns: {image: file, patient: patient, study: study}
    labels:
      table: reports.csv
      by: {study: Accession}
      column: finding
      words: {effusion: Effusion, normal: No Finding}
"""
FILMS = "file,patient,study\na_1.png,007,A1\na_2.png,7,A1 \nb.png,8,0A2\nc.png,9,3.0\n"
REPORTS = "Accession,finding\na1,effusion\n0A2,normal\n003,\n"


def test_labels_of_a_study_go_to_all_its_films(tmp_path):
    index = read(write_hospital(tmp_path, STUDIES, images=False, films=FILMS, reports=REPORTS))
    assert findings(index) == {
        "a_1.png": {"Effusion": 1, "No Finding": None},
        "a_2.png": {"Effusion": 1, "No Finding": None},
        "b.png": {"Effusion": None, "No Finding": 1},
        "c.png": {"Effusion": None, "No Finding": None},
    }
    assert {"map: small.yaml", "films: films.csv", "labels: reports.csv", "split test: test.txt"} < set(index.sources)


@pytest.mark.parametrize(
    ("films", "reports", "part"),
    [
        (
            FILMS + "d.png,10,A4\n",
            REPORTS,
            "films.csv, row 6: study 'A4' has no row in reports.csv; add one, or set `unmatched",
        ),
        (FILMS, REPORTS + "A5,normal\n", "reports.csv, row 5: study 'A5' has no film in films.csv; remove it, or set"),
        (FILMS, REPORTS + "A1,normal\n", "reports.csv, row 5: an earlier row is about the same study"),
        (
            FILMS.replace("8,0A2", "8,A1"),
            REPORTS,
            "row 4: several patients have a study 'A1', so whose labels these are",
        ),
    ],
)
def test_labels_that_do_not_meet_their_films(tmp_path, films, reports, part):
    path = write_hospital(tmp_path, STUDIES, images=False, films=films, reports=reports)
    assert part in problems_of(path, check_images=False)


@pytest.mark.parametrize(
    ("by", "reports"),
    [
        ("image: name", "name,finding\nA_1,effusion\na_2.PNG,effusion\nb.png,normal\nc,\n"),
        ("patient: no", "no,finding\n7.0,effusion\n008,normal\n9,\n"),
    ],
)
def test_labels_by_image_and_by_patient(tmp_path, by, reports):
    text = STUDIES.replace("study: Accession", by)
    index = read(write_hospital(tmp_path, text, images=False, films=FILMS, reports=reports))
    assert [film["Effusion"] for film in findings(index).values()] == [1, 1, None, None]


def test_views_that_are_left_out_are_counted(tmp_path):
    text = MAP.replace("patient: patient}", "patient: patient, view: {column: view, values: {ct: leave_out}}}")
    lines = rows().splitlines()
    views = ["PA", "lat", "CT", "ap"] * 10
    films = "\n".join([lines[0] + ",view", *(f"{line},{view}" for line, view in zip(lines[1:], views, strict=True))])
    path = write_hospital(tmp_path, text, films=films)
    index = hospital.read_index(path)
    assert index.notes["films left out by their view"] == 10
    assert set(index.films["view"]) == {"PA", "AP"}
    assert len(index) == 20
    assert len(hospital.read_index(path, view="lateral")) == 10


@pytest.mark.parametrize(
    ("cell", "file"),
    [
        ("images/deep/F1.PNG", "images/deep/f1.png"),
        ("F1", "images/deep/f1.png"),
        (r"D:\export\deep\f1.png", "images/deep/f1.png"),
        ("/mnt/pacs/deep/f1.png", "images/deep/f1.png"),
        ("deep/f1", "images/deep/f1.JPG"),
        ("f1.dcm", "images/deep/f1.dcm"),
        ("1.2.840.5", "images/1.2.840.5"),
        ("deep/f1.png", "images/deep/f1.png"),
    ],
)
def test_films_are_found_as_the_table_can_only_mean_them(tmp_path, cell, file):
    films = f"file,patient,finding\n{cell},1,normal\nb.png,2,normal\nc.png,3,effusion\n"
    path = write_hospital(tmp_path, images=False, films=films)
    write_image(tmp_path / "images" / "written.png")
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "images" / "written.png").rename(tmp_path / file)
    for name in ("b.png", "c.png"):
        write_image(tmp_path / "images" / name)
    config = hospital.HospitalConfig(data_dir=str(path))
    index = Hospital.collect(config, with_images=True)
    assert dict(zip(index.films["id"], index.films["image"], strict=True))[cell] == str(tmp_path / file)


def test_a_path_of_columns(tmp_path):
    text = MAP.replace("images: images", 'images: {folder: images, path: "p{patient:.2}/{Set}/{file}.png"}')
    films = "file,patient,finding,Set\na,1234,normal,x\nb,2345,normal,y\nc,3456,effusion,z\n"
    path = write_hospital(tmp_path, text, images=False, films=films)
    for name in ("p12/x/a.png", "p23/y/b.png", "p34/z/c.png"):
        write_image(tmp_path / "images" / name)
    index = hospital.read_index(path)
    assert [os.path.relpath(p, tmp_path) for p in index.films["image"]] == [
        "images/p12/x/a.png", "images/p23/y/b.png", "images/p34/z/c.png",
    ]  # fmt: skip


def test_films_that_are_missing_or_could_be_two(tmp_path):
    names = ("a.png", "b.png", "c.png", "d.png", "D", "x/b")
    films = "\n".join(["file,patient,finding", *(f"{name},{i},normal" for i, name in enumerate(names))])
    path = write_hospital(tmp_path, images=False, films=films)
    for name in ("x/a.png", "y/a.png", "x/b.png", "b.png", "d.png"):
        write_image(tmp_path / "images" / name)
    message = problems_of(path)
    assert "missing image: " in message
    assert f"row 4: no such file [{tmp_path}/images/c.png]" in message
    assert f"row 2: could be {tmp_path}/images/x/a.png or {tmp_path}/images/y/a.png; name its folder too" in message
    assert "row 6: D is the same file as an earlier film" in message
    assert "row 3" not in message
    assert "row 7" not in message
    index = hospital.read_index(path.with_name("small.yaml"), check_images=False, view="all")
    assert len(index) == 6


def test_missing_films_can_be_left_out(tmp_path):
    path = write_hospital(tmp_path)
    (tmp_path / "images" / "p1_0.png").unlink()
    (tmp_path / "images" / "p2_0.png").write_bytes(b"no image")
    index = hospital.read_index(path, skip_missing=True)
    assert len(index) == 38
    assert index.skipped == {"missing image": 1, "unreadable image": 1}


def test_patients_that_are_not_known_are_said_to_be(tmp_path):
    path = write_hospital(tmp_path, MAP.replace("patient: patient", "patient: ~"))
    index = hospital.read_index(path)
    assert list(index.films["patient"]) == list(index.films["id"])
    assert index.notes["films whose patient is not known, each taken for one"] == 40


def test_options(tmp_path):
    path = write_hospital(tmp_path)
    with pytest.raises(ValueError, match=r"test_fraction is 1; expected 0 < fraction < 1"):
        read(path, test_fraction=1)
    with pytest.raises(ValueError, match="expected one of the two"):
        read(path, map=str(path))
    with pytest.raises(FileNotFoundError, match="no map"):
        read(tmp_path / "other.yaml")
    with pytest.raises(FileNotFoundError, match=r"no map for .*one of the ready maps: brax"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no table PADCHEST"):
        read(tmp_path, map="padchest")
    with pytest.raises(ValueError, match="have no rows"):
        read(write_hospital(tmp_path / "empty", images=False, films="file,patient,finding\n"))
