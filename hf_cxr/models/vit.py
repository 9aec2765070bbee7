"""Vision transformer (timm) with a hierarchical head."""

from typing import Any

from timm.layers import Attention
from timm.models.vision_transformer import Block
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
        return patches.transpose(1, 2).unflatten(2, (height, width))

    def first_tokens(self, pixel_values: Tensor) -> Tensor:
        """What the first block reads, (B, N, C): timm's `forward_features` up to its blocks."""
        backbone = self.backbone
        return backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(backbone.patch_embed(pixel_values))))

    def plain_blocks(self) -> list[Any]:
        """The transformer blocks, all of the kind whose parts `explain` runs one by one.

        Raises:
            TypeError: a block is not timm's plain `Block` with `Attention`.
        """
        for block in self.backbone.blocks:
            attention = type(getattr(block, "attn", None))
            if type(block) is not Block or attention is not Attention:
                raise TypeError(
                    f"{self.config.backbone} has a {type(block).__name__} with {attention.__name__}; expected timm's "
                    "Block with Attention, as in vit_* and deit_*"
                )
        return list(self.backbone.blocks)

    @staticmethod
    def attention(block: Any, tokens_BNC: Tensor) -> Tensor:
        """A plain block's attention, the mean of its heads, (B, N, N) float32: timm's fused path never shows it."""
        attn, (films, n, _) = block.attn, tokens_BNC.shape
        qkv = attn.qkv(block.norm1(tokens_BNC)).reshape(films, n, 3, attn.num_heads, attn.head_dim)
        q, k, _ = qkv.permute(2, 0, 3, 1, 4)
        scores = (attn.q_norm(q) * attn.scale) @ attn.k_norm(k).transpose(-2, -1)
        return scores.float().softmax(-1).mean(1)

    def head_input(self, tokens_BNC: Tensor) -> tuple[Tensor, Tensor]:
        """What the head reads, and the pooled features (B, C)."""
        pooled_BC = self.backbone.forward_head(tokens_BNC, pre_logits=True)
        return self.feature_map(tokens_BNC) if self.head.takes_map else pooled_BC, pooled_BC

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any) -> CXROutput:
        """`labels` is accepted for the Trainer's sake and not used: the loss is the trainer's."""
        features, pooled_BC = self.head_input(self.backbone.forward_features(pixel_values))
        return CXROutput(logits=self.head(features), pooler_output=pooled_BC)
