"""What a training step costs, beside a plain Trainer as in transformers' examples and beside a bare loop."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import torchvision.transforms.v2 as transforms
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    TimmWrapperConfig,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
)

from benchmarks.machine import matmul_rate
from benchmarks.stepping import Stepper
from benchmarks.timing import Comparison, Round
from hf_cxr import load_taxonomy
from hf_cxr.augmentation import AugmentationConfig
from hf_cxr.compute import flops
from hf_cxr.data import FilmDataset, decode
from hf_cxr.losses import build_loss
from hf_cxr.models import SINGLE_STAGE, CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.trainer import CXRTrainer
from hf_cxr.training_arguments import CXRTrainingArguments

NIH = load_taxonomy("nih")
AUGMENTATION = AugmentationConfig(flip=0.5, rotation=10, scale=0.1, shift=0.05)
ENDLESS = 10**6


def our_model(backbone: str, size: int) -> CXRPreTrainedModel:
    kind = "vit" if backbone.startswith("vit") else "densenet"
    config_class, model_class = SINGLE_STAGE[f"cxr-{kind}"]
    torch.manual_seed(0)
    return model_class(config_class(backbone=backbone, image_size=size, link="conditional", **NIH.to_config()))


def film_files(n_films: int, size: int) -> datasets.Dataset:
    """Noisy films as PNG files in a temporary folder, with random labels."""
    folder = scratch()
    random = np.random.default_rng(0)
    smooth = np.linspace(40, 200, size)[None] * np.ones((size, 1))
    for i in range(n_films):
        film = (smooth + random.normal(0, 8, (size, size))).clip(0, 255).astype(np.uint8)
        Image.fromarray(film).save(folder / f"{i}.png")
    labels = (random.random((n_films, len(NIH.names))) < 0.1).astype(np.float32)
    columns = {"id": [str(i) for i in range(n_films)], "image": [str(folder / f"{i}.png") for i in range(n_films)]}
    return datasets.Dataset.from_dict({**columns, "labels": list(labels)}).cast_column("image", datasets.Image())


def scratch() -> Path:
    """A folder that goes with this process."""
    folder = Path(tempfile.mkdtemp(prefix="hf_cxr_bench_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def our_trainer(backbone: str, size: int, batch: int, films: datasets.Dataset, **settings: Any) -> CXRTrainer:
    """As recipes/train.py makes it, from the decoded cache."""
    processor = CXRImageProcessor(size={"height": size, "width": size})
    decoded, _ = decode(
        films.remove_columns("labels"),
        processor.read,
        image_size=size,
        fingerprint_of_read=processor.fingerprint,
        progress=False,
    )
    train = FilmDataset(decoded, np.array(films["labels"], dtype=np.float32))
    arguments = CXRTrainingArguments(
        output_dir=str(scratch()),
        per_device_train_batch_size=batch,
        max_steps=ENDLESS,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        load_best_model_at_end=False,
        optim="adamw_torch_fused",
        bf16=True,
        disable_tqdm=True,
        **settings,
    )
    loss = build_loss("bce", NIH)
    return CXRTrainer(our_model(backbone, size), arguments, loss, train, train, AUGMENTATION)


def plain_trainer(backbone: str, size: int, batch: int, films: datasets.Dataset) -> Trainer:
    """As transformers' examples/pytorch/image-classification: RGB, transforms a film, fp32, defaults."""
    n_labels = len(NIH.names)
    if backbone.startswith("vit"):
        config = ViTConfig(image_size=size, num_labels=n_labels, problem_type="multi_label_classification")
        model: nn.Module = ViTForImageClassification(config)
    else:
        config = TimmWrapperConfig(
            architecture=backbone, num_labels=n_labels, problem_type="multi_label_classification"
        )
        model = AutoModelForImageClassification.from_config(config)
    change = transforms.Compose(
        [
            transforms.RGB(),
            transforms.Resize((size, size)),
            transforms.RandomHorizontalFlip(),
            transforms.RandomAffine(10, translate=(0.05, 0.05), scale=(0.9, 1.1)),
            transforms.ToImage(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize([0.5] * 3, [0.25] * 3),
        ]
    )

    def prepare(rows: dict[str, Any]) -> dict[str, Any]:
        return {"pixel_values": [change(film) for film in rows["image"]], "labels": rows["labels"]}

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        labels = torch.tensor([row["labels"] for row in rows])
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), "labels": labels}

    arguments = TrainingArguments(
        output_dir=str(scratch()),
        per_device_train_batch_size=batch,
        max_steps=ENDLESS,
        save_strategy="no",
        logging_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=not torch.accelerator.is_available(),
        report_to="none",
    )
    train = films.remove_columns("id").with_transform(prepare)
    return Trainer(model, arguments, train_dataset=train, data_collator=collate)


def bare_loop(backbone: str, size: int, batch: int, steps: int) -> Round:
    """The same model in bf16 and channels_last on one batch in memory; nothing but forward, loss, backward, AdamW."""
    model = our_model(backbone, size).to(memory_format=torch.channels_last).train()
    pixels = torch.randn(batch, 1, size, size).contiguous(memory_format=torch.channels_last)
    labels = (torch.rand(batch, len(NIH.names)) < 0.1).float()
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)

    def run() -> float:
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(pixel_values=pixels).logits
            F.binary_cross_entropy_with_logits(logits.float(), labels).backward()
            optimiser.step()
            optimiser.zero_grad()
        return steps

    return run


def _against_plain(backbone: str, size: int, batch: int, steps: int) -> dict[str, Round]:
    films = film_files(batch * 16, size)
    return {
        "CXRTrainer": Stepper(our_trainer(backbone, size, batch, films), steps).round,
        "plain Trainer, fp32": Stepper(plain_trainer(backbone, size, batch, films), steps).round,
    }


def _against_bare(backbone: str, size: int, batch: int, steps: int) -> dict[str, Round]:
    films = film_files(batch * 16, size)
    return {
        "CXRTrainer": Stepper(our_trainer(backbone, size, batch, films), steps).round,
        "bare loop, bf16": bare_loop(backbone, size, batch, steps),
    }


def _bound(backbone: str, size: int, batch: int) -> Any:
    # A backward pass costs two forward ones.
    work = 3 * batch * flops(our_model(backbone, size))
    return lambda rate: ("the bf16 matrix rate", rate * work / matmul_rate(torch.bfloat16))


def _comparison(backbone: str, size: int, batch: int, steps: int, plain: bool, rounds: int = 7) -> Comparison:
    sides = _against_plain if plain else _against_bare
    return Comparison(
        title=f"training step, {backbone} at {size}², batch {batch}",
        unit="steps",
        ours="CXRTrainer",
        peer="plain Trainer, fp32" if plain else "bare loop, bf16",
        target=1.8 if plain else 0.95,
        sides=partial(sides, backbone, size, batch, steps),
        rounds=rounds,
        bound=_bound(backbone, size, batch),
    )


def step_densenet_128() -> Comparison:
    """Training step of densenet121 at 128² against a plain Trainer."""
    return _comparison("densenet121", 128, 32, 4, plain=True)


def step_densenet_320() -> Comparison:
    """Training step of densenet121 at 320² against a plain Trainer."""
    return _comparison("densenet121", 320, 8, 2, plain=True)


def step_vit_224() -> Comparison:
    """Training step of ViT-B/16 at 224² against a plain Trainer."""
    return _comparison("vit_base_patch16_224", 224, 8, 1, plain=True)


def bare_densenet_128() -> Comparison:
    """Training step of densenet121 at 128² against a bare loop."""
    return _comparison("densenet121", 128, 32, 4, plain=False)


def bare_densenet_320() -> Comparison:
    """Training step of densenet121 at 320² against a bare loop."""
    return _comparison("densenet121", 320, 8, 2, plain=False)


def bare_vit_224() -> Comparison:
    """Training step of ViT-B/16 at 224² against a bare loop."""
    return _comparison("vit_base_patch16_224", 224, 8, 1, plain=False)
