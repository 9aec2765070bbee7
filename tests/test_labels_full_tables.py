"""Labels of the published tables at full size (torchxrayvision ships them), without images."""

import importlib.util
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hf_cxr.labels import LabelPolicy, encode

SECONDS = 10


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None:
        pytest.skip("torchxrayvision is not installed; its folder holds the full NIH and CheXpert tables")
    return Path(spec.origin).parent / "data"


@pytest.fixture(scope="module")
def chexpert_cells(tables):
    frame = pd.read_csv(tables / "chexpert_train.csv.gz")
    columns = list(frame.columns[5:])
    assert len(columns) == 14
    return columns, frame[columns].to_numpy(np.float32)


def test_chexpert(chexpert_cells, chexpert):
    columns, raw = chexpert_cells
    start = time.perf_counter()
    encoded = encode(columns, raw, chexpert, LabelPolicy(uncertain="ignore", blank="zeros"))
    assert time.perf_counter() - start < SECONDS
    assert encoded.values.shape == (223_414, 21)
    cells = dict(zip(columns, raw.T, strict=True))
    value = dict(zip(encoded.names, encoded.values.T, strict=True))
    for name in columns:
        assert encoded.n_uncertain[name] == (cells[name] == -1).sum()
    # shares stated in the reference notes: uncertain cells
    for name, share in {"Atelectasis": 0.151, "Consolidation": 0.124, "Pneumonia": 0.084, "Edema": 0.058}.items():
        assert encoded.n_uncertain[name] / 223_414 == pytest.approx(share, abs=5e-4)
    # leaves keep their cells, a parent gains exactly the films in which only its child was positive
    assert (value["Cardiomegaly"] == 1).sum() == (cells["Cardiomegaly"] == 1).sum() == 27_000
    gained = (cells["Cardiomegaly"] == 1) & (cells["Enlarged Cardiomediastinum"] != 1)
    assert encoded.n_closed["Enlarged Cardiomediastinum"] == gained.sum()
    assert gained.mean() * 223_414 / 27_000 == pytest.approx(0.930, abs=5e-4)
    assert encoded.n_closed["Consolidation"] / (cells["Pneumonia"] == 1).sum() == pytest.approx(0.832, abs=5e-4)
    # conflicts: the parent says 0
    explicit = (cells["Pneumonia"] == 1) & (cells["Consolidation"] == 0)
    assert encoded.n_conflicts["Consolidation > Pneumonia"] == explicit.sum()
    assert explicit.sum() / (cells["Pneumonia"] == 1).sum() == pytest.approx(0.087, abs=5e-4)
    # no child is positive without its parent, on 223,414 films and 20 edges
    for parent, child in chexpert.edges:
        assert not ((value[child] == 1) & (value[parent] != 1)).any(), (parent, child)
    # No Finding is never 0 in the source, and with blanks as zeros it has both classes
    assert (cells["No Finding"] == 0).sum() == 0
    assert encoded.counts()["No Finding"] == {"positive": 22_381, "negative": 201_033, "unknown": 0}


def test_chexpert_counts_an_unclosed_blank_only_where_it_is_blank(chexpert_cells, chexpert):
    """With blanks unknown, a conflict is a parent that says 0, and nothing else."""
    columns, raw = chexpert_cells
    cells = dict(zip(columns, raw.T, strict=True))
    encoded = encode(columns, raw, chexpert, LabelPolicy(uncertain="ignore", blank="ignore"))
    for parent, child in (("Consolidation", "Pneumonia"), ("Enlarged Cardiomediastinum", "Cardiomegaly")):
        expected = ((cells[child] == 1) & (cells[parent] == 0)).sum()
        assert encoded.n_conflicts[f"{parent} > {child}"] == expected > 0


def test_nih(tables, nih):
    frame = pd.read_csv(tables / "Data_Entry_2017_v2020.csv.gz", usecols=["Finding Labels"])
    words = frame["Finding Labels"].str.get_dummies("|")
    start = time.perf_counter()
    encoded = encode(list(words.columns), words.to_numpy(np.float32), nih, LabelPolicy())
    assert time.perf_counter() - start < SECONDS
    assert encoded.values.shape == (112_120, 21)
    counts = encoded.counts()
    for name in nih.findings:
        assert counts[name]["positive"] == words[name].sum()  # closure rewrites no published label
    assert counts["Abnormal"]["positive"] == (words["No Finding"] == 0).sum() == 51_759
    assert counts["Lung Lesion"]["positive"] == ((words["Nodule"] + words["Mass"]) > 0).sum()
    both = encode(
        list(words.columns), words.to_numpy(np.float32), nih.with_gate_definition("not_no_finding"), LabelPolicy()
    )
    np.testing.assert_array_equal(both.values, encoded.values)  # the two definitions agree on NIH
    assert not np.isnan(encoded.values).any()
    assert encoded.n_conflicts == {}
