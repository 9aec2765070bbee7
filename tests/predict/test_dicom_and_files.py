"""DICOM files under any name, and films named one by one."""

import pandas as pd
import pytest

from hf_cxr.models import CXRImageProcessor, read_dicom
from hf_cxr.predict import SourceError, predict
from tests.conftest import TEST_DATA
from tests.models.dicom_files import film as dicom
from tests.models.dicom_files import written
from tests.predict.films import loaded, put, settings


@pytest.fixture
def exported(tmp_path):
    """What a picture archive exports: DICOM without suffixes, an index, a film that must be refused."""
    folder = tmp_path / "export"
    for name, header in {"IM0001": {}, "1.2.840.77": {}, "a.dcm": {}, "S/IM0002": {"Modality": "CT"}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(written(dicom(**header)))
    (folder / "README").write_text("exported by the archive")
    put(folder, ["z.png"])
    return folder


def test_a_folder_as_an_archive_exports_it(model, exported, tmp_path):
    table = pd.read_csv(predict(settings(model, exported, tmp_path / "out")).table, dtype={"id": str})
    assert list(table.id) == ["1.2.840.77", "IM0001", "S/IM0002", "a.dcm", "z.png"]
    refused = table.set_index("id").error["S/IM0002"]
    assert refused.startswith("DicomRefusedError: ")
    assert "CT" in refused
    assert table.error.notna().sum() == 1
    processor = CXRImageProcessor.from_pretrained(model)
    inputs = processor([read_dicom(exported / "a.dcm").image], return_tensors="pt")
    expected = loaded(model)(**inputs).logits.sigmoid()[0]
    row = table.set_index("id").loc["a.dcm"]
    for name, at in loaded(model).config.label2id.items():
        assert row[f"{name}_prob"] == pytest.approx(float(expected[at]), abs=1e-6)


def test_films_named_one_by_one(model, exported, tmp_path):
    named = [exported / "z.png", exported / "IM0001"]
    done = predict(settings(model, named, tmp_path / "out"))
    assert list(pd.read_csv(done.table).id) == ["z.png", "IM0001"]
    done = predict(settings(model, exported / "S" / "IM0002", tmp_path / "one"))
    assert list(pd.read_csv(done.table).id) == ["IM0002"]
    for wrong, message in (
        ([exported / "z.png", exported / "README"], "README: no film; expected one source, or several films"),
        ([exported / "z.png", exported], "no film; expected one source"),
        ([exported / "README"], "expected films, a folder, a .csv or a .parquet"),
        ([exported / "z.png", exported / "z.png"], "id 'z.png' in data rows 1 and 2"),
    ):
        with pytest.raises(SourceError, match=message):
            predict(settings(model, wrong, tmp_path / "wrong"))


def test_real_dicom_films(model, tmp_path):
    folder = TEST_DATA / "dicom"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    table = pd.read_csv(predict(settings(model, folder, tmp_path / "out")).table).set_index("id")
    assert set(table.index[table.error.notna()]) == {"test4.dcm", "test5.dcm", "test6.dcm"}
    for name, word in {"test4.dcm": "RIBCAGE", "test5.dcm": "CT", "test6.dcm": "XX"}.items():
        assert word in table.error[name]
