"""A transformers pipeline for the project's models: film in, tree of findings out.

    import hf_cxr  # registers the task
    from transformers import pipeline

    read = pipeline("chest-xray-classification", model="runs/nih128")
    read("film.png")["gate"]

Hospitals that adapted one base share it in memory:

    read = pipeline("chest-xray-classification", model="runs/nih128", adapters={"guangzhou": "runs/guangzhou"})
    read("film.png", adapter="guangzhou")
    read("film.png")  # the base itself

Shapes: B films of a batch, K of them past the gate, L labels, M of them with heatmaps, D features, S × S pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_cxr.explain import look
from hf_cxr.findings import DOUBT, LN2, describe
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.loading import load_processor
from hf_cxr.models import (
    CXREnsembleForImageClassification,
    CXRImageProcessor,
    CXRTwoStageForImageClassification,
    FilmError,
)
from hf_cxr.series import Film, Results, numbered, placed
from hf_cxr.switching import SwitchError, load_adapters
from hf_cxr.uncertainty import (
    Uncertainty,
    bare,
    before_dropout,
    check_passes,
    evaluating,
    from_hidden,
    from_hidden_of_both,
    from_hidden_of_members,
)

TASK = "chest-xray-classification"
PARAMETERS = ("n_passes", "seed", "heatmaps", "max_entropy", "adapter")


class ChestXRayClassificationPipeline(Pipeline):
    """Reads films with a model of the project, of one stage or two or an ensemble, bare or under PEFT.

    Every parameter below may be given to `pipeline(...)` and to each call, whose value wins (also a None).

    Args:
        inputs: a film in any form that `CXRImageProcessor` takes (path, URL, PIL image, array or tensor) gives a dict;
            a list or tuple of films, or an array (N, C, H, W), gives a list of dicts; a generator or other iterator, a
            torch `Dataset`, `KeyDataset(dataset, "image")` or a column `dataset["image"]` of `datasets` gives an
            iterable of dicts, which reads a batch when its first film is asked for. The order is kept.
        batch_size: films that go through the model together, 1 by default; changes no figure but for rounding.
        n_passes: passes of Monte Carlo dropout (`uncertainty.mc_dropout`), 2 or more; None (default) is none.
        seed: of their masks, 0 by default. A film's figures do not depend on the films beside it.
        heatmaps: True for all labels, or a label, or several; None, False or an empty list (default None) is none.
        max_entropy: in nats, in (0, ln 2]: above it a film is left to a reader. None (default): no film is.
        adapter: which of the adapters reads the film, or all films of a call, by its name; None (default) is the base.
            Labels, thresholds, the gate, calibration and image processor are then the adapter's.

    To `pipeline(...)` alone: `adapters`, `{name: folder or name on the Hub}`, see `switching.load_adapters`. The model
    then carries them and can no longer be saved; `hierarchy` and `image_processor` are the base's.

    Returns:
        For each film a dict of plain numbers, strings, lists and None, which `json.dumps` takes unless heatmaps were
        asked for:

        - `findings`: the roots of the hierarchy, each a dict with its children inside. A node with several parents
          stands under each of them, with the same numbers; labels are in the model's order.
            - `label`, `kind`: of the node; one of `hierarchy.KINDS`.
            - `probability`: in [0, 1], calibrated by the model itself, without dropout.
            - `threshold`, `decision`: the stored operating point, and whether the probability is at least that (bool);
              both None where none is stored for the label. Each label decides by its own threshold, so that a child
              may be True under a parent that is False. Where a two-stage model did not run its finding model, every
              decision but the gate's is False: a cleared film is decided negative (`gating`, "hard").
            - `mean`, `deviation`, `entropy`, `mutual_information`: as in `Uncertainty`, the last two in nats in
              [0, ln 2]; these keys are there only with `n_passes`.
            - `children`: a list of such dicts, empty below a leaf.
        - `probabilities`: `{label: probability}`, the same numbers, flat, in the model's order of labels.
        - `gate`: None where the hierarchy has no gate, else
            - `label`, `probability`, and the stored `threshold` and `criterion` by which it was chosen (or None);
            - `cleared`: whether the probability is below the threshold; None without one. In a one-stage model this
              changes no other label's decision;
            - `finding_model_ran`: of a two-stage model, whether its second model looked at the film; if False, the
              findings' probabilities are P(gate) times their prevalence among abnormal films, and nobody has looked.
              None of a one-stage model.
        - `operating_points_from`: the split on which the thresholds were chosen; None where none are stored.
        - `abstained`: None unless `max_entropy` is given; then whether the entropy of the gate (without a gate: of any
          root) is above it: of the mean over the passes, or without passes of the plain probability. The figures and
          decisions stay.
        - `adapter`: the name of the adapter that read the film; None: the base (or model) itself.
        - `heatmaps`: None unless asked for; then `{label: (S, S) numpy float32 in [0, 1]}` over the square that the
          model read, by Grad-CAM, each stretched by itself (`explain.grad_cam`): it shows what the model used, not
          where a finding is. None in place of the map where a two-stage model's finding model did not look.

    The model is evaluated in evaluation mode whatever its flags say, and left as it was, the base switched on. A
    series that is read as it is asked for keeps its adapter, whatever is read in between.

    Raises:
        TypeError: no model of the project, no `CXRImageProcessor`, or an unknown parameter.
        SwitchError: an adapter that was not loaded, and as `load_adapters`.
        ModelError: an adapter is of another base, or its files are missing.
        ValueError: a processor of other settings than the model's; `max_entropy` outside (0, ln 2]; fewer than two
            passes; heatmaps of an unknown label.
        NoDropoutError: `n_passes` of a model without dropout in its head.
        FilmError: a film cannot be read or used; names its position in a series (from 0) and its path, where known.
    """

    _load_image_processor = True
    _load_tokenizer = False
    _load_feature_extractor = False
    _load_video_processor = False
    _load_processor = False

    def __init__(
        self,
        model: Any,
        image_processor: Any = None,
        adapters: Mapping[str, str | Path] | None = None,
        **kwargs: Any,
    ) -> None:
        self.network = bare(model)
        _check_processor(image_processor, self.network.config)
        # Before the model is touched: a folder may lack its processor.
        self._processors: dict[str | None, Any] = {n: load_processor(folder) for n, folder in (adapters or {}).items()}
        self.adapters = load_adapters(self.network, adapters or {})
        for name, processor in self._processors.items():
            _check_processor(processor, self.adapters.config(name))
        self._hierarchies = {n: Hierarchy.from_config(self.adapters.config(n)) for n in (None, *self.adapters.names)}
        self.hierarchy = self._hierarchies[None]
        super().__init__(model=model, image_processor=image_processor, **kwargs)

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:
        """As in transformers; a model that carries adapters is refused.

        Raises:
            SwitchError: it was loaded with `adapters`.
        """
        if self.adapters.names:
            raise SwitchError("a model with switched adapters is not saved: base and adapters lie where they came from")
        super().save_pretrained(save_directory, **kwargs)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Read a film or many; see the class."""
        films = numbered(inputs)
        # transformers looks at the first element of every list.
        return [] if isinstance(films, list) and not films else super().__call__(films, **kwargs)

    def get_iterator(self, inputs: Any, *args: Any, **kwargs: Any) -> Results:
        """Called by transformers for every series."""
        return Results(inputs, partial(super().get_iterator, inputs, *args, **kwargs))

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown := sorted(given.keys() - set(PARAMETERS)):
            raise TypeError(f"unknown parameters {unknown}; expected some of {', '.join(PARAMETERS)}, batch_size")
        # What was not given is left out: transformers then keeps what pipeline(...) was given.
        together = {**getattr(self, "_forward_params", {}), **given}
        labels = self.adapters.config(adapter := together.get("adapter")).label_names
        if (n_passes := together.get("n_passes")) is not None:
            with self.adapters.using(adapter) as network:
                check_passes(network, n_passes)
        if (limit := given.get("max_entropy")) is not None and not 0 < limit <= LN2:
            raise ValueError(f"max_entropy={limit}; expected nats in (0, ln 2 = 0.693147]")
        if isinstance(wanted := given.get("heatmaps"), Iterable) and not isinstance(wanted, str):
            together["heatmaps"] = given["heatmaps"] = tuple(wanted)
        _chosen_labels(together.get("heatmaps"), labels)

        def chosen(*names: str) -> dict[str, Any]:
            return {name: given[name] for name in names if name in given}

        return (
            chosen("adapter"),
            chosen("n_passes", "seed", "heatmaps", "adapter"),
            chosen("heatmaps", "max_entropy", "adapter"),
        )

    def preprocess(self, film: Any, adapter: str | None = None) -> dict[str, Tensor]:
        """One film -> `pixel_values` (1, 1, S, S) float32, as in training."""
        # Not transformers' load_image: it converts to RGB, where 16-bit films saturate.
        position, image = (film.position, film.image) if isinstance(film, Film) else (None, film)
        if isinstance(image, Mapping):
            reason = f"a row with the columns {list(image)}; pass KeyDataset(dataset, column) or dataset[column]"
            raise FilmError(placed(position, None, reason))
        try:
            processor: Any = self._processors.get(adapter, self.image_processor)
            pixels = processor(images=image, return_tensors="pt")["pixel_values"]
        except FilmError as error:
            # The processor sees one film at a time, so that its own count says nothing.
            raise FilmError(placed(position, image, str(error).removeprefix("film 0: "))) from error
        except Exception as error:  # Pillow's plug-ins raise more than OSError on broken data
            raise FilmError(placed(position, image, f"{type(error).__name__}: {error}")) from error
        if len(pixels) != 1:
            raise FilmError(placed(position, image, f"{len(pixels)} films in the place of one"))
        return {"pixel_values": pixels}

    def _forward(
        self,
        inputs: Mapping[str, Tensor],
        n_passes: int | None = None,
        seed: int = 0,
        heatmaps: bool | str | Sequence[str] | None = None,
        adapter: str | None = None,
    ) -> dict[str, Tensor]:
        """Tensors whose first axis is the film: transformers takes batches apart along it."""
        names = self._hierarchies[adapter].names
        labels = _chosen_labels(heatmaps, names)
        doubt: Uncertainty | None = None
        maps: dict[str, Tensor] = {}
        # Here and not once a call: between two batches of one series another may be read by another adapter.
        with self.adapters.using(adapter) as network:
            pixels = inputs["pixel_values"].to(network.dtype)
            if labels:
                seen = look(network, pixels, n_passes=n_passes, seed=seed)
                logits, doubt, ran = seen.logits, seen.uncertainty, seen.finding_model_ran
                maps = {"heatmaps": seen.heatmaps[:, [names.index(label) for label in labels]]}
            elif n_passes is not None:
                logits, doubt = _logits_and_doubt(network, pixels, n_passes, seed)
                ran = doubt.finding_model_ran
            else:
                with evaluating(network), torch.no_grad():  # leaving inference mode switches gradients on
                    output = network(pixels)
                logits, ran = output.logits, output.finding_model_ran
        figures = {} if doubt is None else {name: getattr(doubt, name) for name in DOUBT}
        return {"logits": logits} | figures | maps | ({} if ran is None else {"finding_model_ran": ran})

    def postprocess(
        self,
        outputs: Mapping[str, Tensor],
        heatmaps: bool | str | Sequence[str] | None = None,
        max_entropy: float | None = None,
        adapter: str | None = None,
    ) -> dict[str, Any]:
        """One film's tensors, first axis 1 -> its dict; see the class."""
        hierarchy = self._hierarchies[adapter]
        labels = _chosen_labels(heatmaps, hierarchy.names)
        said = describe(outputs, self.adapters.config(adapter), hierarchy, labels, max_entropy)
        return said | {"adapter": adapter}


def register() -> None:
    """Make the task known to `transformers.pipeline`."""
    PIPELINE_REGISTRY.register_pipeline(
        TASK, ChestXRayClassificationPipeline, pt_model=AutoModelForImageClassification, type="image"
    )
    # With it `save_pretrained` would copy this file beside the weights, and the saved folder would then ask for
    # trust_remote_code, though nothing in it works without the package.
    del ChestXRayClassificationPipeline._registered_impl


def _check_processor(processor: Any, config: Any) -> None:
    if not isinstance(processor, CXRImageProcessor):
        raise TypeError(
            f"image_processor: got {type(processor).__name__}; expected the model's CXRImageProcessor, by "
            'pipeline(..., model="FOLDER") or image_processor=AutoImageProcessor.from_pretrained("FOLDER")'
        )
    ours = (processor.size.height, *(v and v[0] for v in (processor.image_mean, processor.image_std)))
    theirs = (config.image_size, config.image_mean, config.image_std)
    if ours != theirs:
        raise ValueError(
            f"size, mean and std: the image processor has {ours}, the model was trained with {theirs}; load both from "
            "the same folder"
        )


def _chosen_labels(wanted: bool | str | Iterable[str] | None, names: Sequence[str]) -> tuple[str, ...] | None:
    """The labels whose heatmaps are asked for, in the order asked; None for none."""
    if isinstance(wanted, bool) or wanted is None:
        return tuple(names) if wanted else None
    chosen = tuple(dict.fromkeys([wanted] if isinstance(wanted, str) else wanted))
    spelled = {name.lower(): name for name in names}
    for name in chosen:
        if name not in names:
            near = get_close_matches(str(name).lower(), spelled, 1)
            meant = f"; did you mean {spelled[near[0]]!r}?" if near else ";"
            raise ValueError(f"heatmaps: no label {name!r}{meant} The labels are {', '.join(names)}")
    return chosen or None


def _logits_and_doubt(model: Any, pixels_B1SS: Tensor, n_passes: int, seed: int) -> tuple[Tensor, Uncertainty]:
    """The logits of `forward` and what `mc_dropout` gives, from one pass through the backbone of each stage."""
    with evaluating(model), torch.no_grad():
        if isinstance(model, CXREnsembleForImageClassification):
            hidden = [before_dropout(member, pixels_B1SS) for member in model.members]
            members = [_logits(member, each) for member, each in zip(model.members, hidden, strict=True)]
            return model.compose(torch.stack(members)), from_hidden_of_members(model, hidden, n_passes, seed)
        if not isinstance(model, CXRTwoStageForImageClassification):
            hidden_BD = before_dropout(model, pixels_B1SS)
            return _logits(model, hidden_BD), from_hidden(model, hidden_BD, n_passes, seed)
        gate_BD = before_dropout(model.gate, pixels_B1SS)
        gate_B1 = _logits(model.gate, gate_BD)
        passed_B = model.passed(gate_B1)
        found_KD = before_dropout(model.findings, pixels_B1SS[passed_B]) if passed_B.any() else None
        found_KL = None if found_KD is None else _logits(model.findings, found_KD)
        doubt = from_hidden_of_both(model, gate_BD, found_KD, passed_B, n_passes, seed)
        return model.compose(gate_B1, passed_B, found_KL), doubt


def _logits(model: Any, hidden_BD: Tensor) -> Tensor:
    return model.head.logits(model.head.trunk.score(hidden_BD))
