"""The base's own films, where they are at hand: to forget less of them, and to see what was forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from hf_cxr.adaptation.arguments import AdaptationSettings
from hf_cxr.arguments import DataArguments, LabelArguments, SettingsError, parse_groups
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

    Without `base_data_dir` there are none where they are not at hand, and `why_not` says why.

    Raises:
        SettingsError: `base_data_dir` is given, and there is no such folder, or nothing says how to read it.
        DataProblems, SettingsError: see `films.prepare`.
    """
    run, given = Path(settings.adaptation.base, SETTINGS_FILE), settings.adaptation.base_data_dir
    if given and not Path(given).expanduser().exists():
        raise SettingsError(
            f"base_data_dir: there is no {given} (looked in {Path.cwd()}); mend the path, or leave the option out to "
            "adapt without the base's films"
        )
    if not run.is_file():
        if given:
            raise SettingsError(
                f"base_data_dir: {settings.adaptation.base} has no {SETTINGS_FILE}, which says how the films in "
                f"{given} were read; name the base's own run folder, or leave the option out"
            )
        return OwnFilms(why_not=f"the base has no {SETTINGS_FILE}, which says what it was trained on")
    trained = yaml.safe_load(run.read_text(encoding="utf-8"))["settings"]
    if given:
        trained["data"]["data_dir"] = given
    folder = trained["data"]["data_dir"]
    if trained["data"]["dataset"] != "phantom" and not (folder and Path(folder).expanduser().exists()):
        missing = f"the base's data ({trained['data']['dataset']}) are not on this machine"
        return OwnFilms(why_not=f"{missing}; name them by --base_data_dir")
    data, labels = parse_groups((DataArguments, LabelArguments), [], None, trained["data"] | trained["labels"])

    def films(split: str) -> Films:
        return prepare_split(data, labels, processor, Hierarchy.from_config(base.config), split)

    return OwnFilms(films("train") if settings.adaptation.rehearses else None, films("test"))
