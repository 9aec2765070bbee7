"""The recipe on two small hospitals: what is written of whom, against figures computed here."""

import json
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from sklearn.metrics import roc_auc_score

from hf_cxr.adaptation.averaging import new_folder
from hf_cxr.adaptation.averaging_report import names_of
from hf_cxr.adaptation.sites import AveragingError
from hf_cxr.arguments import DataArguments, PolicyArguments
from hf_cxr.data import load_splits
from hf_cxr.experiment import calibrated_logits, prediction_table, uncalibrated_logits
from hf_cxr.films import prepare_split
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.loading import load_model, load_processor
from tests.adaptation.averaging_sites import BACTERIAL, VIRAL, write_base, write_site

RECIPE = Path(__file__).parents[2] / "recipes" / "average_adapters.py"
MAP = """
hospital: {name}
taxonomy: nih
table: films.csv
images: images
columns: {{image: file, patient: patient}}
labels:
  column: finding
  words: {{effusion: Effusion, normal: No Finding, bacterial: Bacterial pneumonia}}
new_nodes: {{Bacterial pneumonia: {{parent: Pneumonia}}}}
unmentioned: {{absent_if_normal: all}}
"""


def write_hospital(folder, seed):
    """80 films of as many patients; a map's path."""
    random = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    rows = ["file,patient,finding"]
    for i in range(80):
        rows.append(f"{folder.name}{i}.png,p{i},{('effusion', 'normal', 'bacterial', 'normal')[i % 4]}")
        pixels = random.integers(0, 256, (32, 32), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{folder.name}{i}.png")
    (folder / "films.csv").write_text("\n".join(rows) + "\n")
    (folder / "map.yaml").write_text(MAP.format(name=folder.name))
    return folder / "map.yaml"


@pytest.fixture
def network(make_model, tmp_path, monkeypatch):
    """A base, two sites with adapters and films, and the recipe."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    base = write_base(make_model("densenet", link="conditional"), tmp_path / "base")
    for seed, (name, new) in enumerate({"north": [BACTERIAL], "south": [BACTERIAL, VIRAL]}.items()):
        path = write_hospital(tmp_path / "films" / name, seed)
        _, data = load_splits("hospital", str(path), None, **DataArguments().builder_options())
        data["hospital"] = {"hospital": name}
        write_site(base, tmp_path / "base", tmp_path / name, *new, seed=seed, films=[30, 10][seed], data=data)

    def run(*words):
        words = [tmp_path / "north", tmp_path / "south", "--base", tmp_path / "base", *words]
        monkeypatch.setattr(sys, "argv", [str(RECIPE), *map(str, words), "--output_dir", str(tmp_path / "out")])
        runpy.run_path(str(RECIPE), run_name="__main__")
        return tmp_path / "out"

    return run


def test_the_recipe_says_what_the_average_is_worth_at_each_site(network, tmp_path, capsys):
    maps = [tmp_path / "films" / name / "map.yaml" for name in ("north", "south")]
    out = network("--evaluate", *maps)
    text = (out / "averaging.md").read_text()
    printed = capsys.readouterr().out
    assert text in printed
    assert "numbers of training films" in printed
    result = json.loads((out / "averaging.json").read_text())
    assert [site["share"] for site in result["provenance"]["sites"]] == [0.75, 0.25]
    assert result["labels"]["new"] == {"Bacterial pneumonia": ["north", "south"], "Viral pneumonia": ["south"]}
    assert str(tmp_path) not in json.dumps(result) + text

    for name, path, evaluation in zip(("north", "south"), maps, result["evaluation"], strict=True):
        assert evaluation["hospital"] == name
        assert evaluation["trained_on"] == [name]
        assert list(evaluation["models"]) == ["base", "north", "south", "average"]
        assert set(evaluation["differences"]) == {"average − base", f"average − {name}"}
        for model, folder in (("base", "base"), ("north", "north"), ("south", "south"), ("average", "out")):
            table = scored(tmp_path / folder, path)
            for label, row in evaluation["models"][model]["auroc"].items():
                if label not in table.names:
                    assert row["value"] is None
                    assert "no output" in row["undefined"]
                    continue
                truth, probability = table.column(label)
                known = ~np.isnan(truth)
                if len(set(truth[known])) == 2:
                    assert row["value"] == pytest.approx(roc_auc_score(truth[known], probability[known]))
            gate = evaluation["models"][model]["gate"]
            truth, probability = table.column("Abnormal")
            sensitivity = (probability >= gate["threshold"])[truth == 1].mean()
            assert gate["sensitivity"]["value"] == pytest.approx(sensitivity)
        both = evaluation["models"]["average"]["auroc"]["Effusion"]["value"]
        before = evaluation["models"][name]["auroc"]["Effusion"]["value"]
        row = evaluation["differences"][f"average − {name}"]["Effusion"]
        assert row["difference"] == pytest.approx(both - before)
        chosen = evaluation["refitted"]["gate"]
        truth, probability = scored(out, path, "validation").column("Abnormal")
        assert (probability >= chosen["threshold"])[truth == 1].mean() >= 0.95
        assert chosen["threshold"] != evaluation["models"]["average"]["gate"]["threshold"]
        assert f"## {name}" in text
    assert load_model(out).config.operating_points["gate_threshold"] == 0.3


def scored(folder, path, split="test"):
    """A model's predictions on a hospital's films, by itself."""
    model, data = load_model(folder), DataArguments(dataset="hospital", data_dir=str(path))
    own = Hierarchy.from_config(model.config)
    films = prepare_split(data, PolicyArguments(), load_processor(folder), own, split)
    return prediction_table(model, films, split, calibrated_logits(model, uncalibrated_logits(model, films, split)))


def test_films_that_a_site_did_not_train_on_under_its_name(network, tmp_path, capsys):
    path = tmp_path / "films" / "north" / "map.yaml"
    table = path.with_name("films.csv")
    table.write_text(table.read_text().replace("north4.png,p4,effusion", "north4.png,p4,normal"))
    said = f"{AveragingError.__name__}: .*may be among these test films.*a name of its own"
    with pytest.raises(SystemExit, match=said):
        network("--evaluate", path)
    assert not [p for p in tmp_path.iterdir() if p.name in ("out", ".out.partial")]


def test_two_hospitals_of_one_name_are_told_apart_by_their_data_and_options_travel(network, tmp_path):
    """Both maps are called `my_hospital`; one site holds other patients out than the default."""
    maps = []
    for name, options in (("north", {}), ("south", {"test_fraction": 0.3})):
        path = tmp_path / "films" / name / "my_hospital.yaml"
        text = path.with_name("map.yaml").read_text()
        path.write_text(text.replace(f"hospital: {name}\n", ""))
        shutil.rmtree(path.with_name("splits"))
        arguments = DataArguments(data_options=options or None)
        _, data = load_splits("hospital", str(path), None, **arguments.builder_options())
        report = json.loads((tmp_path / name / "eval_report.json").read_text())
        report["provenance"]["data"] = data | {"hospital": {"hospital": "my_hospital"}}
        (tmp_path / name / "eval_report.json").write_text(json.dumps(report))
        maps.append(path)
    evaluation = json.loads((network("--evaluate", *maps) / "averaging.json").read_text())["evaluation"]
    north, south = (site["trained_on"] for site in evaluation)
    assert len(north) == len(south) == 1
    assert north != south
    assert [site["n_images"] for site in evaluation] == [16, 24]


def test_no_two_models_have_one_name():
    def named(*pairs):
        return names_of([SimpleNamespace(name=name, report=report) for name, report in pairs])

    assert named(("a", "1"), ("b", "2"), ("a", "3")) == ["a (1)", "b", "a (3)"]
    assert named(("base", "1"), ("average", "2")) == ["base (1)", "average (2)"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "out"

    def write(text, overwrite=False, needed=(), broken=False):
        with new_folder(folder, overwrite, needed) as partial:
            (partial / "averaging.json").write_text(text)
            if broken:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        write("", broken=True)
    assert not list(tmp_path.iterdir())
    write("first")
    with pytest.raises(AveragingError, match="--overwrite replaces it"):
        write("second")
    with pytest.raises(RuntimeError):
        write("second", overwrite=True, broken=True)
    assert (folder / "averaging.json").read_text() == "first"
    with pytest.raises(AveragingError, match="is what the average is made of"):
        write("second", overwrite=True, needed=[folder])
    write("second", overwrite=True)
    assert (folder / "averaging.json").read_text() == "second"
    (folder / "averaging.json").unlink()
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(AveragingError, match="holds something that is no average"):
        write("third", overwrite=True)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
