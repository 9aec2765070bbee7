import json
import os
import shutil

import numpy as np
import PIL.Image
import pytest
from film_folders import NIH_HEADER, nih_rows, write_image

from hf_cxr.data import DataProblems, NIHChestXray14, findings_matrix, load_splits
from hf_cxr.data.nih import FINDINGS, read_index


def build(folder, cache, **options):
    builder = NIHChestXray14(data_dir=folder, cache_dir=cache, **options)
    builder.download_and_prepare()
    return builder


def problems_of(folder, **options):
    with pytest.raises(DataProblems) as caught:
        read_index(folder, **options)
    return caught.value


@pytest.mark.parametrize("images", [("images",), (".",), ("images_001/images", "images_012/images")])
@pytest.mark.parametrize("table", ["Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"])
@pytest.mark.parametrize("zipped", [False, True])
def test_every_layout_gives_the_same_rows(nih, cache, images, table, zipped):
    splits = build(nih(images=images, table=table, zipped=zipped), cache).as_dataset()
    assert {name: len(split) for name, split in splits.items()} == {"train": 26, "validation": 4, "test": 10}
    film = splits["test"][0]
    assert isinstance(film.pop("image"), PIL.Image.Image)
    findings = film.pop("findings")
    assert film == {
        "id": "00000016_000.png",
        "patient": "16",
        "study": "00000016_000",
        "view": "PA",
        "sex": "M",
        "age": 58,
    }
    assert tuple(findings) == FINDINGS
    assert findings == {name: int(name == "No Finding") for name in FINDINGS}
    both = [f["id"] for f in splits["test"] if f["findings"]["Hernia"] and f["findings"]["Mass"]]
    assert both == ["00000018_000.png", "00000018_001.png"]


@pytest.mark.parametrize(
    ("cell", "years"),
    [("058Y", 58), ("58", 58), ("010M", 0), ("030M", 2), ("003D", 0), ("800D", 2), ("120Y", 120), ("", None)],
)
def test_ages(nih, cell, years):
    index = read_index(nih([row.replace("058Y", cell) for row in nih_rows()]), check_images=False)
    assert [None if np.isnan(age) else age for age in index.films["age"].astype(float)] == [years] * 40
    assert index.notes["impossible ages"] == 0


def test_impossible_ages_become_unknown_and_are_noted(nih, cache):
    rows = nih_rows()
    rows[0] = rows[0].replace("058Y", "414Y")
    rows[1] = rows[1].replace("058Y", "155")
    splits, provenance = load_splits("nih", nih(rows), cache)
    assert provenance["notes"]["impossible ages"] == 2
    ages = {film["id"]: film["age"] for split in splits.values() for film in split.remove_columns("image")}
    assert [name for name, age in ages.items() if age is None] == ["00000001_000.png", "00000001_001.png"]


@pytest.mark.parametrize("ending", [",", ",,"])
def test_trailing_commas_are_no_columns(nih, ending):
    # the release of 2017 ends its header and its rows with a comma
    rows = [row + ending for row in nih_rows()]
    assert len(read_index(nih(rows, header=NIH_HEADER + ","), check_images=False)) == 40


def test_a_missing_last_cell_is_found(nih):
    error = problems_of(nih(header=NIH_HEADER + ","), check_images=False)
    assert error.totals == {"row with a wrong number of cells": 40}
    assert "received 11 cells, expected 12" in str(error)


def test_patient_numbers_are_compared_as_numbers(nih):
    rows = nih_rows()
    rows[1] = rows[1].replace(",1,1,058Y", ",1,00000001,058Y")
    index = read_index(nih(rows), check_images=False)
    assert index.films["patient"].nunique() == 20


@pytest.mark.parametrize(("view", "count"), [("frontal", 40), ("all", 40), ("PA", 20), ("AP", 20)])
def test_views(nih, view, count):
    folder = nih()
    index = read_index(folder, check_images=False, view=view)
    assert len(index) == count
    whole = read_index(folder, check_images=False, view="all").films
    held = set(whole[whole["split"] == "validation"]["patient"])
    assert set(index.films[index.films["split"] == "validation"]["patient"]) == held


def test_no_laterals_is_an_error(nih, cache):
    with pytest.raises(ValueError, match="no films in split train, validation, test"):
        build(nih(), cache, view="lateral")


def test_every_problem_is_collected_into_one_error(nih, cache):
    rows = nih_rows()
    rows[2] = rows[2].replace("No Finding", "Pleural Thickening|Mass")
    rows[3] = rows[3].replace("No Finding", "No Finding|Mass")
    rows[4] = rows[4].replace("058Y", "old")
    rows[5] = rows[5].replace(",M,", ",x,").replace(",F,", ",x,")
    rows[6] = rows[6].replace(",PA,", ",oblique,")
    rows[7] = rows[7].replace("No Finding", "")
    names = [row.split(",")[0] for row in rows]
    rows.append(rows[10])
    # a blank line and a quoted cell with a line end in it: rows stay where a text editor shows them
    rows[0] = rows[0].replace("No Finding,0", 'No Finding,"0\n"')
    rows.insert(1, "")
    lists = ([*names[:29], "ghost.png"], names[29:39] + names[28:29])
    folder = nih(rows, lists=lists)
    (folder / "images" / names[20]).unlink()
    (folder / "images" / names[21]).write_bytes(b"")
    (folder / "images" / names[22]).write_bytes(b"no image at all")
    write_image(folder / "images_001" / "images" / names[23])
    builder = NIHChestXray14(data_dir=folder, cache_dir=cache)
    with pytest.raises(DataProblems) as caught:
        builder.download_and_prepare()
    error = caught.value
    assert error.totals == {
        "unknown finding": 1,
        "malformed cell": 5,
        "listed name without a row": 1,
        "name in both lists": 1,
        "row in no list": 1,
        "duplicate id": 1,
        "image in two folders": 1,
        "missing image": 1,
        "unreadable image": 2,
    }
    assert len(error.problems) == 10
    text = (folder / "Data_Entry_2017_v2020.csv").read_text().split("\n")
    for problem in error.problems:
        assert problem.kind in str(error)
        if problem.file.endswith(".csv"):
            line = text[problem.row - 1]
            if problem.kind == "unknown finding":
                assert line.startswith(names[2])
            if problem.kind == "missing image":
                assert line.startswith(names[20])
                assert problem.image.endswith(names[20])
            if problem.kind == "duplicate id":
                assert problem.row == len(text) - 1
        else:
            line = (folder / os.path.basename(problem.file)).read_text().split("\n")[problem.row - 1]
            assert line in ("ghost.png", names[28])
    assert "14 problems in the data" in str(error)
    assert "… and 4 more" in str(error)
    assert not list(cache.rglob("*.arrow"))


def test_only_ten_are_listed_and_all_are_counted(nih):
    folder = nih()
    for path in list((folder / "images").iterdir())[:25]:
        path.unlink()
    error = problems_of(folder)
    assert error.totals == {"missing image": 25}
    assert len(error.problems) == 10
    assert "skip_missing=True" in str(error)


def test_missing_columns_are_named_once(nih):
    error = problems_of(nih(header=NIH_HEADER.replace("Patient Age", "Age")), check_images=False)
    assert error.totals == {"missing column": 1}
    assert "no column 'Patient Age'" in str(error)


@pytest.mark.parametrize("name", ["train_val_list.txt", "test_list.txt", "Data_Entry_2017_v2020.csv"])
def test_missing_lists_and_tables_say_where_they_come_from(nih, cache, name):
    folder = nih()
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"nihcc\.app\.box\.com") as caught:
        NIHChestXray14(data_dir=folder, cache_dir=cache)
    assert name in str(caught.value)


def test_a_patient_in_both_lists_is_a_leak(nih):
    names = [row.split(",")[0] for row in nih_rows()]
    with pytest.raises(ValueError, match=r"1 patient\(s\) are in both .*: 15"):
        read_index(nih(lists=(names[:29], names[29:])), check_images=False)


def test_skipping_counts_and_remembers(nih, cache):
    folder = nih()
    (folder / "images" / "00000001_000.png").unlink()
    (folder / "images" / "00000016_001.png").write_bytes(b"")
    (folder / "images" / "00000017_001.png").write_bytes(b"GIF89a")
    expected = {"missing image": 1, "unreadable image": 2}
    assert build(folder, cache, skip_missing=True).skipped == expected
    again = NIHChestXray14(data_dir=folder, cache_dir=cache, skip_missing=True)
    assert again.skipped == expected
    splits, provenance = load_splits("nih", folder, cache, skip_missing=True)
    assert provenance["skipped"] == expected
    assert sum(len(split) for split in splits.values()) == 37
    assert provenance["splits"]["test"] == {"films": 8, "patients": 5}


def test_skipping_does_not_excuse_malformed_cells(nih):
    rows = nih_rows()
    rows[3] = rows[3].replace("058Y", "x")
    folder = nih(rows)
    (folder / "images" / "00000001_000.png").unlink()
    assert problems_of(folder, skip_missing=True).totals == {"malformed cell": 1}


def test_the_cache_is_reused_until_something_changes(nih, cache):
    folder = nih()
    first = build(folder, cache)
    assert build(folder, cache).cache_dir == first.cache_dir
    assert build(folder, cache, validation_fraction=0.1, view="frontal").cache_dir == first.cache_dir
    seen = {first.hash, build(folder, cache, split_seed=1).hash, build(folder, cache, view="PA").hash}
    assert len(seen) == 3

    table = folder / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Hernia|Mass", "Hernia|Edema"))
    changed = build(folder, cache)
    seen.add(changed.hash)
    names, matrix = findings_matrix(changed.as_dataset()["test"])
    assert matrix[:, names.index("Edema")].sum() == 2
    assert matrix[:, names.index("Mass")].sum() == 0

    write_image(folder / "images" / "00000001_000.png", seed=99)
    seen.add(build(folder, cache).hash)
    path = folder / "images" / "00000002_000.png"
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    seen.add(build(folder, cache).hash)
    lists = folder / "test_list.txt"
    lists.write_text("\n".join(reversed(lists.read_text().split())))
    seen.add(build(folder, cache).hash)
    assert len(seen) == 7


def test_a_copy_elsewhere_has_the_same_fingerprint(nih, cache, tmp_path):
    """Provenance: who copies the data can resume a run and compare with it; who changes them cannot."""
    folder = nih()
    copy = shutil.copytree(folder, tmp_path / "elsewhere", copy_function=shutil.copyfile)  # new times
    first, second = build(folder, cache), build(copy, cache)
    assert first.fingerprint == second.fingerprint
    assert first.hash != second.hash
    assert load_splits("nih", copy, cache)[1]["fingerprint"] == first.fingerprint
    (copy / "images" / "00000001_000.png").write_bytes(b"another size")
    assert NIHChestXray14(data_dir=copy, cache_dir=cache).fingerprint != first.fingerprint
    assert NIHChestXray14(data_dir=folder, cache_dir=cache, view="PA").fingerprint != first.fingerprint


def test_provenance_is_plain_and_tells_no_paths(nih, cache, tmp_path):
    splits, provenance = load_splits("nih", nih(), cache, split_seed=3)
    assert json.loads(json.dumps(provenance)) == provenance
    assert str(tmp_path) not in json.dumps(provenance)
    assert provenance["dataset"] == "nih"
    assert provenance["data_dir"] == "nih"
    assert provenance["options"]["split_seed"] == 3
    assert provenance["test_source"] == "test_list.txt"
    for name, split in splits.items():
        assert provenance["splits"][name] == {"films": len(split), "patients": len(set(split["patient"]))}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"veiw": "PA"}, "no option veiw; known: view, validation_fraction, split_seed, skip_missing"),
        ({"train_csv": "x.csv"}, "no option train_csv"),
        ({"view": "front"}, "view is 'front'; expected one of frontal, all, PA, AP, lateral"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"split_seed": -1}, "split_seed is -1"),
        ({"skip_missing": "False"}, "skip_missing is 'False'"),
    ],
)
def test_bad_options(nih, cache, options, message):
    folder = nih()
    with pytest.raises(ValueError, match=message):
        load_splits("nih", folder, cache, **options)
    with pytest.raises(ValueError, match=message):
        NIHChestXray14(data_dir=folder, cache_dir=cache, **options)


def test_bad_names_and_folders(tmp_path, cache):
    with pytest.raises(ValueError, match="unknown data set 'mimic'; known: nih, chexpert, phantom"):
        load_splits("mimic", tmp_path, cache)
    with pytest.raises(ValueError, match="nih needs data_dir"):
        load_splits("nih", None, cache)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_splits("nih", tmp_path / "nowhere", cache)


def test_streaming_gives_the_same_films(nih, cache):
    builder = build(nih(), cache)
    stored = builder.as_dataset(split="validation").remove_columns("image")
    # not "image" without the list: datasets 5.2 then drops "age" too, as a part of that string
    streamed = builder.as_streaming_dataset(split="validation").remove_columns(["image"])
    assert list(streamed) == list(stored)


def test_phantom_films_are_drawn_once(nih, cache, tmp_path, monkeypatch):
    calls = []

    def generate(output_dir, *, n_images=2000, image_size=128, layout="nih", seed=0, progress=True):
        calls.append((output_dir.name, n_images, image_size, layout, seed))
        if not output_dir.is_dir():
            nih().rename(output_dir)
        return output_dir

    monkeypatch.setattr("hf_cxr.data.generate", generate)
    monkeypatch.setenv("HOME", str(tmp_path))
    splits, provenance = load_splits("phantom", cache_dir=cache, seed=4, view="PA")
    assert calls == [("phantom-2000-128-4", 2000, 128, "nih", 4)]
    assert provenance["dataset"] == "phantom"
    assert len(splits["test"]) == 5
    # a folder that has films is taken as it is, unless it is asked to be otherwise
    folder = tmp_path / ".cache" / "hf_cxr" / "phantom-2000-128-4"
    load_splits("phantom", folder, cache)
    assert len(calls) == 1
    load_splits("phantom", folder, cache, n_images=2000)
    assert len(calls) == 2


def test_real_nih_films(real_data, cache):
    splits, provenance = load_splits("nih", real_data / "nih128", cache)
    assert len(splits["train"]) + len(splits["validation"]) == 7084
    assert len(splits["test"]) == 1424
    patients = {name: set(split["patient"]) for name, split in splits.items()}
    assert sum(map(len, patients.values())) == len(set().union(*patients.values())) == 2497
    share = len(patients["validation"]) / len(patients["train"] | patients["validation"])
    assert share == pytest.approx(0.1, abs=0.01)
    owners: dict[str, set[str]] = {}
    present = set()
    for name in ("train", "validation"):
        for film in splits[name].remove_columns("image"):
            for finding, value in film["findings"].items():
                if value:
                    owners.setdefault(finding, set()).add(film["patient"])
                    present |= {finding} if name == "validation" else set()
    assert {finding for finding, who in owners.items() if len(who) >= 2} <= present
    assert splits["validation"][0]["image"].size == (128, 128)
    assert provenance["splits"]["test"]["films"] == 1424
