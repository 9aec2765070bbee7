"""Make a phantom data set on disk, whole or not at all, and read its masks back."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from hf_cxr.data.phantom.film import MIN_SIZE
from hf_cxr.data.phantom.findings import OBSERVATION_SIGNS, SIGNS
from hf_cxr.data.phantom.layouts import CHEXPERT_PREFIX, LAYOUTS, mask_path
from hf_cxr.data.phantom.population import FilmRecord, draw_population
from hf_cxr.data.phantom.texture import FIELD_MM, Mask

VERSION = 1
"""Raise it with every change that alters a byte of the output."""

DESCRIPTION = "phantom.json"

NOTICE = """\
Synthetic chest-like films (hf_cxr phantom)

These images are a synthetic toy. They are drawn by a program from random numbers and show no real
patient. They are for testing software only, never for clinical use. Any figure measured on them, such as
an AUROC, says nothing about patients or about how a model does on real radiographs.

The folder follows the layout of the public data set named in phantom.json, so that the same code reads
both; none of its images, labels or patients come from that data set. Prevalences and associations of
findings are modelled on its published label table, rare findings made more frequent.

masks/<sign>/<image>.png: 1-bit PNG of the image's size, true where the sign is drawn; no file where it is
not. Read them with hf_cxr.data.phantom.load_mask. One pixel is mm_per_pixel (phantom.json) wide.
"""


def generate(
    output_dir: str | os.PathLike[str],
    *,
    n_images: int = 2000,
    image_size: int = 128,
    layout: str = "nih",
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Generate `n_images` square 8-bit gray films of `image_size` pixels and return their folder.

    The same arguments give byte-equal files. A folder that holds the same data set already is returned
    at once. Files appear under `output_dir` only when all are written.

    Raises ValueError for arguments out of range, or where no split can hold every label (see
    `split_patients`); FileExistsError where `output_dir` holds anything else.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"generate: layout={layout!r}; expected one of {sorted(LAYOUTS)}")
    if n_images < 10 or image_size < MIN_SIZE or seed < 0:
        raise ValueError(
            f"generate: n_images={n_images}, image_size={image_size}, seed={seed}; "
            f"expected n_images >= 10, image_size >= {MIN_SIZE}, seed >= 0"
        )
    target = Path(output_dir).absolute()
    wanted = {
        "generator": "hf_cxr.data.phantom",
        "version": VERSION,
        "seed": seed,
        "n_images": n_images,
        "image_size": image_size,
        "layout": layout,
        "mm_per_pixel": FIELD_MM / image_size,
    }
    if _is_complete(target, wanted):
        return target
    films = draw_population(n_images, seed)

    def track(records: list[FilmRecord]) -> Iterable[FilmRecord]:
        shown: Iterable[FilmRecord] = tqdm(records, desc=f"phantom ({layout})", unit="film", disable=not progress)
        return shown

    target.parent.mkdir(parents=True, exist_ok=True)
    # A sibling lies on the same file system, so that the last step is one atomic rename.
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
    try:
        LAYOUTS[layout](partial, films, image_size, seed, track)
        (partial / "README.txt").write_text(NOTICE, encoding="utf-8", newline="\n")
        (partial / DESCRIPTION).write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8", newline="\n")
        partial.chmod(0o755)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def _is_complete(target: Path, wanted: dict[str, object]) -> bool:
    """True where the wanted data set is there, False where nothing is; else FileExistsError."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    described = target / DESCRIPTION
    if not described.is_file():
        raise FileExistsError(
            f"{target} exists and holds no {DESCRIPTION}, so it is not a phantom data set; "
            "expected a new or empty folder: choose another output_dir"
        )
    found = json.loads(described.read_text(encoding="utf-8"))
    if found != wanted:
        keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
        found_side = ", ".join(f"{key}={found.get(key)!r}" for key in keys)
        wanted_side = ", ".join(f"{key}={wanted.get(key)!r}" for key in keys)
        raise FileExistsError(
            f"{target} holds another phantom data set: found {found_side}; asked for {wanted_side}. "
            "Delete the folder or choose another output_dir"
        )
    return True


def load_mask(root: str | os.PathLike[str], image_id: str, finding: str) -> Mask:
    """Where `finding` is drawn on an image; bool (H, W), all False where it is not drawn.

    `image_id` is NIH's `Image Index` or CheXpert's `Path`, with or without its `CheXpert-v1.0-small/`.
    `finding` is a sign (`SIGNS`) or a CheXpert observation, whose mask is the union of its signs'.

    Raises KeyError for an unknown finding, FileNotFoundError for an image the data set does not hold.
    """
    if finding not in OBSERVATION_SIGNS and finding not in SIGNS:
        raise KeyError(f"load_mask: finding {finding!r}; expected one of {sorted({*SIGNS, *OBSERVATION_SIGNS})}")
    base, name = Path(root), image_id.removeprefix(CHEXPERT_PREFIX)
    image = next((p for p in (base / "images" / name, base / name) if p.is_file()), None)
    if image is None:
        raise FileNotFoundError(
            f"load_mask: no image {image_id!r} under {base}; expected an Image Index below images/ or a Path "
            f"below the folder itself: check that root is the folder that `generate` returned"
        )
    with Image.open(image) as opened:
        mask = np.zeros((opened.height, opened.width), dtype=bool)
    layout = json.loads((base / DESCRIPTION).read_text(encoding="utf-8"))["layout"]
    # Cardiomegaly, Edema and the like are names in both vocabularies; NIH's stand for themselves alone.
    signs = OBSERVATION_SIGNS.get(finding, (finding,)) if layout == "chexpert" or finding not in SIGNS else (finding,)
    for sign in signs:
        place = base / mask_path(name, sign)
        if place.is_file():
            with Image.open(place) as opened:
                mask |= np.asarray(opened, dtype=bool)
    return mask
