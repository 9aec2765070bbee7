"""The README's pictures of the demo: a synthetic film on a wide screen and on a phone.

python -m tests.demo.screenshots --model runs/quickstart
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from hf_cxr.predict.run import load
from tests.conftest import REPO
from tests.demo.site import CHROMIUM, PHONE, Visitor, served

FINDING = "Effusion"
LARGEST = 250_000
"""Bytes of a picture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model that was trained on the phantom")
    parser.add_argument("--output_dir", type=Path, default=REPO / "model_cards" / "images")
    given = parser.parse_args()
    read = load(given.model, torch.device("cpu"))
    given.output_dir.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, served(read, name=Path(given.model).name) as site:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, viewport in (("desktop", {"width": 1280, "height": 1160}), ("phone", PHONE)):
            visitor = Visitor(browser, site, viewport)
            visitor.draw(FINDING)
            visitor.choose(FINDING)
            if viewport is PHONE:  # where the film goes along while one looks through the findings
                visitor.tab.evaluate(
                    "document.querySelector('.cxr-row:has(:checked)').scrollIntoView({ block: 'end' })"
                )
                visitor.tab.evaluate("window.scrollBy(0, 90)")
            else:
                visitor.tab.evaluate("window.scrollTo(0, 0)")
            visitor.tab.mouse.move(0, 0)
            visitor.tab.wait_for_timeout(500)
            save(visitor.tab.screenshot(), given.output_dir / f"demo_{name}.png")
            visitor.close()
        browser.close()


def save(content: bytes, path: Path) -> None:
    """With 256 colours, which do for a gray film and a page of few."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    palette = picture.quantize(256, kmeans=1)
    picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    assert path.stat().st_size < LARGEST, f"{path}: {path.stat().st_size:,} bytes"
    print(f"{path} {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
