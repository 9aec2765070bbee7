"""A page that shows what a model says of a film: `python -m hf_cxr.demo --model runs/nih128`.

Not for clinical use. Needs the extra `demo` (Gradio); DICOM files need the extra `dicom`.
"""

from hf_cxr.demo.arguments import DemoArguments, parse_demo_settings
from hf_cxr.demo.page import build
from hf_cxr.demo.serving import DemoError, own_folder, run, serve

__all__ = ["DemoArguments", "DemoError", "build", "own_folder", "parse_demo_settings", "run", "serve"]
