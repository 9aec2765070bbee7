"""Where a model looks: Grad-CAM of all labels at once, attention rollout, and both with the uncertainty in one pass.

Grad-CAM (Selvaraju et al. 2017, ICCV, eq. 1 and 2) of a map A and a label's logit y:

    α_c = 1/(H·W) Σ_hw ∂y/∂A_chw          cam_hw = max(0, Σ_c α_c A_chw)

Only what lies behind the map is differentiated, for all labels of one forward pass. No hook is set and no switch of
timm's is touched. A heatmap shows what a model used, not where a finding is: score it (`localisation`) before
believing it, beside the maps of an `untrained` network.

Shapes: B films, L labels, C channels, O channels of the R1 head's convolution, N tokens, h × w grid, H × W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.models import DenseNet
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cxr.models import (
    CXREnsembleForImageClassification,
    CXRPreTrainedModel,
    CXRTwoStageForImageClassification,
    CXRViTForImageClassification,
)
from hf_cxr.uncertainty import (
    Uncertainty,
    bare,
    check_passes,
    evaluating,
    from_hidden,
    from_hidden_of_both,
    from_hidden_of_members,
)


@dataclass(frozen=True, eq=False)
class Look:
    """What one pass through the backbone gives.

    Attributes:
        logits: (B, L), as the model's `forward`.
        heatmaps: (B, L, H, W), see `grad_cam`.
        uncertainty: see `mc_dropout`; None if not asked for.
        finding_model_ran: (B,) bool, two-stage models only.
    """

    logits: Tensor
    heatmaps: Tensor
    uncertainty: Uncertainty | None = None
    finding_model_ran: Tensor | None = None


def grad_cam(model: nn.Module, pixel_values: Tensor, *, raw: bool = False) -> Tensor:
    """Grad-CAM of every label on every film, (B, L, H, W) float32 at the input's size.

    The map is a convolutional backbone's last (what `forward_features` gives), and a ViT's patch tokens after the
    first norm of its last block. The logit is the model's own before calibration, which would only scale a map, or
    show the parent's where a label is lowered to it; under the conditional link a label's includes its parents'. Two
    stages: the gate's map is the gate model's; a finding's is the finding model's, of
    P(label | abnormal), and NaN on films that the gate cleared, where that model did not look. An ensemble's map is the
    mean of its members' raw ones.

    Args:
        model: bare or under PEFT; left as it was, gradients included. May be called under `no_grad` and
            `inference_mode`.
        pixel_values: (B, 1, H, W), normalised.
        raw: unscaled, in units of the logit. By default each map is stretched from its least to its greatest value
            to [0, 1], as the `grad-cam` package does, so that a film on which next to nothing speaks for a label
            shows as bright a spot as any other. Only raw maps can be compared between films. A map that is 0
            throughout stays 0 either way.

    Raises:
        TypeError: no model of the project, or a ViT of other blocks than timm's plain ones.
    """
    return look(model, pixel_values, n_passes=None, raw=raw).heatmaps


def look(
    model: nn.Module,
    pixel_values: Tensor,
    *,
    n_passes: int | None = 30,
    seed: int = 0,
    raw: bool = False,
    run_all: bool = False,
) -> Look:
    """Logits, heatmaps and uncertainty from one pass through the backbone (of each stage).

    Args:
        n_passes, seed, run_all: see `mc_dropout`; `n_passes=None` leaves the uncertainty out.
        model, pixel_values, raw: see `grad_cam`.

    Raises:
        NoDropoutError, TypeError, ValueError: as `mc_dropout` and `grad_cam`.
    """
    model, size = bare(model), (pixel_values.shape[-2], pixel_values.shape[-1])
    if n_passes is not None:
        check_passes(model, n_passes)
    with evaluating(model), torch.no_grad():
        if isinstance(model, CXRTwoStageForImageClassification):
            return _look_twice(model, pixel_values, n_passes, seed, raw, run_all)
        if isinstance(model, CXREnsembleForImageClassification):
            return _look_together(model, pixel_values, n_passes, seed, raw)
        seen = _trace(model, pixel_values)
        uncertainty = None if n_passes is None else from_hidden(model, seen.hidden_BD, n_passes, seed)
        return Look(seen.logits_BL, seen.heatmaps(size, raw), uncertainty)


def _look_twice(
    model: CXRTwoStageForImageClassification,
    pixel_values: Tensor,
    n_passes: int | None,
    seed: int,
    raw: bool,
    run_all: bool,
) -> Look:
    size = (pixel_values.shape[-2], pixel_values.shape[-1])
    gate = _trace(model.gate, pixel_values)
    passed_B = model.passed(gate.logits_BL) | run_all
    found = _trace(model.findings, pixel_values[passed_B]) if passed_B.any() else None
    maps = torch.full((len(pixel_values), len(model.order), *size), torch.nan, device=gate.logits_BL.device)
    maps[:, :1] = gate.heatmaps(size, raw)
    if found:
        maps[passed_B, 1:] = found.heatmaps(size, raw)
    logits = model.compose(gate.logits_BL, passed_B, found.logits_BL if found else None)
    uncertainty = None
    if n_passes is not None:
        hidden = found.hidden_BD if found else None
        uncertainty = from_hidden_of_both(model, gate.hidden_BD, hidden, passed_B, n_passes, seed)
    return Look(logits, maps[:, model.order], uncertainty, passed_B)


def _look_together(
    model: CXREnsembleForImageClassification, pixel_values: Tensor, n_passes: int | None, seed: int, raw: bool
) -> Look:
    size = (pixel_values.shape[-2], pixel_values.shape[-1])
    seen = [_trace(member, pixel_values) for member in model.members]
    maps = torch.stack([each.heatmaps(size, raw=True) for each in seen]).mean(0)  # only raw maps are in one unit
    logits = model.compose(torch.stack([each.logits_BL for each in seen]))
    uncertainty = None
    if n_passes is not None:
        uncertainty = from_hidden_of_members(model, [each.hidden_BD for each in seen], n_passes, seed)
    return Look(logits, maps if raw else _stretch_(maps), uncertainty)


@dataclass(frozen=True, eq=False)
class _Trace:
    """A single-stage model's pass: logits, what dropout reads, the map and each label's weights of its channels."""

    logits_BL: Tensor
    hidden_BD: Tensor
    map_BChw: Tensor
    weights_LBC: Tensor

    def heatmaps(self, size: tuple[int, int], raw: bool) -> Tensor:
        with torch.autocast(self.map_BChw.device.type, enabled=False):
            cam = torch.einsum("lbc,bchw->blhw", self.weights_LBC.float(), self.map_BChw.float()).relu()
            return _at_size(cam, size, raw)


def _trace(model: Any, pixel_values: Tensor) -> _Trace:
    if isinstance(model, CXRViTForImageClassification):
        return _trace_vit(model, pixel_values)
    map_BChw, head, backbone = model.feature_map(pixel_values), model.head, model.backbone
    area = map_BChw.shape[-2] * map_BChw.shape[-1]
    # PEFT's own convolutions hide the adapted weight, so that the short cut would silently miss the adapter.
    convolves = head.takes_map and type(head.trunk.convolution) is nn.Conv2d
    averages = not head.takes_map and isinstance(backbone, DenseNet) and backbone.global_pool.pool_type == "avg"
    leaf = head.trunk.convolution(map_BChw) if convolves else model.head_input(map_BChw)[0] if averages else map_BChw
    leaf.requires_grad_()
    with torch.enable_grad():
        if convolves:
            hidden = head.trunk.embed_convolved(leaf)
        else:
            hidden = head.trunk.embed(leaf if averages else model.head_input(leaf)[0])
        logits = head.link(head.trunk.score(hidden))
    weights = _gradients(logits, leaf)
    if convolves:
        weights = _sum_behind_convolution(head.trunk.convolution, weights) / area
    else:  # a mean's gradient is the same at every position
        weights = weights / area if averages else weights.mean((-2, -1))
    return _Trace(head.calibrate(logits.detach()), hidden.detach(), map_BChw.detach(), weights)


def _trace_vit(model: CXRViTForImageClassification, pixel_values: Tensor) -> _Trace:
    backbone, head = model.backbone, model.head
    *earlier, block = model.plain_blocks()
    tokens_BNC = model.first_tokens(pixel_values)
    for each in earlier:
        tokens_BNC = each(tokens_BNC)
    leaf = block.norm1(tokens_BNC).requires_grad_()
    with torch.enable_grad():
        attended = block.drop_path1(block.ls1(block.attn(leaf)))
        # After attention every token goes its own way: where only the first is read, only that one need go.
        n = 1 if backbone.global_pool == "token" and not head.takes_map else tokens_BNC.shape[1]
        last = tokens_BNC[:, :n] + attended[:, :n]
        last = backbone.norm(last + block.drop_path2(block.ls2(block.mlp(block.norm2(last)))))
        hidden = head.trunk.embed(model.head_input(last)[0])
        logits = head.link(head.trunk.score(hidden))
    # One label after the other: measured no slower than batched, without L copies of the attention's gradient.
    first = backbone.num_prefix_tokens
    weights = [
        torch.autograd.grad(logits, leaf, one_hot_BL, retain_graph=True)[0][:, first:].mean(1)
        for one_hot_BL in _one_hot(logits)
    ]
    maps = model.feature_map(leaf.detach())
    return _Trace(head.calibrate(logits.detach()), hidden.detach(), maps, torch.stack(weights))


def _gradients(logits_BL: Tensor, leaf: Tensor) -> Tensor:
    """∂ logit / ∂ leaf of each film's own logits, (L, B, …)."""
    return torch.autograd.grad(logits_BL, leaf, _one_hot(logits_BL), is_grads_batched=True)[0]


def _one_hot(logits_BL: Tensor) -> Tensor:
    """(L, B, L): which logit of each film is differentiated."""
    return torch.eye(logits_BL.shape[1]).to(logits_BL)[:, None].expand(-1, len(logits_BL), -1)


def _sum_behind_convolution(convolution: nn.Conv2d, gradient_LBOhw: Tensor) -> Tensor:
    """Gradient (L, B, O, h, w) at a 3 × 3 convolution's output → that at its input summed over h × w, (L, B, C).

    Tap (i, j) of the kernel meets the input wherever it does not reach into the padding; summed over those places
    first, the gradient need not pass through the convolution at each.
    """
    height, width = gradient_LBOhw.shape[-2:]
    rows, columns = (_reach(n).to(gradient_LBOhw) for n in (height, width))
    taps = torch.einsum("lbohw,ih,jw->lboij", gradient_LBOhw, rows, columns)
    return torch.einsum("lboij,ocij->lbc", taps, convolution.weight)


def _reach(n: int) -> Tensor:
    """(3, n): whether tap i − 1, i or i + 1 from each of n positions lies inside."""
    at = torch.arange(n) + torch.arange(-1, 2)[:, None]
    return (at >= 0) & (at < n)


def attention_rollout(model: nn.Module, pixel_values: Tensor, *, raw: bool = False) -> Tensor:
    """Attention rollout of a ViT, (B, H, W) float32 at the input's size; the same for every label.

    With A the heads' mean attention, Ã = (A + I) / 2 for the residual connection, and the blocks multiplied from
    first to last (Abnar and Zuidema 2020, ACL); the class token's row, or the patches' mean row in a ViT
    without one. MLPs and values are left out by the method: it shows mixing, not what speaks for a finding.

    Args:
        model: a ViT, bare or under PEFT; a stage of a two-stage model (`model.gate`, `model.findings`).
        pixel_values, raw: as `grad_cam`; a raw map's patches sum to at most 1 before it is enlarged.

    Raises:
        TypeError: no ViT, or one of other blocks than timm's plain ones.
    """
    inner: Any = bare(model)
    if not isinstance(inner, CXRViTForImageClassification):
        raise TypeError(f"got {type(inner).__name__}; attention rollout needs a ViT: use grad_cam, or a stage that is")
    with evaluating(inner), torch.no_grad():
        tokens_BNC = inner.first_tokens(pixel_values)
        rollout_BNN = torch.eye(tokens_BNC.shape[1], device=tokens_BNC.device)[None]
        for block in inner.plain_blocks():
            rollout_BNN = (rollout_BNN + inner.attention(block, tokens_BNC) @ rollout_BNN) / 2
            tokens_BNC = block(tokens_BNC)
        first = inner.backbone.num_prefix_tokens
        start = slice(0, 1) if inner.backbone.cls_token is not None else slice(first, None)
        grid = inner.feature_map(rollout_BNN[:, start].mean(1)[:, :, None])
        return _at_size(grid, (pixel_values.shape[-2], pixel_values.shape[-1]), raw)[:, 0]


def _at_size(grid: Tensor, size: tuple[int, int], raw: bool) -> Tensor:
    return _enlarge(grid, size) if raw else _stretch_(_enlarge(_stretch_(grid.float()), size))


def _stretch_(maps: Tensor) -> Tensor:
    """Each map from its least to its greatest value to [0, 1], in place; constants as in the `grad-cam` package."""
    low, high = maps.flatten(-2).aminmax(dim=-1)
    low, high = low[..., None, None], high[..., None, None]
    return maps.sub_(low).div_(high - low + 1e-7)


def _enlarge(grid: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centres aligned (OpenCV's INTER_LINEAR); as two small products, which is faster here."""
    down, across = (
        F.interpolate(torch.eye(n, device=grid.device)[None], size=m, mode="linear", align_corners=False)[0]
        for n, m in zip(grid.shape[-2:], size, strict=True)
    )
    return down.T @ grid.float() @ across


def untrained(model: nn.Module, seed: int = 0) -> CXRPreTrainedModel:
    """A network of the same config with fresh random weights, in evaluation mode: what does it show?

    Heatmaps that score as well with it show the method and the films, not what was learned (model randomisation;
    Adebayo et al. 2018, NeurIPS). Take several seeds: one random network may favour a finding by chance, and on films
    where the finding is the brightest spot most do. Permuting the trained weights instead leaves nearly every map
    empty (rare labels have weights below 0 on average), which any model would beat.

    Args:
        model: bare or under PEFT, whose adapters are left out. seed: of the weights; the global random state is left
            as it is.
    """
    inner = bare(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return type(inner)(inner.config).to(device=inner.device, dtype=inner.dtype).eval()
