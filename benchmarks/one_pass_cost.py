"""What uncertainty and heatmaps cost beside one plain forward pass of densenet121 at 320².

    pip install -e ".[bench]"
    python benchmarks/one_pass_cost.py --batch 1 --threads 2

Each round runs every variant once, in turn; a variant's ratio is to the plain pass of its own round, so that a machine
that slows down slows both. Printed are medians with quartiles over the rounds. The naive ways are measured on a few
passes or labels and scaled: naive Monte Carlo dropout is T whole forward passes, and the grad-cam package makes a
forward and a backward pass of the whole model for each label. Targets: T = 30 at most 1.15 plain passes, heatmaps of
all 21 labels at most 1.3.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from hf_cxr import CXRDenseNetConfig, CXRDenseNetForImageClassification, CXRViTConfig, load_taxonomy
from hf_cxr.explain import attention_rollout, grad_cam, look
from hf_cxr.models import CXRPreTrainedModel, CXRViTForImageClassification
from hf_cxr.uncertainty import mc_dropout

PLAIN = "plain forward"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Variant = tuple[Callable[[], object], float]
"""A call, and the factor by which its time is scaled."""


class Logits(nn.Module):
    """The grad-cam package wants a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixels).logits


def build(head: str, link: str, backbone: str, size: int) -> CXRPreTrainedModel:
    config_class, model_class = (
        (CXRViTConfig, CXRViTForImageClassification)
        if backbone.startswith("vit")
        else (CXRDenseNetConfig, CXRDenseNetForImageClassification)
    )
    hierarchy = load_taxonomy("nih")
    config = config_class(
        backbone=backbone, image_size=size, head=head, link=link, head_dropout=0.2, **hierarchy.to_config()
    )
    return model_class(config).eval()


def package_call(model: CXRPreTrainedModel, pixels: Tensor) -> Callable[[], object]:
    """One label by the grad-cam package."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    backbone = model.backbone
    layers, reshape = [getattr(backbone, "features", None)], None
    if hasattr(backbone, "blocks"):
        layers = [backbone.blocks[-1].norm1]

        def reshape(tokens: Tensor) -> Tensor:
            return model.feature_map(tokens)

    def call() -> None:
        # Its hooks would slow the other variants if they stayed.
        with GradCAM(Logits(model), layers, reshape_transform=reshape) as cam:
            cam(pixels, [ClassifierOutputTarget(3)] * len(pixels))
        model.zero_grad(set_to_none=True)

    return call


def variants(model: CXRPreTrainedModel, pixels: Tensor, n_passes: int, naive_passes: int) -> dict[str, Variant]:
    n_labels = len(model.config.id2label)

    def plain() -> None:
        with torch.no_grad():
            model(pixels)

    def naive() -> None:
        model.head.trunk.dropout.train()
        for _ in range(naive_passes):
            plain()
        model.eval()

    calls: dict[str, Variant] = {
        PLAIN: (plain, 1),
        f"MC dropout, T = {n_passes}": (lambda: mc_dropout(model, pixels, n_passes), 1),
        f"  naive ({naive_passes} passes, scaled)": (naive, n_passes / naive_passes),
        f"heatmaps, {n_labels} labels": (lambda: grad_cam(model, pixels), 1),
        "  grad-cam package (1 label, scaled)": (package_call(model, pixels), n_labels),
        "logits, MC dropout and heatmaps": (lambda: look(model, pixels, n_passes=n_passes), 1),
    }
    if hasattr(model.backbone, "blocks"):
        calls["attention rollout"] = (lambda: attention_rollout(model, pixels), 1)
    return calls


def timed(calls: dict[str, Variant], rounds: int, clock: Callable[[], float]) -> dict[str, np.ndarray]:
    """Seconds of each call, scaled, alternating, after one unmeasured round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 1):
        for name, (call, scale) in calls.items():
            start = clock()
            call()
            if i:
                seconds[name].append(scale * (clock() - start))
    return {name: np.array(values) for name, values in seconds.items()}


def show(title: str, seconds: dict[str, np.ndarray]) -> None:
    print(f"\n{title}")
    for name, values in seconds.items():
        low, middle, high = np.percentile(values / seconds[PLAIN], [25, 50, 75])
        print(f"  {name:38} {np.median(values) * 1e3:11.1f} ms   ×{middle:8.3f}  ({low:.3f} to {high:.3f})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: what other programs take is not counted")
    parser.add_argument("--passes", type=int, default=30, help="T")
    parser.add_argument("--naive_passes", type=int, default=1, help="of them measured the naive way, and scaled")
    parser.add_argument("--heads", nargs="+", default=["plain", "r1"])
    parser.add_argument("--link", default="conditional")
    parser.add_argument("--backbone", default="densenet121", help="or vit_base_patch16_224 with --size 224")
    parser.add_argument("--size", type=int, default=320)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for head in options.heads:
        model = build(head, options.link, options.backbone, options.size)
        for batch in options.batch:
            pixels = torch.randn(batch, 1, options.size, options.size)
            calls = variants(model, pixels, options.passes, options.naive_passes)
            seconds = timed(calls, options.rounds, CLOCKS[options.clock])
            show(
                f"{options.backbone}, {head} head, {options.link} link, batch {batch}, {options.size}², "
                f"{options.threads} threads, {options.rounds} rounds, {options.clock} time",
                seconds,
            )


if __name__ == "__main__":
    main()
