"""Whether the faster step learns the same: AUROC after equal epochs on the real films, ours and a plain Trainer's.

Both train the same model from the same initialisation, with the same optimiser, schedule and ranges of augmentation.
Ours takes cached films, augments the batch and computes in bf16 and channels_last; the plain Trainer opens each file,
augments film by film with torchvision and computes in fp32. Orders of films and draws of augmentation differ, as
between seeds.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2 as transforms
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from benchmarks.training_step import scratch
from hf_cxr.arguments import DataArguments, LabelArguments
from hf_cxr.augmentation import AugmentationConfig
from hf_cxr.films import Films, prepare
from hf_cxr.inference import predict_logits
from hf_cxr.losses import build_loss
from hf_cxr.models import SINGLE_STAGE, CXRImageProcessor, CXRPreTrainedModel
from hf_cxr.trainer import CXRTrainer
from hf_cxr.training_arguments import CXRTrainingArguments

DATA = Path(os.environ.get("HF_CXR_TEST_DATA", Path(__file__).parent.parent.parent / "shared" / "data")) / "nih128"
NARROW = {"growth_rate": 24, "block_config": [2, 4, 8, 6], "bn_size": 2, "drop_rate": 0.1}  # nih128_cpu.yaml
COMMON: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "save_strategy": "no",
    "disable_tqdm": True,
    "report_to": "none",
    "use_cpu": not torch.accelerator.is_available(),
}


class Files(Dataset[dict[str, Any]]):
    """Training films as a torchvision user reads them: opened, augmented and normalised one by one."""

    def __init__(self, films: Films, folder: Path) -> None:
        self.paths = [folder / "images" / str(name) for name in films.decoded["train"]["id"]]
        self.labels = films.dataset("train").labels
        self.change = transforms.Compose(
            [
                transforms.RandomAffine(
                    10, (0.05, 0.05), (0.9, 1.1), interpolation=transforms.InterpolationMode.BILINEAR
                ),
                transforms.ToImage(),
                transforms.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict[str, Any]:
        with Image.open(self.paths[i]) as file:
            film = self.change(file.convert("L"))
        return {"pixel_values": (film - film.mean()) / film.std(), "labels": self.labels[i]}


class WithLoss(nn.Module):
    """A plain Trainer wants the loss from the model."""

    def __init__(self, model: CXRPreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.model(pixel_values=pixel_values).logits
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels), "logits": logits}


def fresh(films: Films, seed: int) -> CXRPreTrainedModel:
    set_seed(seed)
    config_class, model_class = SINGLE_STAGE["cxr-densenet"]
    model = model_class(
        config_class(
            backbone="densenet121", backbone_kwargs=NARROW, image_size=128, link="flat", head_dropout=0.2,
            image_mean=None, image_std=None, **films.hierarchy.to_config(),
        )
    )  # fmt: skip
    model.set_prior(films.prevalence(films.hierarchy.names))
    return model


def ours(films: Films, seed: int, epochs: int) -> tuple[CXRPreTrainedModel, float]:
    model = fresh(films, seed)
    arguments = CXRTrainingArguments(
        output_dir=str(scratch()), seed=seed, num_train_epochs=epochs, optim="adamw_torch_fused", bf16=True,
        eval_strategy="no", load_best_model_at_end=False, logging_strategy="no", **COMMON,
    )  # fmt: skip
    train, change = films.dataset("train"), AugmentationConfig(rotation=10, scale=0.1, shift=0.05)
    trainer = CXRTrainer(model, arguments, build_loss("bce", films.hierarchy), train, train, change)
    return model, trainer.train().metrics["train_runtime"]


def plain(films: Films, seed: int, epochs: int) -> tuple[CXRPreTrainedModel, float]:
    model = fresh(films, seed)
    arguments = TrainingArguments(
        output_dir=str(scratch()), seed=seed, num_train_epochs=epochs, remove_unused_columns=False,
        logging_strategy="no", **COMMON,
    )  # fmt: skip
    trainer = Trainer(WithLoss(model), arguments, train_dataset=Files(films, DATA))
    return model, trainer.train().metrics["train_runtime"]


def macro_auroc(model: CXRPreTrainedModel, films: Films) -> float:
    logits, labels = predict_logits(model, films.dataset("test")), films.labels["test"]
    columns = [labels.names.index(name) for name in films.hierarchy.findings]
    return float(np.mean([roc_auc_score(labels.values[:, i], logits[:, i]) for i in columns]))


def equal_epochs(epochs: int = 4, seeds: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    """AUROC on the real films after equal epochs, ours and a plain Trainer's."""
    if not DATA.is_dir():
        raise FileNotFoundError(f"{DATA}: the real films; set HF_CXR_TEST_DATA to the folder that has nih128")
    labels = LabelArguments()
    films = prepare(
        DataArguments(dataset="nih", data_dir=str(DATA)), labels,
        CXRImageProcessor(size={"height": 128, "width": 128}), labels.hierarchy(),
    )  # fmt: skip
    figures: dict[str, list[float]] = {"ours": [], "peer": [], "ours_seconds": [], "peer_seconds": []}
    for seed in seeds:
        for side, train in (("ours", ours), ("peer", plain)):
            model, seconds = train(films, seed, epochs)
            figures[side].append(macro_auroc(model, films))
            figures[f"{side}_seconds"].append(seconds)
            print(f"seed {seed} {side}: {figures[side][-1]:.4f} after {seconds:.0f} s", flush=True)
    return {"kind": "learning", "title": f"nih128, {epochs} epochs, macro AUROC on its test list", **figures}
