"""The card of a model: every figure traced, what it says of toys and limits, and what it refuses."""

import json
import re
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_cxr.arguments import parse_settings
from hf_cxr.hub.card import CARD, CardError, render_card, write_card
from tests.conftest import REPO
from tests.hub.card_fixtures import ENERGY, STAGE, edit, make_run, settings_hash
from tests.hub.cards import check
from tests.hub.tracing import scramble, untraced

DROPOUT = ("--head_dropout", "0.2")
REPORT = "eval_report.json"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder for each kind of run, made once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def made(runs):
    return make_run(runs / "nih", *DROPOUT, looked=True, energy=ENERGY)


@pytest.fixture
def run(made, tmp_path):
    """A run of its own for a test."""
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture(scope="module")
def card(made):
    return render_card(made, "clinic/cxr-tiny")


def section(card, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## )", card, re.DOTALL | re.MULTILINE)[1]


# --- every figure is the report's


@pytest.mark.parametrize("kind", ["nih", "looked", "chexpert", "two stages"])
def test_every_number_is_one_of_the_sources(kind, made, tmp_path, make_model):
    """And the one that was meant: also where all figures are others."""
    folder = tmp_path / "run"
    if kind == "chexpert":
        make_run(folder, "--link", "flat", "--blank", "zeros", taxonomy="chexpert", dataset="chexpert",
                 calibration="platt")  # fmt: skip
    elif kind == "two stages":
        make_run(folder, two_stage=True, make_model=make_model)
    else:
        shutil.copytree(made, folder)
    if kind == "looked":
        shutil.copy(folder / "looked.json", folder / REPORT)
    text = render_card(folder, "clinic/other")
    assert untraced(text, folder) == []
    scramble(folder)
    other = render_card(folder, "clinic/other")
    assert untraced(other, folder) == []
    assert "98,711 films of 4,391 patients" in other
    assert "More Information Needed" not in text


@pytest.mark.parametrize("wrong", ["0.913", "4,711 films", "63.2 %", "−0.05"])
def test_a_number_of_no_source_is_found(run, wrong):
    scramble(run)
    planted = render_card(run).replace("## Calibration", f"It does {wrong}.\n\n## Calibration")
    assert len(untraced(planted, run)) == 1


def test_the_template_has_no_figure_of_its_own():
    text = (REPO / "model_cards" / "template.md.jinja").read_text()
    prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|```python.*?```", "", text, flags=re.DOTALL)
    assert sorted(set(re.findall(r"[\w.]*\d[\w.]*", prose))) == ["0", "0.5", "1", "16", "2.0"]  # Apache-2.0, 16-bit


def test_undefined_figures_are_listed_with_their_reason(card, made):
    part = section(card, "Undefined figures")
    report = json.loads((made / REPORT).read_text())
    reason = report["labels"]["Hernia"]["undefined"]["auroc_ci"]
    assert re.search(rf"\*{re.escape(reason)}:\*.*Hernia \(interval of AUROC", part)


def test_a_null_figure_is_a_dash_and_no_zero(run):
    def undefine(report):
        row = report["labels"]["Mass"]
        row |= {"auroc": None, "auroc_ci": None, "undefined": {"auroc": "no positive film", "auroc_ci": "the same"}}

    edit(run / REPORT, undefine)
    text = render_card(run, "clinic/cxr")
    assert re.search(r"\| Mass \| [^|]+ \| – \|", text)
    assert "*no positive film:* Mass (AUROC)" in text
    assert "AUROC, Mass" not in [m["name"] for m in metrics(text)]


# --- what it says


def test_it_begins_with_what_it_must_not_be_used_for_and_with_its_limits(card):
    lines = [line for line in card.split("\n---\n", 1)[1].split("\n") if line]
    assert lines[0] == "# cxr-tiny"
    assert lines[1].startswith("> **Not for clinical use.**")
    titles = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert titles[:4] == ["Limits", "Use", "How to load", "Results at a glance"]


@pytest.mark.parametrize("as_dataset", ["phantom", "nih"])
def test_a_toy_says_so_at_the_very_top(tmp_path, as_dataset):
    """Also where drawn films are read as another data set's."""
    films = tmp_path / "films"
    films.mkdir()
    (films / "phantom.json").write_text("{}")
    folder = make_run(tmp_path / "run", "--data_dir", str(films), dataset=as_dataset)
    text = render_card(folder, "clinic/toy")
    lines = [line for line in text.split("\n---\n", 1)[1].split("\n") if line]
    assert lines[1].startswith("> **A toy.**")
    assert "NIH puts no restriction" not in text
    assert {"toy", "synthetic"} <= set(ModelCard(text).data.tags)


def test_limits_come_from_the_report(card, made):
    part = section(card, "Limits")
    report = json.loads((made / REPORT).read_text())
    few = [name for name, row in report["labels"].items() if row["few_positives"]]
    assert all(f"{name} ({report['labels'][name]['n_positive']})" in part for name in few)
    assert "Hernia" in few
    gate = report["gate"]
    assert f"calls {gate['fn']} of {report['labels']['Abnormal']['n_positive']} abnormal films normal" in part
    assert f"On {report['hierarchy']['decided']['images_violated']} films a finding is called" in part
    assert "Not the official test list" in part


def test_gaps_between_groups_are_named_if_their_interval_excludes_0(run):
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


def test_thresholds_of_the_reported_films_are_called_flattering(run):
    edit(run / REPORT, lambda report: report["operating_points"].update(split="test"))
    text = render_card(run)
    assert "Chosen and reported on the same films" in section(text, "Limits")
    assert "these decisions flatter the model" in section(text, "Every label")
    assert "never on the films" not in text


def test_how_to_load_says_only_what_works(run, card):
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


def test_an_adapter_names_its_base_and_no_folder(run):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "clinic/cxr-base"}
    (run / "adapter_config.json").write_text(json.dumps(adapter))
    text = render_card(run, "clinic/adapted")
    assert ModelCard(text).data.base_model == "clinic/cxr-base"
    assert "load_model(" in section(text, "How to load")
    (run / "adapter_config.json").write_text(json.dumps(adapter | {"base_model_name_or_path": str(run)}))
    text = render_card(run, "clinic/adapted")
    assert "base_model" not in text.split("\n---\n")[0]
    assert str(run) not in text


def test_doubt_and_heatmaps_are_there_if_they_were_measured(made, card, tmp_path):
    assert "is not in this report" in section(card, "Doubt and heatmaps")
    folder = shutil.copytree(made, tmp_path / "run")
    shutil.copy(made / "looked.json", folder / REPORT)
    # As on publishing: the later report in a folder of its own, the run's beside it.
    part = section(text := render_card(folder, run=made), "Doubt and heatmaps")
    assert "Monte Carlo dropout, 30 passes" in part
    assert "0.412 / 0.412" in part
    assert "whether its doubt" not in section(text, "Limits")
    assert f"{STAGE['parameters']:,}" in section(text, "Training")  # the run's own report has it


# --- metadata


def metrics(text):
    return [m for r in ModelCard(text).data.to_dict()["model-index"][0]["results"] for m in r["metrics"]]


def test_the_hub_accepts_the_metadata(card, made):
    assert check(card, "model") == ([], [])
    data = ModelCard(card).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0", "transformers", "image-classification",
    )  # fmt: skip
    assert data.model_name == "cxr-tiny"
    report = json.loads((made / REPORT).read_text())
    by_name = {result.metric_name: result.metric_value for result in data.eval_results}
    assert by_name["Macro AUROC over the findings"] == round(report["aggregate"]["macro_auroc"], 4)
    assert by_name["AUROC, Mass"] == round(report["labels"]["Mass"]["auroc"], 4)
    assert {result.dataset_split for result in data.eval_results} == {"test"}


def test_closed_data_have_no_name_and_another_licence(tmp_path):
    folder = make_run(tmp_path / "run", taxonomy="chexpert", dataset="chexpert")
    text = render_card(folder)
    data = ModelCard(text).data
    assert data.datasets is None
    assert (data.license, data.license_name) == ("other", "chexpert-research-use")
    assert "not commercial" in section(text, "Licence")


def test_weights_of_others_are_named(tmp_path):
    text = render_card(make_run(tmp_path / "hub", "--backbone_weights", "hub"))
    assert ModelCard(text).data.base_model == "timm/densenet121.ra_in1k"
    (tmp_path / "w.bin").write_bytes(b"")
    folder = make_run(tmp_path / "file", "--backbone_weights", str(tmp_path / "w.bin"))
    assert "whose terms this card does not know" in render_card(folder)
    assert "w.bin" not in render_card(folder)


# --- training


def test_the_settings_in_the_card_are_those_of_the_run(runs, card, made, make_model):
    """Saved and parsed as the card says, they have the hash that the report quotes."""
    two = make_run(runs / "settings", "--two_stage", "true", "--uncertain", "ones", "--lr_scheduler_type", "linear",
                   "--lr_scheduler_kwargs", '{"num_cycles": 2}', "--seed", "7", two_stage=True,
                   make_model=make_model)  # fmt: skip
    for text, folder in ((card, made), (render_card(two), two)):
        file = runs / "settings.yaml"
        file.write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
        again = parse_settings([str(file), "--output_dir", str(runs / "elsewhere")])
        assert settings_hash(again.to_plain()) == json.loads((folder / REPORT).read_text())["provenance"]["settings_hash"]


def test_energy_is_said_or_said_to_be_unknown(card, run):
    assert "0.0123 kWh, 0.0046 kg" in section(card, "Training")
    assert ModelCard(card).data.co2_eq_emissions["emissions"] == pytest.approx(4.5678)
    edit(run / REPORT, lambda report: report["provenance"].update(energy=None))
    text = render_card(run)
    assert "were not measured" in section(text, "Training")
    assert "co2_eq_emissions" not in text
    row = "duration,emissions,energy_consumed,country_iso_code,cpu_model,codecarbon_version,longitude\n"
    (run / "emissions.csv").write_text(row + "60,0.0011,0.0021,FRA,A CPU,3.3.2,48.85\n30,0.0022,0.0042,FRA,A CPU,3.3.2,48.85\n")
    text = render_card(run)
    assert "0.0063 kWh, 0.0033 kg of CO2 equivalents by the electricity of FRA" in text
    assert "48.85" not in text
    (run / "emissions.csv").write_text("duration\n60\n")
    with pytest.raises(CardError, match="energy of the run cannot be read"):
        render_card(run)


def test_films_left_out_and_uncertain_cells_are_counted(card):
    part = section(card, "Training data")
    assert "no image (3), unreadable in train (2)" in part
    assert "unknown and masked (Atelectasis 5)" in part


# --- privacy


def test_nothing_of_the_machine_is_in_the_card(run):
    secrets = ("mueller", "geheim", "00000042", "/home", "visual.csv")
    folder = "/home/mueller/geheim"
    content = yaml.safe_load((run / "run.yaml").read_text())
    content["command"] = f"{folder}/recipes/train.py {folder}/00000042.yaml --data_dir {folder}"
    settings = content["settings"]
    settings["data"] |= {"data_dir": folder, "cache_dir": folder, "data_options": {"train_csv": f"{folder}/visual.csv"}}
    settings["labels"]["taxonomy"] = f"{folder}/tree.yaml"
    settings["model"]["backbone_weights"] = f"{folder}/weights.bin"
    settings["training"] |= {"output_dir": folder, "run_name": "mueller", "hub_model_id": "mueller/x"}
    content["data"] |= {"data_dir": "geheim", "test_source": f"{folder}/test_list.txt"}
    content["machine"]["host"] = "mueller-pc"
    (run / "run.yaml").write_text(yaml.safe_dump(content))

    def plant(report):
        report["provenance"] |= {"source": folder, "user": "mueller", "films": ["00000042_001.png"]}
        report["provenance"]["data"] |= {"data_dir": "geheim", "options": {"train_csv": f"{folder}/visual.csv"}}

    edit(run / REPORT, plant)
    text = render_card(run, "clinic/cxr")
    assert not [secret for secret in secrets if secret in text]
    assert "`FILE` stands for a file of the publisher's own" in text


def test_a_folder_that_would_be_named_stops_the_card(run):
    edit(run / REPORT, lambda report: report["operating_points"].update(criterion="see /home/mueller/notes.txt"))
    with pytest.raises(CardError, match=r"would name /home/mueller/notes.txt, a folder of this machine"):
        write_card(run)
    assert not (run / CARD).exists()


# --- refusals


def without(name):
    return lambda run: (run / name).unlink()


def with_report(**changes):
    return lambda run: edit(run / REPORT, lambda report: report.update(changes))


def of_another_run(run):
    edit(run / REPORT, lambda report: report["provenance"].update(settings_hash="0123456789abcdef"))


def of_another_config(run):
    edit(run / "config.json", lambda config: config["operating_points"]["thresholds"].update(Mass=0.7))


def of_another_config_by_its_identity(run):
    edit(run / REPORT, lambda report: report["provenance"].update(model={"config": "0123", "weights": "4567"}))


def of_unknown_data(run):
    text = (run / "run.yaml").read_text().replace("dataset: nih", "dataset: padchest")
    (run / "run.yaml").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without(REPORT), r"has no eval_report.json: a card has no figure that is not in it"),
        (without("run.yaml"), r"has no run.yaml: name the run's own folder"),
        (without("config.json"), r"has no config.json"),
        (with_report(schema_version=1), r"schema version 1.*evaluate the model again"),
        (with_report(intervals={}), r"point figures without intervals"),
        (with_report(provenance={"source": "table.csv"}), r"does not say of which run it is"),
        (of_another_run, r"with the settings 0123456789abcdef, run.yaml of one with"),
        (of_another_config, r"is of another config than config.json"),
        (of_another_config_by_its_identity, r"is of another config than config.json"),
        (of_unknown_data, r"no statement on the data set 'padchest'; there are some on phantom, nih, chexpert"),
    ],
)
def test_what_does_not_belong_together_is_refused(run, spoil, message):
    spoil(run)
    with pytest.raises(CardError, match=message):
        write_card(run)
    assert not (run / CARD).exists()
    assert not (run / "figures").exists()


def test_a_report_with_its_own_configs_identity_is_taken(run):
    from types import SimpleNamespace

    from transformers import AutoConfig

    from hf_cxr.verification import identity

    config = AutoConfig.from_pretrained(run)
    named = identity(SimpleNamespace(config=config, state_dict=dict))
    edit(run / REPORT, lambda report: report["provenance"].update(model=named | {"weights": "any"}))
    assert render_card(run)


def test_without_the_repository_it_is_said(run, tmp_path):
    with pytest.raises(CardError, match="cards are made with the repository"):
        render_card(run, templates=tmp_path)


def test_a_written_card_has_its_picture(run):
    assert "hierarchy.png" not in render_card(run)
    path = write_card(run, "clinic/cxr-tiny")
    assert path == run / CARD
    assert "(figures/hierarchy.png)" in path.read_text()
    assert (run / "figures" / "hierarchy.png").stat().st_size > 20_000
    assert not list(run.glob("*.partial"))
