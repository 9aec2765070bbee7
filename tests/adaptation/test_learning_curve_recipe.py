"""What `recipes/learning_curve.py` looks at before it trains anything."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from hf_cxr import launching
from hf_cxr.adaptation import parse_adaptation
from hf_cxr.data import load_splits
from hf_cxr.loading import load_model
from hf_cxr.models import CXRImageProcessor
from hf_cxr.runs import REPORT_FILE, SETTINGS_FILE
from hf_cxr.verification import identity
from tests.conftest import REPO


@pytest.fixture
def base(make_model, tmp_path):
    model = make_model(link="conditional", image_size=48).eval()
    model.save_pretrained(tmp_path / "base")
    CXRImageProcessor.for_model(model.config).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def curve(base, hospital, tmp_path, monkeypatch):
    """Runs the recipe; the folders that it would have trained in. Each is left as a finished run without its change."""

    def start(*words):
        launched = []

        def run(recipe, folder, options, **_):
            launched.append(str(folder.relative_to(tmp_path / "curve")))
            settings = parse_adaptation([*map(str, options), "--output_dir", str(folder), "--disable_tqdm", "true"])
            data = load_splits("hospital", settings.data.data_dir, tmp_path / "cache")[1]
            folder.mkdir(parents=True)
            described = {"settings": settings.to_plain(), "data": {"fingerprint": data["fingerprint"]}}
            (folder / SETTINGS_FILE).write_text(yaml.safe_dump(json.loads(json.dumps(described, default=str))))
            weights = {"adapted_from": {"weights": identity(load_model(settings.adaptation.base))["weights"]}}
            (folder / REPORT_FILE).write_text(json.dumps({"provenance": weights}))

        monkeypatch.setattr(launching, "launch_run", run)
        config = REPO / "recipes" / "configs" / "hospital_lora.yaml"
        given = [config, "--base", base, "--hospital", hospital, "--cache_dir", tmp_path / "cache", "--methods", "head"]
        given += ["--use_cpu", "true", "--output_dir", tmp_path / "curve", *words]
        monkeypatch.setattr(sys, "argv", ["recipes/learning_curve.py", *map(str, given)])
        with pytest.raises(SystemExit) as ended:  # at the latest since these runs have no change.json
            runpy.run_path(str(REPO / "recipes" / "learning_curve.py"), run_name="__main__")
        return launched, str(ended.value)

    return start


def test_numbers_that_the_hospital_does_not_have_are_not_run(curve, hospital, tmp_path, capsys):
    train = len(load_splits("hospital", hospital, tmp_path / "cache")[0]["train"])
    launched, _ = curve("--films", 10, train, 1000)
    assert sorted(launched) == ["head/n10/s0", "head/n_all/s0"]
    assert f"{train} training films: {train}, 1000 left out" in capsys.readouterr().out


def test_finished_runs_of_other_settings_base_or_films_are_refused(curve, base, hospital, tmp_path):
    assert len(curve("--films", 10)[0]) == 2
    launched, said = curve("--films", 10)
    assert (launched, "change.json" in said) == ([], True)
    launched, said = curve("--films", 10, "--num_train_epochs", 7)
    assert (launched, "num_train_epochs: was" in said) == ([], True)

    table = hospital.parent / "films.csv"
    before = table.read_text()
    try:
        table.write_text(before.replace("fluid", "normal", 1))
        launched, said = curve("--films", 10)
    finally:
        table.write_text(before)
    assert (launched, "was made of films with fingerprint" in said) == ([], True)

    model = load_model(base)
    model.head.trunk.classifier.bias.data += 1
    model.save_pretrained(base)
    launched, said = curve("--films", 10)
    assert (launched, "was made of a base with weights" in said) == ([], True)
    assert {path.name for path in Path(tmp_path / "curve" / "head").iterdir()} == {"n10", "n_all"}
