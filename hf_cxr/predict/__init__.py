"""Many films, one table: what `recipes/predict.py` does."""

from hf_cxr.loading import ModelError
from hf_cxr.predict.arguments import PredictArguments, parse_predict_settings
from hf_cxr.predict.run import Done, predict
from hf_cxr.predict.sources import SourceError
from hf_cxr.predict.writing import LostFilmsError, OutputFolderError

__all__ = [
    "Done",
    "LostFilmsError",
    "ModelError",
    "OutputFolderError",
    "PredictArguments",
    "SourceError",
    "parse_predict_settings",
    "predict",
]
