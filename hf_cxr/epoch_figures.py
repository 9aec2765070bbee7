"""What training wants to know of the validation split after each epoch: a few of `evaluation`'s figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from hf_cxr.evaluation import evaluate_table, is_composed
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.losses import LossOutput, count_known
from hf_cxr.operating_points import choose_operating_points
from hf_cxr.predictions import PredictionTable, probabilities


def epoch_figures(
    logits_NL: NDArray[np.float32],
    labels_NL: NDArray[np.float32],
    config: Any,
    loss: nn.Module,
    *,
    gate_criterion: str,
    device: torch.device,
) -> dict[str, float]:
    """Loss with its components, flat and gated AUROC, and the gate at a threshold that these films chose themselves.

    Args:
        logits_NL, labels_NL: of the validation films, labels with NaN = unknown.
        config: the model's, which holds its hierarchy.
        loss: as for `CXRTrainer`, on `device`.
        gate_criterion: see `choose_operating_points`.

    Returns:
        Those that are defined on these films.
    """
    hierarchy = Hierarchy.from_config(config)
    labels = torch.tensor(labels_NL)
    found: LossOutput = loss(torch.tensor(logits_NL).to(device), labels.to(device), count_known(labels).to(device))
    films = np.arange(len(labels_NL)).astype(str)
    table = PredictionTable(
        hierarchy.names,
        films,
        films,  # no figure here has an interval, for which patients are wanted
        labels_NL.astype(float),
        probabilities(logits_NL),
        pd.DataFrame(index=range(len(films))),
    )
    # A hospital may label one finding and never a normal film; its model then keeps the base's threshold. Any other
    # model would end without one, so that the error comes now.
    adapted = bool(config.adapted_from)
    points = None
    if not adapted or hierarchy.gate is None or {0.0, 1.0} <= set(table.column(hierarchy.gate)[0]):
        points = choose_operating_points(table, hierarchy, "validation", gate_criterion=gate_criterion)
    report = evaluate_table(
        table,
        hierarchy,
        "validation",
        operating_points=points,
        composed_by_model=is_composed(hierarchy, config.link),
        one_class_gate=adapted,
    )
    gate = report.gate or {}
    figures = {
        "loss": found.total.item(),
        **{f"loss_{name}": value.item() for name, value in found.components.items()},
        **{k: report.aggregate[k] for k in ("macro_auroc", "weighted_auroc")},
        "gated_macro_auroc": gate.get("gated", {}).get("macro_auroc"),
        **{f"gate_{k}": gate.get(k) for k in ("auroc", "sensitivity", "specificity", "skip_rate")},
        "share_out_of_order": report.hierarchy["flat"]["share_out_of_order"],
    }
    return {name: value for name, value in figures.items() if value is not None}
