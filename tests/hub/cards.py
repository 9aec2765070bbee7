"""What the hub says about the metadata of a README.md.

Checked are YAML, the fields that a model-index must have, and the fields of a Space; not the hub's long lists of
licences, languages, tasks and metrics.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SDKS = ("gradio", "streamlit", "docker", "static")


def metadata(readme: str) -> Any:
    """The YAML at the top; None without one.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    found = re.match(r"^\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*$", readme, re.DOTALL | re.MULTILINE)
    return yaml.safe_load(found[1]) if found else None


def check(readme: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings, in words. `kind`: model, dataset or space."""
    try:
        card = metadata(readme)
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"], []
    if card is None and kind != "space":
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(card or {}, dict):
        return ["the metadata must be a mapping"], []
    return list(_of_space(card or {}) if kind == "space" else _of_index(card or {})), []


def _of_space(card: dict[str, Any]) -> Iterator[str]:
    if card.get("sdk") not in SDKS:
        yield f'"sdk" must be one of [{", ".join(SDKS)}]'
    for key in ("colorFrom", "colorTo"):
        if key in card and card[key] not in COLOURS:
            yield f'"{key}" must be one of [{", ".join(COLOURS)}]'
    if len(card.get("short_description", "")) > 60:
        yield '"short_description" length must be less than or equal to 60 characters long'


def _of_index(card: dict[str, Any]) -> Iterator[str]:
    for m, model in enumerate(card.get("model-index") or []):
        if not model.get("name"):
            yield f'"model-index[{m}].name" is required'
        for r, result in enumerate(model.get("results") or []):
            at = f"model-index[{m}].results[{r}]"
            wanted = {"task": ("type",), "dataset": ("type", "name")}
            for part, keys in wanted.items():
                for key in keys:
                    if not (result.get(part) or {}).get(key):
                        yield f'"{at}.{part}.{key}" is required'
            for n, metric in enumerate(result.get("metrics") or []):
                for key in ("type", "value"):
                    if metric.get(key) is None:
                        yield f'"{at}.metrics[{n}].{key}" is required'
