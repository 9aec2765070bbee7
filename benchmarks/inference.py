"""What a trained model is asked for: doubt, heatmaps, intervals, two stages, bfloat16; each beside the usual way.

Models have random weights: what they compute costs the same as of trained ones.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.machine import matmul_rate
from benchmarks.timing import Comparison, Round
from hf_cxr import load_taxonomy
from hf_cxr.bootstrap import Resamples
from hf_cxr.compute import flops
from hf_cxr.explain import grad_cam, look
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.intervals import bootstrap_table
from hf_cxr.models import SINGLE_STAGE, CXRImageProcessor, CXRPreTrainedModel, CXRTwoStageForImageClassification
from hf_cxr.precision import set_precision
from hf_cxr.uncertainty import mc_dropout as our_mc_dropout

NIH = load_taxonomy("nih")
BACKBONE, SIZE = "densenet121", 320
GATE, GATE_SIZE = "vit_tiny_patch16_224", 224
PASSES = 30


def model_of(backbone: str, size: int, hierarchy: Hierarchy = NIH) -> CXRPreTrainedModel:
    """In evaluation mode, with dropout in its head."""
    kind = "vit" if "vit" in backbone else "densenet"
    config_class, model_class = SINGLE_STAGE[f"cxr-{kind}"]
    torch.manual_seed(0)
    settings = {"link": "conditional", "head_dropout": 0.2, **hierarchy.to_config()}
    return model_class(config_class(backbone=backbone, image_size=size, **settings)).eval()


def plain_passes(model: CXRPreTrainedModel, pixels: Tensor, n_passes: int) -> Round:
    """Whole forward passes with dropout on, their mean and spread; films."""

    def run() -> float:
        model.head.trunk.dropout.train()
        with torch.no_grad():
            drawn = torch.stack([model(pixels).logits.sigmoid() for _ in range(n_passes)])
            drawn.mean(0), drawn.std(0)
        model.eval()
        return len(pixels)

    return run


def mc_dropout(size: int = SIZE, n_passes: int = PASSES) -> Comparison:
    """Monte Carlo dropout with T = 30, against thirty forward passes."""

    def sides() -> dict[str, Round]:
        model, pixels = model_of(BACKBONE, size), torch.randn(1, 1, size, size)

        def ours() -> float:
            our_mc_dropout(model, pixels, n_passes)
            return len(pixels)

        return {"mc_dropout": ours, "forward passes": plain_passes(model, pixels, n_passes)}

    return Comparison(
        title=f"Monte Carlo dropout, T = {n_passes}, {BACKBONE} at {size}²",
        unit="films",
        ours="mc_dropout",
        peer="forward passes",
        target=20,
        sides=sides,
        note="one film at a time, float32",
    )


class _Logits(nn.Module):
    """The grad-cam package wants a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.model(pixels).logits
        return logits


def package_maps(model: CXRPreTrainedModel, pixels: Tensor) -> Round:
    """The grad-cam package, a label at a time; films."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def run() -> float:
        # Its hooks would slow the other side if they stayed.
        with GradCAM(_Logits(model), [model.backbone.features]) as cam:
            for label in range(len(NIH.names)):
                cam(pixels, [ClassifierOutputTarget(label)] * len(pixels))
        model.zero_grad(set_to_none=True)
        return len(pixels)

    return run


def heatmaps(size: int = SIZE) -> Comparison:
    """Grad-CAM of all 21 labels, against the grad-cam package called for each label."""

    def sides() -> dict[str, Round]:
        model, pixels = model_of(BACKBONE, size), torch.randn(1, 1, size, size)

        def ours() -> float:
            grad_cam(model, pixels)
            return len(pixels)

        return {"grad_cam": ours, "grad-cam package": package_maps(model, pixels)}

    return Comparison(
        title=f"heatmaps of {len(NIH.names)} labels, {BACKBONE} at {size}²",
        unit="films",
        ours="grad_cam",
        peer="grad-cam package",
        target=40,
        sides=sides,
        rounds=5,
        note="one film at a time, float32",
    )


def look_at_once(size: int = SIZE) -> Comparison:
    """Logits, Monte Carlo dropout and all heatmaps from one pass, against a plain forward pass."""

    def sides() -> dict[str, Round]:
        model, pixels = model_of(BACKBONE, size), torch.randn(1, 1, size, size)

        def ours() -> float:
            look(model, pixels, n_passes=PASSES)
            return len(pixels)

        def plain() -> float:
            with torch.no_grad():
                model(pixels)
            return len(pixels)

        return {"look": ours, "forward pass": plain}

    return Comparison(
        title=f"logits, doubt (T = {PASSES}) and {len(NIH.names)} heatmaps, {BACKBONE} at {size}²",
        unit="films",
        ours="look",
        peer="forward pass",
        target=0.77,  # 1.3 forward passes
        sides=sides,
        rounds=15,
        note="one film at a time, float32",
    )


# Roughly NIH's test split: films of each finding a hundred films.
PREVALENCE = np.array([23.9, 18.2, 12.8, 10.4, 6.8, 6.3, 4.5, 7.1, 4.5, 4.2, 4.3, 1.7, 3.6, 0.3]) / 100
FILMS_A_PATIENT = 9.15
FINDINGS = [f"finding {i}" for i in range(len(PREVALENCE))]


def scored_films(n_films: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patients (N,), truth and scores (N, 14): skewed numbers of films, patients who differ, ties by rounding."""
    random = np.random.default_rng(0)
    n_patients = round(n_films / FILMS_A_PATIENT)
    size = random.lognormal(0, 1.2, n_patients)
    more = random.choice(n_patients, n_films - n_patients, p=size / size.sum())
    patients = np.concatenate([np.arange(n_patients), more])
    leaning = random.normal(size=(n_patients, len(FINDINGS)))[patients]
    liability = 0.7 * leaning + 0.7 * random.normal(size=leaning.shape)
    truth = (liability > np.quantile(liability, 1 - PREVALENCE, axis=0).diagonal()).astype(float)
    score = 1 / (1 + np.exp(3 - truth - random.normal(size=truth.shape) - 0.3 * leaning))
    return patients, truth, score.round(4)


def bootstrap(n_films: int = 25_596, n_resamples: int = 1000, of_the_loop: int = 4) -> Comparison:
    """1,000 patient-clustered resamples of 14 AUROCs over 25,596 films, against scikit-learn in a loop."""

    def sides() -> dict[str, Round]:
        from sklearn.metrics import roc_auc_score

        patients, truth, score = scored_films(n_films)
        random, n_patients = np.random.default_rng(0), patients.max() + 1

        def ours() -> float:
            resamples = Resamples.of(patients, n_resamples)
            figures = bootstrap_table(FINDINGS, truth, score, resamples, figures=("auroc",))
            for key in figures.point:
                figures.interval(key)
            return n_resamples

        def loop() -> float:
            for _ in range(of_the_loop):
                drawn = np.bincount(random.integers(n_patients, size=n_patients), minlength=n_patients)[patients]
                for i in range(len(FINDINGS)):
                    roc_auc_score(truth[:, i], score[:, i], sample_weight=drawn)
            return of_the_loop

        return {"bootstrap_table": ours, "scikit-learn": loop}

    return Comparison(
        title=f"resamples of patients, AUROC, {n_films:,} films × {len(FINDINGS)}",
        unit="resamples",
        ours="bootstrap_table",
        peer="scikit-learn",
        target=25,
        sides=sides,
        note=f"ours draws {n_resamples:,}, with sorting and intervals; the loop's rate is that of {of_the_loop}",
    )


def two_stages(gate_size: int, size: int, pixels: Tensor, cleared: float) -> Any:
    """A gate and a model of the other labels, joined; the gate clears this share of the films."""
    below = [name for name in NIH.names if name != NIH.gate]
    first = model_of(GATE, gate_size, NIH.subset([str(NIH.gate)]))
    second = model_of(BACKBONE, size, NIH.subset(below))
    model = CXRTwoStageForImageClassification.from_models(
        first,
        second,
        gate_threshold=0.5,
        skipped_conditional=dict.fromkeys(below, 0.1),
        hierarchy_config=NIH.to_config(),
    ).eval()
    with torch.no_grad():
        scores = model.gate(pixels).logits[:, 0].double().sigmoid().sort().values
    n_cleared = round(cleared * len(pixels))
    model.config.gate_threshold = scores[n_cleared - 1 : n_cleared + 1].mean().item()
    set_precision(model, CXRImageProcessor.for_model(model.config), "float32")  # as recipes/predict.py does
    return model


def two_stage(gate_size: int = GATE_SIZE, size: int = SIZE, films: int = 20, cleared: float = 0.6) -> Comparison:
    """A gate that clears 60 % of the films before the findings' model, against both models on all films."""

    def sides() -> dict[str, Round]:
        pixels = torch.randn(films, 1, size, size)
        model = two_stages(gate_size, size, pixels, cleared)

        def run(run_all: bool) -> Any:
            with torch.no_grad():
                return model(pixels, run_all=run_all)

        gated, everything = run(False), run(True)
        ran = gated.finding_model_ran
        if int(ran.sum()) != films - round(cleared * films):
            raise RuntimeError(f"the gate passed {int(ran.sum())} of {films} films")
        torch.testing.assert_close(gated.logits[ran].sigmoid(), everything.logits[ran].sigmoid(), atol=1e-6, rtol=1e-4)
        return {
            "gate first": lambda: len(run(False).logits),
            "both on all": lambda: len(run(True).logits),
        }

    return Comparison(
        title=f"two stages, {cleared:.0%} cleared: {GATE} at {gate_size}², {BACKBONE} at {size}²",
        unit="films",
        ours="gate first",
        peer="both on all",
        target=1.7,
        sides=sides,
        note=f"{films} films a batch, float32; probabilities of flagged films are the same (checked before timing)",
    )


def inference_bf16(size: int = SIZE, films: int = 8) -> Comparison:
    """Inference in bfloat16, against float32 as transformers loads it."""

    def sides() -> dict[str, Round]:
        pixels = torch.randn(films, 1, size, size)
        plain, rounded = model_of(BACKBONE, size), model_of(BACKBONE, size)
        set_precision(rounded, CXRImageProcessor.for_model(rounded.config), "bfloat16")

        def run(model: CXRPreTrainedModel) -> float:
            with torch.no_grad():
                return len(model(pixels).logits)

        return {"bfloat16": partial(run, rounded), "float32": partial(run, plain)}

    work = flops(model_of(BACKBONE, size))
    return Comparison(
        title=f"inference of {BACKBONE} at {size}² in bfloat16",
        unit="films",
        ours="bfloat16",
        peer="float32",
        target=None,
        sides=sides,
        bound=lambda rate: ("the bf16 matrix rate", rate * work / matmul_rate(torch.bfloat16)),
        note=f"{films} films a batch; what it changes in AUROC: recipes/compare_precision.py",
    )
