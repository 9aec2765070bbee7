"""The block by which the Hub knows a model."""

import json

from huggingface_hub import ModelCard

from hf_cxr.hub.card import render_card
from tests.hub.card.runs import edit, make_run
from tests.hub.cards import check

REPORT = "eval_report.json"


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


def test_closed_data_have_no_name_and_another_licence(tmp_path, section):
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


def test_a_backbone_of_this_project_is_traced_to_its_films(tmp_path, section):
    folder = make_run(tmp_path / "run", "--backbone_weights", str(tmp_path / "phantoms"))

    def card_of(**began):
        edit(folder / "config.json", lambda config: config.update(backbone_from={"weights": "3b58", **began}))
        return render_card(folder)

    text = card_of(name="phantoms", dataset="phantom", fingerprint="f00", synthetic=True)
    assert "the backbone of phantoms (weights `3b58`), which was trained on synthetic films (`f00`)" in text
    assert ModelCard(text).data.base_model is None, "no name on the Hub"
    text = card_of(name="clinic/cxr", dataset="nih", fingerprint="f00", synthetic=False)
    assert "trained on nih (`f00`), whose terms hold, too" in section(text, "Licence")
    assert ModelCard(text).data.base_model == "clinic/cxr"
    assert "the backbone of old (weights `3b58`)." in card_of(name="old")
