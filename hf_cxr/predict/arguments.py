"""Settings of `recipes/predict.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hf_cxr.arguments import SettingsError, parse_groups
from hf_cxr.precision import PRECISIONS

FORMATS = ("csv", "parquet", "jsonl")
FREE_ON_RESUME = ("model", "int8", "source", "output_dir", "overwrite", "resume", "num_workers")
"""What may differ between a run and its continuation. Models and source are compared by what they hold instead."""

_TRUTH = {"yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"}


@dataclass
class PredictArguments:
    """Which films are read by which model, and where the table goes."""

    model: str | None = field(default=None, metadata={"help": "Folder or Hub name of the model."})
    source: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Films, a folder of them, a CSV list, Parquet files or hf://datasets/NAME; without --source, too."
        },
    )
    output_dir: str = field(default="predictions", metadata={"help": "Folder of the table."})
    format: str = field(default="csv", metadata={"help": f"Of the table: {', '.join(FORMATS)}."})
    batch_size: int = field(
        default=32,
        metadata={
            "help": "Films that go through the model together, halved where memory runs out; 0: as many as it takes."
        },
    )
    rows_per_part: int = field(
        default=256,
        metadata={"help": "Films after which results are safe, and that a process takes at a time; whole batches."},
    )
    num_workers: int = field(default=2, metadata={"help": "Threads of each process that decode films; 0: none."})
    dropout_passes: int = field(
        default=0, metadata={"help": "Passes of Monte Carlo dropout, 0: none; adds <label>_entropy and _deviation."}
    )
    seed: int = field(default=0, metadata={"help": "Of their masks."})
    precision: str = field(
        default="float32", metadata={"help": f"Of the model's backbone: {', '.join(PRECISIONS)} (int8: CPU only)."}
    )
    int8: str | None = field(
        default=None, metadata={"help": "Folder int8/ of recipes/compare_precision.py, for precision int8."}
    )
    heatmaps: bool = field(
        default=False,
        metadata={"help": "Draw heatmaps over films for the findings decided positive: pictures of patients."},
    )
    path_column: str = field(default="path", metadata={"help": "Column of a CSV list that names the file."})
    image_column: str = field(default="image", metadata={"help": "Column of Parquet files that holds the film."})
    id_column: str | None = field(
        default=None, metadata={"help": "Column that names the film; default: id where there is one, else the path."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the predictions that are in output_dir."})
    resume: bool = field(default=False, metadata={"help": "Go on after the last complete parts in output_dir."})

    def __post_init__(self) -> None:
        if not self.model or not self.source:
            given = " ".join(self.source) or None
            raise SettingsError(f"got model={self.model}, source={given}; give both: predict.py --model M SOURCE")
        if self.format not in FORMATS:
            raise SettingsError(f"format: got {self.format!r}, expected one of {', '.join(FORMATS)}")
        for name, least in (("batch_size", 0), ("rows_per_part", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise SettingsError(f"{name}: got {getattr(self, name)}, expected {least} or more")
        if self.dropout_passes == 1 or self.dropout_passes < 0:
            raise SettingsError(f"dropout_passes: got {self.dropout_passes}, expected 0 (none), or 2 or more")
        if self.precision not in PRECISIONS:
            raise SettingsError(f"precision: got {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if (self.precision == "int8") != bool(self.int8):
            raise SettingsError(
                f"got precision={self.precision}, int8={self.int8}; give both: --precision int8 --int8 FOLDER, which "
                "recipes/compare_precision.py makes"
            )
        if self.overwrite and self.resume:
            raise SettingsError("overwrite and resume exclude each other")

    @property
    def part_size(self) -> int:
        """Rows of a part: whole batches, so that what is in a batch depends on the source alone.

        With `batch_size` 0 it depends on the device's memory, too, and figures then by rounding.
        """
        batch = self.batch_size or 1
        return -(-self.rows_per_part // batch) * batch

    def held_on_resume(self) -> dict[str, Any]:
        """The settings that a continuation must share, as plain data; no folder is among them."""
        return {name: value for name, value in asdict(self).items() if name not in FREE_ON_RESUME}


def parse_predict_settings(argv: Sequence[str] | None = None, description: str | None = None) -> PredictArguments:
    """Read the command line, in which the source may stand anywhere without its option's name.

    Raises:
        SettingsError: see `arguments.parse_groups` and `PredictArguments`.
    """
    words = _with_source(list(sys.argv[1:] if argv is None else argv))
    (settings,) = parse_groups((PredictArguments,), words, description)
    return settings


def _with_source(words: list[str]) -> list[str]:
    """The words that belong to no option become `--source …`; a settings file (YAML) stays first."""
    flags = {f"--{f.name}" for f in fields(PredictArguments) if isinstance(f.default, bool)}
    named: list[str] = words[:1] if words and words[0].endswith((".yaml", ".yml")) else []
    loose: list[str] = []
    rest = iter(words[len(named) :])
    pushed: list[str] = []
    while (word := pushed.pop() if pushed else next(rest, None)) is not None:
        if not word.startswith("-"):
            loose.append(word)
            continue
        named.append(word)
        if not word.startswith("--") or "=" in word or word == "--help":
            continue
        if (value := next(rest, None)) is None:
            continue
        # `--heatmaps films/`: the folder is no value of a switch.
        if value.startswith("--") or (word in flags and value.lower() not in _TRUTH):
            pushed.append(value)
        else:
            named.append(value)
    return named + (["--source", *loose] if loose else [])
