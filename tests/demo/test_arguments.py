import pytest

from hf_cxr.arguments import SettingsError
from hf_cxr.demo import parse_demo_settings


def test_defaults_are_of_this_machine_alone():
    settings = parse_demo_settings(["--model", "m"])
    assert (settings.host, settings.port, settings.max_megabytes, settings.max_entropy) == ("127.0.0.1", 7860, 50, None)


def test_settings_may_come_from_a_file(tmp_path):
    (tmp_path / "s.yaml").write_text("model: m\nport: 8000\nmax_entropy: 0.5\n")
    settings = parse_demo_settings([str(tmp_path / "s.yaml"), "--port", "8001"])
    assert (settings.model, settings.port, settings.max_entropy) == ("m", 8001, 0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--model FOLDER_OR_HUB_NAME"),
        ("--model m --port 70000", "port: got 70000"),
        ("--model m --max_megabytes 0", "max_megabytes: got 0"),
        ("--model m --max_entropy 0.7", "max_entropy: got 0.7"),
        ("--model m --max_entropy 0", "max_entropy: got 0"),
        ("--model m --dropout_passes 1", "dropout_passes: got 1"),
        ("--model m --hosts 0.0.0.0", "did you mean 'host'"),
    ],
)
def test_settings_are_checked(words, message):
    with pytest.raises(SettingsError, match=message):
        parse_demo_settings(words.split())
