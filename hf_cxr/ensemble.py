"""Finished runs of one recipe joined into one model: a deep ensemble, which is then reported as any run is.

Members differ in their seed alone. All of them have to have seen the same training patients: calibration, thresholds
and figures of the ensemble are of validation and test films that none of them was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_cxr.errors import UserError
from hf_cxr.films import Films
from hf_cxr.loading import load_model, load_processor
from hf_cxr.models import (
    CXRComposedModel,
    CXREnsembleForImageClassification,
    CXRImageProcessor,
    CXRPreTrainedModel,
)
from hf_cxr.runs import REPORT_FILE, SETTINGS_FILE, differences, read_run
from hf_cxr.verification import identity

_OWN = ("training.seed", "training.run_name", "data.data_dir", "data.cache_dir", "data.num_proc")
"""Settings in which members may differ: the seed, and where things lie."""
_OF_DATA = ("dataset", "fingerprint", "options")


class EnsembleError(UserError, ValueError):
    """These runs are no ensemble; the message says why."""


@dataclass(frozen=True)
class Member:
    """A finished run.

    Attributes:
        name: its folder's, for messages. run: its `run.yaml`. provenance: of its report.
    """

    name: str
    model: CXRPreTrainedModel
    processor: CXRImageProcessor
    run: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def seed(self) -> int:
        """That it was trained with."""
        return int(self.run["settings"]["training"]["seed"])


def read_members(folders: Sequence[Path]) -> list[Member]:
    """Read finished runs, and check that they make an ensemble.

    Raises:
        EnsembleError: fewer than two; one is not finished, was adapted, has two stages, or is not the model of its own
            report; they differ in more than their seed; or two have the same seed.
        ModelError: a model cannot be read.
    """
    if len(folders) < 2:
        raise EnsembleError(f"{len(folders)} run; an ensemble has two or more")
    members = [_read(folder) for folder in folders]
    first, *others = members
    for member in others:
        if different := differences(first.run["settings"], member.run["settings"], free=_OWN):
            said = "; ".join(f"{key}: {one!r} and {other!r}" for key, (one, other) in list(different.items())[:5])
            raise EnsembleError(f"{first.name} and {member.name} differ in more than their seed: {said}")
        _check_data(first, member.run["data"], member.name)
        if member.model.config.backbone_from != first.model.config.backbone_from:
            raise EnsembleError(
                f"{first.name} and {member.name} began with other weights: {first.model.config.backbone_from} and "
                f"{member.model.config.backbone_from}"
            )
    seeds = [member.seed for member in members]
    if len(set(seeds)) < len(seeds):
        raise EnsembleError(f"seeds {', '.join(map(str, seeds))}: one is there twice, and would count twice")
    return members


def _read(folder: Path) -> Member:
    if not (folder / REPORT_FILE).is_file() or not (folder / SETTINGS_FILE).is_file():
        raise EnsembleError(f"{folder} holds no finished run of recipes/train.py (no {REPORT_FILE} or {SETTINGS_FILE})")
    run = read_run(folder)
    if "model" not in run["settings"] or "adaptation" in run["settings"]:
        raise EnsembleError(f"{folder}: was adapted from another model; expected runs of recipes/train.py")
    model = load_model(folder)
    if isinstance(model, CXRComposedModel):
        raise EnsembleError(f"{folder}: is made of several models itself; expected runs of one stage")
    provenance = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))["provenance"]
    if provenance.get("model") != identity(model):
        raise EnsembleError(f"{folder}: its {REPORT_FILE} is of another model than lies there; train it again")
    return Member(folder.name, model, load_processor(folder), run, provenance)


def _check_data(member: Member, data: dict[str, Any], whose: str) -> None:
    own = member.run["data"]
    for key in _OF_DATA:
        if own[key] != data[key]:
            raise EnsembleError(
                f"data of {member.name} and of {whose} differ ({key}: {own[key]} and {data[key]}): films that one is "
                "judged by may be among the training films of the other"
            )


def check_films(members: Sequence[Member], films: Films) -> None:
    """Raise unless these are the films that the members were trained and judged with.

    Raises:
        EnsembleError: other films or other splits.
    """
    _check_data(members[0], films.provenance, "the films given")


def joined(members: Sequence[Member]) -> CXREnsembleForImageClassification:
    """The ensemble, not yet calibrated.

    Raises:
        EnsembleError: the members' labels or inputs differ.
    """
    try:
        return CXREnsembleForImageClassification.from_models([member.model for member in members])
    except ValueError as error:
        raise EnsembleError(f"{', '.join(member.name for member in members)}: {error}") from None


def settings_of(members: Sequence[Member]) -> dict[str, Any]:
    """What `run.yaml` of the ensemble holds as settings: those of the recipe, and which runs of it were joined."""
    own = [{"seed": m.seed, "settings_hash": m.run["settings_hash"], "model": m.provenance["model"]} for m in members]
    return members[0].run["settings"] | {"ensemble": {"members": own}}


def log_of(members: Sequence[Member]) -> dict[str, Any]:
    """What training took, member by member."""
    return {f"seed {member.seed}": member.provenance["training"]["model"] for member in members}


def energy_of(members: Sequence[Member]) -> dict[str, Any] | None:
    """What the training of all used; None where that of a member is not known, or was reckoned in another country."""
    used: list[dict[str, Any]] = [member.provenance.get("energy") or {} for member in members]
    if not all(used) or len({each["country"] for each in used}) > 1:
        return None
    summed = {key: sum(each[key] for each in used) for key in ("kwh", "co2_kg")}
    return used[0] | summed | {"continued": any(each["continued"] for each in used)}
