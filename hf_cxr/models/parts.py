"""Single-stage models as parts of another: which there are, and how one is built from its config as plain data."""

from typing import Any

from .configuration import CXRConfig, CXRDenseNetConfig, CXRViTConfig
from .densenet import CXRDenseNetForImageClassification
from .modeling import CXRPreTrainedModel
from .vit import CXRViTForImageClassification

SINGLE_STAGE: dict[str, tuple[type[CXRConfig], type[CXRPreTrainedModel]]] = {
    CXRDenseNetConfig.model_type: (CXRDenseNetConfig, CXRDenseNetForImageClassification),
    CXRViTConfig.model_type: (CXRViTConfig, CXRViTForImageClassification),
}


class CXRComposedModel(CXRPreTrainedModel):
    """A model made of single-stage models, which have initialised themselves."""

    def parts(self) -> dict[str, Any]:
        """The single-stage models by name, in the order in which a film meets them."""
        raise NotImplementedError  # each composed model has its own

    def _init_weights(self, module: Any) -> None:
        """Nothing: the parts have done it."""

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """In every part."""
        for part in self.parts().values():
            part.gradient_checkpointing_enable()

    def gradient_checkpointing_disable(self) -> None:
        """In every part."""
        for part in self.parts().values():
            part.gradient_checkpointing_disable()


def plain(config: CXRConfig) -> dict[str, Any]:
    """A part's config as plain data, without the folder it was loaded from."""
    return {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}


def build(config: dict[str, Any]) -> CXRPreTrainedModel:
    """A part from its config as plain data, with fresh weights.

    Raises:
        ValueError: it is not of a single-stage model.
    """
    kind = config.get("model_type", "")
    if kind not in SINGLE_STAGE:
        raise ValueError(f"model_type {kind!r} of a part: expected one of {', '.join(SINGLE_STAGE)}")
    config_class, model_class = SINGLE_STAGE[kind]
    return model_class(config_class.from_dict(config))
