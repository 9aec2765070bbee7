"""Adapters of several sites averaged into one: films stay where they are, only adapters travel.

The low-rank layers are merged by PEFT (`merging`), the head's rows by the names of their labels.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from hf_cxr.adaptation.merging import AveragingArguments, merge_layers
from hf_cxr.adaptation.sites import HEAD, AveragingError, Site
from hf_cxr.growth import grow
from hf_cxr.hierarchy import Hierarchy, Node
from hf_cxr.loading import load_model, shown
from hf_cxr.models import CXRConfig, CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.verification import identity, verify_with

RESULT_FILE = "averaging.json"
"""Written with the adapter: a folder that has it holds an average."""


@dataclass(frozen=True, eq=False)
class Average:
    """The adapter that came of it.

    Attributes:
        config: of the adapted model. lora: how its low-rank layers are made. weights: of both, by the names in a file.
    """

    config: CXRConfig
    lora: LoraConfig
    weights: dict[str, Tensor]

    def save(self, folder: Path, processor: CXRImageProcessor) -> CXRPreTrainedModel:
        """Write an adapter's folder, which exists, with its verification; returns the model loaded from it."""
        self.config.save_pretrained(folder)
        self.lora.save_pretrained(str(folder))
        save_file(self.weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        processor.save_pretrained(folder)
        model = load_model(folder)
        verify_with(model, processor).save(folder)
        return model


def shares_of(sites: Sequence[Site], weights: Sequence[float] | None = None) -> list[float]:
    """Each site's share, adding up to 1.

    Args:
        weights: 0 or more, one a site, of any sum; None: the numbers of films the sites trained on.

    Raises:
        AveragingError: fewer than two sites, another number of weights, or weights that are no shares.
    """
    if len(sites) < 2:
        raise AveragingError(f"{len(sites)} adapter: nothing to average; name at least two")
    given = [float(site.films) for site in sites] if weights is None else list(weights)
    if len(given) != len(sites):
        raise AveragingError(f"{len(given)} weights for {len(sites)} adapters; expected one each, in their order")
    if not all(0 <= weight < float("inf") for weight in given) or not sum(given):
        raise AveragingError(f"weights {given}: expected numbers of 0 or more, not all 0")
    return [weight / sum(given) for weight in given]


def average(
    base: CXRPreTrainedModel,
    base_name: str,
    sites: Sequence[Site],
    shares: Sequence[float],
    arguments: AveragingArguments,
) -> Average:
    """One adapter of several; a site with share 0 gives it nothing, neither weights nor labels.

    Labels are the base's, then every new one of the sites, in their order. A row of the head is the average over the
    sites that have the label. Calibration and thresholds are the base's, since nobody has validation films of all
    sites; new labels are not calibrated, and have no threshold.

    Args:
        base: in float32, with one stage. base_name: folder or name on the Hub, which the adapter is to name.
        sites: of `read_sites`. shares: of `shares_of`.

    Raises:
        AveragingError: a label stands elsewhere in another site; ranks or layers that the method cannot take.
    """
    given = [(site, share) for site, share in zip(sites, shares, strict=True) if share]
    if len(given) < 2 and (arguments.density, arguments.rank) != (None, None):
        raise AveragingError(f"only {given[0][0].folder} has a weight above 0: there is nothing for {arguments} to do")
    hierarchy = _joined(base, [site for site, _ in given])
    # The new outputs' bias is replaced with the rest of the head.
    grown = grow(base, hierarchy, dict.fromkeys(hierarchy.names, 0.5))
    config = _without_validation(grown.config)
    config.adapted_from = {"name": shown(base_name), **identity(base)}
    head = {f"{HEAD}{name}": value for name, value in _head(config.label_names, given).items()}
    lora, layers = merge_layers(grown, given, arguments)
    lora.base_model_name_or_path = base_name
    return Average(config, lora, layers | head)


def _joined(base: CXRPreTrainedModel, sites: Sequence[Site]) -> Hierarchy:
    own = Hierarchy.from_config(base.config)
    new: dict[str, tuple[Node, Site]] = {}
    names = []
    for site in sites:
        theirs = Hierarchy.from_config(site.config)
        names.append(theirs.name.removeprefix(own.name).lstrip("+"))
        for node in theirs.nodes[len(own.nodes) :]:
            first, where = new.setdefault(node.name, (node, site))
            if (first.kind, set(first.parents)) != (node.kind, set(node.parents)):
                raise AveragingError(
                    f"label '{node.name}' is a {first.kind} under {list(first.parents)} in {where.folder} and a "
                    f"{node.kind} under {list(node.parents)} in {site.folder}: two things of one name; rename one in "
                    "its map and adapt again"
                )
    name = "+".join([own.name, *dict.fromkeys(filter(None, names))])
    return replace(own, nodes=(*own.nodes, *(node for node, _ in new.values())), name=name)


def _without_validation(config: CXRConfig) -> CXRConfig:
    """Calibration and thresholds are the base's already; their texts say so, as `refitting` has it."""
    config = deepcopy(config)
    if config.calibration:
        config.calibration["prevalence"] = dict.fromkeys(config.label_names) | config.calibration["prevalence"]
        _say(config.calibration, "method", "; as before the adaptation: all")
    if config.operating_points:
        _say(config.operating_points, "criterion", "; as before the adaptation: all")
        _say(config.operating_points, "gate_criterion", " (before adaptation)")
    return config


def _say(about: dict[str, Any], key: str, words: str) -> None:
    about[key] = about[key].removesuffix(words) + words  # once, however many rounds there were


def _head(labels: Sequence[str], given: Sequence[tuple[Site, float]]) -> dict[str, Tensor]:
    """The trunk's weights: the last layer's row by row, the others as a whole."""
    merged = {}
    for name, first in given[0][0].head.items():
        if not first.is_floating_point():  # how many batches a batch norm has seen, which no output depends on
            merged[name] = torch.stack([site.head[name] for site, _ in given]).amax(0)
        elif name.startswith("classifier."):
            rows = [
                _mean([(s.head[name][s.config.label_names.index(n)], w) for s, w in given if n in s.config.label_names])
                for n in labels
            ]
            merged[name] = torch.stack(rows)
        else:
            merged[name] = _mean([(site.head[name], share) for site, share in given])
    return merged


def _mean(weighted: Sequence[tuple[Tensor, float]]) -> Tensor:
    total = sum(weight for _, weight in weighted)
    return torch.stack([value.double() * (weight / total) for value, weight in weighted]).sum(0).float()


@contextmanager
def new_folder(folder: Path, overwrite: bool, needed: Sequence[str | Path]) -> Iterator[Path]:
    """A folder beside the one named, which takes its place when the block ends well, and is gone otherwise.

    Args:
        overwrite: an average that is there. needed: folders that the result is made of, the base among them.

    Raises:
        AveragingError: the folder holds something, which is no average or not to be overwritten; or is needed.
    """
    if folder.resolve() in [Path(each).resolve() for each in needed]:
        raise AveragingError(f"{folder} is what the average is made of; name another folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not (folder / RESULT_FILE).is_file():
            raise AveragingError(f"{folder} holds something that is no average (no {RESULT_FILE}); name another folder")
        if not overwrite:
            raise AveragingError(f"{folder} holds an average: --overwrite replaces it; or name another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
