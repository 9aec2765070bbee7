"""What the hierarchical losses and the conditional link cost, alone and within a training step.

    python benchmarks/loss_cost.py

Alternates all variants within one run and prints medians with their quartiles; ratios are of medians. A loss's
share of the step of densenet121 at 128² is the figure to watch: under 1 %.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from hf_cxr import CXRDenseNetConfig, CXRDenseNetForImageClassification, load_taxonomy
from hf_cxr.losses import build_loss

VARIANTS = {
    "flat BCE": ("flat", "bce"),
    "HBCE step": ("flat", "hbce_step"),
    "HBCE soft": ("flat", "hbce_soft"),
    "conditional BCE": ("conditional", "bce"),
}
NARROW = {"growth_rate": 24, "block_config": [2, 4, 8, 6], "bn_size": 2}  # recipes/configs/nih128_cpu.yaml


def timed(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each call, alternating, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if i:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def show(title: str, seconds: dict[str, np.ndarray]) -> None:
    print(f"\n{title}")
    base = np.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        low, median, high = np.percentile(values, [25, 50, 75]) * 1e3
        print(f"  {name:18} {median:9.3f} ms  ({low:.3f} to {high:.3f})  ×{median / base / 1e3:.2f}")


def head_call(link: str, loss_name: str, batch: int) -> Callable[[], None]:
    """Loss forward and backward through the link alone, on scores (batch, 21)."""
    from hf_cxr.models.heads import ConditionalLink, FlatLink

    hierarchy = load_taxonomy("nih")
    positions = [[hierarchy.names.index(p) for p in hierarchy.parents[n]] for n in hierarchy.names]
    link_module = ConditionalLink(positions) if link == "conditional" else FlatLink()
    loss = build_loss(loss_name, hierarchy)
    labels = (torch.rand(batch, len(hierarchy.names)) < 0.2).float()

    def call() -> None:
        scores = torch.randn(batch, len(hierarchy.names), requires_grad=True)
        loss(link_module(scores), labels).total.backward()

    return call


def step_call(link: str, loss_name: str, batch: int, size: int, backbone_kwargs: dict) -> Callable[[], None]:
    """A whole training step in bf16, channels last."""
    hierarchy = load_taxonomy("nih")
    config = CXRDenseNetConfig(
        backbone="densenet121", backbone_kwargs=backbone_kwargs, image_size=size, link=link, **hierarchy.to_config()
    )
    model: nn.Module = CXRDenseNetForImageClassification(config).train().to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    loss = build_loss(loss_name, hierarchy)
    pixels: Tensor = torch.randn(batch, 1, size, size).contiguous(memory_format=torch.channels_last)
    labels = (torch.rand(batch, len(hierarchy.names)) < 0.2).float()

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(pixels).logits
        loss(logits, labels).total.backward()
        optimiser.step()
        optimiser.zero_grad()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=12, help="training steps a variant")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    alone = timed({name: head_call(*variant, batch=32) for name, variant in VARIANTS.items()}, 300)
    show("loss (and link), forward and backward, 32 × 21, 20 edges", alone)
    small = {name: step_call(*variant, 16, 96, NARROW) for name, variant in VARIANTS.items()}
    show("training step of the narrow densenet of nih128_cpu (batch 16, 96²)", timed(small, options.repeats * 3))
    large = {"flat BCE": step_call("flat", "bce", 32, 128, {})}
    seconds = timed(large, max(options.repeats // 3, 3))
    show("training step of densenet121 (batch 32, 128²)", seconds)
    step = np.median(seconds["flat BCE"])
    for name in VARIANTS:
        print(f"  {name:18} is {np.median(alone[name]) / step:.3%} of it")


if __name__ == "__main__":
    main()
