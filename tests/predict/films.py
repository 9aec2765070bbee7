"""Films, models' folders and small helpers of the tests of batch prediction."""

import csv
import runpy
import sys

import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_cxr.models import SINGLE_STAGE, CXRImageProcessor
from hf_cxr.predict import (
    PredictArguments,
    predict,
)
from hf_cxr.predict.writing import OutputFolder
from tests.conftest import BACKBONES, REPO
from tests.pipeline.helpers import lively

N, SIZE = 11, 32
SMALL = {"batch_size": 2, "rows_per_part": 3, "num_workers": 2}  # parts of 4 films: 4, 4, 3


def film(i):
    random = np.random.default_rng(i)
    return (20 + 12 * i + random.integers(0, 100, (40, 48))).clip(0, 255).astype(np.uint8)


def tiny(kind, hierarchy, **settings):
    torch.manual_seed(0)
    config_class, model_class = SINGLE_STAGE[f"cxr-{kind}"]
    shared = {"image_size": SIZE, "link": "conditional", **hierarchy.to_config()}
    return lively(model_class(config_class(**BACKBONES[kind], **shared, **settings)))


def save(model, folder):
    model.save_pretrained(folder)
    CXRImageProcessor.for_model(model.config, "pad").save_pretrained(folder)
    return folder


def pixels(model, numbers):
    processor = CXRImageProcessor.from_pretrained(model)
    return processor([film(i) for i in numbers], return_tensors="pt")["pixel_values"]


def loaded(model):
    return AutoModelForImageClassification.from_pretrained(model).eval()


NAMES = [f"a/{i:02d}.png" for i in range(4)] + [f"b/c/{i:02d}.png" for i in range(4, 7)] + ["d.png", "e.png"]
NAMES += ["z/09.png", "z/10.tif"]


def put(folder, names=NAMES):
    """The N films under these names: 8 and 16 bits deep, gray and RGB."""
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        values = film(i).astype(np.uint16) * 257 if i % 3 == 0 else film(i)
        image = Image.fromarray(values)
        (image.convert("RGB") if i % 3 == 1 else image).save(path)
    return folder


def settings(model, source, out, **other):
    own = {
        "model": str(model),
        "source": [str(each) for each in (source if isinstance(source, list) else [source])],
        "output_dir": str(out),
    }
    return PredictArguments(**{**own, **SMALL, **other})


def made(model, source, out, **other):
    done = predict(settings(model, source, out, **other))
    assert done.table == out / f"predictions.{other.get('format', 'csv')}"
    return read(done.table)


def read(path):
    return pd.read_csv(path, dtype={"id": str, "patient": str})


def figures(frame, names, what="prob"):
    return frame[[f"{name}_{what}" for name in names]].to_numpy(float)


def expected(model, numbers=range(N)):
    own = loaded(model)
    with torch.no_grad():
        return own(pixels(model, numbers)).logits.double().sigmoid().numpy()


def recipe(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["recipes/predict.py", *map(str, words)])
    runpy.run_path(str(REPO / "recipes" / "predict.py"), run_name="__main__")


def write_list(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def listed(nih, names=NAMES):
    """A list with truth, some of it unknown, in an order of its own and with text that looks like numbers."""
    rows = [
        {"view": "PA", "path": name, "patient": f"{i:03d}", "sex": "FM"[i % 2], "age": "" if i == 2 else str(20 + i)}
        | {label: ["1", "0", "", "1.0"][(i + at) % 4] for at, label in enumerate(nih.names)}
        for i, name in enumerate(names)
    ]
    return rows[::-1]


def spoil(folder):
    """Eight bad films among good ones: which, and what is said of them."""
    put(folder)
    whole = (folder / "e.png").read_bytes()
    (folder / "a" / "00_truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "empty.png").write_bytes(b"")
    (folder / "b" / "text.jpg").write_text("no picture")
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(folder / "blank.png")
    Image.fromarray(np.full((40, 40), 0.5, np.float32) * film(0)[:40, :40]).save(folder / "float.tif")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    corrupt = bytearray(whole)
    corrupt[len(whole) // 2 : len(whole) // 2 + 40] = b"\0" * 40
    (folder / "z" / "corrupt.png").write_bytes(bytes(corrupt))
    return {
        "a/00_truncated.png": "OSError: image file is truncated",
        "b/empty.png": "UnidentifiedImageError: neither DICOM nor a picture",
        "b/text.jpg": "UnidentifiedImageError: neither DICOM nor a picture",
        "blank.png": r"FilmError: film of size \(40, 40\) has the value 7 in every pixel",
        "float.tif": "FilmError: F image with values",
        "gone.png": "FileNotFoundError: no such file",
        "z/corrupt.png": "Error: ",
    }


class Stopped(Exception):
    pass


def stop_after(monkeypatch, n, method="write_part"):
    """Raise in place of the call after the n-th."""
    real, calls = getattr(OutputFolder, method), []

    def stopping(self, *args):
        if len(calls) == n:
            raise Stopped
        calls.append(args)
        return real(self, *args)

    monkeypatch.setattr(OutputFolder, method, stopping)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
