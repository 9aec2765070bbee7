"""The page, by Gradio: what is asked of the visitor, and what happens when a film comes.

Nothing is shared between visitors, and no film or result stays here: a result goes to the browser as a whole, heatmaps
of all labels included, and choosing among them happens there.
"""

from __future__ import annotations

import logging
import os
import traceback
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from hf_cxr.demo import phantoms
from hf_cxr.demo.pictures import square
from hf_cxr.demo.result import Shown, problem, render, template
from hf_cxr.demo.uploads import FORMATS, UploadError, read_upload
from hf_cxr.demo.words import WARNING, members_of, model_facts
from hf_cxr.pipeline import ChestXRayClassificationPipeline
from hf_cxr.uncertainty import NoDropoutError, check_passes

_WAITING = 16
"""Visitors who may wait for their turn; the next one is asked to come again."""
_LEFT_BEHIND_S = 600
"""Age at which an upload that nobody asked to read is deleted."""

_PLACED = {
    "pad": "The black bars beside it are not of the film.",
    "crop": "Shown is what the model reads; the rest of the film is cut off.",
    "stretch": "Stretched to a square, as the model reads it.",
}

_log = logging.getLogger(__name__)


def build(
    read: ChestXRayClassificationPipeline,
    *,
    name: str = "model",
    dropout_passes: int = 30,
    seed: int = 0,
    max_entropy: float | None = None,
    max_megabytes: int = 50,
) -> gr.Blocks:
    """The page of a model, to be served by `serve`.

    Args:
        read: the model's pipeline.
        name: of the model, for the page.
        dropout_passes: of Monte Carlo dropout, if the model has dropout; 0: none.
        seed: of their masks.
        max_entropy: nats, in (0, ln 2]: a film of more doubt is left to a reader; None: none is.
        max_megabytes: size of the largest file (MiB) that the page sends. `serve` sets what the server takes.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio's components ask only here
    n_passes = dropout_passes if dropout_passes and _has_dropout(read) else None
    hierarchy, processor, config = read.hierarchy, read.image_processor, read.network.config

    def show(film: Image.Image, what: str) -> str:
        reading = read(film, heatmaps=True, n_passes=n_passes, seed=seed, max_entropy=max_entropy)
        caption = f"{what}, {film.width:,} × {film.height:,} pixels."
        if film.width != film.height:
            caption = f"{caption} {_PLACED[processor.fit]}"
        shown = Shown(square(film, int(processor.size.height), processor.fit), caption)
        return render(
            reading, shown, hierarchy, n_passes=n_passes, max_entropy=max_entropy, n_members=members_of(config)
        )

    def show_upload(given: dict[str, Any] | None) -> tuple[str, None]:
        if given is None:
            return problem("No file came. Choose it again."), None
        try:
            film = read_upload(Path(given["path"]), processor)
            return show(film, str(given.get("orig_name") or "Your film")), None
        except UploadError as error:
            return problem(str(error)), None
        except Exception as error:  # a defect: the visitor gets words, the log the place, and the page goes on
            _log_without_contents(error)
            return problem("The demo failed on this film. Try another; this one would fail again."), None

    def show_phantom(kind: str, number: int) -> tuple[str, int]:
        film = phantoms.draw(kind, number)
        drawn = ", ".join(phantoms.SHOWN[kind]) or "no finding"
        what = f"Synthetic film {number}, drawn by a program, of no patient. Drawn into it: {drawn}"
        return show(film, what), number + 1

    with gr.Blocks(analytics_enabled=False, title=f"{WARNING}: {name}", delete_cache=(60, _LEFT_BEHIND_S)) as page:
        gr.HTML(f"<style>{_text('style.css')}</style>", visible="hidden")
        gr.HTML(template("banner.html.jinja", warning=WARNING), elem_id="cxr-banner", apply_default_css=False)
        gr.HTML(template("head.html.jinja"), elem_id="cxr-head", apply_default_css=False)
        with gr.Row(elem_id="cxr-ask"):
            with gr.Column(min_width=280):
                gr.HTML(
                    template("upload.html.jinja", formats=FORMATS, most=max_megabytes),
                    js_on_load=_text("upload.js"),
                    most=max_megabytes * 1024**2,
                    apply_default_css=False,
                )
                upload = gr.File(label="Film", height=130, elem_id="cxr-upload")
            with gr.Column(min_width=280, elem_id="cxr-phantoms"):
                gr.HTML(template("phantoms.html.jinja"), apply_default_css=False)
                with gr.Row():
                    buttons = {kind: gr.Button(kind, min_width=120, size="md") for kind in phantoms.SHOWN}
        result = gr.HTML(
            html_template=template("empty.html.jinja"),
            js_on_load=_text("result.js"),
            apply_default_css=False,
            elem_id="cxr-result",
        )
        facts = model_facts(config, processor.fit, name, n_passes, max_entropy)
        gr.HTML(template("about.html.jinja", facts=facts), elem_id="cxr-about", apply_default_css=False)

        one_at_a_time: dict[str, Any] = {"concurrency_id": "film", "concurrency_limit": 1, "api_visibility": "private"}
        # Without `preprocess` Gradio checks that the file is an upload, and leaves no second, empty one beside it.
        shown = [upload.upload(show_upload, upload, [result, upload], preprocess=False, **one_at_a_time)]
        next_patient = gr.State(1)
        for kind, button in buttons.items():
            draw = partial(show_phantom, kind)
            shown.append(button.click(draw, next_patient, [result, next_patient], **one_at_a_time))
        for each in shown:
            # Else Gradio would keep each visitor's last result, with the film, for as long as it runs.
            each.then(lambda: "", None, result, show_progress="hidden", api_visibility="private")
    return page.queue(max_size=_WAITING)


def _has_dropout(read: ChestXRayClassificationPipeline) -> bool:
    try:
        check_passes(read.network, 2)
    except NoDropoutError:
        return False
    return True


def _text(name: str) -> str:
    return (files("hf_cxr.demo") / "templates" / name).read_text(encoding="utf-8")


def _log_without_contents(error: Exception) -> None:
    """Which error and where; its message is left out, which may name a visitor's file."""
    _log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
