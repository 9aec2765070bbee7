"""ChangeReport: what an adaptation gained, what it forgot and what it cost."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_cxr.change.errors import ChangeError
from hf_cxr.change.pairs import HIGHER, LOWER

SCHEMA_VERSION = 1
_DERIVED = {"forgetting", "schema_version"}


@dataclass(frozen=True)
class Cost:
    """What the adaptation took.

    Attributes:
        method: e.g. `"lora"`. trained_parameters, all_parameters: numbers of weights.
        films: labelled training films. epochs: passes over them. seconds: of training, by the clock.
        peak_memory_bytes: None where it was not measured. rehearsed_films: of the base's own, without their labels.
    """

    method: str
    trained_parameters: int
    all_parameters: int
    films: int
    epochs: float
    seconds: float
    peak_memory_bytes: int | None = None
    rehearsed_films: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.trained_parameters <= self.all_parameters or self.all_parameters < 1:
            raise ChangeError(
                f"{self.trained_parameters} trained parameters of {self.all_parameters}: not a part of it"
            )

    @property
    def share(self) -> float:
        """Trained of all parameters, in [0, 1]."""
        return self.trained_parameters / self.all_parameters


@dataclass(frozen=True)
class ChangeReport:
    """A model before adaptation against the model after it; `to_json` writes it, `from_json` reads it back equal.

    Attributes:
        hospital: `compute.compare_models` on the hospital's test films.
        cost: of the adaptation.
        base: the same on the base's own test films, or None, and then `base_undefined` says why, without a full stop.
        provenance: seed, versions, fingerprints; stored as given.

    Raises:
        ChangeError: neither `base` nor a reason, or both.
    """

    hospital: dict[str, Any]
    cost: Cost
    base: dict[str, Any] | None = None
    base_undefined: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.base is None) == (not self.base_undefined):
            raise ChangeError(
                "give the comparison on the base's own films, or base_undefined with the reason, not both"
            )

    @property
    def forgetting(self) -> dict[str, Any]:
        """What the base's own films say: `{macro_auroc: row, worse, better, told: labels, undefined}`.

        `told`: findings of both models whose difference in AUROC has an interval; `worse`, `better`: those of them
        whose interval does not hold 0. Without base films the row is None and `undefined` is the reason.
        """
        if self.base is None:
            return {"macro_auroc": None, "worse": [], "better": [], "told": [], "undefined": self.base_undefined}
        macro = self.base["macro_auroc"]["shared"]
        rows = {name: self.base["labels"][name]["auroc"] for name in macro["labels"]}
        return {
            "macro_auroc": {key: value for key, value in macro.items() if key not in ("labels", "left_out")},
            "worse": [n for n, row in rows.items() if row["outcome"] == LOWER],
            "better": [n for n, row in rows.items() if row["outcome"] == HIGHER],
            "told": [n for n, row in rows.items() if row["difference_ci"] is not None],
            "undefined": None,
        }

    def to_json(self, path: Path) -> None:
        """Write the report; it appears whole or not at all. A NaN is an error here, not `NaN` in the file."""
        content = asdict(self) | {"forgetting": self.forgetting, "schema_version": SCHEMA_VERSION}
        content["cost"] |= {"share": self.cost.share}
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, path)

    @classmethod
    def from_json(cls, path: Path) -> ChangeReport:
        """Read a report.

        Raises:
            ChangeError: no JSON, written by another schema version, or with other keys than a report has.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ChangeError(f"{path}: no JSON ({error}); was it cut off?") from None
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise ChangeError(f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}")
        try:
            cost = Cost(**{key: value for key, value in content.pop("cost").items() if key != "share"})
            return cls(cost=cost, **{key: value for key, value in content.items() if key not in _DERIVED})
        except (KeyError, TypeError, AttributeError) as error:
            raise ChangeError(f"{path}: not the keys of a change report ({error})") from None
