"""Show what a model says of a film, in a browser.

    python -m hf_cxr.demo --model runs/nih128
    python -m hf_cxr.demo --model user/model --max_entropy 0.6 --port 8000

Upload a film (PNG, JPEG or DICOM) or draw a synthetic one; read the tree of findings, the gate's verdict and what
there is of doubt, and lay any finding's heatmap over the film. The page listens on this machine alone unless `--host`
says otherwise, asks nothing of the network, and keeps no film: an upload is deleted as soon as it is read.

Not for clinical use.
"""

import signal
import sys

from hf_cxr.demo.arguments import parse_demo_settings
from hf_cxr.demo.serving import run
from hf_cxr.errors import run_recipe


def main() -> None:
    """Parse and serve until stopped."""
    # Python would otherwise end without deleting the folder of uploads.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    run(parse_demo_settings(description=__doc__))


if __name__ == "__main__":
    run_recipe(main)
