"""What each precision costs and brings: films a second, AUROC and probabilities of one model on one split."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor

from hf_cxr.arguments import DataArguments, LabelArguments, SettingsError, parse_groups
from hf_cxr.errors import UserError
from hf_cxr.evaluation import aggregate_figures
from hf_cxr.films import Films, prepare_split
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.inference import batches, predict_logits
from hf_cxr.loading import load_model, load_processor
from hf_cxr.metrics import auroc
from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel, CXRTwoStageForImageClassification
from hf_cxr.precision import PRECISIONS, set_precision
from hf_cxr.predictions import probabilities
from hf_cxr.quantisation import quantise
from hf_cxr.verification import identity

JSON_FILE, TEXT_FILE, INT8 = "precision.json", "precision.txt", "int8"


class ComparisonFolderError(UserError, ValueError):
    """The output folder holds something already."""


@dataclass
class ComparisonArguments:
    """Which model is compared with itself, in what and on what."""

    model: str | None = field(default=None, metadata={"help": "Folder or Hub name of the model."})
    split: str = field(default="validation", metadata={"help": "Split that is scored."})
    precisions: list[str] = field(
        default_factory=lambda: list(PRECISIONS),
        metadata={"help": f"Some of {', '.join(PRECISIONS)}; float32 is always measured, int8 only on a CPU."},
    )
    calibration_split: str = field(default="train", metadata={"help": "Split that int8 takes its scales from."})
    calibration_films: int = field(default=256, metadata={"help": "Its films for that, spread evenly."})
    output_dir: str = field(default="precision", metadata={"help": "Folder of the table, and of the model in int8."})
    batch_size: int = field(default=32, metadata={"help": "Films that go through the model together."})
    timed_films: int = field(default=256, metadata={"help": "Films that are timed in each round."})
    rounds: int = field(default=5, metadata={"help": "Rounds in which every precision has its turn."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the comparison that is in output_dir."})

    def __post_init__(self) -> None:
        if not self.model:
            raise SettingsError("model: expected a folder or a name on the Hub (--model M)")
        if unknown := sorted(set(self.precisions) - set(PRECISIONS)):
            raise SettingsError(f"precisions: got {', '.join(unknown)}; expected some of {', '.join(PRECISIONS)}")
        for name in ("calibration_films", "batch_size", "timed_films", "rounds"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if "int8" in self.precisions and self.calibration_split == self.split:
            raise SettingsError(
                f"calibration_split and split are both '{self.split}': int8 would be scored on films it was made on"
            )


def parse_comparison_settings(
    argv: list[str] | None = None, description: str | None = None
) -> tuple[ComparisonArguments, DataArguments, LabelArguments]:
    """Read the command line; what a run says of its data and labels is the default for its model.

    Raises:
        SettingsError: see `arguments.parse_groups` and `ComparisonArguments`.
    """
    groups = (ComparisonArguments, DataArguments, LabelArguments)
    own, data, labels = parse_groups(groups, argv, description)
    run = Path(str(own.model), "run.yaml")
    if run.is_file():
        settings: dict[str, Any] = yaml.safe_load(run.read_text(encoding="utf-8"))["settings"]
        own, data, labels = parse_groups(groups, argv, description, settings["data"] | settings["labels"])
    return own, data, labels


def compare_precisions(
    settings: ComparisonArguments, data: DataArguments, labels: LabelArguments, state: PartialState
) -> dict[str, Any]:
    """Measure, and write `precision.json`, `precision.txt` and, for int8, the folder `int8`; on one process.

    Rates are of the model alone, from films in memory to logits, in turn within each round; a ratio is the median over
    the rounds of this precision's rate to float32's in the same round. A two-stage model runs both stages on all films.

    Returns:
        What `precision.json` holds.

    Raises:
        ComparisonFolderError: the folder is not empty, or with `overwrite` holds other things than a comparison.
        SettingsError: several processes. ModelError, QuantisationError, and errors of the data: see there.
    """
    if state.num_processes > 1:
        raise SettingsError(f"{state.num_processes} processes: rates would be of all of them; start one")
    folder = Path(settings.output_dir)
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there and not (settings.overwrite and there <= {JSON_FILE, TEXT_FILE, INT8}):
        raise ComparisonFolderError(f"{folder} is not empty; choose another output_dir, or replace a comparison with "
                                    "--overwrite")  # fmt: skip
    name = str(settings.model)
    model, processor = load_model(name), load_processor(name)
    hierarchy = Hierarchy.from_config(model.config)
    films = prepare_split(data, labels, processor, hierarchy, settings.split)
    wanted = [p for p in PRECISIONS if p in ("float32", *settings.precisions)]
    if state.device.type != "cpu":
        wanted = [p for p in wanted if p != "int8"]
    made: dict[str, Any] = {}
    if "int8" in wanted:
        calibration = prepare_split(data, labels, processor, hierarchy, settings.calibration_split)
        for file in (JSON_FILE, TEXT_FILE):  # they would speak of other files in int8
            (folder / file).unlink(missing_ok=True)
        made = _quantise(model, processor, calibration, settings, folder / INT8)
    models = {}
    for precision in wanted:
        own = load_model(name).to(state.device)
        set_precision(own, processor, precision, folder / INT8)
        models[precision] = own
    report = {
        "model": {"name": Path(name).resolve().name, **identity(model)},
        "split": settings.split,
        "n_films": len(films.labels[settings.split].values),
        "device": state.device.type,
        "threads": torch.get_num_threads(),
        "batch_size": settings.batch_size,
        "data": films.provenance,
        "int8": made or None,
        "precisions": _figures(models, films, settings, state),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (
        (JSON_FILE, json.dumps(report, indent=2, allow_nan=False)),
        (TEXT_FILE, comparison_table(report)),
    ):
        partial = folder / f"{file}.partial"
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, folder / file)
    return report


def comparison_table(report: dict[str, Any]) -> str:
    """For readers: a line for each precision."""
    lines = [
        f"{report['model']['name']}, {report['n_films']:,} films of {report['split']}, on {report['device']} with "
        f"{report['threads']} threads",
        f"{'precision':10}{'films/s':>9}{'ratio':>7}{'macro AUROC':>13}{'change':>10}{'gate AUROC':>12}{'change':>10}"
        f"{'|Δp| mean':>11}{'most':>8}",
    ]
    for precision, row in report["precisions"].items():
        cells = [
            _cell(row["films_per_second"]["median"], 9, ".1f"), _cell(row["ratio"]["median"], 7, ".2f"),
            _cell(row["macro_auroc"], 13, ".4f"), _cell(row["macro_auroc_change"], 10, "+.4f"),
            _cell(row["gate_auroc"], 12, ".4f"), _cell(row["gate_auroc_change"], 10, "+.4f"),
            _cell(row["mean_change"], 11, ".5f"), _cell(row["largest_change"], 8, ".4f"),
        ]  # fmt: skip
        lines.append(f"{precision:10}{''.join(cells)}")
    return "\n".join(lines)


def _cell(value: float | None, width: int, form: str) -> str:
    return f"{'–' if value is None else format(value, form):>{width}}"


def _quantise(
    model: CXRPreTrainedModel, processor: CXRImageProcessor, films: Films, settings: ComparisonArguments, folder: Path
) -> dict[str, Any]:
    chosen = _some(films.dataset(settings.calibration_split), settings.calibration_films)
    inputs = [each for _, _, each in batches(model, chosen, settings.batch_size, PartialState(), "Films for int8")]
    about = f"{len(chosen)} films of {settings.calibration_split}, {films.provenance['fingerprint']}"
    return {"films": about, "sha256": quantise(model, processor, inputs, folder, about)}


def _some(films: Any, n_films: int) -> _Rows:
    """At most so many of a split, spread evenly."""
    return _Rows(films, np.linspace(0, len(films) - 1, min(n_films, len(films))).astype(int).tolist())


class _Rows:
    """Some films of a split."""

    def __init__(self, films: Any, rows: Sequence[int]) -> None:
        self.films, self.rows = films, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Any:
        return self.films.__getitems__([self.rows[i] for i in indices])


def _figures(
    models: dict[str, CXRPreTrainedModel], films: Films, settings: ComparisonArguments, state: PartialState
) -> dict[str, Any]:
    split, encoded, hierarchy = films.dataset(settings.split), films.labels[settings.split], films.hierarchy
    truth = encoded.values[:, [encoded.names.index(n) for n in hierarchy.names]]
    rates = _rates(models, split, settings, state)
    rows: dict[str, Any] = {}
    whole: NDArray[np.float64] | None = None
    for precision, model in models.items():
        logits = predict_logits(model, split, batch_size=settings.batch_size, state=state, description=precision)
        order = [model.config.label_names.index(n) for n in hierarchy.names]
        p = probabilities(logits)[:, order]
        whole = p if whole is None else whole
        gate = hierarchy.names.index(hierarchy.gate) if hierarchy.gate else None
        figures = {
            "macro_auroc": aggregate_figures(hierarchy, truth, p)["macro_auroc"],
            "gate_auroc": None if gate is None else auroc(truth[:, gate], p[:, gate]),
        }
        first = rows.get("float32", figures)
        rows[precision] = {
            "films_per_second": _spread(rates[precision]),
            "ratio": _spread(rates[precision] / rates["float32"]),
            **figures,
            **{f"{k}_change": None if v is None else v - first[k] for k, v in figures.items()},
            "mean_change": float(np.abs(p - whole).mean()),
            "largest_change": float(np.abs(p - whole).max()),
        }
    return rows


def _rates(
    models: dict[str, CXRPreTrainedModel], split: Any, settings: ComparisonArguments, state: PartialState
) -> dict[str, NDArray[np.float64]]:
    """Films a second of each precision, round by round; one more round before is not counted."""
    some = _some(split, settings.timed_films)
    inputs = [each for _, _, each in batches(models["float32"], some, settings.batch_size, state, "Films to be timed")]
    rates: dict[str, list[float]] = {precision: [] for precision in models}
    for turn in range(settings.rounds + 1):
        # Every second round goes backwards: what one precision leaves behind then helps or harms both.
        for precision in list(models) if turn % 2 else reversed(models):
            start = time.perf_counter()
            _run(models[precision], inputs)
            if turn:
                rates[precision].append(len(some) / (time.perf_counter() - start))
    return {precision: np.array(values) for precision, values in rates.items()}


@torch.no_grad()
def _run(model: CXRPreTrainedModel, inputs: Sequence[Tensor]) -> None:
    extra: dict[str, Any] = {"run_all": True} if isinstance(model, CXRTwoStageForImageClassification) else {}
    for batch in inputs:
        model(batch, **extra).logits.cpu()  # waits for the device


def _spread(values: NDArray[np.float64]) -> dict[str, float]:
    low, middle, high = np.percentile(values, [25, 50, 75]).tolist()
    return {"median": middle, "low": low, "high": high}
