"""hf_cxr: hierarchical multi-label chest X-ray classification on the Hugging Face stack.

Importing it registers the models with transformers' Auto classes, and the task "chest-xray-classification" with its
pipelines.
"""

from hf_cxr.hierarchy import Hierarchy, load_taxonomy, taxonomy_names
from hf_cxr.models import (
    CXRDenseNetConfig,
    CXRDenseNetForImageClassification,
    CXREnsembleConfig,
    CXREnsembleForImageClassification,
    CXRImageProcessor,
    CXRTwoStageConfig,
    CXRTwoStageForImageClassification,
    CXRViTConfig,
    CXRViTForImageClassification,
)
from hf_cxr.pipeline import ChestXRayClassificationPipeline, register

register()

__all__ = [
    "CXRDenseNetConfig",
    "CXRDenseNetForImageClassification",
    "CXREnsembleConfig",
    "CXREnsembleForImageClassification",
    "CXRImageProcessor",
    "CXRTwoStageConfig",
    "CXRTwoStageForImageClassification",
    "CXRViTConfig",
    "CXRViTForImageClassification",
    "ChestXRayClassificationPipeline",
    "Hierarchy",
    "load_taxonomy",
    "taxonomy_names",
]
