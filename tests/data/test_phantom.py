"""The phantom: byte-equal, in the real formats, with signs that are where their masks say."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hf_cxr.data.phantom import (
    FIELD_MM,
    NIH_FINDINGS,
    OBSERVATION_SIGNS,
    SIGNS,
    FilmRecord,
    Patient,
    draw_population,
    generate,
    generation,
    load_mask,
    render_film,
)
from hf_cxr.data.phantom.chexpert_cells import COLUMNS
from hf_cxr.data.phantom.film import random_stream
from hf_cxr.data.phantom.layouts import largest_box
from hf_cxr.data.phantom.population import NIH_PREVALENCE, split_patients
from hf_cxr.data.phantom.texture import stroke

SMALL = {"n_images": 20, "image_size": 64, "progress": False}


def _hashes(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }


def _patient(number: int) -> Patient:
    return Patient(number, "MF"[number % 2], 20 + 7 * (number % 9))


@pytest.fixture(scope="module")
def nih(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("phantom") / "nih", n_images=400, image_size=64, progress=False)


@pytest.fixture(scope="module")
def entries(nih: Path) -> pd.DataFrame:
    table = pd.read_csv(nih / "Data_Entry_2017_v2020.csv").set_index("Image Index")
    table["findings"] = table["Finding Labels"].str.split("|").map(set)
    return table


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "chexpert"
    return generate(folder, n_images=240, image_size=64, layout="chexpert", progress=False)


@pytest.fixture(scope="module")
def population() -> list[FilmRecord]:
    return draw_population(3000, seed=11)


@pytest.mark.parametrize("layout", ["nih", "chexpert"])
def test_same_arguments_give_the_same_bytes_and_another_seed_others(tmp_path: Path, layout: str) -> None:
    first = _hashes(generate(tmp_path / "a", layout=layout, **SMALL))
    assert first == _hashes(generate(tmp_path / "b", layout=layout, **SMALL))
    other = _hashes(generate(tmp_path / "c", layout=layout, seed=1, **SMALL))
    images = {name for name in first if "masks" not in name and name.endswith(("png", "jpg"))}
    assert len(images) == SMALL["n_images"]
    assert not any(first[name] == other.get(name) for name in images)


def test_a_film_does_not_depend_on_the_films_before_it() -> None:
    alone = render_film(_patient(7), 2, "PA", ["Nodule"], image_size=64)
    for number in range(1, 4):
        render_film(_patient(number), 0, "AP", SIGNS, image_size=64)
    assert np.array_equal(alone.image, render_film(_patient(7), 2, "PA", ["Nodule"], image_size=64).image)


def test_nih_table_has_eleven_columns_and_a_film_for_each_row(nih: Path, entries: pd.DataFrame) -> None:
    lines = (nih / "Data_Entry_2017_v2020.csv").read_text().splitlines()
    assert lines[0] == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    assert {line.count(",") for line in lines} == {10}
    assert sorted(entries.index) == sorted(p.name for p in (nih / "images").iterdir())
    assert set().union(*entries["findings"]) == {*NIH_FINDINGS, "No Finding"}
    assert entries["Patient Age"].between(1, 95).all()
    assert set(entries["View Position"]) == {"PA", "AP"}
    named = entries["Patient ID"].map("{:08d}".format) + "_" + entries["Follow-up #"].map("{:03d}.png".format)
    assert list(named) == list(entries.index)
    with Image.open(nih / "images" / entries.index[0]) as film:
        assert (film.mode, film.size) == ("L", (64, 64))


def test_nih_lists_are_patient_disjoint_and_hold_every_finding(nih: Path, entries: pd.DataFrame) -> None:
    train, test = ((nih / f"{name}_list.txt").read_text().split() for name in ("train_val", "test"))
    assert sorted(train + test) == sorted(entries.index)
    assert not set(entries.loc[train, "Patient ID"]) & set(entries.loc[test, "Patient ID"])
    assert 0.12 < len(test) / len(entries) < 0.28
    for part in (train, test):
        assert set().union(*entries.loc[part, "findings"]) == {*NIH_FINDINGS, "No Finding"}


def test_boxes_lie_on_test_films_and_hold_their_mask(nih: Path, entries: pd.DataFrame) -> None:
    header, *rows = (nih / "BBox_List_2017.csv").read_text().splitlines()
    assert header == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    tested = set((nih / "test_list.txt").read_text().split())
    seen = set()
    for row in rows:
        index, name, *box = row.split(",")
        finding = {"Infiltrate": "Infiltration"}.get(name, name)
        assert index in tested
        assert finding in entries.loc[index, "findings"]
        x, y, width, height = (int(float(edge)) for edge in box)
        inside = load_mask(nih, index, finding)[y : y + height, x : x + width]
        assert inside.shape == (height, width)
        assert inside.any(axis=0).all()
        assert inside.any(axis=1).all()
        seen.add(name)
    assert len(seen) == 8
    assert "Infiltrate" in seen
    assert "Infiltration" not in seen


def test_largest_box_of_a_known_mask() -> None:
    mask = np.zeros((10, 12), dtype=bool)
    mask[1:3, 1:3] = True
    mask[4:9, 6:10] = True
    assert largest_box(mask) == (6, 4, 4, 5)
    with pytest.raises(ValueError, match="empty"):
        largest_box(np.zeros((4, 4), dtype=bool))


def test_masks_on_disk_are_those_of_the_labels(nih: Path, entries: pd.DataFrame) -> None:
    for index, findings in entries["findings"].head(60).items():
        for finding in NIH_FINDINGS:
            mask = load_mask(nih, index, finding)
            assert mask.shape == (64, 64)
            assert mask.any() == (finding in findings), (index, finding)
    with pytest.raises(KeyError, match="Pneumonitis"):
        load_mask(nih, entries.index[0], "Pneumonitis")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_mask(nih, "nowhere.png", "Mass")


def test_random_streams_do_not_change_between_processes() -> None:
    # Saved from an earlier process: a stream keyed by Python's salted `hash` would pass every other test.
    drawn = random_stream(0, 1, 0, "Mass").integers(2**32, size=3)
    assert drawn.tolist() == [3746084314, 3888909161, 3939230147]


@pytest.mark.parametrize("sign", SIGNS)
def test_a_sign_changes_the_film_inside_its_mask(sign: str) -> None:
    for number in range(1, 7):
        view = "AP" if number % 2 else "PA"
        without = render_film(_patient(number), 0, view, [], image_size=128)
        shown = render_film(_patient(number), 0, view, [sign], image_size=128)
        mask = shown.masks[sign]
        assert list(shown.masks) == [sign]
        assert mask.dtype == bool
        assert 4 < mask.sum() < 0.6 * mask.size
        change = np.abs(shown.image.astype(float) - without.image)
        inside, outside = change[mask].mean(), change[~mask].mean()
        assert inside > 3.0 * outside, (number, inside, outside)
        assert inside > 2.5, (number, inside)


def test_heart_is_wider_than_half_the_chest_only_in_cardiomegaly() -> None:
    for number in range(1, 31):
        others = [s for s in SIGNS if s != "Cardiomegaly" and random_stream(5, number, 0, s).random() < 0.3]
        for signs in (others, [*others, "Cardiomegaly"]):
            film = render_film(_patient(number), 0, "AP" if number % 2 else "PA", signs, image_size=128)
            heart = np.flatnonzero(film.heart.any(axis=0))
            ratio = (heart[-1] - heart[0] + 1) / film.thorax.sum(axis=1).max()
            assert (ratio > 0.5) == ("Cardiomegaly" in signs), (number, ratio, signs)


def test_nodules_are_under_and_masses_over_three_centimetres() -> None:
    from scipy.ndimage import find_objects, label

    for number in range(1, 17):
        film = render_film(_patient(number), 0, "PA", ["Nodule"], image_size=192)
        mm = FIELD_MM / 192
        assert film.mm_per_pixel == mm
        pieces, count = label(film.masks["Nodule"])
        assert count <= 3
        # Two nodules may touch and make one piece, so the smallest piece of a film is measured.
        smallest = min((pieces == i + 1).sum() for i in range(count))
        assert 12.0 < 2.0 * np.sqrt(smallest / np.pi) * mm < 30.0
        mass = render_film(_patient(number), 0, "PA", ["Mass"], image_size=192).masks["Mass"]
        rows, columns = find_objects(mass.astype(int))[0]
        assert max(rows.stop - rows.start, columns.stop - columns.start) * mm > 30.0


def test_prevalence_follows_nihs_order_and_half_is_normal(entries: pd.DataFrame) -> None:
    films = draw_population(2000, seed=3)
    counts = {name: sum(name in film.findings for film in films) for name in NIH_PREVALENCE}
    assert all(more > fewer for more, fewer in pairwise(counts.values()))
    assert min(counts.values()) >= 40
    assert 0.40 < np.mean([not film.findings for film in films]) < 0.58
    assert entries["findings"].map(lambda f: "No Finding" in f).mean() == pytest.approx(0.48, abs=0.1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Effusion", "Atelectasis"),
        ("Infiltration", "Effusion"),
        ("Edema", "Infiltration"),
        ("Emphysema", "Pneumothorax"),
        ("Consolidation", "Effusion"),
        ("Pneumonia", "Edema"),
    ],
)
def test_findings_meet_more_often_than_by_chance_as_in_nih(population: list[FilmRecord], one: str, other: str) -> None:
    films = population
    first, second = (np.array([name in film.findings for film in films]) for name in (one, other))
    assert (first & second).mean() > 1.15 * first.mean() * second.mean()


def test_findings_persist_within_a_patient(population: list[FilmRecord]) -> None:
    films = population
    for name in ("Effusion", "Cardiomegaly", "Fibrosis"):
        again = [
            name in later.findings
            for earlier, later in pairwise(films)
            if later.patient.number == earlier.patient.number and name in earlier.findings
        ]
        assert 2.0 * np.mean([name in f.findings for f in films]) < np.mean(again) < 0.95
    assert {f.film for f in films} == set(range(8))


def test_a_split_that_cannot_hold_every_label_is_refused() -> None:
    films = draw_population(400, seed=0)
    owner = next(f.patient.number for f in films if "Hernia" in f.signs)
    stripped = [f for f in films if "Hernia" not in f.signs or f.patient.number == owner]
    with pytest.raises(ValueError, match="Hernia"):
        split_patients(stripped, {"train": 0.8, "test": 0.2}, {"Hernia": ("Hernia",)}, seed=0)


def test_chexpert_tables_and_cells(chexpert: Path) -> None:
    about = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"]
    tables = {name: pd.read_csv(chexpert / f"{name}.csv", dtype=str) for name in ("train", "valid", "test")}
    assert list(tables["train"]) == list(tables["valid"]) == [*about, *COLUMNS]
    assert list(tables["test"]) == ["Path", *COLUMNS]
    patients = {name: set(table["Path"].str.extract(r"(patient\d{5})/study\d+/view1_frontal\.jpg$")[0])
                for name, table in tables.items()}  # fmt: skip
    assert sum(map(len, patients.values())) == len(set.union(*patients.values()))
    for name, table in tables.items():
        for path in table["Path"]:
            assert (chexpert / path.removeprefix("CheXpert-v1.0-small/")).is_file()
            assert path.startswith("test/" if name == "test" else f"CheXpert-v1.0-small/{name}/")
    train = tables["train"][list(COLUMNS)]
    assert set(train["No Finding"].dropna()) == {"1.0"}
    assert set(train.drop(columns="No Finding").stack().dropna()) == {"1.0", "0.0", "-1.0"}
    assert 0.08 < (train["Atelectasis"] == "-1.0").mean() < 0.24
    heart = train["Cardiomegaly"] == "1.0"
    assert train.loc[heart, "Enlarged Cardiomediastinum"].isna().mean() > 0.6
    normal = train["No Finding"] == "1.0"
    diseases = [c for c in COLUMNS if c not in ("No Finding", "Support Devices")]
    assert not train.loc[normal, diseases].isin(["1.0", "-1.0"]).any(axis=None)
    for name in ("valid", "test"):
        cells = tables[name][list(COLUMNS)]
        assert cells.isin(["1.0", "0.0"]).all(axis=None)
        assert not ((cells["Cardiomegaly"] == "1.0") & (cells["Enlarged Cardiomediastinum"] == "0.0")).any()
        assert (cells == "1.0").any().drop("No Finding").all()


def test_chexpert_masks_match_the_adjudicated_cells(chexpert: Path) -> None:
    for _, row in pd.read_csv(chexpert / "test.csv").head(30).iterrows():
        for observation in OBSERVATION_SIGNS:
            assert load_mask(chexpert, row["Path"], observation).any() == (row[observation] == 1.0)


def test_an_existing_folder_is_reused_only_for_the_same_arguments(tmp_path: Path) -> None:
    target = generate(tmp_path / "p", **SMALL)
    before = (target / "README.txt").stat().st_mtime_ns
    assert generate(target, **SMALL) == target
    assert (target / "README.txt").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match=r"seed=0, layout='nih'; asked for seed=4, layout='chexpert'"):
        generate(target, seed=4, layout="chexpert", **SMALL)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match=r"phantom\.json"):
        generate(other, **SMALL)
    assert (other / "mine.txt").read_text() == "keep"
    assert json.loads((target / "phantom.json").read_text())["mm_per_pixel"] == FIELD_MM / 64
    assert "no real" in (target / "README.txt").read_text()


def test_an_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_cxr.data.phantom import layouts

    calls = []

    def stops(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return render_film(*args, **kwargs)

    monkeypatch.setattr(layouts, "render_film", stops)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "p", **SMALL)
    assert len(calls) == 5
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert (generate(tmp_path / "p", **SMALL) / generation.DESCRIPTION).is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layout": "padchest"}, "padchest"),
        ({"n_images": 3}, "n_images=3"),
        ({"image_size": 16}, "image_size=16"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(tmp_path / "p", **given)
    with pytest.raises(ValueError, match="Pneumonitis"):
        render_film(_patient(1), 0, "PA", ["Pneumonitis"])


def test_strokes_and_films_look_alike_at_every_size() -> None:
    path = np.array([[100.0, 60.0], [100.0, 320.0]])
    for size in (128, 256):
        line = stroke([path], size, 8.0)
        assert line[size // 2].max() == pytest.approx(1.0, abs=0.1)
        assert line[size // 2].argmax() * FIELD_MM / size == pytest.approx(100.0, abs=FIELD_MM / size)
    small = render_film(_patient(2), 0, "PA", ["Effusion"], image_size=64).image.astype(float)
    large = render_film(_patient(2), 0, "PA", ["Effusion"], image_size=256).image.astype(float)
    shrunk = large.reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.98
