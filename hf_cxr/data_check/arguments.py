"""Settings of `recipes/check_data.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_cxr.arguments import SettingsError, parse_groups
from hf_cxr.data import BUILDERS


@dataclass
class CheckArguments:
    """Which films are checked, against which model, and where the page goes."""

    data_dir: str | None = field(default=None, metadata={"help": "A hospital's map (YAML), or a data set's folder."})
    dataset: str = field(default="hospital", metadata={"help": f"{', '.join(BUILDERS)}."})
    view: str = field(default="frontal", metadata={"help": "Films that are wanted: frontal, PA, AP, lateral or all."})
    data_options: dict | str | None = field(
        default=None, metadata={"help": 'More options of the builder as JSON, e.g. {"splits_dir": "splits"}.'}
    )
    taxonomy: str | None = field(
        default=None, metadata={"help": "Without --base: whose nodes are counted; default: the map's first, else nih."}
    )
    base: str | None = field(default=None, metadata={"help": "Folder or Hub name of the model to be used or adapted."})
    base_data_dir: str | None = field(
        default=None, metadata={"help": "Where the base's own films are, to know its looks; default: its stored ones."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where those films are kept decoded."})
    num_proc: int | None = field(default=None, metadata={"help": "Threads that decode films; default: one a core."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder of the page; default: terminal only."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the check that is in output_dir."})
    show_cells: bool = field(
        default=False,
        metadata={"help": "Print what tables' problems quote, words and ids; on the terminal only, never on the page."},
    )

    def __post_init__(self) -> None:
        if self.data_dir is None:
            raise SettingsError("no data; give a hospital's map: check_data.py my_hospital.yaml, or --data_dir")
        if self.dataset not in BUILDERS:
            raise SettingsError(f"dataset: got {self.dataset!r}, expected one of {', '.join(BUILDERS)}")
        self.data_options = _options(self.data_options)
        if self.num_proc is not None and self.num_proc < 1:
            raise SettingsError(f"num_proc: got {self.num_proc}, expected 1 or more")
        if self.base and self.taxonomy:
            raise SettingsError("base and taxonomy: the base has a taxonomy; give one of the two")
        if self.base_data_dir and not self.base:
            raise SettingsError("base_data_dir is for the films of a base; give --base too")
        if self.cache_dir and not self.base_data_dir:
            raise SettingsError("cache_dir is for the films in base_data_dir; give that too")

    @property
    def wants_lateral(self) -> bool:
        """Whether lateral films are among the wanted views."""
        return self.view in ("lateral", "all")

    def builder_options(self) -> dict[str, Any]:
        """The options of the builder."""
        return {"view": self.view} | _options(self.data_options)


def parse_check_settings(argv: Sequence[str] | None = None, description: str | None = None) -> CheckArguments:
    """Read the command line; its first word may be the map or the folder.

    Raises:
        SettingsError: see `arguments.parse_groups` and `CheckArguments`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        words[0] = f"--data_dir={words[0]}"
    (settings,) = parse_groups((CheckArguments,), words, description)
    return settings


def _options(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            raise SettingsError(f"data_options: {given!r} is not JSON ({error})") from None
    if given is not None and not isinstance(given, dict):
        raise SettingsError(f"data_options: expected a JSON object, got {given!r}")
    return given or {}
