"""Adaptation to a new hospital: the head grows by its findings, adapters are trained, the change is reported."""

from hf_cxr.adaptation.adapters import AdapterArguments, AdapterError, adapt, trained_parameters
from hf_cxr.adaptation.arguments import AdaptationArguments, AdaptationSettings, parse_adaptation
from hf_cxr.adaptation.own_films import OwnFilms, own_films
from hf_cxr.adaptation.report import report_change
from hf_cxr.adaptation.training import prepare_adaptation, train_adaptation

__all__ = [
    "AdaptationArguments",
    "AdaptationSettings",
    "AdapterArguments",
    "AdapterError",
    "OwnFilms",
    "adapt",
    "own_films",
    "parse_adaptation",
    "prepare_adaptation",
    "report_change",
    "train_adaptation",
    "trained_parameters",
]
