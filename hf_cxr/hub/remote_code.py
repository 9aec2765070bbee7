"""Make a staged folder self-contained: the models' code beside the weights, for `trust_remote_code=True`."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from hf_cxr.models import CXRImageProcessor, CXRPreTrainedModel


def add_code(folder: Path, model: CXRPreTrainedModel) -> list[str]:
    """Copy the modules of a model, its config and its processor, and name them in both configs.

    Weights are not written again.

    Returns:
        names of the copied files.
    """
    classes: dict[str, dict[str, type[Any]]] = {
        "config.json": {"AutoConfig": type(model.config), "AutoModelForImageClassification": type(model)},
        "preprocessor_config.json": {"AutoImageProcessor": CXRImageProcessor},
    }
    copied: set[str] = set()
    for file, named in classes.items():
        for each in named.values():
            own = inspect.getfile(each)
            for source in (own, *get_relative_import_files(own)):
                shutil.copyfile(source, folder / Path(source).name)
                copied.add(Path(source).name)
        path = folder / file
        content = json.loads(path.read_text(encoding="utf-8"))
        content["auto_map"] = {auto: _place(each) for auto, each in named.items()}
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return sorted(copied)


def _place(of: type[Any]) -> str:
    return f"{of.__module__.rsplit('.', 1)[-1]}.{of.__name__}"
