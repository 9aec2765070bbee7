"""The metadata block of a card, by which the Hub finds, labels and lists a model."""

from __future__ import annotations

from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData

from hf_cxr.hub.card.source import CardSource
from hf_cxr.hub.card.statements import DATA_SETS

_DIGITS = 4


def model_name(source: CardSource, repo_id: str | None) -> str:
    """The repository's own name; without one, of what the model is and what it was trained on."""
    return repo_id.split("/")[-1] if repo_id else f"{source.config.model_type}-{source.statement.name}"


def metadata(source: CardSource, repo_id: str | None) -> ModelCardData:
    """Licence, tags, data sets and the model-index.

    Undefined figures cannot stand in a model-index; the card lists them. Of data that nobody else may have there is no
    name under `datasets`.
    """
    about = source.statement.about
    tags = ["chest-x-ray", "radiology", "medical", "multi-label", "hierarchical-classification", "hf_cxr"]
    tags += ["synthetic", "toy"] if source.toy else ["not-for-clinical-use"]
    energy, licence = source.energy, dict[str, Any](about.licence)
    return ModelCardData(
        **licence,
        library_name="transformers" if source.adapter is None else "peft",
        pipeline_tag="image-classification",
        tags=tags,
        base_model=_base_model(source),
        datasets=[about.hub_id] if about.hub_id else None,
        metrics=["roc_auc"],
        co2_eq_emissions=energy
        and {
            "emissions": round(1000 * energy["co2_kg"], _DIGITS),  # in grams
            "source": energy["measured_by"],
            "geographical_location": energy["country"],
            "hardware_used": energy["processor"],
        },
        model_name=model_name(source, repo_id),
        eval_results=_results(source),
    )


def _base_model(source: CardSource) -> str | None:
    """An adapter's base, or where the first weights come from, as far as they are on the Hub."""
    if source.adapter is not None:
        return source.adapted
    if adapted := source.config.adapted_from:
        return adapted["name"] if "/" in adapted["name"] else None
    if began := source.config.backbone_from:
        return began["name"] if "/" in began["name"] else None
    chosen = source.run["settings"]["model"]
    if chosen["backbone_weights"] != "hub":
        return None
    return timm.get_pretrained_cfg(chosen["backbone"]).hf_hub_id


def _results(source: CardSource) -> list[EvalResult]:
    report = source.report
    about = DATA_SETS.get(source.reported)
    given: dict[str, Any] = {
        "task_type": "image-classification",
        "task_name": "Hierarchical multi-label chest X-ray classification",
        "dataset_type": (about and about.hub_id) or source.reported,
        "dataset_name": about.title if about else source.reported,
        "dataset_split": report.split,
        "dataset_args": {"fingerprint": source.data["fingerprint"], "films": report.n_images},
    }
    figures = [("roc_auc", "Macro AUROC over the findings", report.aggregate["macro_auroc"])]
    figures.append(("roc_auc", "AUROC weighted by positive films", report.aggregate["weighted_auroc"]))
    figures.append(("average_precision", "Macro average precision", report.aggregate["macro_average_precision"]))
    if gate := report.gate:
        figures.append(("roc_auc", f"AUROC of the gate ({gate['node']})", gate["auroc"]))
        figures.append(("recall", "Sensitivity of the gate at its threshold", gate.get("sensitivity")))
        figures.append(("specificity", "Specificity of the gate at its threshold", gate.get("specificity")))
    figures.append(("ece", "Mean expected calibration error of the findings", report.calibration["mean_ece"]))
    figures += [("roc_auc", f"AUROC, {name}", report.labels[name]["auroc"]) for name in source.hierarchy.findings]
    return [
        EvalResult(**given, metric_type=kind, metric_name=name, metric_value=round(value, _DIGITS))
        for kind, name, value in figures
        if value is not None
    ]
