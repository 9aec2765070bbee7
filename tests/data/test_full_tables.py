"""The published tables at full size, without images, against a plain loop over the csv module."""

import csv
import gzip
import time
from collections import Counter, defaultdict

import datasets
import numpy as np
import pandas as pd
import pytest

from hf_cxr.data import chexpert, findings_matrix, nih
from hf_cxr.data.splits import patient_disjoint_split

SECONDS = 10


def cells(path):
    with gzip.open(path, "rt", newline="") as file:
        yield from csv.DictReader(file)


@pytest.fixture(scope="module")
def nih_folder(published_tables, real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nih")
    for path in (published_tables / "Data_Entry_2017_v2020.csv.gz", *(real_data / "nih_lists").glob("*.gz")):
        (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def chexpert_folder(published_tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chexpert")
    (folder / "train.csv.gz").symlink_to(published_tables / "chexpert_train.csv.gz")
    return folder


def test_nih(nih_folder):
    start = time.perf_counter()
    index = nih.read_index(nih_folder, check_images=False)
    assert time.perf_counter() - start < SECONDS

    positives: Counter[str] = Counter()
    by_list: dict[str, Counter[str]] = defaultdict(Counter)
    views: Counter[str] = Counter()
    patients = set()
    test = set(gzip.decompress((nih_folder / "test_list.txt.gz").read_bytes()).decode().split())
    for row in cells(nih_folder / "Data_Entry_2017_v2020.csv.gz"):
        patients.add(int(row["Patient ID"]))
        views[row["View Position"]] += 1
        for word in row["Finding Labels"].split("|"):
            positives[word] += 1
            by_list["test" if row["Image Index"] in test else "train"][word] += 1

    films = index.films
    assert len(index) == 112_120
    assert films["id"].is_unique
    assert set(films["patient"].astype(int)) == patients
    assert len(patients) == 30_805
    inside = {"train": films["split"] != "test", "test": films["split"] == "test"}
    assert {name: int(mask.sum()) for name, mask in inside.items()} == {"train": 86_524, "test": 25_596}
    assert dict(zip(index.names, (index.findings == 1).sum(axis=0).tolist(), strict=True)) == dict(positives)
    assert set(np.unique(index.findings)) == {0, 1}
    for name, mask in inside.items():
        counted = (index.findings[mask.to_numpy()] == 1).sum(axis=0).tolist()
        assert dict(zip(index.names, counted, strict=True)) == dict(by_list[name])
    assert Counter(films["view"]) == views
    groups = films.groupby("split")["patient"].agg(set)
    assert not groups["train"] & groups["validation"]
    for finding in range(len(index.names)):
        assert index.findings[films["split"] == "validation", finding].any()


@pytest.fixture(scope="module")
def chexpert_index(chexpert_folder):
    start = time.perf_counter()
    index = chexpert.read_index(chexpert_folder, check_images=False, view="all")
    assert time.perf_counter() - start < SECONDS
    return index


def test_chexpert(chexpert_folder, chexpert_index):
    index = chexpert_index
    said: dict[str, Counter[str]] = defaultdict(Counter)
    patients, sexes, views, ages = set(), Counter(), Counter(), 0
    for row in cells(chexpert_folder / "train.csv.gz"):
        patients.add(row["Path"].split("/")[2])
        sexes[row["Sex"]] += 1
        ages += int(row["Age"])
        lateral = row["Frontal/Lateral"] == "Lateral"
        views["LATERAL" if lateral else row["AP/PA"] if row["AP/PA"] in ("AP", "PA") else None] += 1
        for name in chexpert.FINDINGS:
            said[name][row[name]] += 1

    films = index.films
    assert len(index) == 223_414
    assert films["id"].is_unique
    assert set(films["patient"]) == patients
    assert len(patients) == 64_540
    for column, name in enumerate(index.names):
        counted = Counter(index.findings[:, column].tolist())
        written = {1: "1.0", 0: "0.0", -1: "-1.0", chexpert.BLANK: ""}
        expected = {value: said[name][cell] for value, cell in written.items()}
        assert {value: counted[value] for value in expected} == expected
        assert sum(expected.values()) == len(index)
    assert {None if v != v else v: n for v, n in films["view"].value_counts(dropna=False).items()} == views
    assert films["sex"].value_counts().to_dict() == {"M": sexes["Male"], "F": sexes["Female"]}
    assert int(films["age"].sum()) == ages
    assert films["row"].iloc[[0, -1]].tolist() == [2, 223_415]
    assert index.notes == {"impossible ages": 0, "frontals marked LL or RL": 17}


def test_the_cut_of_chexpert_takes_under_three_seconds(chexpert_index):
    patients, positive = chexpert_index.films["patient"].to_numpy(), chexpert_index.findings == 1
    start = time.perf_counter()
    held = patient_disjoint_split(patients, positive, 0.1, 1)
    assert time.perf_counter() - start < 3
    assert not set(patients[held]) & set(patients[~held])
    assert held.mean() == pytest.approx(0.1, abs=0.005)
    # films, not patients, are counted here, so the shares are only about a tenth
    np.testing.assert_allclose(positive[held].sum(axis=0) / positive.sum(axis=0), 0.1, atol=0.02)


def test_the_findings_matrix_at_full_size(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(-2, 2, (223_414, 14)).astype(object)
    values[values == -2] = None
    struct = {"findings": [dict(zip(chexpert.FINDINGS, row, strict=True)) for row in values[:4096].tolist()]}
    features = datasets.Features({"findings": {name: datasets.Value("int8") for name in chexpert.FINDINGS}})
    part = datasets.Dataset.from_dict(struct, features=features)
    whole = datasets.concatenate_datasets([part] * 55).select(range(223_414))
    start = time.perf_counter()
    names, matrix = findings_matrix(whole)
    assert time.perf_counter() - start < 1
    assert names == chexpert.FINDINGS
    assert matrix.shape == (223_414, 14)
    expected = np.where(pd.isna(values[:4096]), np.nan, values[:4096]).astype(np.float32)
    np.testing.assert_array_equal(matrix[4096:8192], expected)
