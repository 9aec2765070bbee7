"""Models. Self-contained: imports nothing of the project outside this folder, so it also travels as remote code."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from .calibrate import Calibrate
from .configuration import CXRConfig, CXRDenseNetConfig, CXREnsembleConfig, CXRTwoStageConfig, CXRViTConfig
from .densenet import CXRDenseNetForImageClassification
from .dicom import DicomFilm, DicomRefusedError, read_dicom
from .ensemble import CXREnsembleForImageClassification
from .modeling import CXROutput, CXRPreTrainedModel
from .parts import SINGLE_STAGE, CXRComposedModel
from .processing import CXRImageProcessor, FilmError
from .two_stage import CXRTwoStageForImageClassification
from .vit import CXRViTForImageClassification

_PAIRS: tuple[tuple[type[CXRConfig], type[CXRPreTrainedModel]], ...] = (
    *SINGLE_STAGE.values(),
    (CXRTwoStageConfig, CXRTwoStageForImageClassification),
    (CXREnsembleConfig, CXREnsembleForImageClassification),
)
for _config, _model in _PAIRS:
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModelForImageClassification.register(_config, _model, exist_ok=True)
    AutoImageProcessor.register(
        _config, image_processor_classes={"torchvision": CXRImageProcessor, "pil": CXRImageProcessor}, exist_ok=True
    )

__all__ = [
    "SINGLE_STAGE",
    "CXRComposedModel",
    "CXRConfig",
    "CXRDenseNetConfig",
    "CXRDenseNetForImageClassification",
    "CXREnsembleConfig",
    "CXREnsembleForImageClassification",
    "CXRImageProcessor",
    "CXROutput",
    "CXRPreTrainedModel",
    "CXRTwoStageConfig",
    "CXRTwoStageForImageClassification",
    "CXRViTConfig",
    "CXRViTForImageClassification",
    "Calibrate",
    "DicomFilm",
    "DicomRefusedError",
    "FilmError",
    "read_dicom",
]
