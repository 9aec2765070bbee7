"""DenseNet (or any convolutional timm backbone) with a hierarchical head."""

from typing import Any

from torch import Tensor

from .configuration import CXRDenseNetConfig
from .heads import CXRHead
from .modeling import CXROutput, CXRPreTrainedModel, create_backbone


class CXRDenseNetForImageClassification(CXRPreTrainedModel):
    """Convolutional classifier.

    `pixel_values` (B, 1, S, S): gray film in [0, 1], normalised by the config's mean and std, any S ≥ 32.
    """

    config_class = CXRDenseNetConfig

    def __init__(self, config: CXRDenseNetConfig) -> None:
        super().__init__(config)
        self.backbone = create_backbone(config)
        self.head = CXRHead(config, self.backbone.num_features)
        self.post_init()

    def feature_map(self, pixel_values: Tensor) -> Tensor:
        """Last feature map (B, C, H, W)."""
        return self.backbone.forward_features(pixel_values)

    def head_input(self, map_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """What the head reads, and the pooled features (B, C)."""
        pooled_BC = self.backbone.forward_head(map_BCHW, pre_logits=True)
        return map_BCHW if self.head.takes_map else pooled_BC, pooled_BC

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any) -> CXROutput:
        """`labels` is accepted for the Trainer's sake and not used: the loss is the trainer's."""
        features, pooled_BC = self.head_input(self.feature_map(pixel_values))
        return CXROutput(logits=self.head(features), pooler_output=pooled_BC)
