"""Settings of the demo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hf_cxr.arguments import SettingsError, parse_groups
from hf_cxr.pipeline import LN2


@dataclass
class DemoArguments:
    """Which model is shown, how, and to whom."""

    model: str | None = field(default=None, metadata={"help": "Folder or Hub name of the model."})
    host: str = field(
        default="127.0.0.1", metadata={"help": "Address to listen on; the default is reached from this machine alone."}
    )
    port: int = field(default=7860, metadata={"help": "Port to listen on; 0: any that is free."})
    max_megabytes: int = field(default=50, metadata={"help": "Size of the largest file taken, in MiB."})
    max_entropy: float | None = field(
        default=None,
        metadata={"help": "Nats, in (0, ln 2 = 0.693]: a film of more doubt is left to a reader. Default: none is."},
    )
    dropout_passes: int = field(
        default=30, metadata={"help": "Passes of Monte Carlo dropout, of a model that has dropout; 0: none."}
    )
    seed: int = field(default=0, metadata={"help": "Of their masks."})
    use_cpu: bool = field(default=False, metadata={"help": "Leave a GPU alone."})

    def __post_init__(self) -> None:
        if not self.model:
            raise SettingsError("got no model: python -m hf_cxr.demo --model FOLDER_OR_HUB_NAME")
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"port: got {self.port}, expected 0 to 65535")
        if self.max_megabytes < 1:
            raise SettingsError(f"max_megabytes: got {self.max_megabytes}, expected 1 or more")
        if self.max_entropy is not None and not 0 < self.max_entropy <= LN2:
            raise SettingsError(f"max_entropy: got {self.max_entropy}, expected nats in (0, ln 2 = 0.693147]")
        if self.dropout_passes == 1 or self.dropout_passes < 0:
            raise SettingsError(f"dropout_passes: got {self.dropout_passes}, expected 0 (none), or 2 or more")


def parse_demo_settings(argv: Sequence[str] | None = None, description: str | None = None) -> DemoArguments:
    """Read the command line, or a YAML file and the command line.

    Raises:
        SettingsError: see `arguments.parse_groups` and `DemoArguments`.
    """
    (settings,) = parse_groups((DemoArguments,), argv, description)
    return settings
