"""Energy is measured where it was asked for, and nobody is asked where this machine is."""

import pytest

from hf_cxr.energy import EnergyError, measured


def test_energy_and_its_carbon_dioxide_are_measured(monkeypatch):
    def refused(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("requests.sessions.Session.request", refused)
    with measured("DEU") as coal:
        sum(i * i for i in range(2_000_000))
    with measured("SWE") as water:
        sum(i * i for i in range(2_000_000))
    assert coal["kwh"] > 0
    assert coal["continued"] is False
    assert coal["measured_by"].startswith("codecarbon 3")
    assert coal["co2_kg"] / coal["kwh"] > 4 * water["co2_kg"] / water["kwh"]


def test_nothing_is_measured_unless_asked():
    with measured(None) as energy:
        pass
    assert energy == {}


def test_what_was_used_is_known_also_when_training_fails():
    with pytest.raises(ZeroDivisionError), measured("DEU") as energy:
        _ = 1 / 0
    assert energy["kwh"] > 0


def test_an_unknown_country_is_an_error():
    with pytest.raises(EnergyError, match="no 'Germany'; expected three letters"), measured("Germany"):
        pass
