"""A hospital's films for a model: its words become the model's labels."""

import shutil

import numpy as np
import pytest

from hf_cxr.arguments import DataArguments, PolicyArguments
from hf_cxr.data import DataProblems
from hf_cxr.films import prepare, prepare_split
from hf_cxr.models import CXRImageProcessor
from tests.conftest import TEST_DATA

PROCESSOR = CXRImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture
def data(hospital, tmp_path):
    return DataArguments(dataset="hospital", data_dir=str(hospital), cache_dir=str(tmp_path / "cache"))


def column(films, split, name):
    encoded = films.labels[split]
    return encoded.values[:, encoded.names.index(name)]


def test_new_findings_become_nodes_and_what_is_not_said_is_unknown(data, nih):
    films = prepare(data, PolicyArguments(), PROCESSOR, nih)
    assert films.hierarchy.names == (*nih.names, "Big heart", "Huge heart")
    heart = column(films, "train", "Cardiomegaly")
    np.testing.assert_array_equal(
        heart, np.maximum(column(films, "train", "Big heart"), column(films, "train", "Huge heart"))
    )
    assert set(heart) == {0, 1}
    assert np.isnan(column(films, "train", "Mass")).all()
    assert films.pixels("test").shape == (len(films.decoded["test"]), 32, 32)


def test_a_model_as_it_is_counts_them_as_their_parent(data, nih):
    films = prepare_split(data, PolicyArguments(), PROCESSOR, nih, "test")
    assert films.labels["test"].names == nih.names
    assert set(column(films, "test", "Cardiomegaly")) == {0, 1}
    met = films.provenance["hospital"]
    assert {each["finding"]: each["use"] for each in met["findings"]}["Big heart"] == "counted as parent"
    assert "Mass" in met["unannotated"]
    assert films.hierarchy.gate_definition == "not_no_finding"
    np.testing.assert_array_equal(
        column(films, "test", "Abnormal"),
        np.maximum(column(films, "test", "Cardiomegaly"), column(films, "test", "Effusion")),
    )


def test_dicom_files_that_are_no_chest_films_are_listed_with_their_reasons(hospital, nih, tmp_path):
    pytest.importorskip("pydicom")
    if not (TEST_DATA / "dicom").is_dir():
        pytest.skip("needs the real DICOM files (HF_CXR_TEST_DATA)")
    folder = shutil.copytree(hospital.parent, tmp_path / "hospital")
    shutil.rmtree(folder / "splits", ignore_errors=True)
    for number, name in enumerate(("test1", "test2", "test3", "test4", "test5", "test6")):
        (folder / "films" / f"{number}.png").unlink()
        shutil.copyfile(TEST_DATA / "dicom" / f"{name}.dcm", folder / "films" / f"{number}.dcm")
    here = {"dataset": "hospital", "data_dir": str(folder / "map.yaml"), "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(DataProblems) as caught:
        prepare(DataArguments(**here), PolicyArguments(), PROCESSOR, nih)
    assert caught.value.totals == {"unreadable image": 3}  # of whatever splits they are in
    for reason in ("body part 'RIBCAGE'", "modality 'CT'", "view 'XX'"):
        assert reason in str(caught.value)
    films = prepare(DataArguments(**here, skip_missing=True), PolicyArguments(), PROCESSOR, nih)
    assert sum(films.provenance["unreadable"].values()) == 3
    assert sum(map(len, films.decoded.values())) == 61
