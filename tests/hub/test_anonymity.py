"""Nothing that identifies a patient leaves: from DICOM files and a table full of identifiers to the upload folder."""

import runpy
import sys

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import HfApi

from hf_cxr.data.phantom import Patient, render_film
from hf_cxr.data.pseudonyms import Pseudonyms
from hf_cxr.hub.publish import publish
from hf_cxr.hub.upload import Target
from hf_cxr.verification import FILE
from tests.conftest import REPO
from tests.hub.server import OWNER

pydicom = pytest.importorskip("pydicom")

NAME, BORN, NUMBER, DOCTOR = "MUELLER^HANNELORE", "19370411", "KV-8812-7734", "DR^ZWEISTEIN"
PLANTED = {
    "PN": NAME, "LO": f"LO {NAME} {NUMBER}", "SH": NUMBER, "ST": f"ST {NAME}", "LT": f"LT {BORN} {NAME}",
    "UT": f"UT {NUMBER}", "UC": f"UC {NUMBER}", "AS": "085Y", "DA": BORN, "DT": f"{BORN}112233", "TM": "112233",
    "UI": "1.2.276.8812.7734.19370411", "AE": NUMBER,
}  # fmt: skip
SECRETS = ("MUELLER", "HANNELORE", "Hannelore", "19370411", "1937-04-11", "ZWEISTEIN", "8812-7734", "8812.7734")
WORDS = {0: "normal", 1: "Erguss", 2: "grosses Herz"}
MAP = """
    hospital: elsewhere
    taxonomy: nih
    table: films.csv
    images: films
    columns: {image: Datei, patient: PatNr, study: Anforderung, sex: Geschlecht, age: {born: Geburtstag, on: Aufnahme}}
    labels:
      column: Befund
      words: {normal: No Finding, Erguss: Effusion, grosses Herz: Cardiomegaly}
    unmentioned: {absent: [Effusion, Cardiomegaly]}
"""


def planted_film(path, number, signs):
    """A phantom film as DICOM with planted text in every element that can hold any, nested and private ones too."""
    from pydicom.datadict import DicomDictionary
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    from hf_cxr.models.dicom_header import WANTED

    film = Dataset()
    for tag, (vr, vm, _, _, keyword) in DicomDictionary.items():
        if vr in PLANTED and vm == "1" and keyword and keyword not in WANTED and tag >> 16 not in (0, 2):
            setattr(film, keyword, PLANTED[vr])
    inner = Dataset()
    inner.PatientName, inner.TextValue = NAME, f"{NAME} {NUMBER}"
    film.ContentSequence = Sequence([inner])
    private = film.private_block(0x0011, "CLINIC", create=True)
    private.add_new(0x01, "LO", NAME)
    private.add_new(0x02, "UN", NAME.encode("utf-16"))
    film.Modality, film.BodyPartExamined, film.ViewPosition, film.BurnedInAnnotation = "DX", "CHEST", "PA", "NO"
    film.SOPClassUID = DigitalXRayImageStorageForPresentation
    film.PhotometricInterpretation, film.SamplesPerPixel, film.PixelRepresentation = "MONOCHROME2", 1, 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.WindowCenter, film.WindowWidth = 2048, 4096
    drawn = np.asarray(render_film(Patient(number, "F", 60), 0, "PA", signs, image_size=64).image)
    film.Rows, film.Columns = drawn.shape
    film.PixelData = (drawn.astype("<u2") * 16).tobytes()
    film["PixelData"].VR = "OW"
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.file_meta.MediaStorageSOPInstanceUID = PLANTED["UI"]
    film.file_meta.PrivateInformationCreatorUID, film.file_meta.PrivateInformation = PLANTED["UI"], NAME.encode()
    film.preamble = NAME.encode().ljust(128, b"\0")
    film.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """48 patients; every id, file name and column that the map does not name says who they are."""
    from textwrap import dedent

    folder = tmp_path_factory.mktemp("hospital")
    (folder / "films").mkdir()
    rows = []
    for number in range(48):
        kind = number % 3
        name = f"{NAME.replace('^', '_')}_{BORN}_{number}.dcm"
        planted_film(folder / "films" / name, number + 1, ((), ("Effusion",), ("Cardiomegaly",))[kind])
        rows.append(
            {
                "Datei": name, "PatNr": f"{NUMBER}-{number}", "Anforderung": f"A{NUMBER}{number}", "Geschlecht": "F",
                "Geburtstag": "1937-04-11", "Aufnahme": f"20{26 + number % 9}-01-02", "Befund": WORDS[kind],
                "Name": NAME, "Arzt": DOCTOR, "Text": f"Hannelore, {BORN}",
            }
        )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "films.csv", index=False)
    (folder / "elsewhere.yaml").write_text(dedent(MAP))
    return folder


def searched(folder):
    """Every planted text in every file's bytes or name below a folder, as any encoding would have it."""
    needles = {
        (word, text.encode(code))
        for word in SECRETS
        for text in (word, word.lower())
        for code in ("utf-8", "utf-16-le")
    }
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files, f"{folder} is empty: nothing was searched"
    found = {(word, str(path)) for path in files for word, needle in needles if needle in path.read_bytes()}
    return found | {(word, str(path)) for path in files for word in SECRETS if word in path.name}


@pytest.mark.slow
def test_no_identifier_is_in_anything_that_is_made(hospital, finished, hub, online, tmp_path, monkeypatch):
    assert {word for word, _ in searched(hospital)} == {*SECRETS}  # the search finds what is there
    run, cache, staged = tmp_path / "adapted", tmp_path / "cache", tmp_path / "staged"
    words = [
        "--base", finished, "--hospital", hospital / "elsewhere.yaml", "--output_dir", run, "--cache_dir", cache,
        "--lora_rank", 1, "--num_train_epochs", 1, "--metric_for_best_model", "loss", "--disable_tqdm", "true",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["recipes/finetune_lora.py", *map(str, words)])
    runpy.run_path(str(REPO / "recipes" / "finetune_lora.py"), run_name="__main__")
    assert not searched(cache) | searched(run)

    test = pd.read_csv(run / "predictions_test.csv", dtype=str)
    numbers = pd.read_csv(hospital / "films.csv", dtype=str)["PatNr"]
    known = {Pseudonyms(hospital / "pseudonyms.key").of("patient", number) for number in numbers}
    assert set(test["patient"]) < known
    assert set(test["age"]) <= {"88", "89", "90"}
    assert set(test["view"]) == {"PA"}  # the header's

    online()
    publish(finished, tmp_path / "base", Target("clinic/base", FILE))
    with monkeypatch.context() as patch:
        for name, value in hub.environment(OWNER, home=tmp_path / "home").items():
            patch.setenv(name, value)  # of the process that verifies
        publish(run, staged, Target("clinic/adapted", FILE), base="clinic/base")
    assert (staged / "adapter_model.safetensors").is_file()
    assert not searched(staged)
    uploaded = tmp_path / "uploaded"
    HfApi().snapshot_download("clinic/adapted", local_dir=uploaded)
    assert not searched(uploaded)
