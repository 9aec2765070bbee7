"""Nothing of the machine gets into a card, and no card is made of what does not belong together."""

import pytest
import yaml

from hf_cxr.hub.card import CARD, CardError, render_card, write_card
from tests.hub.card.runs import edit

REPORT = "eval_report.json"


def test_nothing_of_the_machine_is_in_the_card(run):
    secrets = ("mueller", "geheim", "00000042", "/home", "visual.csv")
    folder = "/home/mueller/geheim"
    content = yaml.safe_load((run / "run.yaml").read_text())
    content["command"] = f"{folder}/recipes/train.py {folder}/00000042.yaml --data_dir {folder}"
    settings = content["settings"]
    settings["data"] |= {
        "data_dir": "geheim",
        "cache_dir": "of_mueller",
        "data_options": {"train_csv": f"{folder}/visual.csv"},
    }
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
