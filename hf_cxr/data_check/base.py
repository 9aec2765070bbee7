"""The model that data are checked against: its nodes, how common they were in training, how its own films look."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from hf_cxr.arguments import DataArguments, LabelArguments
from hf_cxr.data_check.arguments import CheckArguments
from hf_cxr.film_reference import REFERENCE_FILE, FilmReference, some_films
from hf_cxr.films import prepare_split
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.inference import pooled_features
from hf_cxr.loading import ModelError, load_model, load_processor
from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.runs import REPORT_FILE, SETTINGS_FILE


@dataclass(frozen=True)
class Base:
    """A model and what its folder says.

    Attributes:
        prevalence: of the nodes, in training or else in its report. prevalence_of: which, or why it is not known.
    """

    model: CXRPreTrainedModel
    processor: CXRImageProcessor
    hierarchy: Hierarchy
    prevalence: dict[str, float]
    prevalence_of: str

    @property
    def image_size(self) -> int:
        """Side of the films that it takes."""
        return int(self.processor.size["height"])

    def features(self, pixels_NSS: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """(N, C) pooled features of films; None of a model that gives none (two stages)."""
        features: NDArray[np.float32] | None = pooled_features(self.model, pixels_NSS)
        return features


def load_base(name: str, lateral: bool) -> Base:
    """A model by its folder or its name on the Hub.

    Raises:
        ModelError: it cannot be loaded.
    """
    model, processor = load_model(name), load_processor(name)
    processor.lateral = lateral
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return Base(model, processor, Hierarchy.from_config(model.config), *_prevalence(Path(name)))


def _prevalence(folder: Path) -> tuple[dict[str, float], str]:
    run, report = folder / SETTINGS_FILE, folder / REPORT_FILE
    if run.is_file():
        counts = yaml.safe_load(run.read_text(encoding="utf-8"))["labels"]["train"]["counts"]
        known = {name: n["positive"] + n["negative"] for name, n in counts.items()}
        return {name: counts[name]["positive"] / n for name, n in known.items() if n}, "its training films"
    if report.is_file():
        figures: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        known = {name: row.get("prevalence") for name, row in figures["labels"].items()}
        return {name: value for name, value in known.items() if value is not None}, f"its {figures['split']} films"
    return {}, f"not known: the model comes without {SETTINGS_FILE} and {REPORT_FILE}"


def reference_of(base: Base, settings: CheckArguments) -> tuple[FilmReference | None, str]:
    """What the base's own films look like, and where that is from, or why it is not known.

    It is fitted to the validation films in `base_data_dir` where that is given, and otherwise as it lies beside the
    model.

    Raises:
        ModelError: `base_data_dir` is given, and the model does not say how its films were read.
        DataProblems, FilmReferenceError: its films cannot be read, or are too few.
    """
    folder = Path(str(settings.base))
    if settings.base_data_dir is None:
        if (folder / REFERENCE_FILE).is_file():
            return FilmReference.load(folder), f"{REFERENCE_FILE} beside the base"
        return None, f"the base has no {REFERENCE_FILE}; give --base_data_dir, the folder of its films"
    run = folder / SETTINGS_FILE
    if not run.is_file():
        raise ModelError(f"{folder} has no {SETTINGS_FILE}, which says how the films in base_data_dir are to be read")
    trained = yaml.safe_load(run.read_text(encoding="utf-8"))["settings"]
    data = replace(
        DataArguments(**trained["data"]),
        data_dir=settings.base_data_dir, cache_dir=settings.cache_dir, num_proc=None,
    )  # fmt: skip
    processor = CXRImageProcessor.from_pretrained(folder)
    films = prepare_split(data, LabelArguments(**trained["labels"]), processor, base.hierarchy, "validation")
    patients = np.asarray(films.decoded["validation"]["patient"])
    rows = some_films(patients)
    pixels = films.pixels("validation", rows)
    reference = FilmReference.fit(pixels, base.features(pixels), patients[rows])
    return reference, f"{reference.n_films:,} validation films of the base ({reference.n_patients:,} patients)"
