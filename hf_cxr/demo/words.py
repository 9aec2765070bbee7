"""What a reading says, in words for a visitor. Plain strings; nothing here knows of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.special import entr

from hf_cxr.hierarchy import Hierarchy

WARNING = "Not for clinical use"
FITS = {
    "pad": "scaled so that its longer side has {size} pixels, with black bars beside it where it is not square",
    "crop": "scaled so that its shorter side has {size} pixels, and cut to the square in its centre",
    "stretch": "stretched to {size} × {size} pixels",
}


@dataclass(frozen=True)
class Notice:
    """Something said above the findings.

    Attributes:
        kind: `problem`, `abstained`, `flagged`, `cleared` or `plain`.
        title: in a few words. text: its paragraphs.
    """

    kind: str
    title: str
    text: tuple[str, ...]


def percent(share: float) -> str:
    """A share with one decimal, e.g. `27.2 %` (spaces do not break); never 0 or 100 unless it is."""
    if 0 < share < 0.0005:
        return "<\u00a00.1\u00a0%"
    if 0.9995 <= share < 1:
        return ">\u00a099.9\u00a0%"
    return f"{100 * share:.1f}\u00a0%"


def gate_notice(gate: Mapping[str, Any] | None, split: str | None) -> Notice:
    """The gate's verdict.

    Args:
        gate, split: `gate` and `operating_points_from` of a reading (`ChestXRayClassificationPipeline`).
    """
    if gate is None:
        return Notice("plain", "No gate", ("This model has no gate: it clears no film.",))
    label, probability = gate["label"], percent(gate["probability"])
    if gate["cleared"] is None:
        return Notice(
            "plain",
            "No verdict",
            (f"The probability of {label} is {probability}. No threshold is stored by which to clear a film.",),
        )
    limit = f"{percent(gate['threshold'])}, chosen on {split} films by the criterion {_sign(gate['criterion'])}"
    if not gate["cleared"]:
        return Notice(
            "flagged",
            "Flagged by the gate",
            (
                f"The probability of {label} is {probability}: it reaches the gate's threshold of {limit}.",
                "That is no diagnosis. Films without any finding are flagged as well.",
            ),
        )
    return Notice(
        "cleared",
        "Cleared by the gate",
        (
            f"The probability of {label} is {probability}: below the gate's threshold of {limit}.",
            "Cleared means just that. It does not mean healthy: abnormal films fall below the threshold too, and "
            "the model knows of no findings but those listed here.",
            "The finding model did not look at this film. The probability given for a finding is only the gate's times "
            "how common the finding is among abnormal films, and every finding is decided negative."
            if gate["finding_model_ran"] is False
            else "The findings are given all the same, each decided by its own threshold.",
        ),
    )


def doubt_notice(reading: Mapping[str, Any], limit: float | None, hierarchy: Hierarchy) -> Notice | None:
    """Whether the film is left to a reader; None where no limit is set.

    Args:
        reading: of one film. limit: `max_entropy` by which it was read.
    """
    if limit is None:
        return None
    label, doubt = _most_doubtful(reading["findings"], hierarchy)
    said = f"The doubt about {label} is {doubt:.2f} nats; the limit of this demo is {limit:.2f}."
    if not reading["abstained"]:
        return Notice("plain", "Doubt within the limit", (said,))
    text = (said, "The model abstains. The figures below are what it gave; take no decision from them.")
    return Notice("abstained", "Left to a reader", text)


def doubt_of(node: Mapping[str, Any]) -> float:
    """Entropy of a node of a reading in nats: of the mean over the passes, without passes of its probability."""
    p = node["probability"]
    return float(node["entropy"] if "entropy" in node else entr(p) + entr(1 - p))


def _most_doubtful(roots: Sequence[Mapping[str, Any]], hierarchy: Hierarchy) -> tuple[str, float]:
    """Of the gate, without a gate of the roots: those whose doubt decides on abstention."""
    decisive = [node for node in roots if hierarchy.gate in (None, node["label"])]
    doubt, label = max((doubt_of(node), node["label"]) for node in decisive)
    return label, doubt


def doubt_legend(n_passes: int | None, n_members: int = 0) -> str:
    """What the doubt beside each finding is.

    Args:
        n_passes: of Monte Carlo dropout, None without. n_members: of an ensemble, each of which makes as many; else 0.
    """
    scale = "from 0 (sure) to 0.69 nats (as good as a coin)"
    if n_passes is None:
        return f"entropy of the probability itself, {scale}; no Monte Carlo dropout."
    return (
        f"entropy of the mean probability over {n_passes} passes of Monte Carlo dropout"
        + (f" of each of {n_members} models" if n_members else "")
        + f", {scale}; ± is the standard deviation over them, in percentage points."
    )


def members_of(config: Any) -> int:
    """How many models an ensemble has; 0 of any other."""
    return len(getattr(config, "member_models", ()))


def model_facts(config: Any, fit: str, name: str, n_passes: int | None, limit: float | None) -> list[tuple[str, str]]:
    """What the page says of the model: (what, which), in order.

    Args:
        config: the model's. fit: how its processor makes a film square. name: the model's.
        n_passes: of Monte Carlo dropout, None without. limit: `max_entropy`.
    """
    points = config.operating_points
    return [
        ("Model", f"{name} ({config.backbone}; {len(config.label_names)} labels, taxonomy {config.taxonomy})"),
        ("Film", f"Read in gray, {FITS[fit].format(size=config.image_size)}."),
        ("Probabilities", _calibration(config.calibration)),
        (
            "Thresholds",
            f"Chosen on {points['split']} films: of the labels by {_sign(points['criterion'])}"
            + (f", of the gate by {_sign(points['gate_criterion'])}." if config.gate else ".")
            if points
            else "None are stored: nothing is decided.",
        ),
        ("Doubt", f"By {doubt_legend(n_passes, members_of(config))}"),
        (
            "Abstention",
            "No limit is set: no film is left to a reader."
            if limit is None
            else f"A film is left to a reader from a doubt of more than {limit:.2f} nats.",
        ),
        ("Your film", "Deleted as soon as it is read. Neither film nor result is kept, logged or sent on."),
    ]


def _calibration(calibration: Mapping[str, Any] | None) -> str:
    if calibration is None:
        return "Not calibrated: as trained."
    if calibration["method"] == "none":
        return f"As trained; on {calibration['split']} films it was settled to leave them so."
    return f"Calibrated ({calibration['method']}), fitted on {calibration['split']} films."


def _sign(criterion: str) -> str:
    return criterion.replace(">=", "≥").replace("<=", "≤")
