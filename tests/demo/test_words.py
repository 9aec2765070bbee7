import math
from types import SimpleNamespace

import pytest

from hf_cxr.demo.words import doubt_legend, doubt_notice, doubt_of, gate_notice, model_facts, percent

GATE = {"label": "Abnormal", "probability": 0.123, "threshold": 0.272, "criterion": "sensitivity >= 0.95",
        "cleared": True, "finding_model_ran": None}  # fmt: skip


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0 %"), (1e-9, "< 0.1 %"), (0.00051, "0.1 %"), (0.2718, "27.2 %"), (0.9994, "99.9 %"), (0.99999, "> 99.9 %"),
     (1, "100.0 %")],
)  # fmt: skip
def test_percent(share, text):
    assert percent(share).replace("\u00a0", " ") == text


def said(notice):
    return " ".join(notice.text).replace("\u00a0", " ")


def test_cleared_is_explained():
    notice = gate_notice(GATE, "validation")
    assert notice.kind == "cleared"
    for words in ("12.3 %: below", "27.2 %, chosen on validation films", "sensitivity ≥ 0.95", "does not mean healthy"):
        assert words in said(notice)
    assert "did not look" not in said(notice)
    assert "did not look" in said(gate_notice({**GATE, "finding_model_ran": False}, "validation"))
    assert "did not look" not in said(gate_notice({**GATE, "finding_model_ran": True}, "validation"))


def test_flagged_is_no_diagnosis():
    notice = gate_notice({**GATE, "probability": 0.9, "cleared": False}, "validation")
    assert notice.kind == "flagged"
    assert "90.0 %: it reaches" in said(notice)
    assert "no diagnosis" in said(notice)
    assert "healthy" not in said(notice)


def test_no_verdict_without_a_threshold_or_a_gate():
    notice = gate_notice({**GATE, "threshold": None, "criterion": None, "cleared": None}, None)
    assert notice.title == "No verdict"
    assert "12.3 %" in said(notice)
    assert gate_notice(None, "validation").title == "No gate"


def node(label, probability, **figures):
    return {"label": label, "probability": probability, "children": [], **figures}


def test_doubt_is_the_entropy():
    assert doubt_of(node("a", 0.5)) == pytest.approx(math.log(2))
    assert doubt_of(node("a", 0.1)) == pytest.approx(-0.1 * math.log(0.1) - 0.9 * math.log(0.9))
    assert doubt_of(node("a", 0)) == 0
    assert doubt_of(node("a", 0.5, entropy=0.25)) == 0.25  # of the mean over the passes, where there are any


def test_abstention_names_what_decides(nih):
    reading = {"findings": [node("Abnormal", 0.4, entropy=0.65)], "abstained": True}
    notice = doubt_notice(reading, 0.6, nih)
    assert (notice.kind, notice.title) == ("abstained", "Left to a reader")
    assert "doubt about Abnormal is 0.65 nats; the limit of this demo is 0.60" in said(notice)
    assert doubt_notice({**reading, "abstained": False}, 0.68, nih).kind == "plain"
    assert doubt_notice(reading, None, nih) is None


def test_without_a_gate_the_most_doubtful_root_decides():
    roots = [node("Mass", 0.9), node("Nodule", 0.45), node("Edema", 0.01)]
    notice = doubt_notice({"findings": roots, "abstained": True}, 0.5, SimpleNamespace(gate=None))
    assert "doubt about Nodule is 0.69" in said(notice)


def test_the_doubt_says_which_it_is():
    assert "30 passes of Monte Carlo dropout" in doubt_legend(30)
    assert "30 passes of Monte Carlo dropout of each of 3 models" in doubt_legend(30, 3)
    assert "of the probability itself" in doubt_legend(None, 3)


def facts(read, **changes):
    config = SimpleNamespace(
        **{**read.network.config.to_dict(), "label_names": read.network.config.label_names, **changes}
    )
    return dict(model_facts(config, "pad", "mine", 30, 0.5))


def test_the_model_is_described(read):
    points = read.network.config.operating_points
    known = facts(read)
    assert known["Model"] == "mine (densenet121; 22 labels, taxonomy nih)"
    assert known["Probabilities"] == "Not calibrated: as trained."
    assert known["Thresholds"] == (
        "Chosen on validation films: of the labels by highest F1, of the gate by sensitivity ≥ 0.95."
    )
    assert "0.50 nats" in known["Abstention"]
    assert "32 pixels" in known["Film"]
    assert facts(read, operating_points=None)["Thresholds"] == "None are stored: nothing is decided."
    assert "of the gate" not in facts(read, operating_points=points, gate=None)["Thresholds"]
    calibrated = {"method": "platt", "split": "validation"}
    assert facts(read, calibration=calibrated)["Probabilities"] == "Calibrated (platt), fitted on validation films."
    assert facts(read, calibration={**calibrated, "method": "none"})["Probabilities"].startswith("As trained")
