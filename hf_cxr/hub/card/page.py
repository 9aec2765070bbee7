"""The model card: README.md of a model's repository, every figure of which is in the report beside it.

    python -c "from pathlib import Path; from hf_cxr.hub.card import write_card; write_card(Path('runs/nih128'))"

The words are in `model_cards/template.md.jinja`, the figures in `eval_report.json`; what is known of the data set is
quoted from `model_cards/datasets`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hf_cxr.hub.card import results, training
from hf_cxr.hub.card.limits import limits
from hf_cxr.hub.card.metadata import metadata, model_name
from hf_cxr.hub.card.reproduction import settings_file
from hf_cxr.hub.card.source import CardSource, read_source
from hf_cxr.hub.card.statements import CardError, card_folder
from hf_cxr.hub.card.tree_figure import draw_hierarchy, text_tree
from hf_cxr.hub.card.undefined import undefined
from hf_cxr.metrics import FEW_POSITIVES
from hf_cxr.report.layout import Table, number, with_interval
from hf_cxr.report.looks import heatmaps

__all__ = ["CARD", "CardError", "render_card", "write_card"]

CARD = "README.md"
TEMPLATE = "template.md.jinja"
_PICTURE = "figures/hierarchy.png"
_FOLDER = re.compile(r"(?<![\w.:/<~-])/[\w.+-]+/[\w.+-]+[^\s`|)]*|\b[A-Za-z]:\\\S+")


def render_card(
    folder: Path, repo_id: str | None = None, *, run: Path | None = None, templates: Path | None = None
) -> str:
    """The card of a model, Markdown with its metadata block.

    Pictures are linked if they are in the folder: `figures/hierarchy.png` (`write_card` draws it).

    Args:
        folder: with `config.json`, `preprocessor_config.json` and `eval_report.json`.
        repo_id: name of the repository, `organisation/name`; None leaves a placeholder in the examples.
        run: the run's own folder with `run.yaml`, if that is another; nothing of it but settings and counts is quoted.
        templates: in place of the repository's `model_cards`.

    Raises:
        CardError: a file is missing, the report is of another run, the data set has no statement, or the text would
            name a folder of this machine.
    """
    return _render(read_source(folder, run, templates), folder, repo_id, templates)


def write_card(
    folder: Path, repo_id: str | None = None, *, run: Path | None = None, templates: Path | None = None
) -> Path:
    """Draw `figures/hierarchy.png`, write `README.md`, and return its path. Arguments and errors as `render_card`.

    Nothing is written where the card cannot be made; the file appears whole or not at all.
    """
    source = read_source(folder, run, templates)
    _render(source, folder, repo_id, templates)
    picture = folder / _PICTURE
    picture.parent.mkdir(exist_ok=True)
    toy = " (synthetic films, not clinical)" if source.toy else ""
    title = f"{model_name(source, repo_id)}, {source.report.split} split{toy}"
    draw_hierarchy(source.report, source.hierarchy, picture, title)
    partial = folder / f"{CARD}.partial"
    partial.write_text(_render(source, folder, repo_id, templates), encoding="utf-8")
    os.replace(partial, folder / CARD)
    return folder / CARD


def _render(source: CardSource, folder: Path, repo_id: str | None, templates: Path | None) -> str:
    environment = Environment(
        loader=FileSystemLoader(card_folder(templates)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "table": markdown_table,
        "share": results.share,
        "number": number,
        "with_interval": with_interval,
    }
    text = environment.get_template(TEMPLATE).render(_context(source, folder, repo_id))
    text = re.sub(r"\n{3,}", "\n\n", text)
    if found := _FOLDER.search(text):
        raise CardError(
            f"the card would name {found.group()}, a folder of this machine; take it out of eval_report.json, run.yaml "
            "or config.json"
        )
    return text


def _context(source: CardSource, folder: Path, repo_id: str | None) -> dict[str, Any]:
    report, config, points = source.report, source.config, source.report.operating_points
    return {
        "source": source,
        "report": report,
        "config": config,
        "settings": source.run["settings"],
        "metadata": metadata(source, repo_id).to_yaml(),
        "name": model_name(source, repo_id),
        "repo": repo_id or "FOLDER",
        "what": _what(source),
        "can_doubt": source.n_members > 0 or all(0 < stage["head_dropout"] < 1 for stage in source.stage_configs),
        "limits": limits(source),
        "few": FEW_POSITIVES,
        "dagger": results.FEW,
        "results": results,
        "training": training,
        "undefined": undefined(report),
        "chosen_here": points is not None and points["split"] == report.split,
        "heatmaps": heatmaps(report, {}),
        "settings_file": settings_file(source.run["settings"]),
        "text_tree": text_tree(source.hierarchy),
        "picture": _PICTURE if (folder / _PICTURE).is_file() else None,
    }


def _what(source: CardSource) -> str:
    """Architecture and input in one sentence."""
    kinds = {"cxr-densenet": "convolutional network", "cxr-vit": "vision transformer"}
    stages = [f"a {kinds[stage['model_type']]} (timm's `{stage['backbone']}`)" for stage in source.stage_configs]
    size = source.config.image_size
    reads = f"reads a chest film at {size} × {size} pixels and gives a probability for every node of a tree of findings"
    if len(stages) == 1:
        return f"{stages[0][0].upper()}{stages[0][1:]} {reads}."
    if source.n_members:
        kind = f"{stages[0]} each" if len(set(stages)) == 1 else ", ".join(stages)
        return (
            f"An ensemble of {source.n_members} models, {kind}, which were trained alike from other seeds: it {reads}, "
            "the mean of what its members give."
        )
    return (
        f"Two models, one after the other: {stages[0]} as the gate, and {stages[1]} for the findings, which looks only "
        f"at films that the gate does not clear. Together this {reads}."
    )


def markdown_table(table: Table) -> str:
    """A table in Markdown; numbers to the right."""
    lines = [table.head, ["---", *["---:"] * (len(table.head) - 1)], *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
