"""Several models of one recipe, asked together: the mean of their probabilities."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .calibrate import Calibrate, keep_order
from .configuration import CXREnsembleConfig
from .modeling import CXROutput, CXRPreTrainedModel
from .parts import CXRComposedModel, build, plain

_SHARED = ("id2label", "label2id", "parents", "node_kinds", "gate", "label_subsets", "taxonomy")
_INPUT = ("image_size", "image_mean", "image_std")


class CXREnsembleForImageClassification(CXRComposedModel):
    """Members that were trained apart, from other seeds (Lakshminarayanan et al. 2017, NeurIPS: deep ensembles).

        P(label) = mean over the members of P_m(label)

    of probabilities as each member gives them, calibration included; then the ensemble's own calibration. Where every
    member has a child at or below its parent, so has the mean. All members read each film: it costs as many passes.
    """

    config_class = CXREnsembleConfig
    config: CXREnsembleConfig

    def __init__(self, config: CXREnsembleConfig) -> None:
        super().__init__(config)
        self.members = nn.ModuleList(build(member) for member in config.member_models)
        self.calibrate = Calibrate(config)
        self.post_init()

    @classmethod
    def from_models(cls, models: Sequence[CXRPreTrainedModel]) -> "CXREnsembleForImageClassification":
        """Join trained single-stage models, whose weights are copied; without calibration and thresholds of its own.

        Raises:
            ValueError: fewer than two, or their labels, hierarchies or inputs differ.
        """
        if len(models) < 2:
            raise ValueError(f"{len(models)} member; an ensemble has two or more")
        first, *others = (model.config for model in models)
        for config in others:
            for key in (*_SHARED, *_INPUT):
                if getattr(config, key) != getattr(first, key):
                    raise ValueError(f"{key}: one member has {getattr(first, key)}, another {getattr(config, key)}")
        config = CXREnsembleConfig(
            member_models=[plain(model.config) for model in models],
            backbone=" + ".join(model.config.backbone for model in models),
            link="conditional" if all(model.config.link == "conditional" for model in models) else "flat",
            backbone_from=first.backbone_from,
            **{key: getattr(first, key) for key in (*_SHARED, *_INPUT)},
        )
        ensemble = cls(config)
        for own, given in zip(ensemble.members, models, strict=True):
            own.load_state_dict(given.state_dict())
        return ensemble.eval()

    def parts(self) -> dict[str, Any]:
        """The members, numbered."""
        return {f"member_{number}": member for number, member in enumerate(self.members)}

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any) -> CXROutput:
        """Logits of the mean, and the members' pooled features side by side, (B, ΣC).

        Args:
            pixel_values: (B, 1, S, S), normalised. labels: not used.
        """
        outputs = [member(pixel_values) for member in self.members]
        return CXROutput(
            logits=self.compose(torch.stack([output.logits for output in outputs])),
            pooler_output=torch.cat([output.pooler_output for output in outputs], dim=1),
        )

    def compose(self, logits_MBL: Tensor) -> Tensor:
        """Logits (B, L) of the members' mean probability, calibrated; from the logits of each member, float32.

        Both sides are averaged in log space, log P̄ and log(1 − P̄), so that nothing cancels near 0 or 1.
        """
        with torch.autocast(logits_MBL.device.type, enabled=False):
            logits_MBL = logits_MBL.float()
            less = math.log(len(logits_MBL))
            log_p, log_q = (F.logsigmoid(sign * logits_MBL).logsumexp(0) - less for sign in (1, -1))
            # Rounding alone could raise a child above its parent.
            mean_BL = keep_order(list(logits_MBL), log_p - log_q, self.config.label_names, self.config.parents)
            return self.calibrate(mean_BL)
