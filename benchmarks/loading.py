"""Films into batches: from a warm cache, from nothing, and beside a training step.

Sources are our phantom's, drawn at 1024² as 8-bit gray PNG (about 0.7 MB each; NIH's have 0.4 MB on average), and
repeated under other names. Both sides read them from the page cache. torchxrayvision decodes in worker processes; ours
reads the decoded cache in the training process itself, where a film costs less than a worker's handing it over, and
with as many workers as well.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.machine import copy_rate
from benchmarks.many_films import repeat
from benchmarks.timing import Comparison, Round
from benchmarks.training_step import NIH, bare_loop, our_trainer
from hf_cxr.augmentation import AugmentationConfig
from hf_cxr.data import FilmDataset, decode
from hf_cxr.data.nih import TABLES
from hf_cxr.data.phantom.generation import generate
from hf_cxr.models import CXRImageProcessor
from hf_cxr.trainer import CXRTrainer

AUGMENTATION = AugmentationConfig(flip=0.5, rotation=10, scale=0.1, shift=0.05, brightness=0.1, contrast=0.1)
TINY = "test_resnet"
"""timm's backbone for tests: the loader's Trainer wants a model and does not run it."""
OURS, PEER = "hf_cxr", "torchxrayvision"


@dataclass(frozen=True)
class Size:
    """Of a measurement.

    Attributes:
        drawn: different films. repeats: of each, under other names. source, film: pixels of a side, on the disk and
            in the batch. batch, workers: of both sides' loaders.
    """

    drawn: int = 32
    repeats: int = 16
    source: int = 1024
    film: int = 320
    batch: int = 32
    workers: int = 2


def draw(size: Size) -> Path:
    """A folder in NIH's layout, removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="hf_cxr_bench_"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    once = generate(root / "once", n_images=size.drawn, image_size=size.source, progress=False)
    repeat(once, size.repeats, root / "films")
    return root / "films"


def film_rows(folder: Path) -> datasets.Dataset:
    """The films' files, and labels that nobody looks at."""
    files = sorted((folder / "images").iterdir())
    labels = np.zeros((len(files), len(NIH.names)), np.float32)
    columns = {"id": [file.name for file in files], "image": [str(file) for file in files], "labels": list(labels)}
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def trainer_of(films: datasets.Dataset, size: Size, workers: int = 0) -> CXRTrainer:
    """A Trainer in training mode, with these films decoded in its cache; its workers stay between epochs."""
    trainer = our_trainer(
        TINY,
        size.film,
        size.batch,
        films,
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
    )
    trainer.augmentation = AUGMENTATION
    trainer.model.train()
    return trainer


def one_pass(batches: Any, prepare: Callable[[Any], torch.Tensor]) -> float:
    """Films that came in one pass, each batch made ready for the model."""
    return sum(len(prepare(batch)) for batch in batches)


def pixels_for(trainer: CXRTrainer) -> Callable[[Any], torch.Tensor]:
    """What the Trainer does with a batch before the model: augmentation and normalisation on the model's device."""
    return lambda batch: trainer._prepare_inputs(batch)["pixel_values"]


def our_pass(folder: Path, size: Size, workers: int = 0) -> Round:
    """One epoch's batches from the cache."""
    trainer = trainer_of(film_rows(folder), size, workers)
    return partial(one_pass, trainer.get_train_dataloader(), pixels_for(trainer))


def our_first_epoch(folder: Path, size: Size) -> Round:
    """Decoding into a cache that was not there, and one epoch's batches from it."""
    films = film_rows(folder)
    labels = np.array(films["labels"], dtype=np.float32)
    sources = films.remove_columns("labels")
    processor = CXRImageProcessor(size={"height": size.film, "width": size.film})
    trainer = trainer_of(films, size)
    again = count()

    def run() -> float:
        decoded, _ = decode(
            sources,
            processor.read,
            image_size=size.film,
            fingerprint_of_read=f"{processor.fingerprint} {next(again)}",  # a cache of its own
            num_proc=size.workers,
            progress=False,
        )
        trainer.train_dataset = FilmDataset(decoded, labels)
        return one_pass(trainer.get_train_dataloader(), pixels_for(trainer))

    return run


def peer_pass(folder: Path, size: Size) -> Round:
    """torchxrayvision's data set with its crop and resize, and torchvision's rotation, shift and scale, film by film.

    It neither flips nor changes brightness and contrast, which ours does.
    """
    import torchxrayvision as xrv

    affine = transforms.RandomAffine(AUGMENTATION.rotation, translate=(0.05, 0.05), scale=(0.9, 1.1))
    films = xrv.datasets.NIH_Dataset(
        str(folder / "images"),
        csvpath=str(folder / TABLES[0]),
        views=["PA", "AP"],
        unique_patients=False,
        transform=transforms.Compose([xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(size.film)]),
        data_aug=transforms.Compose([xrv.datasets.ToPILImage(), affine, transforms.ToTensor()]),
    )
    there = len(list((folder / "images").iterdir()))
    if len(films) != there:
        raise RuntimeError(f"torchxrayvision reads {len(films)} of {there} films")
    loader = DataLoader(films, size.batch, shuffle=True, num_workers=size.workers, persistent_workers=size.workers > 0)
    return partial(one_pass, loader, lambda batch: batch["img"])


def _sides(size: Size, ours: Callable[[Path, Size], Round]) -> dict[str, Round]:
    folder = draw(size)
    return {OURS: ours(folder, size), PEER: peer_pass(folder, size)}


def _steady(size: Size, our_workers: int) -> Comparison:
    def bound(rate: float) -> tuple[str, float]:
        moved = rate * size.film**2 * (1 + 4)
        return "the copying rate (one byte read and four written a pixel)", moved / copy_rate()

    return Comparison(
        title=f"loader at {size.film}², warm cache, workers: ours {our_workers}, theirs {size.workers}",
        unit="films",
        ours=OURS,
        peer=PEER,
        target=20,
        sides=lambda: _sides(size, partial(our_pass, workers=our_workers)),
        bound=bound,
        note=(
            f"{size.drawn * size.repeats} phantom films as {size.source}² PNG; ours flips, rotates, scales, shifts and "
            "changes brightness and contrast (cubic convolution), torchxrayvision rotates, scales and shifts (nearest "
            "pixel)"
        ),
    )


def loader_steady(size: Size = Size()) -> Comparison:
    """Augmented, normalised films into batches at 320² from a warm cache, against torchxrayvision."""
    return _steady(size, our_workers=0)


def loader_steady_workers(size: Size = Size()) -> Comparison:
    """The same with as many workers as torchxrayvision, which then compete with augmentation for the cores."""
    return _steady(size, our_workers=size.workers)


def loader_first_epoch(size: Size = Size()) -> Comparison:
    """The same from nothing: every film decoded into a new cache, then one pass, against one pass of theirs."""
    return Comparison(
        title=f"loader at {size.film}², first epoch, decoding included",
        unit="films",
        ours=OURS,
        peer=PEER,
        target=2,
        sides=lambda: _sides(size, our_first_epoch),
        rounds=5,
        note=f"see the rows of the warm cache; {size.workers} processes decode, theirs and ours",
    )


def loader_share(size: Size = Size(batch=8), backbone: str = "densenet121") -> Comparison:
    """Films from a warm cache against films that a training step takes: 20 is 5 % of the step."""

    def sides() -> dict[str, Round]:
        step = bare_loop(backbone, size.film, size.batch, steps=2)
        return {"loader": our_pass(draw(size), size), "training step": lambda: size.batch * step()}

    return Comparison(
        title=f"loader against a training step of {backbone} at {size.film}², batch {size.batch}, bf16",
        unit="films",
        ours="loader",
        peer="training step",
        target=20,
        sides=sides,
        rounds=5,
        note="the step alone, on a batch in memory; the loader with augmentation",
    )
