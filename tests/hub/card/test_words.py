"""What a card says first, of toys, limits and loading."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from hf_cxr.data.phantom import Patient, render_film
from hf_cxr.hub.card import CARD, render_card, write_card
from tests.hub.card.runs import STAGE, edit, make_run

REPORT = "eval_report.json"


def test_it_begins_with_what_it_must_not_be_used_for_and_with_its_limits(card):
    lines = [line for line in card.split("\n---\n", 1)[1].split("\n") if line]
    assert lines[0] == "# cxr-tiny"
    assert lines[1].startswith("> **Not for clinical use.**")
    titles = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert titles[:4] == ["Limits", "Use", "How to load", "Results at a glance"]


@pytest.mark.parametrize("as_dataset", ["phantom", "nih"])
def test_a_toy_says_so_at_the_very_top(tmp_path, as_dataset):
    """Also where drawn films are read as another data set's."""
    folder = make_run(tmp_path / "run", dataset=as_dataset, synthetic=True)
    text = render_card(folder, "clinic/toy")
    lines = [line for line in text.split("\n---\n", 1)[1].split("\n") if line]
    assert lines[1].startswith("> **A toy.**")
    assert "NIH puts no restriction" not in text
    assert {"toy", "synthetic"} <= set(ModelCard(text).data.tags)


def test_limits_come_from_the_report(card, made, section):
    part = section(card, "Limits")
    report = json.loads((made / REPORT).read_text())
    few = [name for name, row in report["labels"].items() if row["few_positives"]]
    assert all(f"{name} ({report['labels'][name]['n_positive']})" in part for name in few)
    assert "Hernia" in few
    gate = report["gate"]
    assert f"calls {gate['fn']} of {report['labels']['Abnormal']['n_positive']} abnormal films normal" in part
    assert f"On {report['hierarchy']['decided']['images_violated']} films a finding is called" in part
    assert "Not the official test list" in part


def test_gaps_between_groups_are_named_if_their_interval_excludes_0(run, section):
    def widen(report):
        for part in report["subgroups"].values():
            for group in part["groups"].values():
                for name in ("macro_auroc", "false_no_finding_rate"):
                    group.get("gaps", {}).get(name, {})["ci"] = [-0.2, 0.2]

    edit(run / REPORT, widen)
    assert "No gap was shown" in section(render_card(run), "Limits")
    gap = {"value": -0.1234, "ci": [-0.2, -0.0456], "p": 0.01}

    def worse(report):
        part = report["subgroups"]["sex"]
        other = next(value for value in part["groups"] if value != part["reference"])
        part["groups"][other]["gaps"]["macro_auroc"] = gap

    edit(run / REPORT, worse)
    assert re.search(r"macro AUROC, sex [MF] less [MF]: −0.123 \(−0.200 to −0.046\)", render_card(run))


def test_thresholds_of_the_reported_films_are_called_flattering(run, section):
    edit(run / REPORT, lambda report: report["operating_points"].update(split="test"))
    text = render_card(run)
    assert "Chosen and reported on the same films" in section(text, "Limits")
    assert "these decisions flatter the model" in section(text, "Every label")
    assert "never on the films" not in text


def test_how_to_load_says_only_what_works(run, card, section):
    assert "n_passes=30" in section(card, "How to load")
    assert "trust_remote_code=True)" not in card  # this folder brings no code
    edit(run / "config.json", lambda config: config.update(auto_map={"AutoConfig": "configuration.CXRDenseNetConfig"}))
    with_code = render_card(run, "clinic/cxr-tiny")
    assert 'from_pretrained("clinic/cxr-tiny", trust_remote_code=True)' in with_code
    edit(run / "config.json", lambda config: config.update(head_dropout=0.0))
    assert "n_passes=30" not in render_card(run)


def test_examples_are_python(card):
    for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        compile(code, "card", "exec")


def test_an_adapter_names_its_base_and_no_folder(run, section):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "clinic/cxr-base"}
    (run / "adapter_config.json").write_text(json.dumps(adapter))
    text = render_card(run, "clinic/adapted")
    assert ModelCard(text).data.base_model == "clinic/cxr-base"
    assert "load_model(" in section(text, "How to load")
    (run / "adapter_config.json").write_text(json.dumps(adapter | {"base_model_name_or_path": str(run)}))
    text = render_card(run, "clinic/adapted")
    assert "base_model" not in text.split("\n---\n")[0]
    assert str(run) not in text


def test_doubt_and_heatmaps_are_there_if_they_were_measured(made, card, tmp_path, section):
    assert "is not in this report" in section(card, "Doubt and heatmaps")
    folder = shutil.copytree(made, tmp_path / "run")
    shutil.copy(made / "looked.json", folder / REPORT)
    # As on publishing: the later report in a folder of its own, the run's beside it.
    part = section(text := render_card(folder, run=made), "Doubt and heatmaps")
    assert "Monte Carlo dropout, 30 passes" in part
    assert "0.412 / 0.412" in part
    assert "whether its doubt" not in section(text, "Limits")
    assert f"{STAGE['parameters']:,}" in section(text, "Training")  # the run's own report has it


def test_a_written_card_has_its_picture(run):
    assert "hierarchy.png" not in render_card(run)
    path = write_card(run, "clinic/cxr-tiny")
    assert path == run / CARD
    assert "(figures/hierarchy.png)" in path.read_text()
    assert (run / "figures" / "hierarchy.png").stat().st_size > 20_000
    assert not list(run.glob("*.partial"))


def test_figures_on_films_of_another_source_are_said_to_be_so(made, run):
    shutil.copy(made / "looked.json", run / REPORT)
    edit(run / REPORT, lambda report: report["provenance"].update(dataset="our hospital"))
    text = render_card(run, "clinic/cxr")
    assert "The training films are NIH ChestX-ray14's; the figures are of “our hospital”." in text
    assert "official test list" not in text
    assert {result.dataset_name for result in ModelCard(text).data.eval_results} == {"our hospital"}


@pytest.mark.slow
def test_the_examples_work_as_they_stand(finished, tmp_path, monkeypatch, section):
    film = render_film(Patient(1, "F", 60), 0, "PA", ("Mass",), image_size=96).image
    Image.fromarray(film).save(tmp_path / "film.png")
    monkeypatch.chdir(tmp_path)
    text = write_card(finished, finished.name).read_text()
    names = {}
    for code in re.findall(r"```python\n(.*?)```", section(text, "How to load"), re.DOTALL):
        exec(code, names)
    assert names["film"]["gate"]["label"] == "Abnormal"
    assert names["film"]["findings"][0]["entropy"] > 0
    assert names["film"]["heatmaps"]["Atelectasis"].shape == (64, 64)
