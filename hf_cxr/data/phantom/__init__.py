"""Phantom: a deterministic generator of chest-like frontal films, in NIH's or CheXpert's folder layout.

The images are a synthetic toy. They show no real patient and are never for clinical use; figures measured
on them say nothing about patients. They exist so that the project's code, from builders to model cards,
can be run and tested end to end without any data that needs an agreement.

    python -m hf_cxr.data.phantom --output_dir data/phantom --n_images 2000 --image_size 128 --layout nih

Findings are NIH's 14, each with a rule that draws it and a mask, and three that only CheXpert labels.
Prevalences and associations follow NIH's label table, rare findings raised (see `population`).
"""

from hf_cxr.data.phantom.film import Patient, RenderedFilm, render_film
from hf_cxr.data.phantom.findings import NIH_FINDINGS, OBSERVATION_SIGNS, SIGNS
from hf_cxr.data.phantom.generation import VERSION, generate, load_mask
from hf_cxr.data.phantom.population import FilmRecord, draw_population
from hf_cxr.data.phantom.texture import FIELD_MM

__all__ = [
    "FIELD_MM",
    "NIH_FINDINGS",
    "OBSERVATION_SIGNS",
    "SIGNS",
    "VERSION",
    "FilmRecord",
    "Patient",
    "RenderedFilm",
    "draw_population",
    "generate",
    "load_mask",
    "render_film",
]
