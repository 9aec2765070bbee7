"""A transformers pipeline for the project's models: film in, tree of findings out.

    import hf_cxr  # registers the task
    from transformers import pipeline

    read = pipeline("chest-xray-classification", model="runs/nih128")
    read("film.png")["gate"]

Shapes: B films of a batch, K of them past the gate, L labels, M of them with heatmaps, D features, S × S pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_cxr.decisions import decide, stored_thresholds
from hf_cxr.explain import look
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.models import CXRImageProcessor, CXRTwoStageForImageClassification, FilmError
from hf_cxr.predictions import probabilities
from hf_cxr.series import Film, Results, numbered, placed
from hf_cxr.uncertainty import (
    Uncertainty,
    bare,
    before_dropout,
    check_passes,
    evaluating,
    from_hidden,
    from_hidden_of_both,
)

TASK = "chest-xray-classification"
LN2 = math.log(2)
DOUBT = {"mean": 1.0, "deviation": 0.5, "entropy": LN2, "mutual_information": LN2}
"""Figures of `Uncertainty`, with the greatest value of each: float32 rounds ln 2 up."""
PARAMETERS = ("n_passes", "seed", "heatmaps", "max_entropy")


class ChestXRayClassificationPipeline(Pipeline):
    """Reads films with a model of the project, of one stage or two, bare or under PEFT.

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
        - `heatmaps`: None unless asked for; then `{label: (S, S) numpy float32 in [0, 1]}` over the square that the
          model read, by Grad-CAM, each stretched by itself (`explain.grad_cam`): it shows what the model used, not
          where a finding is. None in place of the map where a two-stage model's finding model did not look.

    The model is evaluated in evaluation mode whatever its flags say, and left as it was.

    Raises:
        TypeError: no model of the project, no `CXRImageProcessor`, or an unknown parameter.
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

    def __init__(self, model: Any, image_processor: Any = None, **kwargs: Any) -> None:
        self.network = bare(model)
        self.hierarchy = Hierarchy.from_config(self.network.config)
        _check_processor(image_processor, self.network.config)
        super().__init__(model=model, image_processor=image_processor, **kwargs)

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
        if (n_passes := given.get("n_passes")) is not None:
            check_passes(self.network, n_passes)
        if (limit := given.get("max_entropy")) is not None and not 0 < limit <= LN2:
            raise ValueError(f"max_entropy={limit}; expected nats in (0, ln 2 = 0.693147]")
        if "heatmaps" in given:
            given["heatmaps"] = _chosen_labels(given["heatmaps"], self.hierarchy.names)
        # What was not given is left out: transformers then keeps what pipeline(...) was given.
        forward: dict[str, Any] = {key: given[key] for key in ("n_passes", "seed", "heatmaps") if key in given}
        postprocess: dict[str, Any] = {key: given[key] for key in ("heatmaps", "max_entropy") if key in given}
        return {}, forward, postprocess

    def preprocess(self, film: Any) -> dict[str, Tensor]:
        """One film -> `pixel_values` (1, 1, S, S) float32, as in training."""
        # Not transformers' load_image: it converts to RGB, where 16-bit films saturate.
        position, image = (film.position, film.image) if isinstance(film, Film) else (None, film)
        if isinstance(image, Mapping):
            reason = f"a row with the columns {list(image)}; pass KeyDataset(dataset, column) or dataset[column]"
            raise FilmError(placed(position, None, reason))
        try:
            pixels = self.image_processor(images=image, return_tensors="pt")["pixel_values"]
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
        heatmaps: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Tensors whose first axis is the film: transformers takes batches apart along it."""
        pixels, network = inputs["pixel_values"].to(self.network.dtype), self.network
        doubt: Uncertainty | None = None
        maps: dict[str, Tensor] = {}
        if heatmaps:
            seen = look(network, pixels, n_passes=n_passes, seed=seed)
            logits, doubt, ran = seen.logits, seen.uncertainty, seen.finding_model_ran
            maps = {"heatmaps": seen.heatmaps[:, [self.hierarchy.names.index(name) for name in heatmaps]]}
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
        heatmaps: Sequence[str] | None = None,
        max_entropy: float | None = None,
    ) -> dict[str, Any]:
        """One film's tensors, first axis 1 -> its dict; see the class."""
        hierarchy, points = self.hierarchy, self.network.config.operating_points
        logits = outputs["logits"][0]
        probability = dict(zip(hierarchy.names, probabilities(logits.numpy()).tolist(), strict=True))
        doubt = {name: outputs[name][0].double().clamp(max=most) for name, most in DOUBT.items() if name in outputs}
        ran = bool(outputs["finding_model_ran"][0]) if "finding_model_ran" in outputs else None
        nodes = self._nodes(probability, doubt, ran)
        roots = [name for name in hierarchy.names if not hierarchy.parents[name]]
        abstained = None
        if max_entropy is not None:
            entropy = dict(zip(hierarchy.names, doubt.get("entropy", _entropy(logits)).tolist(), strict=True))
            abstained = any(entropy[name] > max_entropy for name in ([hierarchy.gate] if hierarchy.gate else roots))
        return {
            "findings": [_tree(name, nodes, hierarchy) for name in roots],
            "probabilities": probability,
            "gate": _gate(nodes[hierarchy.gate], points, ran) if hierarchy.gate else None,
            "operating_points_from": points["split"] if points else None,
            "abstained": abstained,
            "heatmaps": _maps(outputs["heatmaps"][0], heatmaps) if heatmaps else None,
        }

    def _nodes(
        self, probability: Mapping[str, float], doubt: Mapping[str, Tensor], ran: bool | None
    ) -> dict[str, dict[str, Any]]:
        """By label, what stands in the tree, children aside."""
        config = self.network.config
        thresholds = stored_thresholds(config.operating_points, self.hierarchy)
        decided = decide(probability, thresholds, self.hierarchy.gate, ran)
        return {
            name: {
                "label": name,
                "kind": config.node_kinds[name],
                "probability": p,
                "threshold": thresholds.get(name),
                "decision": decided.get(name),
                **{figure: values[i].item() for figure, values in doubt.items()},
            }
            for i, (name, p) in enumerate(probability.items())
        }


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


def _entropy(logits_L: Tensor) -> Tensor:
    """H(p) in nats; both probabilities from the logit, as 1 − p would lose the rare side's."""
    z = logits_L.double()
    return (torch.special.entr(z.sigmoid()) + torch.special.entr((-z).sigmoid())).clamp(max=LN2)


def _tree(name: str, nodes: Mapping[str, dict[str, Any]], hierarchy: Hierarchy) -> dict[str, Any]:
    return nodes[name] | {"children": [_tree(child, nodes, hierarchy) for child in hierarchy.children[name]]}


def _gate(node: Mapping[str, Any], points: Mapping[str, Any] | None, ran: bool | None) -> dict[str, Any]:
    decision = node["decision"]
    return {
        **{key: node[key] for key in ("label", "probability", "threshold")},
        "criterion": None if decision is None or points is None else points["gate_criterion"],
        "cleared": None if decision is None else not decision,
        "finding_model_ran": ran,
    }


def _maps(maps_MSS: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Copies: a view would keep the maps of the whole batch in memory. NaN: nobody looked."""
    pairs = zip(names, maps_MSS, strict=True)
    return {name: None if map_SS.isnan().any() else map_SS.numpy().copy() for name, map_SS in pairs}
