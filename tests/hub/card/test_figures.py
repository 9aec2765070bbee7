"""Every figure of a card is one of its sources', and what is undefined is said to be."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard

from hf_cxr.hub.card import render_card
from tests.conftest import REPO
from tests.hub.card.runs import edit, make_run
from tests.hub.card.tracing import scramble, untraced

REPORT = "eval_report.json"


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


@pytest.mark.parametrize("wrong", ["0.913", "4,711 films", "63.2 %", "−0.083"])
def test_a_number_of_no_source_is_found(run, wrong):
    scramble(run)
    planted = render_card(run).replace("## Calibration", f"It does {wrong}.\n\n## Calibration")
    assert len(untraced(planted, run)) == 1


def test_the_template_has_no_figure_of_its_own():
    text = (REPO / "model_cards" / "template.md.jinja").read_text()
    prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|```python.*?```", "", text, flags=re.DOTALL)
    assert sorted(set(re.findall(r"[\w.]*\d[\w.]*", prose))) == ["0", "0.5", "1", "16"]  # 16-bit


def test_undefined_figures_are_listed_with_their_reason(card, made, section):
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
    assert "AUROC, Mass" not in [result.metric_name for result in ModelCard(text).data.eval_results]


def rows(text, head):
    """`{first cell: other cells}` of the table whose head begins so."""
    table = re.search(rf"^\| {re.escape(head)}.*\n\|[- :|]+\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    cells = [[cell.strip() for cell in line.strip("|\n").split(" | ")] for line in table.splitlines()]
    return {first.removesuffix(" †"): rest for first, *rest in cells}


def test_every_row_is_of_the_label_that_it_names(card, made):
    report = json.loads((made / REPORT).read_text())
    ranked = rows(card, "finding | positive / negative") | rows(card, "group, gate and others | positive / negative")
    decided = rows(card, "finding | threshold") | rows(card, "group, gate and others | threshold")
    calibrated, lost = rows(card, "finding | ECE"), rows(card, "finding | true cases")
    counts = rows(card, "label | training")
    assert set(ranked) == set(decided) == set(counts) == set(report["labels"])
    assert set(calibrated) == set(lost) == set(report["gate"]["lost"])
    for name, row in report["labels"].items():
        assert ranked[name][0] == f"{row['n_positive']} / {row['n_negative']}"
        assert ranked[name][1].startswith(f"{row['auroc']:.3f}")
        assert ranked[name][3] == f"{row['prevalence']:.3f}"
        assert decided[name][0] == f"{row['threshold']:.3f}"
        assert decided[name][2].startswith(f"{row['specificity']:.3f}")
        assert counts[name][2] == str(row["n_positive"])
    for name, row in report["gate"]["lost"].items():
        assert lost[name][0] == f"{row['n_true_cleared']} of {row['n_true']}"
        assert lost[name][3].startswith(f"{row['sensitivity_gated']:.3f}")
        assert calibrated[name][2] == f"{report['labels'][name]['calibration_slope']:.2f}"
    low, high = report["labels"]["Mass"]["auroc_ci"]
    assert ranked["Mass"][1].endswith(f"({low:.3f}–{high:.3f})")


def test_groups_of_patients_are_set_against_the_largest(card, made):
    part = json.loads((made / REPORT).read_text())["subgroups"]["view"]
    shown = rows(card.split("**By view**")[1], "group")
    other = next(value for value in part["groups"] if value != part["reference"])
    gap = part["groups"][other]["gaps"]["macro_auroc"]
    assert shown[part["reference"]][2] == "–"
    assert shown[other][2].startswith(f"{gap['value']:+.2f}".replace("-", "−"))
    assert shown[other][0] == f"{part['groups'][other]['n_images']} / {part['groups'][other]['n_patients']}"


TREE = """
name: own
nodes:
  - {name: Lung, kind: group}
  - {name: Mass, parents: [Lung]}
  - {name: "A | B", parents: [Lung]}
"""


def test_a_model_without_gate_on_films_without_patients(tmp_path):
    (tmp_path / "own.yaml").write_text(TREE)
    folder = make_run(tmp_path / "run", taxonomy=str(tmp_path / "own.yaml"), known_patients=False)
    text = render_card(folder, "clinic/own")
    assert untraced(text, folder) == []
    assert "The model has no gate." in text
    assert "the intervals are too narrow" in text
    assert r"| A \| B |" in text  # a label cannot break a table
    assert "own.yaml" not in text


def test_without_thresholds_nothing_is_decided(tmp_path):
    text = render_card(make_run(tmp_path / "run", decided=False))
    assert "nothing is decided" in text
    assert "It has no threshold in this report" in text
    assert "The gate misses" not in text
