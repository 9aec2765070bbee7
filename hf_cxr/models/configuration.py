"""Configuration of the models: everything that `from_pretrained` needs, no CSV and no YAML."""

from dataclasses import field
from typing import Any

from transformers import PretrainedConfig

HEADS = ("plain", "r1")
LINKS = ("flat", "conditional")


class CXRConfig(PretrainedConfig):
    """Shared by the single-stage models; the subclasses only name the architecture.

    Args:
        backbone: a timm model name. Any convolutional model whose `forward_features` gives a (B, C, H, W) map
            works with `CXRDenseNetForImageClassification`, any plain ViT with `CXRViTForImageClassification`.
        backbone_kwargs: passed to `timm.create_model`, e.g. `{"growth_rate": 16, "block_config": [3, 6, 12, 8]}`.
        image_size: height and width of the square input in pixels.
        head: `"plain"` (dropout, linear) or `"r1"` (conv 3×3 → 512, ReLU, batch norm, global average pool,
            dense 128, ReLU, dropout, linear: arXiv 2502.03591).
        head_dropout: dropout probability in the head.
        link: `"flat"` (independent sigmoids) or `"conditional"` (P(child) ≤ P(parent) by construction).
        parents: `{label: [parent, …]}`; labels without an entry are roots. Kept with the flat link too, for
            losses and evaluation.
        node_kinds: `{label: kind}` of every label (see `hf_cxr.hierarchy.KINDS`).
        gate: `{"node": label, "definition": "any_finding" | "not_no_finding"}` or None.
        label_subsets: `{name: [label, …]}` over which figures are averaged.
        taxonomy: name of the taxonomy.
        image_mean, image_std: statistics of the input in [0, 1] by which it is normalised; None: each film's own.
        operating_points: `{label: threshold}` with `"split"` and `"criterion"` they come from, set after
            training; None before.
        calibration: `hf_cxr.calibration.Calibration` as plain data, applied to the logits (`models.calibrate`); None:
            the probabilities are as trained.
        adapted_from: `{"name": …, "config": …, "weights": …}`, the base of an adapted model and the hashes of
            `hf_cxr.verification.identity`; None: trained from the start.
        backbone_from: the same of the model whose backbone training began with, and of the films that one was trained
            on `"dataset"`, `"fingerprint"` and `"synthetic"`, as far as they are known; None: no model of this project.
        id2label / label2id: as in transformers; `num_labels` follows from them and is never passed.

    Raises:
        ValueError: unknown head or link, or `parents` and `node_kinds` disagree with `id2label`.
    """

    model_type = "cxr"

    backbone: str = "densenet121"
    backbone_kwargs: dict[str, Any] = field(default_factory=dict)
    image_size: int = 224
    head: str = "plain"
    head_dropout: float = 0.0
    link: str = "flat"
    parents: dict[str, list[str]] = field(default_factory=dict)
    node_kinds: dict[str, str] = field(default_factory=dict)
    gate: dict[str, str] | None = None
    label_subsets: dict[str, list[str]] = field(default_factory=dict)
    taxonomy: str = ""
    image_mean: float | None = 0.5
    image_std: float | None = 0.25
    operating_points: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    adapted_from: dict[str, str] | None = None
    backbone_from: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.head not in HEADS or self.link not in LINKS:
            raise ValueError(
                f"got head={self.head!r}, link={self.link!r}; expected head in {HEADS} and link in {LINKS}"
            )
        # transformers' own pipeline picks the sigmoid by this.
        self.problem_type = "multi_label_classification"
        super().__post_init__(**kwargs)
        if self.node_kinds:
            self._check_labels()

    @property
    def label_names(self) -> list[str]:
        """Labels in the order of the outputs.

        Only `id2label` has the order: a config's JSON is written with sorted keys, so that the order of any other
        mapping in it is the alphabet's after loading.
        """
        return [self.id2label[i] for i in range(len(self.id2label))]

    def _check_labels(self) -> None:
        if set(self.node_kinds) != set(self.label_names):
            raise ValueError(
                f"node_kinds and id2label disagree: {sorted(self.node_kinds)} against {sorted(self.label_names)}; "
                "build the config from one hierarchy (Hierarchy.to_config)"
            )
        named = {name for child, parents in self.parents.items() for name in (child, *parents)}
        if unknown := named - set(self.label_names):
            raise ValueError(f"parents names {sorted(unknown)}, which are no labels; labels are {self.label_names}")
        if self.calibration and (missing := set(self.label_names) - set(self.calibration["coefficients"])):
            raise ValueError(f"calibration has no coefficients for {sorted(missing)}; fit it again, or set it to None")
        for name, numbers in (self.calibration or {}).get("coefficients", {}).items():
            if len(numbers) != 3 or min(numbers[:2]) <= 0:  # a falling one would turn the ranking round
                raise ValueError(f"calibration of '{name}': got {numbers}, expected (a, b, c) with a and b above 0")


class CXRDenseNetConfig(CXRConfig):
    """`CXRConfig` of a convolutional model (DenseNet by default)."""

    model_type = "cxr-densenet"


class CXRViTConfig(CXRConfig):
    """`CXRConfig` of a vision transformer."""

    model_type = "cxr-vit"

    backbone: str = "vit_base_patch16_224"


class CXRTwoStageConfig(CXRConfig):
    """Config of a gate model and a finding model, run one after the other.

    Args:
        gate_model, finding_model: configs of the two models as plain data (`config.to_dict()`). Their image sizes may
            differ: films come at the larger one, and the other model reduces them for itself.
        gate_threshold: a film whose gate probability is below it is cleared and skips the finding model.
        skipped_conditional: `{label: P(label | abnormal)}` from the training labels, used for cleared films
            (see `CXRTwoStageForImageClassification`).
    """

    model_type = "cxr-two-stage"

    gate_model: dict[str, Any] = field(default_factory=dict)
    finding_model: dict[str, Any] = field(default_factory=dict)
    gate_threshold: float = 0.5
    skipped_conditional: dict[str, float] = field(default_factory=dict)


class CXREnsembleConfig(CXRConfig):
    """Config of several single-stage models whose probabilities are averaged.

    Args:
        member_models: their configs as plain data (`config.to_dict()`), with the same labels, hierarchy and input.
    """

    model_type = "cxr-ensemble"

    member_models: list[dict[str, Any]] = field(default_factory=list)
