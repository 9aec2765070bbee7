"""Vision transformer (timm) with a hierarchical head."""

from typing import Any

from torch import Tensor

from .configuration import CXRViTConfig
from .heads import CXRHead
from .modeling import CXROutput, CXRPreTrainedModel, create_backbone


class CXRViTForImageClassification(CXRPreTrainedModel):
    """Transformer classifier.

    `pixel_values` (B, 1, S, S): gray film in [0, 1], normalised by the config's mean and std, S = `image_size`.
    """

    config_class = CXRViTConfig
    _no_split_modules = ["Block"]

    def __init__(self, config: CXRViTConfig) -> None:
        super().__init__(config)
        self.backbone = create_backbone(config, img_size=config.image_size)
        self.head = CXRHead(config, self.backbone.num_features)
        self.post_init()

    def feature_map(self, tokens_BNC: Tensor) -> Tensor:
        """Patch tokens laid out on their grid, (B, C, H, W); class and register tokens left out."""
        height, width = self.backbone.patch_embed.grid_size
        patches = tokens_BNC[:, self.backbone.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(len(patches), -1, height, width)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any) -> CXROutput:
        """`labels` is accepted for the Trainer's sake and not used: the loss is the trainer's."""
        tokens_BNC = self.backbone.forward_features(pixel_values)
        pooled_BC = self.backbone.forward_head(tokens_BNC, pre_logits=True)
        features = self.feature_map(tokens_BNC) if self.head.takes_map else pooled_BC
        return CXROutput(logits=self.head(features), pooler_output=pooled_BC)
