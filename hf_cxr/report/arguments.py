"""Settings of `recipes/evaluate.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hf_cxr.arguments import DataArguments, LabelArguments, SettingsError, parse_groups
from hf_cxr.calibration import AUTO
from hf_cxr.calibration import METHODS as CALIBRATIONS
from hf_cxr.operating_points import Criterion
from hf_cxr.predictions import TableFormat
from hf_cxr.projection import METHODS


@dataclass
class ReportArguments:
    """What is evaluated, and where the report goes."""

    model: str | None = field(default=None, metadata={"help": "Folder or Hub name of a model to run on a data set."})
    predictions: str | None = field(default=None, metadata={"help": "Table of any system's predictions instead."})
    compare: str | None = field(default=None, metadata={"help": "A second table of the same films, compared in pairs."})
    validation: str | None = field(
        default=None, metadata={"help": "Table on which operating points are chosen; default: the model's own."}
    )
    split: str = field(default="test", metadata={"help": "Split that is reported: train, validation or test."})
    output_dir: str = field(default="report", metadata={"help": "Folder of the report."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the report that is in output_dir."})
    title: str | None = field(default=None, metadata={"help": "Title of the report."})
    group_by: list[str] = field(
        default_factory=list, metadata={"help": "Metadata columns whose groups are compared; default: sex, age, view."}
    )
    dropout_passes: int = field(
        default=30, metadata={"help": "Passes of Monte Carlo dropout with --model, 0: none; needs head_dropout."}
    )
    abstain_coverage: float | None = field(
        default=None, metadata={"help": "Share of validation films that the abstain rule is to keep, e.g. 0.9."}
    )
    heatmap_films: int = field(
        default=0, metadata={"help": "Films shown with heatmaps: the report then holds pictures of patients."}
    )
    boxes: str | None = field(
        default=None,
        metadata={"help": "Boxes in NIH's format that heatmaps are scored on; default: the data set's, if there are."},
    )
    readers: str | None = field(default=None, metadata={"help": "CSV: reader, label, sensitivity, specificity."})
    criterion: str | None = field(
        default=None, metadata={"help": "How the labels' thresholds are chosen on --validation; default f1."}
    )
    gate_criterion: str | None = field(
        default=None, metadata={"help": "And the gate's, e.g. miss_rate:0.05@0.9; default sensitivity:0.95."}
    )
    calibration: str = field(
        default="none", metadata={"help": f"Fitted on --validation: {', '.join((*CALIBRATIONS, AUTO))}."}
    )
    projection: str = field(default="up", metadata={"help": f"Shown beside, one of {', '.join(METHODS)}."})
    n_resamples: int = field(default=1000, metadata={"help": "Resamples of the bootstrap over patients."})
    seed: int = field(default=0, metadata={"help": "Of the bootstrap, the dropout masks and the films shown."})
    id_column: str | None = field(
        default=None, metadata={"help": "Column that names the film; default: id, or the first."}
    )
    patient_column: str = field(default="patient", metadata={"help": "Column of the table with the patient."})
    patient_pattern: str | None = field(
        default=None, metadata={"help": "Regular expression whose first group is the patient, searched in the id."}
    )
    truth_suffix: str = field(default="", metadata={"help": "What follows a label's name in the column of its truth."})
    prob_suffix: str = field(default="_prob", metadata={"help": "And in the column of its probability."})

    def __post_init__(self) -> None:
        if bool(self.model) == bool(self.predictions):
            raise SettingsError(f"got model={self.model}, predictions={self.predictions}; give one of the two")
        if self.validation and self.predictions and Path(self.validation).resolve() == Path(self.predictions).resolve():
            raise SettingsError(
                "validation and predictions are the same table: a split never chooses its own thresholds"
            )
        if self.predictions and (self.boxes or self.heatmap_films or self.abstain_coverage is not None):
            raise SettingsError("boxes, heatmap_films and abstain_coverage need --model: a table has no heatmaps")
        if self.dropout_passes == 1 or self.dropout_passes < 0 or self.heatmap_films < 0:
            raise SettingsError(
                f"dropout_passes {self.dropout_passes}, heatmap_films {self.heatmap_films}: expected 0, or passes of 2 "
                "or more and films of 1 or more"
            )
        if self.abstain_coverage is not None and not (0 < self.abstain_coverage <= 1 and self.dropout_passes):
            raise SettingsError(
                f"abstain_coverage {self.abstain_coverage}: expected a share above 0, and dropout_passes above 0"
            )
        if self.n_resamples < 100:
            raise SettingsError(f"n_resamples: got {self.n_resamples}, expected at least 100 for a 95 % interval")
        if self.projection not in METHODS:
            raise SettingsError(f"projection: got {self.projection!r}, expected one of {', '.join(METHODS)}")
        if self.calibration not in (*CALIBRATIONS, AUTO):
            raise SettingsError(
                f"calibration: got {self.calibration!r}, expected one of {', '.join((*CALIBRATIONS, AUTO))}"
            )
        if self.calibration != "none" and not self.validation:
            raise SettingsError(f"calibration {self.calibration}: there is nothing to fit on; give --validation TABLE")
        if self.calibration != "none" and self.compare:
            raise SettingsError(
                "calibration with compare: only the first table would be calibrated, and its Brier score compared with "
                "the second's raw one; leave one of the two out"
            )
        if self.abstain_coverage is not None and self.split == "validation":
            raise SettingsError("abstain_coverage: the rule is chosen on validation, which cannot be reported with it")
        if self.patient_pattern is not None:
            try:
                re.compile(self.patient_pattern)
            except re.error as error:
                raise SettingsError(f"patient_pattern {self.patient_pattern!r}: {error}") from None
        for name in ("criterion", "gate_criterion"):
            if (text := getattr(self, name)) is not None:
                Criterion.parse(text)
                if not self.validation:
                    raise SettingsError(f"{name} {text}: there is nothing to choose on; give --validation TABLE")

    def table_format(self) -> TableFormat:
        """How the tables' columns are called."""
        return TableFormat(
            self.id_column, self.patient_column, self.patient_pattern, self.truth_suffix, self.prob_suffix
        )


def parse_report_settings(
    argv: list[str] | None = None, description: str | None = None
) -> tuple[ReportArguments, DataArguments, LabelArguments]:
    """Read the command line; what a run says of its data and labels is the default for its model.

    Raises:
        SettingsError: see `arguments.parse_groups` and `ReportArguments`.
    """
    groups = (ReportArguments, DataArguments, LabelArguments)
    report, data, labels = parse_groups(groups, argv, description)
    run = Path(report.model, "run.yaml") if report.model else None
    if run and run.is_file():
        settings: dict[str, Any] = yaml.safe_load(run.read_text(encoding="utf-8"))["settings"]
        report, data, labels = parse_groups(groups, argv, description, settings["data"] | settings["labels"])
    return report, data, labels
