"""What an epoch over 1, 10 and 100 million films would cost: the tables of `SCALING.md`, from stated figures.

    python -m benchmarks.scaling             # prints the tables
    python -m benchmarks.scaling --measure   # measures here what the tables take as measured on this stack

Nothing of this size was run. `MEASURED` are figures of this stack on two cores, `PUBLISHED` sizes of public data sets
and peaks of data sheets, `ASSUMED` what is neither.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

FILMS = (10**6, 10**7, 10**8)
SIZES = (320, 512)

MEASURED = {
    # python -m benchmarks.scaling --measure; processor seconds of one core, a 0.6 MB PNG of 1024² with noise
    "png_films_s_core": 120.0,
    # python benchmarks/dicom_reading.py: 2000², 12 bits, uncompressed / JPEG-LS / JPEG 2000, each lossless
    "dicom_films_s_core": 57.7,
    "jpegls_films_s_core": 9.7,
    "jpeg2000_films_s_core": 2.0,
    # python -m benchmarks.scaling --measure: forward pass of densenet121, a multiplication and an addition each counted
    "gflop_320": 11.24,
    "gflop_512": 28.78,
    # python -m benchmarks bare_densenet_320: CXRTrainer's steps of 8 films, bf16, on two cores
    "two_cores_films_s": 5.1,
    # python -m benchmarks growth_preparation, growth_epoch: bytes_a_film
    "preparation_bytes": 2653.0,
    "training_bytes": 587.0,
    # tracemalloc around iter(EpochSampler(range(10**6), …))
    "order_bytes": 8.0,
    # python -m benchmarks growth_evaluation, growth_bootstrap: a film of the table that is evaluated
    "evaluation_bytes": 7907.0,
    "evaluation_cpu_s": 64.7 / 136_128,
    "bootstrap_cpu_s": 1.84 / 136_128,
}
PUBLISHED = {
    "dicom_bytes": 12.5e6,  # MIMIC-CXR: 4.7 TB, 377,110 films
    "png_bytes": 0.4e6,  # NIH ChestX-ray14: 45 GB, 112,120 films of 1024²
    "a100_tflop_s": 312.0,  # dense bf16
    "h100_tflop_s": 989.0,
}
ASSUMED = {
    # DenseNet's concatenations and batch norms wait for memory: far below a matrix product's rate.
    "a100_use": 0.06,
    "h100_use": 0.03,  # 3.2 times the arithmetic of an A100, 1.7 times its memory rate
    "labels": 21,
    "accelerators_a_node": 8,
    "decoding_cores": 1024,
    "held_out": 0.1,
}

Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def storage() -> Table:
    """Sources as they come, and the cache."""
    sources = {
        "DICOM, 16 bits": PUBLISHED["dicom_bytes"],
        "PNG of 1024²": PUBLISHED["png_bytes"],
        **{f"cache, {size}²": float(size**2) for size in SIZES},
    }
    return ("", "MB a film", *_columns("TB for {}")), [
        (name, f"{each / 1e6:.2f}", *(_figure(each * n / 1e12) for n in FILMS)) for name, each in sources.items()
    ]


def decoding() -> Table:
    """Once, before the first epoch."""
    cores = ASSUMED["decoding_cores"]
    rates = {
        "PNG of 1024²": "png_films_s_core",
        "DICOM of 2000², uncompressed": "dicom_films_s_core",
        "the same, JPEG-LS": "jpegls_films_s_core",
        "the same, JPEG 2000": "jpeg2000_films_s_core",
    }
    rows = []
    for name, key in rates.items():
        hours = [n / MEASURED[key] / 3600 for n in FILMS]
        rows.append((name, f"{MEASURED[key]:g}", *map(_figure, hours), _figure(hours[-1] / cores)))
    return ("", "films/s a core", *_columns("core-hours for {}"), f"hours for 100 M on {cores:,.0f} cores"), rows


def epochs() -> Table:
    """Training densenet121: three forward passes' operations a film."""
    rows = []
    for size in SIZES:
        step = 3e9 * MEASURED[f"gflop_{size}"]
        rates = {
            "two CPU cores": MEASURED["two_cores_films_s"] * MEASURED["gflop_320"] / MEASURED[f"gflop_{size}"],
            "A100": PUBLISHED["a100_tflop_s"] * 1e12 * ASSUMED["a100_use"] / step,
            "H100": PUBLISHED["h100_tflop_s"] * 1e12 * ASSUMED["h100_use"] / step,
        }
        for device, rate in rates.items():
            hours = (_figure(n / rate / 3600) for n in FILMS)
            rows.append((f"{size}², {device}", f"{step / 1e9:.0f}", _figure(rate), *hours))
    return ("", "GFLOP a film", "films/s", *_columns("device-hours for {}")), rows


def reading() -> Table:
    """What one node of accelerators reads while it trains at the rates above."""
    devices, rows = ASSUMED["accelerators_a_node"], []
    for size in SIZES:
        for device in ("a100", "h100"):
            use = PUBLISHED[f"{device}_tflop_s"] * 1e12 * ASSUMED[f"{device}_use"]
            rate = devices * use / (3e9 * MEASURED[f"gflop_{size}"])
            rows.append(
                (
                    f"{size}², {devices:.0f} {device.upper()}",
                    _figure(rate),
                    _figure(rate * size**2 / 1e9),
                    _figure(rate * PUBLISHED["png_bytes"] / 1e9),
                    _figure(rate / MEASURED["png_films_s_core"]),
                )
            )
    header = ("", "films/s a node", "GB/s of cache", "GB/s of PNG in Parquet", "cores that decode these PNG")
    return header, rows


def memory() -> Table:
    """In memory, a film each; of training in every process."""
    held_out = ASSUMED["held_out"]
    parts = {
        "preparation: index, checks, decoding": MEASURED["preparation_bytes"],
        "training with its evaluation: each process": MEASURED["training_bytes"],
        "of these, one matrix of labels (float32)": 4 * ASSUMED["labels"],
        "of these, an epoch's order": MEASURED["order_bytes"],
        "full report of a tenth held out": held_out * MEASURED["evaluation_bytes"],
    }
    rows: list[Sequence[str]] = [
        (name, f"{each:,.0f}", *(_figure(each * n / 1e9) for n in FILMS)) for name, each in parts.items()
    ]
    return ("", "bytes a film", *_columns("GB for {}")), rows


def evaluating() -> Table:
    """One core, a tenth of the films held out."""
    parts = {
        "full report, 200 resamples": MEASURED["evaluation_cpu_s"],
        "1,000 resamples of 14 AUROCs": MEASURED["bootstrap_cpu_s"],
    }
    return ("", "ms a film", *_columns("core-hours of {}")), [
        (name, f"{1e3 * each:.3f}", *(_figure(ASSUMED["held_out"] * n * each / 3600) for n in FILMS))
        for name, each in parts.items()
    ]


TABLES = {
    "Storage": storage,
    "Decoding, once": decoding,
    "One epoch": epochs,
    "Reading": reading,
    "Memory": memory,
    "Evaluation": evaluating,
}


def _columns(words: str) -> tuple[str, ...]:
    return tuple(words.format(f"{n // 10**6} M") for n in FILMS)


def _figure(value: float) -> str:
    """Two significant digits, as nothing here is known better."""
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def markdown(title: str) -> str:
    """One of `TABLES` under its heading."""
    columns, rows = TABLES[title]()
    lines = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
    return "\n".join([f"### {title}\n", lines[0], f"|---|{'---:|' * (len(columns) - 1)}", *lines[1:]]) + "\n"


def measure() -> dict[str, float]:
    """The figures of `MEASURED` that no other benchmark has, on this machine."""
    from benchmarks.training_step import our_model
    from hf_cxr.compute import flops
    from hf_cxr.models import CXRImageProcessor

    found = {f"gflop_{size}": flops(our_model("densenet121", size)) / 1e9 for size in SIZES}
    film = np.linspace(40, 200, 1024)[None] + np.random.default_rng(0).normal(0, 4, (1024, 1024))
    file = io.BytesIO()
    Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    read, seconds = CXRImageProcessor(size={"height": 320, "width": 320}).read, []
    for _ in range(30):
        start = time.process_time()
        read(file.getvalue())
        seconds.append(time.process_time() - start)
    return found | {"png_films_s_core": 1 / float(np.median(seconds))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="what the tables take as measured, here")
    if parser.parse_args().measure:
        for name, value in measure().items():
            print(f"{name:20} {value:8.2f} here, {MEASURED[name]:8.2f} in the tables")
        return
    print("\n".join(map(markdown, TABLES)))


if __name__ == "__main__":
    main()
