"""What a model computes for one film, and what its gate saves of that."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_cxr.models import CXRPreTrainedModel, CXRTwoStageForImageClassification


def flops(model: CXRPreTrainedModel) -> int:
    """Floating-point operations of one film's forward pass, a multiplication and an addition each counted.

    Convolutions, matrix products and attention only (`torch.utils.flop_counter`). A two-stage model runs both stages.
    """
    size = model.config.image_size
    film = torch.zeros(1, 1, size, size, device=model.device, dtype=model.dtype)
    extra = {"run_all": True} if isinstance(model, CXRTwoStageForImageClassification) else {}
    training = model.training
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(film, **extra)
    finally:
        model.train(training)
    return counter.get_total_flops()


def gate_savings(model: CXRPreTrainedModel, skip_rate: float) -> dict[str, Any]:
    """Compute per film with and without the gate.

    Args:
        skip_rate: share of films that the gate clears, in [0, 1].

    Returns:
        `flops` of a film that runs through everything, `flops_gate` of a cleared one, `share_saved` on average. A
        single-stage model computes all labels at once, so its gate saves nothing.
    """
    whole = flops(model)
    if not isinstance(model, CXRTwoStageForImageClassification):
        return {"flops": whole, "flops_gate": whole, "share_saved": 0.0}
    gate: Any = model.gate
    own = flops(gate)
    return {"flops": whole, "flops_gate": own, "share_saved": skip_rate * (whole - own) / whole}
