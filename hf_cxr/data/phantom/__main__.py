"""Command line of the phantom.

python -m hf_cxr.data.phantom --output_dir data/phantom --n_images 2000 --image_size 128 --layout nih --seed 0
"""

from __future__ import annotations

import argparse

from hf_cxr.data.phantom.generation import generate
from hf_cxr.data.phantom.layouts import LAYOUTS


def main() -> None:
    """Parse, generate, print the folder."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_cxr.data.phantom",
        description="Generate synthetic chest-like films. A toy: no real patient, never for clinical use.",
    )
    parser.add_argument("--output_dir", required=True, help="new or empty folder")
    parser.add_argument("--n_images", type=int, default=2000)
    parser.add_argument("--image_size", type=int, default=128, help="pixels a side")
    parser.add_argument("--layout", choices=sorted(LAYOUTS), default="nih")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    given = parser.parse_args()
    folder = generate(
        given.output_dir,
        n_images=given.n_images,
        image_size=given.image_size,
        layout=given.layout,
        seed=given.seed,
        progress=not given.quiet,
    )
    print(folder)


if __name__ == "__main__":
    main()
