"""Whether every number of a card is one of its sources', rounded as it is shown.

A report has thousands of figures between 0 and 1, so that almost any three digits are one of them, rounded. `scramble`
puts others in their place that lie far apart: then a number that is traced is the one that was meant.
"""

import json
import random
import re

import yaml

from hf_cxr.metrics import FEW_POSITIVES

NUMBER = re.compile(r"(?<![\w.,])([-−+]?)(\d[\d,]*(?:\.\d+)?)( ?%)?(?!\w|\.\d)")
SOURCES = ("eval_report.json", "config.json", "preprocessor_config.json", "run.yaml")
STATEMENT = re.compile(r"<!-- The statement.*?End of the statement. -->", re.DOTALL)
FIGURES = ("labels", "aggregate", "gate", "hierarchy", "calibration", "subgroups", "uncertainty", "localisation")


def scramble(folder):
    """Replace every figure of a run's report and every count of its `run.yaml`, in place."""
    draw = random.Random(0)

    def other(value):
        if isinstance(value, dict):
            return {key: other(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [other(entry) for entry in value]
        if isinstance(value, float):
            return draw.choice((-1, 1)) * draw.uniform(1e3, 1e6)
        return draw.randrange(10**5, 10**9) if type(value) is int else value

    report = json.loads((folder / "eval_report.json").read_text())
    report |= {name: other(report[name]) for name in FIGURES} | {"n_images": 98_711, "n_patients": 4_391}
    report["provenance"].pop("model", None)
    for stage in report["provenance"].get("training", {}).values():
        stage |= other(stage)
    (folder / "eval_report.json").write_text(json.dumps(report))
    run = yaml.safe_load((folder / "run.yaml").read_text())
    run["labels"] = other(run["labels"])
    run["data"] |= {name: other(run["data"][name]) for name in ("splits", "skipped", "unreadable")}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))


def untraced(card, folder):
    """Numbers of a card that no source has: not the statement's, the references', nor the examples'.

    Above the training data only the report counts, and the model's input.
    """
    sources = {name: yaml.safe_load((folder / name).read_text()) for name in SOURCES}
    report, config = sources["eval_report.json"], sources["config.json"]
    metadata, text = card.removeprefix("---\n").split("\n---\n", 1)
    text = STATEMENT.sub("", text[: text.index("\n## References")])
    text = re.sub(r"```python.*?```|16-bit|\(version .*?,", "", text, flags=re.DOTALL)
    above, below = text.split("\n## Training data", 1)
    name, above = above.split("\n## Limits", 1)
    own = {key: report[key] for key in (*FIGURES, "n_images", "n_patients", "intervals", "operating_points")}
    own |= {key: config[key] for key in ("image_size", "image_mean", "image_std")}
    figures, grams = _values(metadata)
    return [*_unknown(f"{above}\n{figures}", own), *_unknown(f"{name}\n{below}\n{grams}", list(sources.values()))]


def _unknown(text, sources):
    known = _numbers(sources)
    return [shown for shown in _shown(text) if not _traced(shown, known)]


def _values(metadata):
    """The model-index, and grams that the sources have in kilograms."""
    content = yaml.safe_load(metadata)
    emitted = content.get("co2_eq_emissions", {}).get("emissions")
    kilograms = "" if emitted is None else f"{emitted / 1000:.7f}"
    figures = [(m["name"], m["value"]) for of in content["model-index"][0]["results"] for m in of["metrics"]]
    return figures, kilograms


def _shown(text):
    for sign, digits, percent in NUMBER.findall(text):
        value, decimals = float(digits.replace(",", "")), len(digits.partition(".")[2])
        # A hyphen may also join two numbers.
        values = {"−": (-value,), "-": (value, -value)}.get(sign, (value,))
        yield sign + digits + percent, values, decimals, 100 if percent else 1


def _traced(shown, known):
    _, values, decimals, scale = shown
    return any(abs(round(scale * one, decimals) - value) < 1e-9 for one in known for value in values)


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
