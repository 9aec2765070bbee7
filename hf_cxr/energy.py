"""Energy and carbon dioxide of a training run, by codecarbon and without asking the network where this machine is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import PartialState

from hf_cxr.errors import UserError


class EnergyError(UserError, ValueError):
    """Energy cannot be measured as asked."""


@contextmanager
def measured(country: str | None, *, continued: bool = False) -> Iterator[dict[str, Any]]:
    """Measure what runs inside; the dict is filled at the end, and stays empty without a country.

    `{kwh, co2_kg, country, processor, measured_by, continued}` of this machine: GPUs, memory, and the CPU by its
    counters where they can be read, otherwise by its rated power. On several machines, each has its own.

    Args:
        country: three letters (ISO 3166-1), whose mix of electricity the carbon dioxide is reckoned by.
        continued: the run was begun before; what it used until then is not in the figures.

    Raises:
        EnergyError: codecarbon is not installed, or does not know the country.
    """
    result: dict[str, Any] = {}
    if country is None or not PartialState().is_local_main_process:
        yield result
        return
    tracker = _tracker(country)
    tracker.start()
    try:
        yield result
    finally:
        kilograms, data = tracker.stop(), tracker.final_emissions_data
        if kilograms is not None:
            result |= {
                "kwh": data.energy_consumed,
                "co2_kg": kilograms,
                "country": country,
                "processor": data.cpu_model,
                "measured_by": f"codecarbon {data.codecarbon_version}",
                "continued": continued,
            }


def _tracker(country: str) -> Any:
    try:
        from codecarbon import OfflineEmissionsTracker
        from codecarbon.input import DataSource
    except ImportError as error:
        raise EnergyError('energy_country needs codecarbon: pip install "hf_cxr[energy]"') from error
    known = DataSource().get_global_energy_mix_data()
    if country not in known:
        raise EnergyError(f"energy_country: codecarbon knows no {country!r}; expected three letters such as DEU")
    # With a file it would note the machine's name and place beside the run.
    return OfflineEmissionsTracker(
        country_iso_code=country, output_methods=[], log_level="error", allow_multiple_runs=True
    )
