"""The table of precisions of one model, on phantom films."""

import json

import numpy as np
import pytest
import torch

from hf_cxr.arguments import SettingsError
from hf_cxr.data.phantom import generate
from hf_cxr.errors import UserError
from hf_cxr.loading import load_model, load_processor
from hf_cxr.models import CXRImageProcessor
from hf_cxr.precision import set_precision
from hf_cxr.precision_comparison import (
    ComparisonFolderError,
    compare_precisions,
    comparison_table,
    parse_comparison_settings,
)
from hf_cxr.processes import start_processes
from tests.pipeline.helpers import lively


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("data") / "phantom", n_images=240, image_size=64, progress=False)


def folder_of(model, folder):
    model.save_pretrained(folder)
    CXRImageProcessor.for_model(model.config).save_pretrained(folder)
    return folder


def words(model, data, tmp_path, *more):
    shared = ["--dataset", "phantom", "--data_dir", data, "--cache_dir", tmp_path / "cache", "--split", "test"]
    sizes = ["--rounds", 2, "--timed_films", 8, "--calibration_films", 16, "--batch_size", 8]
    return [*map(str, ["--model", model, *shared, *sizes, "--output_dir", tmp_path / "out", *more])]


def test_every_precision_beside_float32(make_model, data, tmp_path):
    model = folder_of(lively(make_model(link="conditional", image_size=32)), tmp_path / "model")
    own, *groups = parse_comparison_settings(words(model, data, tmp_path))
    report = compare_precisions(own, *groups, start_processes(use_cpu=True))
    assert json.loads((tmp_path / "out" / "precision.json").read_text())["precisions"] == report["precisions"]
    assert (tmp_path / "out" / "precision.txt").read_text() == comparison_table(report) + "\n"
    rows = report["precisions"]
    assert list(rows) == ["float32", "bfloat16", "int8"]
    assert rows["float32"]["largest_change"] == rows["float32"]["macro_auroc_change"] == 0
    assert rows["float32"]["ratio"]["median"] == 1
    for precision in ("bfloat16", "int8"):
        row = rows[precision]
        assert 0 < row["mean_change"] < row["largest_change"] < 0.3
        assert row["films_per_second"]["median"] > 0
        for figure in ("macro_auroc", "gate_auroc"):
            assert row[f"{figure}_change"] == row[figure] - rows["float32"][figure]
    assert str(tmp_path) not in (tmp_path / "out" / "precision.json").read_text()

    # What it made is what predict takes.
    ready, processor = load_model(model), load_processor(model)
    assert set_precision(ready, processor, "int8", tmp_path / "out" / "int8") == report["int8"]["sha256"]
    with torch.no_grad():
        assert np.isfinite(ready(torch.zeros(1, 1, 32, 32)).logits.numpy()).all()

    with pytest.raises(ComparisonFolderError, match="is not empty"):
        compare_precisions(own, *groups, start_processes(use_cpu=True))
    again, *groups = parse_comparison_settings(words(model, data, tmp_path, "--overwrite", "--precisions", "bfloat16"))
    assert list(compare_precisions(again, *groups, start_processes(use_cpu=True))["precisions"]) == [*rows][:2]
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ComparisonFolderError, match="is not empty"):
        compare_precisions(again, *groups, start_processes(use_cpu=True))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--precisions", "float16"], "got float16; expected some of float32, bfloat16, int8"),
        (["--calibration_split", "test"], "int8 would be scored on films it was made on"),
        (["--rounds", "0"], "rounds: got 0, expected 1 or more"),
    ],
)
def test_settings_are_checked(more, message, tmp_path):
    with pytest.raises(SettingsError, match=message):
        parse_comparison_settings(words("m", "d", tmp_path, *more))


def test_nothing_is_written_for_a_model_that_is_not_there(data, tmp_path):
    own, *groups = parse_comparison_settings(words(tmp_path / "nowhere", data, tmp_path))
    with pytest.raises(UserError):
        compare_precisions(own, *groups, start_processes(use_cpu=True))
    assert not (tmp_path / "out").exists()
