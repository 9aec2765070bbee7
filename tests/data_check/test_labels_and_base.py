"""What cannot be said of a film, how common findings are here and there, and the base's own films."""

from dataclasses import asdict, replace

import numpy as np
import pydicom
import pytest
import yaml
from PIL import Image

from hf_cxr.arguments import DataArguments, LabelArguments
from hf_cxr.data.phantom import generate
from hf_cxr.data_check import check, parse_check_settings
from hf_cxr.data_check.base import load_base, reference_of
from hf_cxr.data_check.decoding import Film
from hf_cxr.data_check.looks import Looks
from hf_cxr.errors import UserError
from hf_cxr.film_reference import REFERENCE_FILE, FilmReference
from tests.conftest import TEST_DATA
from tests.data_check.conftest import SIDE
from tests.data_check.hospitals import MAP, phantom, whole

CODED = """
    hospital: coded
    taxonomy: chexpert_irvin
    table: films.csv
    images: images
    columns: {image: file, patient: patient}
    labels:
      column: words
      words:
        effusion: Pleural Effusion
        heart: {present: Cardiomegaly, absent: Enlarged Cardiomediastinum}
        pneumonia: Pneumonia
        bacterial: {absent: Consolidation}
        no pneumonia: Support Devices
        normal: No Finding
    split: {column: split}
"""


def run(path, *words):
    return check(parse_check_settings([str(path), *map(str, words)]))[0]


def test_a_child_whose_parent_is_denied(tmp_path):
    outcome = run(whole(20).write(tmp_path, CODED))
    denied = {f.what: (f.count, f.examples) for f in outcome.findings if f.code == "denied_parent"}
    assert denied == {
        "films with Cardiomegaly whose parent Enlarged Cardiomediastinum is denied":
            (4, tuple(f"films.csv, row {row}" for row in (3, 8, 13, 18))),
        "films with Pneumonia whose parent Consolidation is denied":
            (4, tuple(f"films.csv, row {row}" for row in (4, 9, 14, 19))),
    }  # fmt: skip


def test_a_device_does_not_speak_against_no_finding(tmp_path):
    hospital = whole(20)
    hospital.rows[3].words = "normal|no pneumonia"  # the map makes a device of the latter
    hospital.rows[0].words = "normal|effusion"
    outcome = run(hospital.write(tmp_path, CODED))
    finding = next(f for f in outcome.findings if f.code == "no_finding_and_a_finding")
    assert finding.examples == ("films.csv, row 2",)


def test_a_new_device_does_not_either(tmp_path):
    hospital = whole(40)
    hospital.rows[2].words = "normal|bacterial"
    device = CODED.replace("bacterial: {absent: Consolidation}", "bacterial: Pacemaker")
    new = "    new_nodes: {Pacemaker: {parent: Support Devices, kind: device}}\n"
    codes = {f.code for f in run(hospital.write(tmp_path, device + new)).findings}
    # of the map's hearts; and in this taxonomy, without edges to the gate, its words say which films are normal only
    assert codes == {"denied_parent", "one_class_gate"}


def test_a_data_set_whose_findings_the_taxonomy_lacks(tmp_path):
    generate(tmp_path, n_images=120, image_size=64, progress=False)
    outcome = run(tmp_path, "--dataset", "nih", "--taxonomy", "chexpert_irvin")
    finding = next(f for f in outcome.findings if f.code == "taxonomy")
    assert "is no node of taxonomy 'chexpert_irvin'; its nodes are" in finding.examples[0]


def describe_training(folder, data=None, **counts):
    """A run's own file, with counts of positive and negative training films."""
    labels = {"train": {"counts": {n: {"positive": p, "negative": q, "unknown": 9} for n, (p, q) in counts.items()}}}
    settings = {"data": asdict(data or DataArguments()), "labels": asdict(LabelArguments())}
    (folder / "run.yaml").write_text(yaml.safe_dump({"settings": settings, "labels": labels}))


@pytest.fixture
def own_base(base_folder, tmp_path):
    """A copy of the base that a test may change."""
    copy = tmp_path / "base"
    copy.mkdir()
    for file in base_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_prevalence_next_to_the_bases(tmp_path, own_base):
    describe_training(own_base, Effusion=(10, 90), Cardiomegaly=(30, 70), Hernia=(0, 0))
    hospital = whole(100)
    for i, planted in enumerate(hospital.rows):
        planted.words = "effusion" if i % 2 else "heart"  # 50 %: five times as common, and less than twice
    outcome = run(hospital.write(tmp_path / "data", MAP + "    unmentioned: {absent: all}\n"),
                  "--base", own_base)  # fmt: skip
    nodes = outcome.counts["labels"]["nodes"]
    assert (nodes["Effusion"]["prevalence"], nodes["Effusion"]["base_prevalence"]) == (0.5, 0.1)
    assert (nodes["Hernia"]["base_prevalence"], outcome.counts["base_prevalence_of"]) == (None, "its training films")
    finding = next(f for f in outcome.findings if f.code == "prevalence")
    assert finding.level == "note"
    assert finding.examples == ("Effusion",)


def test_the_bases_own_films_are_read_as_it_was_trained(tmp_path, own_base):
    generate(tmp_path / "films", n_images=300, image_size=64, progress=False)
    describe_training(own_base, DataArguments("nih", "elsewhere", validation_fraction=0.6))
    (own_base / REFERENCE_FILE).unlink()
    words = ["map.yaml", "--base", own_base, "--base_data_dir", tmp_path / "films", "--cache_dir", tmp_path / "cache"]
    settings = parse_check_settings(list(map(str, words)))
    base = load_base(str(own_base), lateral=False)
    reference, said = reference_of(base, settings)
    assert reference.n_films > 100
    assert reference.image_size == SIDE
    assert f"{reference.n_films} validation films" in said
    assert reference.features is not None
    without = replace(settings, base_data_dir=None, cache_dir=None)
    why = f"the base has no {REFERENCE_FILE}; give --base_data_dir, the folder of its films"
    assert reference_of(base, without) == (None, why)
    (own_base / "run.yaml").unlink()
    with pytest.raises(UserError, match="how the films in base_data_dir are to be read"):
        reference_of(base, settings)


def test_films_that_the_base_does_not_know(base_folder, phantoms):
    """Features far from the base's own are told of the whole, not of single films."""
    base = load_base(str(base_folder), lateral=False)
    reference = FilmReference.load(base_folder)
    far = replace(reference, features=replace(reference.features, mean=reference.features.mean + 100))
    for known, codes in ((reference, set()), (far, {"unlike_the_base"})):
        looks = Looks(base, known, 20)
        looks.looks[:], looks.features[:] = 0.5, known.features.distance(base.features(phantoms[:20]))
        findings, counts = looks.findings(None, [Film()] * 20)
        assert {finding.code for finding in findings} == codes
        assert (counts["features"]["share_beyond"] > 0.25) == bool(codes)


def test_dicom_films(tmp_path):
    folder = TEST_DATA / "dicom"
    if not folder.is_dir():
        pytest.skip(f"real test data not found at {folder}; set HF_CXR_TEST_DATA")
    names = sorted(path.name for path in folder.glob("*.dcm"))
    rows = "".join(f"{name},{i},effusion,train\n" for i, name in enumerate(names))
    (tmp_path / "films.csv").write_text("file,patient,words,split\n" + rows)
    text = MAP.replace("images: images", f"images: {folder}").replace(", sex: sex, age: age, view: view", "")
    (tmp_path / "dicom.yaml").write_text(text.replace("\n    ", "\n"))
    outcome = run(tmp_path / "dicom.yaml")
    refused = {f.what: f.examples for f in outcome.findings if f.code == "unreadable"}
    at = {name: f"films.csv, row {i + 2}" for i, name in enumerate(names)}
    assert refused == {
        "films that cannot be read: DICOM of another body part": (at["test4.dcm"],),
        "films that cannot be read: DICOM of another modality than radiography": (at["test5.dcm"],),
        "films that cannot be read: DICOM of another view": (at["test6.dcm"],),
    }
    stored = [int(pydicom.dcmread(folder / name).BitsStored) for name in names if at[name] not in str(refused)]
    assert outcome.counts["films"]["bits"] == {str(bits): stored.count(bits) for bits in sorted(set(stored))}


def test_bits_of_pictures(tmp_path):
    hospital = whole(20)
    hospital.rows[0].picture = Image.fromarray(np.asarray(phantom(0)).astype(np.uint16) * 257)
    hospital.rows[1].picture = phantom(1).convert("RGB")
    outcome = run(hospital.write(tmp_path))
    assert outcome.counts["films"]["bits"] == {"8": 19, "16": 1}
