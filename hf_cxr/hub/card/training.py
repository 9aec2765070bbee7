"""What a card says of the training: films, labels, stages, environment, energy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm

from hf_cxr.change import verdict
from hf_cxr.hub.card.reproduction import has_own_files
from hf_cxr.hub.card.source import CardSource
from hf_cxr.report.layout import NONE, Table

_UNCERTAIN = {
    "ignore": "unknown and masked", "ones": "taken as present", "zeros": "taken as absent",
    "smooth_ones": "a random target towards present", "smooth_zeros": "a random target towards absent",
}  # fmt: skip
_BLANK = {"ignore": "unknown and masked", "zeros": "taken as absent"}
_CONFLICT = {
    "child_wins": "the group is made positive", "parent_wins": "the finding is made negative",
    "unknown": "both are unknown", "error": "none was allowed",
}  # fmt: skip


def splits(source: CardSource) -> Table:
    """Films and patients of each split."""
    rows = [[name, f"{n['films']:,}", f"{n['patients']:,}"] for name, n in source.run["data"]["splits"].items()]
    return Table(["split", "films", "patients"], rows)


def films(source: CardSource) -> list[str]:
    """How the films were split and which were left out."""
    data = source.run["data"]
    options = data["options"]
    said = ["No patient is in two splits."]
    if options.get("validation", "fraction") == "fraction":
        said.append(
            f"Validation is cut from the training patients (share {options['validation_fraction']}, seed "
            f"{options['split_seed']}), stratified over the findings."
        )
    else:
        said.append("Validation is the data set's own.")
    if data.get("test_source"):
        said.append(f"Test films: `{Path(data['test_source']).name}`.")
    left_out = {**data["skipped"], **{f"unreadable in {split}": n for split, n in data["unreadable"].items() if n}}
    named = ", ".join(f"{why} ({n:,})" for why, n in left_out.items())
    said.append(f"Left out: {named}." if named else "No film was left out.")
    said.append(f"Fingerprint of the data: `{data['fingerprint']}`.")
    return said


def label_counts(source: CardSource) -> Table:
    """Known labels of the training films, positive ones of the others."""
    labels = source.run["labels"]
    others = [split for split in labels if split in ("validation", "test")]
    rows = []
    for name in source.hierarchy.names:
        train = labels["train"]["counts"][name]
        cells = " / ".join(f"{train[key]:,}" for key in ("positive", "negative", "unknown"))
        rows.append([name, cells, *(f"{labels[split]['counts'][name]['positive']:,}" for split in others)])
    head = ["label", "training: positive / negative / unknown", *(f"{split}: positive" for split in others)]
    return Table(head, rows)


def label_rules(source: CardSource) -> list[str]:
    """What became of uncertain, blank and contradicting labels, and how often."""
    policy, made = source.run["settings"]["labels"], source.run["labels"]["train"]
    uncertain = policy["uncertain"]
    said = [
        f"Uncertain cells in training: {_UNCERTAIN.get(uncertain, 'by label, `' + str(uncertain) + '`')}"
        f"{_listed(made['n_uncertain']) or ' (there are none)'}. In evaluation they are never scored.",
        f"Blank cells: {_BLANK[policy['blank']]}.",
        f"A positive finding makes its groups positive{_listed(made['n_closed'])}.",
        f"Where the source denies a group of a positive finding, {_CONFLICT[policy['conflict']]}"
        f"{_listed(made['n_conflicts'])}.",
    ]
    if made["unannotated"]:
        said.append(f"Not annotated at all: {', '.join(made['unannotated'])}.")
    return said


def _listed(counts: dict[str, Any]) -> str:
    named = ", ".join(f"{name} {n:,}" for name, n in counts.items() if n)
    return f" ({named})" if named else ""


def adaptation(source: CardSource) -> list[str]:
    """What the model was before, and what its adaptation changed; nothing of one that was trained from the start."""
    if source.change is None:
        return []
    adapted = source.config.adapted_from
    assert adapted is not None
    before = f"It was {adapted['name']} before (weights {adapted['weights']}), and was adapted to other films."
    return [before, *verdict(source.change)]


def stages(source: CardSource) -> Table | None:
    """Size and length of what was trained; None where no report has it."""
    rows = [
        [
            name,
            f"{stage['parameters']:,}",
            f"{stage['steps']:,}",
            f"{stage['seconds']:,.0f} s",
            f"{stage['processes']}",
            NONE if stage["best_metric"] is None else f"{stage['best_metric']:.3f} ({_chosen_by(source, name)})",
        ]
        for name, stage in source.stages.items()
    ]
    head = ["stage", "parameters", "steps", "time", "processes", "best on validation"]
    return Table(head, rows) if rows else None


def _chosen_by(source: CardSource, stage: str) -> str:
    """The figure of a stage's best checkpoint; a gate of its own has only one."""
    metric = "gate_auroc" if stage == "gate" else source.run["settings"]["training"]["metric_for_best_model"]
    return metric.replace("_", " ").replace("auroc", "AUROC")


def environment(source: CardSource) -> str:
    """Versions and machine."""
    versions = ", ".join(f"{name} {version}" for name, version in source.run["versions"].items())
    machine = source.run["machine"]
    return f"{versions}; {machine['cores']} cores ({machine['processor']}). {_seeds(source).capitalize()}."


def _seeds(source: CardSource) -> str:
    """Of the run, or of an ensemble's members."""
    members = source.run["settings"].get("ensemble", {}).get("members")
    return f"seeds {', '.join(str(member['seed']) for member in members)}" if members else f"seed {source.run['seed']}"


def energy(source: CardSource) -> str:
    """What training used, or that nobody measured it."""
    used = source.energy
    if used is None:
        return "Energy and carbon dioxide were not measured."
    part = " Since the run was resumed: what it used before was not measured." if used.get("continued") else ""
    return (
        f"{used['kwh']:.4f} kWh, {used['co2_kg']:.4f} kg of CO2 equivalents by the electricity of {used['country']}; "
        f"{used['measured_by']}, on {used['processor']}. Training alone, without the search for its settings.{part}"
    )


def repeat(source: CardSource) -> str:
    """What is needed to repeat the run beside its settings."""
    own = has_own_files(source.run["settings"])
    return (
        f"Settings `{source.run['settings_hash']}`, {_seeds(source)}, hf_cxr "
        f"{source.run['versions']['hf_cxr']}, and data with the fingerprint above."
        + (" `FILE` stands for a file of the publisher's own, which is not here." if own else "")
    )


def licence(source: CardSource) -> str:
    """Of the weights, and of those that training began with."""
    about = source.statement.about
    said = (
        "Weights: Apache-2.0, as is the code."
        if about.licence["license"] == "apache-2.0"
        else f"The weights are bound by the terms of {about.title}, above: {about.use}. Code: Apache-2.0."
    )
    if adapted := source.config.adapted_from:
        return f"{said} Training began with the weights of {adapted['name']}, whose terms hold, too."
    first = source.run["settings"]["model"]
    weights = first["backbone_weights"]
    if weights is None:
        return f"{said} Training began with random weights."
    if began := source.config.backbone_from:
        films = f", which was trained on {_films_of(began)}" if "dataset" in began else ""
        return f"{said} Training began with the backbone of {began['name']} (weights `{began['weights']}`){films}."
    if weights != "hub":
        return f"{said} Training began with weights from a file, whose terms this card does not know."
    timms = timm.get_pretrained_cfg(first["backbone"])
    return f"{said} Training began with the weights `{timms.hf_hub_id}` (licence: {timms.license or 'not stated'})."


def _films_of(began: dict[str, Any]) -> str:
    """The films of the model whose backbone was the first; their owner's terms may hold, too."""
    if began["synthetic"]:
        return f"synthetic films (`{began['fingerprint']}`), drawn by a program of hf_cxr: no patient's"
    return f"{began['dataset']} (`{began['fingerprint']}`), whose terms hold, too"
