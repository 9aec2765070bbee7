"""The base's own films, where they are at hand: to forget less of them, and to see what was forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from hf_cxr.adaptation.arguments import AdaptationSettings
from hf_cxr.arguments import DataArguments, LabelArguments, parse_groups
from hf_cxr.films import Films, prepare_split
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.runs import SETTINGS_FILE


@dataclass(frozen=True)
class OwnFilms:
    """Splits of the base's own data.

    Attributes:
        train: for rehearsal; None also where none is wanted. test: to see what was forgotten.
        why_not: why there are none.
    """

    train: Films | None = None
    test: Films | None = None
    why_not: str | None = None


def own_films(settings: AdaptationSettings, base: CXRPreTrainedModel, processor: CXRImageProcessor) -> OwnFilms:
    """The base's own films as it was trained on them; to be asked before training, since data may be broken.

    Raises:
        DataProblems, SettingsError: see `films.prepare`.
    """
    run = Path(settings.adaptation.base, SETTINGS_FILE)
    if not run.is_file():
        return OwnFilms(why_not=f"the base has no {SETTINGS_FILE}, which says what it was trained on")
    trained = yaml.safe_load(run.read_text(encoding="utf-8"))["settings"]
    if settings.adaptation.base_data_dir:
        trained["data"]["data_dir"] = settings.adaptation.base_data_dir
    folder = trained["data"]["data_dir"]
    if trained["data"]["dataset"] != "phantom" and not (folder and Path(folder).expanduser().exists()):
        missing = f"the base's data ({trained['data']['dataset']}) are not on this machine"
        return OwnFilms(why_not=f"{missing}; name them by --base_data_dir")
    data, labels = parse_groups((DataArguments, LabelArguments), [], None, trained["data"] | trained["labels"])

    def films(split: str) -> Films:
        return prepare_split(data, labels, processor, Hierarchy.from_config(base.config), split)

    return OwnFilms(films("train") if settings.adaptation.rehearses else None, films("test"))
