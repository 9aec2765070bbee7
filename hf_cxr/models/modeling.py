"""What the single-stage models share: output type, initialisation, loading checks, bias initialisation."""

from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .calibrate import moved_points
from .configuration import CXRConfig
from .heads import ConditionalLink, CXRHead, conditional_scores


@dataclass
class CXROutput(ModelOutput):
    """Output of every model of the project.

    Attributes:
        logits: (B, L) float32, logits of *unconditional* probabilities: `logits.sigmoid()` is P(label).
        pooler_output: (B, C) pooled backbone features, None from a two-stage model.
        finding_model_ran: (B,) bool, two-stage models only: which films passed the gate and were looked at.
    """

    logits: Tensor | None = None
    pooler_output: Tensor | None = None
    finding_model_ran: Tensor | None = None


class CXRPreTrainedModel(PreTrainedModel):
    """Base class. A timm backbone under `self.backbone`, a `CXRHead` under `self.head`.

    The models compute no loss: it is injected into the trainer, which knows the labels' masks and divisors.
    """

    config_class = CXRConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    # With the default True the Trainer would scale masked losses by the accumulation steps.
    accepts_loss_kwargs = False

    backbone: Any  # a timm model: its attributes are not declared
    head: CXRHead

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the head only: timm has initialised (or loaded) the backbone at construction."""
        if module not in set(self.head.modules()):
            return
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers, but a checkpoint that lacks a weight is an error, not a warning.

        Raises:
            ValueError: names the missing and mismatched keys; loading would leave them random.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        lacking = sorted(info["missing_keys"]) + sorted(str(k) for k in info["mismatched_keys"])
        if lacking:
            raise ValueError(
                f"{args[0] if args else 'checkpoint'}: {len(lacking)} weights of {cls.__name__} are missing or of "
                f"another shape, first {lacking[:5]}; the checkpoint belongs to another config"
            )
        return (model, info) if output_loading_info else model

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Trade compute for memory in the backbone, through timm's own switch."""
        self.backbone.set_grad_checkpointing(True)
        self.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Undo `gradient_checkpointing_enable`."""
        self.backbone.set_grad_checkpointing(False)
        self.gradient_checkpointing = False

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether gradient checkpointing is on."""
        return getattr(self, "gradient_checkpointing", False)

    @torch.no_grad()
    def set_prior(self, prevalence: dict[str, float]) -> None:
        """Set the last bias so that the untrained model predicts the training prevalence of every label.

        Without it the first epochs go into learning that findings are rare, and under the conditional link a
        node at depth d starts at 0.5^(d+1).

        Args:
            prevalence: `{label: P(label)}` for every label; clipped to [1e-4, 1 − 1e-4].
        """
        clipped = {name: min(max(prevalence[name], 1e-4), 1 - 1e-4) for name in self.config.label_names}
        parents = self.config.parents if isinstance(self.head.link, ConditionalLink) else {}
        scores = conditional_scores(clipped, parents)
        bias = self.head.trunk.classifier.bias
        bias.copy_(torch.tensor([scores[name] for name in self.config.label_names], dtype=bias.dtype))

    def set_calibration(self, calibration: dict[str, Any] | None) -> None:
        """Calibrate otherwise from now on; stored thresholds move along, so that the same films are decided as before.

        Args:
            calibration: `hf_cxr.calibration.Calibration.to_config()`; None: probabilities as trained.

        Raises:
            ValueError: it lacks a label of the model.
        """
        config = self.config
        if calibration and (missing := set(config.label_names) - set(calibration["coefficients"])):
            raise ValueError(f"the calibration has no coefficients for {sorted(missing)}")
        if config.operating_points:
            gate = config.gate["node"] if config.gate else None
            config.operating_points = moved_points(config.operating_points, config.calibration, calibration, gate)
        config.calibration = calibration

    def load_backbone(self, weights: str) -> None:
        """Put pretrained weights into the backbone, in place.

        Done after construction, since `post_init` must not touch them and a checkpoint's own weights must not
        be overwritten. RGB stem weights are summed over the colours for the one gray channel, as timm does.

        Args:
            weights: `"hub"` for timm's weights of this backbone, or the path of a local weights file.

        Raises:
            RuntimeError: the file's weights do not fit the backbone (from timm, lists the keys).
        """
        overlay = {} if weights == "hub" else {"pretrained_cfg_overlay": {"file": weights}}
        donor = create_backbone(self.config, pretrained=True, **overlay)
        self.backbone.load_state_dict(donor.state_dict(), strict=True)


def create_backbone(config: CXRConfig, **kwargs: Any) -> Any:
    """The timm backbone of a config: one input channel, no classifier."""
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in config.backbone_kwargs.items()}
    return timm.create_model(config.backbone, **{"pretrained": False, **kwargs}, in_chans=1, num_classes=0, **arguments)
