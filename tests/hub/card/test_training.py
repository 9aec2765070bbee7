"""What a card says of the training: settings that repeat it, energy, films, licence."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from hf_cxr.arguments import parse_settings
from hf_cxr.hub.card import render_card
from hf_cxr.runs import settings_hash
from tests.hub.card.runs import ENERGY, edit, make_run

REPORT = "eval_report.json"


def test_the_settings_in_the_card_are_those_of_the_run(tmp_path, card, made, make_model):
    """Saved and parsed as the card says, they have the hash that the report quotes."""
    two = make_run(tmp_path / "settings", "--two_stage", "true", "--uncertain", "ones", "--lr_scheduler_type", "linear",
                   "--lr_scheduler_kwargs", '{"num_cycles": 2}', "--seed", "7", two_stage=True,
                   make_model=make_model)  # fmt: skip
    for text, folder in ((card, made), (render_card(two), two)):
        file = tmp_path / "settings.yaml"
        file.write_text(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
        again = parse_settings([str(file), "--output_dir", str(tmp_path / "elsewhere")])
        traced = json.loads((folder / REPORT).read_text())["provenance"]
        assert settings_hash(again.to_plain()) == traced["settings_hash"]


def test_energy_is_said_or_said_to_be_unknown(card, run, section):
    assert "0.0123 kWh, 0.0046 kg" in section(card, "Training")
    assert ModelCard(card).data.co2_eq_emissions["emissions"] == pytest.approx(4.5678)
    edit(run / REPORT, lambda report: report["provenance"].update(energy=None))
    text = render_card(run)
    assert "were not measured" in section(text, "Training")
    assert "co2_eq_emissions" not in text
    edit(run / REPORT, lambda report: report["provenance"].update(energy=ENERGY | {"continued": True}))
    assert "what it used before was not measured" in section(render_card(run), "Training")
    assert "used before" not in section(card, "Training")


def test_films_left_out_and_uncertain_cells_are_counted(card, section):
    part = section(card, "Training data")
    assert "no image (3), unreadable in train (2)" in part
    assert "unknown and masked (Atelectasis 5)" in part


def test_each_stage_has_its_own_figure(tmp_path, make_model, section):
    part = section(render_card(make_run(tmp_path / "run", two_stage=True, make_model=make_model)), "Training")
    assert re.search(r"\| gate \| 411,729 \| 860 \| 72 s \| 1 \| 0.909 \(gate AUROC\) \|", part)
    assert re.search(r"\| findings .* 0.909 \(macro AUROC\) \|", part)
