"""Gate first, findings second: the second model sees only the films that the gate does not clear."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .calibrate import Calibrate
from .configuration import CXRTwoStageConfig
from .heads import chain
from .modeling import CXROutput, CXRPreTrainedModel
from .parts import CXRComposedModel, build, plain
from .processing import normalise


class CXRTwoStageForImageClassification(CXRComposedModel):
    """Two single-stage models: a gate, and a finding model trained on abnormal films (P(label | abnormal)).

    The outputs are composed by the chain rule, P(label) = P(abnormal) · P(label | abnormal), so every label lies
    below the gate. For a cleared film the finding model is not run; P(label | abnormal) is then its prevalence
    among abnormal training films (`config.skipped_conditional`): what is known of a film that nobody looked at
    twice. `CXROutput.finding_model_ran` tells the two apart. (R2 writes zeros there, which destroys every
    ranking figure.)

    The stages may read films of different sizes (their own configs' `image_size`): the larger is the model's, and the
    other stage makes it smaller by antialiased bilinear interpolation, as the image processor does. A gate that reads
    less is the cheaper.
    """

    config_class = CXRTwoStageConfig
    config: CXRTwoStageConfig
    _keep_in_fp32_modules_strict = ["skipped_scores"]  # prevalences, which 16 bits would round

    def __init__(self, config: CXRTwoStageConfig) -> None:
        super().__init__(config)
        self.gate = build(config.gate_model)
        self.findings = build(config.finding_model)
        for stage in (self.gate, self.findings):
            if stage.config.image_size != config.image_size:
                _reads_larger(stage)
        gate_name, finding_names = self.gate.config.label_names[0], self.findings.config.label_names
        self.order = [(gate_name, *finding_names).index(name) for name in config.label_names]
        skipped = torch.tensor([config.skipped_conditional[name] for name in finding_names])
        self.register_buffer("skipped_scores", torch.logit(skipped, eps=1e-4))
        self.calibrate = Calibrate(config)
        self.post_init()

    @classmethod
    def from_models(
        cls,
        gate: CXRPreTrainedModel,
        findings: CXRPreTrainedModel,
        *,
        gate_threshold: float,
        skipped_conditional: dict[str, float],
        hierarchy_config: dict[str, Any],
    ) -> "CXRTwoStageForImageClassification":
        """Join two trained models, whose weights are copied.

        Args:
            gate: a model whose only label is the gate.
            findings: a model of all other labels.
            gate_threshold: gate probability from which the finding model runs.
            skipped_conditional: `{label: P(label | abnormal)}` in (0, 1) for each label of `findings`.
            hierarchy_config: `Hierarchy.to_config()` of all labels together.

        Raises:
            ValueError: the two label sets do not make up the hierarchy, or they normalise films differently.
        """
        mine, theirs = gate.config, findings.config
        together = [*mine.label_names, *theirs.label_names]
        if len(mine.label_names) != 1 or sorted(together) != sorted(hierarchy_config["node_kinds"]):
            raise ValueError(
                f"gate has labels {mine.label_names}, findings {theirs.label_names}; together they must be "
                f"{list(hierarchy_config['node_kinds'])}, the gate alone in the first"
            )
        if outside := [n for n, kind in hierarchy_config["node_kinds"].items() if kind in ("no_finding", "uncertain")]:
            raise ValueError(f"{outside} do not lie below the gate and cannot be composed; use a taxonomy without them")
        for key in ("image_mean", "image_std"):
            if getattr(mine, key) != getattr(theirs, key):
                raise ValueError(f"{key}: gate has {getattr(mine, key)}, findings {getattr(theirs, key)}; must agree")
        config = CXRTwoStageConfig(
            gate_model=plain(mine),
            finding_model=plain(theirs),
            gate_threshold=gate_threshold,
            skipped_conditional=skipped_conditional,
            backbone=f"{mine.backbone} + {theirs.backbone}",
            image_size=max(mine.image_size, theirs.image_size),
            image_mean=mine.image_mean,
            image_std=mine.image_std,
            link="conditional",
            backbone_from=theirs.backbone_from,
            **hierarchy_config,
        )
        model = cls(config)
        model.gate.load_state_dict(gate.state_dict())
        model.findings.load_state_dict(findings.state_dict())
        return model

    def parts(self) -> dict[str, Any]:
        """Gate and findings."""
        return {"gate": self.gate, "findings": self.findings}

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, run_all: bool = False, **_: Any) -> CXROutput:
        """Logits of composed probabilities.

        Args:
            pixel_values: (B, 1, S, S), normalised; S is the larger of the stages' sizes.
            labels: not used.
            run_all: run the finding model on every film, for evaluation without the hard gate.
        """
        gate_B1 = self.gate(pixel_values).logits
        passed_B = self.passed(gate_B1) | run_all
        found_KL = self.findings(pixel_values[passed_B]).logits if passed_B.any() else None
        return CXROutput(logits=self.compose(gate_B1, passed_B, found_KL), finding_model_ran=passed_B)

    def passed(self, gate_B1: Tensor) -> Tensor:
        """Which films go on to the finding model, (B,) bool, by the gate's logits."""
        return gate_B1[:, 0].double().sigmoid() >= self.config.gate_threshold

    def compose(self, gate_B1: Tensor, passed_B: Tensor, found_KL: Tensor | None) -> Tensor:
        """Logits (B, L) of composed and then calibrated probabilities, in the config's order of labels.

        Args:
            gate_B1: the gate's logits.
            passed_B: bool, which films the finding model looked at; K of them.
            found_KL: its logits of P(label | abnormal) for those, in its own order of labels; None if K = 0.
        """
        scores_BL = self.skipped_scores.float().expand(len(gate_B1), -1).clone()
        if found_KL is not None:
            scores_BL[passed_B] = found_KL
        log_p, log_q = chain(F.logsigmoid(gate_B1), F.logsigmoid(-gate_B1), scores_BL)
        return self.calibrate(torch.cat([gate_B1, log_p - log_q], dim=1)[:, self.order])


def _reads_larger(stage: Any) -> None:
    """Let a stage's backbone take larger films.

    A hook before the first layer: whatever runs a part of a backbone (dropout, heatmaps, exports) then reads the same
    film as `forward`, and no weight gets another name.
    """
    config, backbone = stage.config, stage.backbone
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    first = backbone.patch_embed if hasattr(backbone, "patch_embed") else next(convolutions)
    first.register_forward_pre_hook(partial(_resize, config.image_size, config.image_mean is None))


def _resize(size: int, own_statistics: bool, _: nn.Module, films: tuple[Tensor]) -> Tensor:
    (pixels,) = films
    if pixels.shape[-1] == size:
        return pixels
    smaller = F.interpolate(pixels.float(), (size, size), mode="bilinear", antialias=True)
    # The mean of the smaller film is the larger's, but its deviation is less.
    return (normalise(smaller, None, None) if own_statistics else smaller).to(pixels.dtype)
