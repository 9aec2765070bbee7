"""Options of the builders, checked when they are set."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import datasets

VIEWS = ("frontal", "all", "PA", "AP", "lateral")


@dataclass
class FilmConfig(datasets.BuilderConfig):
    """Options of a builder.

    Attributes:
        view: which films: `frontal` (default; a frontal of unknown projection counts), `all`, `PA`, `AP`,
            `lateral`.
        validation_fraction: of the training patients, held out for validation, in (0, 1).
        split_seed: of that choice.
        skip_missing: leave out, and count, films whose image is missing or unreadable; otherwise an error.
    """

    data_dir: str | None = None
    view: str = "frontal"
    validation_fraction: float = 0.1
    split_seed: int = 0
    skip_missing: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_dir is None:
            raise ValueError("data_dir is None; expected the folder that holds the data set's tables")
        self.data_dir = os.path.abspath(os.path.expanduser(self.data_dir))
        one_of("view", self.view, VIEWS)
        fraction = self.validation_fraction
        if not isinstance(fraction, (int, float)) or not 0 < fraction < 1:
            raise ValueError(f"validation_fraction is {fraction!r}; expected 0 < fraction < 1")
        seed = self.split_seed
        if type(seed) is not int or not 0 <= seed < 2**32:
            raise ValueError(f"split_seed is {seed!r}; expected a whole number from 0 to 2**32 - 1")
        # the string "False" would be true
        if type(self.skip_missing) is not bool:
            raise ValueError(f"skip_missing is {self.skip_missing!r}; expected True or False")

    @property
    def folder(self) -> Path:
        """`data_dir` as an absolute path.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        folder = Path(str(self.data_dir))
        if not folder.is_dir():
            raise FileNotFoundError(f"data_dir {folder} is not a folder; expected the one with the tables")
        return folder

    @property
    def cuts_validation(self) -> bool:
        """Whether validation is cut from the training patients."""
        return True

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """The options a user may set, without those `datasets` itself adds."""
        upstream = {f.name for f in fields(datasets.BuilderConfig)}
        return tuple(f.name for f in fields(cls) if f.name not in upstream)

    def options(self) -> dict[str, Any]:
        """Every option with its value."""
        return {name: getattr(self, name) for name in self.option_names()}

    def shown(self) -> dict[str, Any]:
        """The same for others to read: paths without their folders."""
        return {name: Path(value).name if _is_path(value) else value for name, value in self.options().items()}


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and os.path.isabs(value)  # configs keep paths absolute


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
