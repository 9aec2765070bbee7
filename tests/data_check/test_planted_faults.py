"""A hospital with every fault planted: each is found, at its place, and nothing else is."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from hf_cxr.data.hospital import read_index
from hf_cxr.data_check import check, page_text, parse_check_settings, write_check
from tests.data_check.hospitals import MAP, Hospital, Row, phantom, whole


def run(path, *words):
    return check(parse_check_settings([str(path), *map(str, words)]))


def found(outcome):
    """code -> (level, count, examples)."""
    codes = [finding.code for finding in outcome.findings]
    assert len(set(codes)) == len(codes) or set(codes) == {"unreadable", *codes}
    return {(f.code if f.code != "unreadable" else f.what): (f.level, f.count, f.examples) for f in outcome.findings}


def row(name, number, picture=None, words="effusion", split="train", patient=None, **more):
    return Row(
        name, patient or f"jones{number}", words, split, picture=phantom(number) if picture is None else picture, **more
    )


def jpeg(picture, quality=60):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def broken():
    """Every fault of films and labels, and where the check has to find it."""
    hospital = whole()
    film, cut = phantom(500), io.BytesIO()
    film.save(cut, "PNG")
    white = np.where(np.arange(96)[:, None] > 40, 255, phantom(109)).astype(np.uint8)
    photograph = Image.fromarray(load_sample_image("flower.jpg")).convert("L")
    plant = {
        "missing": row("lost.png", 101, picture=b""),
        "empty": row("empty.png", 102, picture=b""),
        "text": row("text.png", 103, picture=b"this is no picture"),
        "cut": row("cut.png", 104, picture=cut.getvalue()[: len(cut.getvalue()) // 2]),
        "inverted": row("inverted.png", 105, picture=ImageOps.invert(phantom(105))),
        "uniform": row("uniform.png", 106, picture=Image.new("L", (96, 96), 90)),
        "photograph": row("photograph.png", 107, picture=photograph),
        "upside": row("upside.png", 108, picture=ImageOps.flip(phantom(108))),
        "white": row("white.png", 109, picture=Image.fromarray(white)),
        "one": row("one.png", 110),
        "one again": row("one_again.png", 110, picture=phantom(110)),
        "two": row("two.png", 111, split="validation"),
        "two of another": row("two_other.png", 112, picture=phantom(111), split="validation"),
        "three": row("three.png", 113),
        "three in test": row("three_test.png", 114, picture=phantom(113), split="test"),
        "four": row("four.png", 115),
        "four as JPEG": row("four.jpg", 116, picture=jpeg(phantom(115)), split="test"),
        "parted": row("parted.png", 117),
        "parted in test": row("parted_test.png", 118, split="test", patient="jones117"),
        "normal and not": row("both.png", 119, words="normal|effusion"),
        "denied": row("denied.png", 120, words="no pneumonia|bacterial"),
    }  # fmt: skip
    hospital.rows += plant.values()
    at = {name: (hospital.at(planted),) for name, planted in plant.items()}
    pair = {name: (hospital.at(plant[name], plant[other]),) for name, other in (
        ("one", "one again"), ("two", "two of another"), ("three", "three in test"), ("four", "four as JPEG"),
    )}  # fmt: skip
    expected = {
        "missing": ("warning", 1, at["missing"]),
        "films that cannot be read: the file is empty": ("warning", 1, at["empty"]),
        "films that cannot be read: no picture that can be read": ("warning", 1, at["text"]),
        "films that cannot be read: damaged, or of a form that no film has": ("warning", 1, at["cut"]),
        "inverted": ("warning", 1, at["inverted"]),
        "blank": ("warning", 1, at["uniform"]),
        "saturated": ("warning", 1, at["white"]),
        "same_film_repeated": ("warning", 1, pair["one"]),
        "same_film_patients": ("warning", 2, pair["two"] + pair["three"]),
        "same_film_splits": ("error", 1, pair["three"]),
        "nearly_same_film_patients": ("warning", 1, pair["four"]),
        "nearly_same_film_splits": ("warning", 1, pair["four"]),
        "patient_in_two_splits": ("error", 1, at["parted"]),
        "no_finding_and_a_finding": ("warning", 1, at["normal and not"]),
        "new_under_denied": ("warning", 1, ()),
    }
    strange = {at["photograph"][0], at["upside"][0]}
    plant["missing"].picture = None
    return hospital, expected, strange


def test_a_whole_hospital_is_usable(tmp_path, base_folder):
    outcome, cells = run(whole().write(tmp_path), "--base", base_folder)
    assert outcome.findings == ()
    assert cells == ()
    assert (outcome.verdict, outcome.exit_code) == ("usable", 0)
    assert outcome.counts["splits"] == {
        "train": {"films": 30, "patients": 30},
        "validation": {"films": 15, "patients": 15},
        "test": {"films": 15, "patients": 15},
    }
    assert outcome.counts["patients"] == {"n": 60, "films_per_patient": {"median": 1.0, "most": 1, "with_one": 60}}
    assert outcome.counts["description"] == {"view": {"PA": 60}, "sex": {"F": 60}, "age": {"40–49": 60}}
    assert outcome.counts["films"]["sizes"] == {"96 × 96": 60}
    assert outcome.counts["films"]["bits"] == {"8": 60}
    labels = outcome.counts["labels"]
    assert labels["words"] == {
        "effusion": 12, "heart": 12, "pneumonia": 12, "no pneumonia": 12, "bacterial": 12, "normal": 12,
    }  # fmt: skip
    assert labels["findings"]["Pneumonia"] == {"present": 12, "absent": 12, "uncertain": 0, "unknown": 36}
    effusion = labels["nodes"]["Effusion"]
    assert effusion["positive_by_split"] == {"train": 6, "validation": 3, "test": 3}
    assert labels["nodes"]["Bacterial pneumonia"]["positive"] == 12
    assert "run.yaml" in outcome.undefined["base_prevalence"]


def test_every_planted_fault_is_found_and_nothing_else(tmp_path, base_folder):
    hospital, expected, strange = broken()
    outcome, _ = run(hospital.write(tmp_path), "--base", base_folder)
    by_code = found(outcome)
    looks = by_code.pop("strange_looks")
    assert by_code == expected
    assert looks[0] == "warning"
    assert looks[1] == 2
    assert set(looks[2]) == strange
    assert outcome.exit_code == 2
    assert [f.level for f in outcome.findings[:2]] == ["error", "error"]
    assert {f.level for f in outcome.findings[2:]} == {"warning"}


def test_without_a_base_all_is_checked_but_looks_and_prevalence(tmp_path):
    hospital, expected, _ = broken()
    outcome, _ = run(hospital.write(tmp_path))
    assert found(outcome) == expected
    assert outcome.undefined == {"looks": "no --base", "base_prevalence": "no --base"}


def test_nothing_of_anybody_is_on_the_page(tmp_path, base_folder):
    hospital, _, _ = broken()
    hospital.rows.append(row("secret.png", 130, age="fourty", words="kyphosis"))
    outcome, cells = run(hospital.write(tmp_path / "data"), "--base", base_folder)
    write_check(tmp_path / "page", outcome)
    pages = [page_text(outcome), *(p.read_text() for p in (tmp_path / "page").glob("check.*"))]
    assert len(pages) == 4
    said = {row.patient for row in hospital.rows} | {row.file for row in hospital.rows} | {"anna"}
    for page in pages:
        assert "films.csv, row " in page
        assert not [word for word in (*said, str(tmp_path), "fourty", "kyphosis") if word in page]
    assert "fourty" in "".join(cells)
    assert "kyphosis" in "".join(cells)
    assert json.loads((tmp_path / "page" / "check.json").read_text())["exit_code"] == 2


def test_every_problem_of_the_table_is_counted(tmp_path):
    hospital = whole()
    hospital.rows += [
        row("age.png", 101, age="fourty"),
        row("sex.png", 102, sex="perhaps"),
        row("word.png", 103, words="kyphosis"),
        row("words.png", 104, words="kyphosis|scoliosis"),
        row("anna-3.png", 105),
        row("split.png", 106, split="somewhere"),
    ]
    hospital.lines.append("short.png,jones107")
    outcome, cells = run(hospital.write(tmp_path))
    counts = {f.code: (f.level, f.count, f.of) for f in outcome.findings}
    assert counts["malformed_cell"] == ("error", 4, "rows")  # the short row has no split
    assert counts["unknown_finding"] == ("error", 2, "words")
    assert counts["duplicate_id"][:2] == ("error", 1)
    assert counts["row_with_a_wrong_number_of_cells"][:2] == ("error", 1)
    assert outcome.exit_code == 2
    assert len(cells) >= 5


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (
            ("split: {column: split}", "split: {column: split, values: {test: train, validation: train}}"),
            "no_test_split",
        ),
        (("patient: patient", "patient: ~"), "no_patients"),
        (("patient: patient", "patient: PatNo"), "missing_column"),
        (("images: images", "images: elsewhere"), "no_readable_films"),
    ],
)
def test_what_makes_all_of_it_unusable(tmp_path, change, code):
    outcome, _ = run(whole(20).write(tmp_path, MAP.replace(*change)))
    assert code in {finding.code for finding in outcome.findings}
    assert outcome.exit_code == (1 if code == "no_test_split" else 2)


def test_a_patient_is_in_two_splits_also_by_a_view_that_is_not_wanted(tmp_path):
    hospital = whole(40)
    hospital.rows += [row("side.png", 101, patient="smith0", split="test", view="LATERAL", words="")]
    outcome, _ = run(hospital.write(tmp_path))
    assert found(outcome) == {"patient_in_two_splits": ("error", 1, (hospital.at(hospital.rows[0]),))}


def test_a_split_without_a_readable_film(tmp_path):
    hospital = whole(20)
    for planted in hospital.rows:
        if planted.split == "test":
            planted.picture = b"no picture"
    outcome, _ = run(hospital.write(tmp_path))
    finding = next(f for f in outcome.findings if f.code == "split_without_films")
    assert finding.level == "error"
    assert "split test" in finding.what
    # a quarter of the films cannot be read
    assert {f.level for f in outcome.findings if f.code == "unreadable"} == {"error"}


@pytest.mark.parametrize("view", ["LATERAL", None])
def test_no_films(tmp_path, view):
    """None of the wanted view, or no row at all."""
    hospital = whole(20) if view else Hospital()
    for planted in hospital.rows:
        planted.view = view
    outcome, _ = run(hospital.write(tmp_path))
    assert "no_films" in {f.code for f in outcome.findings if f.level == "error"}
    assert outcome.exit_code == 2
    write_check(tmp_path / "page", outcome)
    assert outcome.counts["tables"]["left_out_by_view"] == len(hospital.rows)


def test_nothing_positive(tmp_path):
    hospital = whole(20)
    for planted in hospital.rows:
        planted.words = "no pneumonia"
    outcome, _ = run(hospital.write(tmp_path))
    assert {f.code: f.level for f in outcome.findings} == {
        "no_positives": "error", "few_validation_films": "warning", "unused_words": "note",
    }  # fmt: skip


def test_thresholds_that_validation_cannot_give(tmp_path):
    hospital = whole()
    for planted in hospital.rows:
        if planted.split == "validation":
            planted.words = "effusion"
    outcome, _ = run(hospital.write(tmp_path / "abnormal"))
    assert found(outcome) == {"one_class_gate": ("warning", 1, ("validation",))}
    assert outcome.exit_code == 1
    outcome, _ = run(whole(34).write(tmp_path / "few"))
    assert found(outcome) == {"few_validation_films": ("warning", 9, ())}


def test_splits_are_cut_for_the_check_and_not_kept(tmp_path):
    text = MAP.replace("    split: {column: split}\n", "")
    outcome, _ = run(whole().write(tmp_path, text))
    assert set(found(outcome)) == {"few_validation_films"}
    assert sum(split["films"] for split in outcome.counts["splits"].values()) == 60
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere.yaml", "films.csv", "images"]


def test_saved_splits_that_do_not_fit_are_told(tmp_path):
    text = MAP.replace("    split: {column: split}\n", "")
    hospital = whole()
    read_index(hospital.write(tmp_path, text), check_images=False)
    hospital.rows.append(row("new.png", 101))
    outcome, cells = run(hospital.write(tmp_path, text))
    assert {f.code: f.level for f in outcome.findings} == {"saved_splits": "error", "few_validation_films": "warning"}
    assert outcome.exit_code == 2
    assert "jones101" in "".join(cells)
    assert "jones101" not in page_text(outcome)


def test_two_patients_cannot_be_split(tmp_path):
    hospital = Hospital([row(f"{i}.png", i, patient=f"jones{i % 2}") for i in range(6)])
    outcome, _ = run(hospital.write(tmp_path, MAP.replace("    split: {column: split}\n", "")))
    assert [f.code for f in outcome.findings] == ["too_few_patients"]
    assert outcome.exit_code == 2
    assert "nothing else was checked" in page_text(outcome)


def test_a_map_with_mistakes_is_a_page_too(tmp_path):
    outcome, cells = run(whole(5).write(tmp_path, MAP.replace("hospital:", "hospitl:")))
    assert outcome.exit_code == 2
    assert outcome.counts == {}
    assert "hospitl" in "".join(cells)
    assert "Not looked at" in page_text(outcome)


def test_a_map_that_does_not_fit_the_taxonomy(tmp_path):
    outcome, _ = run(whole().write(tmp_path, MAP.replace("Cardiomegaly", "Hart")))
    finding = next(f for f in outcome.findings if f.code == "taxonomy")
    assert finding.level == "error"
    assert "'Hart'" in finding.examples[0]
    assert outcome.counts["labels"]["nodes"] is None
    assert "Hart" in page_text(outcome)
