"""Energy of a training run, where it was measured: in the report's provenance, or in codecarbon's own file."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_cxr.hub.card.statements import CardError

EMISSIONS_FILE = "emissions.csv"


@dataclass(frozen=True)
class Energy:
    """Kilowatt hours, kilograms of CO2 equivalents by the electricity of `country`, on which processor, by what."""

    kwh: float
    co2_kg: float
    country: str
    processor: str
    measured_by: str


def energy_of(entry: dict[str, Any] | None, run: Path) -> Energy | None:
    """What `hf_cxr.energy` noted, else what codecarbon wrote with `--report_to codecarbon`; None: not measured.

    Args:
        entry: `energy` of the report's provenance. run: the run's folder.

    Raises:
        CardError: an entry or a file that cannot be understood.
    """
    try:
        if entry:
            return Energy(**entry)
        # Two stages have a file each, and a run that was resumed has a row for each piece.
        files = [run / EMISSIONS_FILE, *sorted(run.glob(f"stages/*/{EMISSIONS_FILE}"))]
        rows = [row for file in files if file.is_file() for row in _rows(file)]
        return _together(rows) if rows else None
    except (TypeError, KeyError, ValueError) as error:
        raise CardError(f"{run}: the energy of the run cannot be read ({error!r}); remove it or mend it") from error


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as content:
        return list(csv.DictReader(content))


def _together(rows: list[dict[str, str]]) -> Energy:
    # Of codecarbon's columns only these: it also notes the machine's place.
    last = rows[-1]
    return Energy(
        kwh=sum(float(row["energy_consumed"]) for row in rows),
        co2_kg=sum(float(row["emissions"]) for row in rows),
        country=last["country_iso_code"],
        processor=last["cpu_model"],
        measured_by=f"codecarbon {last['codecarbon_version']}",
    )
