"""What an adaptation changed, on the hospital's films and on the base's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hf_cxr.adaptation.arguments import AdaptationSettings
from hf_cxr.adaptation.own_films import OwnFilms
from hf_cxr.change import ChangeReport, Cost, Side, annotated_labels, compare_models
from hf_cxr.experiment import calibrated_logits, prediction_table, uncalibrated_logits
from hf_cxr.films import Films
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.models import CXRPreTrainedModel
from hf_cxr.operating_points import OperatingPoints


def report_change(
    settings: AdaptationSettings,
    base: CXRPreTrainedModel,
    adapted: CXRPreTrainedModel,
    films: Films,
    own: OwnFilms,
    log: dict[str, Any],
    provenance: dict[str, Any],
) -> ChangeReport:
    """Both models on the hospital's test films, and on the base's.

    Args:
        films: the hospital's. own: the base's.
        log: of `train_adaptation`. provenance: stored as given.
    """
    split = "test" if "test" in films.decoded else "validation"
    name = films.joined.name if films.joined else settings.data.dataset
    films_of_base = own.test
    training = log["model"]
    here = compare_models(f"{split} films of {name}", side_of(base, films, split), side_of(adapted, films, split))
    return ChangeReport(
        hospital=here,
        cost=Cost(
            method=settings.adapter.method,
            trained_parameters=training["trained_parameters"],
            all_parameters=training["parameters"],
            films=training["films"],
            epochs=training["epochs"],
            seconds=training["seconds"],
            peak_memory_bytes=training["peak_memory_bytes"],
            rehearsed_films=training["rehearsed_films"],
        ),
        base=None
        if films_of_base is None
        else compare_models(
            f"test films of {films_of_base.provenance['dataset']}",
            side_of(base, films_of_base, "test"),
            side_of(adapted, films_of_base, "test"),
            annotated=annotated_labels(here),
        ),
        base_undefined=own.why_not,
        provenance=provenance,
    )


def side_of(model: CXRPreTrainedModel, films: Films, split: str) -> Side:
    """A model's predictions on a split, with the thresholds that it stores if they are another split's."""
    table = prediction_table(model, films, split, calibrated_logits(model, uncalibrated_logits(model, films, split)))
    points, own = model.config.operating_points, Hierarchy.from_config(model.config)
    # The model's nodes, with the truth of groups and of the gate as these films have it.
    here = {node.name: node for node in films.hierarchy.nodes}
    nodes = tuple(here.get(node.name, node) for node in own.nodes)
    hierarchy = replace(own, nodes=nodes, gate_definition=films.hierarchy.gate_definition)
    usable = points if points and points["split"] != split else None
    return Side(table, hierarchy, OperatingPoints(**usable) if usable else None)
