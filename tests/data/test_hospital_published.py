"""The ready maps: PadChest and VinDr-CXR on the published tables, MIMIC-CXR-JPG and BRAX in their published format."""

import ast
import gzip
import importlib.resources
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import yaml
from film_folders import CHEXPERT_FINDINGS, write_image, write_text

from hf_cxr.data import BRAX, MIMICCXRJPG, PadChest, VinDrCXR, finding_counts, load_map
from hf_cxr.data.hospital_map import NO_FINDING
from hf_cxr.data.map_reading import packaged_maps

SECONDS = 15  # of processor time; half of it is meant, the rest is for busy machines
FINDINGS = CHEXPERT_FINDINGS.split(",")


def words_of(name, state="present"):
    """{finding: words} as plain YAML has them, read without the map's own reader."""
    text = importlib.resources.files("hf_cxr.data").joinpath("hospitals", f"{name}.yaml").read_text("utf-8")
    words = {}
    for word, said in yaml.safe_load(text)["labels"]["words"].items():
        said = said if isinstance(said, dict) else {"present": said}
        for finding in np.atleast_1d(said.get(state, [])):
            words.setdefault(str(finding), []).append(word)
    return words


def read_in_time(builder, folder, **options):
    start = time.process_time()
    index = builder.read_index(folder, check_images=False, view="all", **options)
    assert time.process_time() - start < SECONDS
    return index


@pytest.mark.parametrize("name", packaged_maps())
def test_ready_maps_are_maps(name):
    mapped = load_map(name)
    assert mapped.packaged
    assert mapped.findings[-1] == NO_FINDING


@pytest.fixture(scope="module")
def padchest(published_tables, tmp_path_factory):
    return read_in_time(PadChest, published_tables, splits_dir=str(tmp_path_factory.mktemp("padchest") / "splits"))


@pytest.fixture(scope="module")
def padchest_table(published_tables):
    path = published_tables / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    table = pd.read_csv(path, dtype=str, keep_default_na=False, usecols=lambda c: c and "Report" not in c)
    return table[~table["Projection"].isin(["COSTAL", "EXCLUDE"])].reset_index(drop=True)


def test_padchest_positives_are_those_of_pandas(padchest, padchest_table):
    """Every count again, from the words of each film by `ast`, set logic and pandas."""
    said = padchest_table["Labels"].map(
        lambda c: set(map(str.strip, ast.literal_eval(c))) - {""} if c[0] == "[" else set()
    )
    exploded = said.explode().dropna()
    complete = (said.map(len) > 0) & ~said.map(lambda w: bool(w & {"unchanged", "exclude", "suboptimal study"}))
    counts = finding_counts(padchest)
    present, uncertain, absent = (words_of("padchest", state) for state in ("present", "uncertain", "absent"))
    assert not absent
    normal = said.map(lambda words: "normal" in words)
    for finding, words in present.items():
        positive = exploded.isin(words).groupby(level=0).any().reindex(said.index, fill_value=False)
        assert counts[finding]["present"] == positive.sum() > 0, finding
        if finding == NO_FINDING:
            continue
        unsure = exploded.isin(uncertain.get(finding, [])).groupby(level=0).any().reindex(said.index, fill_value=False)
        assert counts[finding]["uncertain"] == (unsure & ~positive).sum(), finding
        always = finding not in ("Lung Opacity", "Enlarged Cardiomediastinum")
        denied = complete & ~positive & ~unsure & (always | normal)
        assert counts[finding]["absent"] == denied.sum(), finding
    assert set(uncertain) <= set(present)
    assert len(padchest) == 160_861 - 641
    # words that hold another as a part are not it
    only = said.map(lambda words: words == {"subcutaneous emphysema"}).to_numpy()
    assert only.any()
    assert (padchest.findings[only, padchest.names.index("Emphysema")] == 0).all()


def test_padchest_describes_its_films(padchest, padchest_table):
    films = padchest.films
    assert list(films["id"]) == list(padchest_table["ImageID"])
    assert list(films["patient"]) == list(padchest_table["PatientID"].str.lstrip("0"))
    assert list(films["study"]) == list(padchest_table["StudyID"].str.lstrip("0"))
    expected = {"PA": 91_728, "AP": 4_559 + 14_346, "LATERAL": 49_579, None: 8}
    assert Counter(films["view"].astype(object).where(films["view"].notna(), None)) == expected
    sexes = Counter(padchest_table["PatientSex_DICOM"])
    assert films["sex"].value_counts().to_dict() == {"M": sexes["M"], "F": sexes["F"]}
    born = pd.to_numeric(padchest_table["PatientBirth"], errors="coerce")
    ages = padchest_table["StudyDate_DICOM"].str[:4].astype(int) - born
    assert (ages.to_numpy(dtype=float) == films["age"].to_numpy(dtype=float, na_value=np.nan))[ages.notna()].all()
    assert films["age"].isna().sum() == ages.isna().sum()


def test_padchest_patients_stand_in_one_split(padchest):
    patients = padchest.films.groupby("split")["patient"].agg(set)
    assert not patients["train"] & patients["test"]
    assert not patients["validation"] & (patients["train"] | patients["test"])
    assert len(patients["test"]) / padchest.films["patient"].nunique() == pytest.approx(0.2, abs=0.005)
    for split in ("train", "validation", "test"):
        assert (padchest.findings[padchest.films["split"] == split] == 1).any(axis=0).all()


def test_vindr_positives_are_those_of_pandas(published_tables, tmp_path):
    index = read_in_time(VinDrCXR, published_tables, splits_dir=str(tmp_path / "splits"))
    table = pd.read_csv(published_tables / "vinbigdata-train.csv.gz")
    counts = finding_counts(index)
    assert len(index) == table["image_id"].nunique() == 15_000
    for finding, words in words_of("vindr_cxr").items():
        boxed = table[table["class_name"].isin(words)].groupby("image_id")["rad_id"].nunique()
        assert counts[finding]["present"] == (boxed >= 2).sum() > 0, finding
        assert counts[finding]["uncertain"] == (boxed == 1).sum(), finding
        if finding not in ("Lung Opacity", NO_FINDING):
            assert counts[finding]["absent"] == 15_000 - len(boxed), finding
    normal = set(table["image_id"][table["class_name"] == "No finding"])
    opaque = table[table["class_name"].isin(words_of("vindr_cxr")["Lung Opacity"])]
    assert counts["Lung Opacity"]["absent"] == len(normal - set(opaque["image_id"]))
    assert index.notes["films whose patient is not known, each taken for one"] == 15_000
    pneumothorax = table[table["class_name"] == "Pneumothorax"]
    film = pneumothorax.groupby("image_id")["rad_id"].nunique().idxmax()
    assert index.findings[list(index.films["id"]).index(film), index.names.index("Pneumothorax")] == 1


MIMIC_METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
MIMIC_FILMS = [
    ("02aa804e-bde0afdd", 10000032, 50414267, "PA"),
    ("174413ec-4ec4c1f7", 10000032, 50414267, "LATERAL"),
    ("2a2277a9-b0ded155", 10000032, 53189527, "PA"),
    ("68b5c4b1-227d0485", 11000764, 57375967, "AP"),
    ("ea030e7a-2e3b1346", 12000935, 50578979, "AP"),
    ("1f6a24e5-33caa175", 13000980, 50985099, "LL"),
    ("9ce0b0ed-abfe0c7b", 13000980, 50985099, ""),
    ("64a4a8b6-be4bd3e3", 13000980, 51967283, "SWIMMERS"),
]


def test_mimic_in_its_published_format(tmp_path):
    metadata = [
        f'{film},{patient},{study},"CHEST (PA AND LAT)",{view},3056,2544,21800506,213014.531,CHEST (PA AND LAT),x,Erect'
        for film, patient, study, view in MIMIC_FILMS
    ]
    write_text(tmp_path / "mimic-cxr-2.0.0-metadata.csv", [MIMIC_METADATA, *metadata], zipped=True)
    order = sorted(FINDINGS)
    said = {
        (10000032, 50414267): {"No Finding": "1.0", "Support Devices": "1.0"},
        (10000032, 53189527): {"Pleural Effusion": "1.0", "Edema": "-1.0", "Pneumothorax": "0.0"},
        (11000764, 57375967): {"Lung Lesion": "1.0"},
        (13000980, 50985099): {"Fracture": "1.0"},
        (13000980, 51967283): {},
    }
    labels = [",".join([str(p), str(s), *(cells.get(name, "") for name in order)]) for (p, s), cells in said.items()]
    write_text(
        tmp_path / "mimic-cxr-2.0.0-chexpert.csv", [f"subject_id,study_id,{','.join(order)}", *labels], zipped=True
    )
    sets = {10000032: "train", 11000764: "validate", 12000935: "test", 13000980: "test"}
    split = [f"{film},{study},{patient},{sets[patient]}" for film, patient, study, _ in MIMIC_FILMS]
    write_text(tmp_path / "mimic-cxr-2.0.0-split.csv", ["dicom_id,study_id,subject_id,split", *split])
    for film, patient, study, _ in MIMIC_FILMS:
        write_image(tmp_path / "files" / f"p{str(patient)[:2]}" / f"p{patient}" / f"s{study}" / f"{film}.jpg")
    index = MIMICCXRJPG.read_index(tmp_path, view="all")
    films = index.films.set_index("id")
    assert films["view"].to_dict() == {film: "LATERAL" if v == "LL" else v for film, _, _, v in MIMIC_FILMS[:6]}
    assert films["split"].to_dict() == {
        film: {"validate": "validation"}.get(sets[patient], sets[patient]) for film, patient, *_ in MIMIC_FILMS[:6]
    }
    assert films["image"].iloc[3].endswith("/files/p11/p11000764/s57375967/68b5c4b1-227d0485.jpg")
    column = {name: i for i, name in enumerate(index.names)}
    cells = {film: {n: int(index.findings[i, column[n]]) for n in FINDINGS} for i, film in enumerate(films.index)}
    blank = dict.fromkeys(FINDINGS, -128)
    normal = {**dict.fromkeys(FINDINGS, 0), "No Finding": 1, "Support Devices": 1}
    effusion = {**blank, "Pleural Effusion": 1, "Edema": -1, "Pneumothorax": 0, "No Finding": 0}
    lesion, fracture = ({**blank, name: 1, "No Finding": 0} for name in ("Lung Lesion", "Fracture"))
    assert list(cells.values()) == [normal, normal, effusion, lesion, blank, fracture]
    assert index.notes["films without a row of labels"] == 1
    assert index.notes["films left out by their view"] == 2
    assert index.test_source == "column split of mimic-cxr-2.0.0-split.csv"


def test_brax_in_its_published_format(tmp_path):
    header = (
        "DicomPath,PngPath,PatientID,PatientSex,PatientAge,StudyDate,"
        f"{CHEXPERT_FINDINGS},ViewPosition,Rows,Columns,Manufacturer,AccessionNumber"
    )
    lines = []
    for i in range(12):
        base = f"id_{i // 2:04d}/Study_{i}.1/Series_{i}.2/image-{i}.10"
        png = f"images/{base}.png"
        cells = ["1.0" if i % 3 == 0 else "", *["1.0" if i % 3 == 1 and j == 1 else "" for j in range(12)], "-1.0"]
        view, age = ("PA", "AP", "L", "AP LLD")[i % 4], ("35", "85 or more", "40-44")[i % 3]
        lines.append(f"Anonymized_DICOMs/{base}.dcm,{png},id_{i // 2:04d},{'MFO'[i % 3]},{age},20111226,"
                     f"{','.join(cells)},{view},2000.0,2000.0,1,{i}")  # fmt: skip
        write_image(tmp_path / png)
    write_text(tmp_path / "master_spreadsheet_update.csv", [header, *lines])
    index = BRAX.read_index(tmp_path)
    films = index.films
    assert list(films["id"].str[-7:]) == [
        "e-0.10.png"[-7:],
        "e-1.10.png"[-7:],
        *(f"-{i}.10.png"[-7:] for i in (4, 5, 8, 9)),
    ]
    assert list(films["age"]) == [35, 85, 85, 42, 42, 35]
    assert list(films["sex"].fillna("?")) == ["M", "F", "F", "?", "?", "M"]
    assert list(films["patient"]) == ["id_0000", "id_0000", "id_0002", "id_0002", "id_0004", "id_0004"]
    column = {name: i for i, name in enumerate(index.names)}
    assert list(index.findings[:, column["Cardiomegaly"]]) == [0, 1, 1, -128, -128, 0]
    assert list(index.findings[:, column["No Finding"]]) == [1, 0, 0, -128, -128, 1]
    assert set(index.findings[:, column["Support Devices"]]) == {-1}
    assert index.notes["films left out by their view"] == 3
    assert (tmp_path / "splits" / "test.txt").is_file()


def test_a_ready_map_copied_and_changed_is_ones_own(published_tables, tmp_path):
    text = importlib.resources.files("hf_cxr.data").joinpath("hospitals", "vindr_cxr.yaml").read_text("utf-8")
    (tmp_path / "mine.yaml").write_text(text.replace("agreement: 2", "agreement: 1"))
    content = gzip.decompress((published_tables / "vinbigdata-train.csv.gz").read_bytes()).decode().split("\n")
    (tmp_path / "train.csv").write_text("\n".join(content[:5000]))
    index = VinDrCXR.read_index(tmp_path / "mine.yaml", check_images=False)
    assert not (index.findings == -1).any()
    assert (tmp_path / "splits").is_dir()
