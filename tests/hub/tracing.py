"""Whether every number of a card is one of its sources', rounded as it is shown."""

import json
import re

import yaml

from hf_cxr.metrics import FEW_POSITIVES

NUMBER = re.compile(r"(?<![\w.,])([-−+]?)(\d[\d,]*(?:\.\d+)?)( ?%)?(?!\w|\.\d)")
SOURCES = ("eval_report.json", "config.json", "preprocessor_config.json", "run.yaml")
STATEMENT = re.compile(r"<!-- The statement.*?End of the statement. -->", re.DOTALL)
OF_LITERATURE = ("arXiv", "doi", "CVPR")


def untraced(card, folder):
    """Numbers of a card that no source has: not the statement's, the references', nor the examples'."""
    known = _numbers([yaml.safe_load((folder / name).read_text()) for name in SOURCES])
    metadata, text = card.removeprefix("---\n").split("\n---\n", 1)
    text = STATEMENT.sub("", text[: text.index("\n## References")])
    text = re.sub(r"```python.*?```", "", text, flags=re.DOTALL)
    return [shown for shown in _shown(f"{text}\n{_values(metadata)}") if not _traced(shown, known)]


def _values(metadata):
    """The model-index, and grams that the sources have in kilograms."""
    content = yaml.safe_load(metadata)
    emitted = content.get("co2_eq_emissions", {}).get("emissions")
    kilograms = "" if emitted is None else f"{emitted / 1000:.7f}"
    return f"{json.dumps(content['model-index'])} {kilograms}"


def _shown(text):
    for sign, digits, percent in NUMBER.findall(text):
        value = float(digits.replace(",", "")) * (-1 if sign in ("-", "−") and sign else 1)
        decimals = len(digits.partition(".")[2])
        yield sign + digits + percent, value, decimals, bool(percent)


def _traced(shown, known):
    _, value, decimals, percent = shown
    scale = 100 if percent else 1
    # A hyphen before a number may also join two.
    return any(abs(round(scale * one, decimals) - v) < 1e-9 for one in known for v in (value, abs(value)))


def _numbers(nested):
    found = {0.5, float(FEW_POSITIVES)}  # guessing, and the constant that flags a label
    found |= {0.0, 1.0}  # the words on slopes and intercepts

    def walk(entry):
        if isinstance(entry, dict):
            for key, value in entry.items():
                walk(key)
                walk(value)
        elif isinstance(entry, list):
            for value in entry:
                walk(value)
        elif isinstance(entry, str):
            found.update(float(n) for n in re.findall(r"\d+(?:\.\d+)?", entry) if len(n) < 15)
        elif isinstance(entry, (int, float)) and not isinstance(entry, bool):
            found.add(float(entry))

    walk(nested)
    return found
