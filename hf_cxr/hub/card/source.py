"""What a card is made of: a run's report, config and settings, read and checked that they belong together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import yaml
from transformers import AutoConfig

from hf_cxr.change import CHANGE_FILE, ChangeError, ChangeReport
from hf_cxr.evaluation import EvalReport
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.hub.card.statements import CardError, Statement, read_statement
from hf_cxr.models import CXRConfig, CXREnsembleConfig
from hf_cxr.runs import REPORT_FILE, SETTINGS_FILE
from hf_cxr.verification import identity

T = TypeVar("T")
_ADAPTER_FILE = "adapter_config.json"
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class CardSource:
    """All that a card quotes.

    Attributes:
        report, config, hierarchy: of the model. processor: `preprocessor_config.json`.
        run: `run.yaml`.
        stages: `{stage: {seconds, steps, parameters, …}}` of the training, empty where no report has it.
        data: provenance of the films that are reported; the training films' is in `run`.
        statement: on the data set of training. reported: name of the data set that is reported.
        own_code: whether the folder brings the models' code.
        adapter: `adapter_config.json`, None of a whole model.
        change: what an adaptation changed, None of a model that was trained from the start.
    """

    report: EvalReport
    config: CXRConfig
    hierarchy: Hierarchy
    processor: dict[str, Any]
    run: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    energy: dict[str, Any] | None
    data: dict[str, Any]
    statement: Statement
    reported: str
    own_code: bool
    adapter: dict[str, Any] | None = None
    change: ChangeReport | None = None

    @property
    def adapted(self) -> str | None:
        """Name on the Hub of an adapter's base; None of a whole model, and where the base is a folder."""
        name = (self.adapter or {}).get("base_model_name_or_path") or ""
        return name if _HUB_NAME.fullmatch(name) and not Path(name).exists() else None

    @property
    def toy(self) -> bool:
        """Whether it was trained on films of nobody."""
        return not self.statement.about.of_patients

    @property
    def stage_configs(self) -> tuple[dict[str, Any], ...]:
        """Configs of the models that make up this one, as plain data."""
        config = self.config.to_dict()
        if self.n_members:
            return tuple(config["member_models"])
        return (config["gate_model"], config["finding_model"]) if "gate_model" in config else (config,)

    @property
    def n_members(self) -> int:
        """How many models an ensemble has; 0 of any other model."""
        return len(self.config.member_models) if isinstance(self.config, CXREnsembleConfig) else 0


def read_source(folder: Path, run: Path | None = None, templates: Path | None = None) -> CardSource:
    """Read and check.

    Args:
        folder: with `config.json`, `preprocessor_config.json` and `eval_report.json`.
        run: the run's own folder with `run.yaml`, if that is another.
        templates: see `statements.card_folder`.

    Raises:
        CardError: something is missing, cannot be read, or is of another run or model; or a data set without statement.
    """
    run = run or folder
    plain = _read(folder / "config.json", json.loads, "the folder of a finished run is expected")
    processor = _read(folder / "preprocessor_config.json", json.loads, "the folder of a finished run is expected")
    report = _report(folder / REPORT_FILE)
    described = _read(run / SETTINGS_FILE, yaml.safe_load, "name the run's own folder, which recipes/train.py wrote")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CardError(f"{folder}/config.json: {error}") from error
    if not isinstance(config, CXRConfig):
        raise CardError(f"{folder}/config.json is of a {type(config).__name__}; expected a model of this project")
    own = report.provenance.get("trained", report.provenance)
    _check_together(report, config, own, described, folder)
    data = report.provenance.get("data", report.provenance)
    log = own if "training" in own else _log(run, described)
    name = _data_set(described)
    return CardSource(
        report=report,
        config=config,
        hierarchy=Hierarchy.from_config(config),
        processor=processor,
        run=described,
        stages=log.get("training", {}),
        energy=log.get("energy"),
        data=data,
        statement=read_statement(name, templates),
        # The same data set has the same statement also where it is drawn in another's layout.
        reported=name if data["dataset"] == described["data"]["dataset"] else data["dataset"],
        own_code="auto_map" in plain,
        adapter=_read(folder / _ADAPTER_FILE, json.loads, "") if (folder / _ADAPTER_FILE).is_file() else None,
        change=_change(folder, config),
    )


def _change(folder: Path, config: CXRConfig) -> ChangeReport | None:
    if config.adapted_from is None:
        return None
    try:
        return ChangeReport.from_json(folder / CHANGE_FILE)
    except (OSError, ChangeError) as error:
        raise CardError(
            f"{folder / CHANGE_FILE}, which recipes/finetune_lora.py writes, cannot be read: {error}"
        ) from error


def _read(path: Path, parse: Callable[[str], T], remedy: str) -> T:
    if not path.is_file():
        raise CardError(f"{path.parent} has no {path.name}: {remedy}")
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise CardError(f"{path} cannot be read: {error}") from error


def _report(path: Path) -> EvalReport:
    again = "a card has no figure that is not in it; finish the run, or evaluate the model by recipes/evaluate.py"
    if not path.is_file():
        raise CardError(f"{path.parent} has no {path.name}: {again}")
    try:
        report = EvalReport.from_json(path)
    except (ValueError, TypeError) as error:  # EvaluationError: another schema
        raise CardError(f"{path} cannot be read ({error}); evaluate the model again by recipes/evaluate.py") from error
    if not report.intervals:
        raise CardError(f"{path} has point figures without intervals; evaluate the model by recipes/evaluate.py")
    return report


def _check_together(
    report: EvalReport, config: CXRConfig, own: dict[str, Any], run: dict[str, Any], folder: Path
) -> None:
    """Settings, labels and config are those of one run."""
    again = f"evaluate the model that is in {folder} (recipes/evaluate.py --model) and use that report"
    if "settings_hash" not in own:
        raise CardError(f"{folder}/{REPORT_FILE} does not say of which run it is: it is a table's; {again}")
    if own["settings_hash"] != run.get("settings_hash"):
        raise CardError(
            f"{folder}/{REPORT_FILE} is of a run with the settings {own['settings_hash']}, {SETTINGS_FILE} of one with "
            f"{run.get('settings_hash')}; {again}"
        )
    if set(report.labels) != set(config.label_names):
        raise CardError(
            f"the report has the labels {sorted(report.labels)}, config.json {sorted(config.label_names)}; {again}"
        )
    if not _of_config(report, config):
        raise CardError(f"{folder}/{REPORT_FILE} is of another config than config.json; {again}")


def _of_config(report: EvalReport, config: CXRConfig) -> bool:
    """Whether thresholds, calibration and all else in the config are those that the report was made with."""
    stated = report.provenance.get("model")
    if stated:
        bare: Any = SimpleNamespace(config=config, state_dict=dict)  # the weights are compared on publishing
        return stated["config"] == identity(bare)["config"]
    stored, used = config.operating_points, report.operating_points
    return not (stored and used) or all(stored[key] == used[key] for key in ("thresholds", "gate_threshold"))


def _log(run: Path, described: dict[str, Any]) -> dict[str, Any]:
    """Where the card quotes a later report: the run's own has how long training took, and what it used."""
    path = run / REPORT_FILE
    if not path.is_file():
        return {}
    traced = json.loads(path.read_text(encoding="utf-8")).get("provenance", {})
    return traced if traced.get("settings_hash") == described["settings_hash"] else {}


def _data_set(run: dict[str, Any]) -> str:
    """Name of the training data; films that were drawn are the phantom in whatever layout."""
    return "phantom" if run["data"].get("synthetic") else run["data"]["dataset"]
