"""Models, processors and data sets of transformers and datasets to the tests' hub and back, by name."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Picture

from hf_cxr.models import CXRDenseNetConfig, CXRDenseNetForImageClassification, CXRImageProcessor
from tests.hub.client import run
from tests.hub.server import OWNER

LOAD = """
    import json, sys
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification
    if not (remote := sys.argv[1] == "remote code"):
        import hf_cxr

    def logits(revision):
        both = dict(revision=revision, trust_remote_code=remote)
        model = AutoModelForImageClassification.from_pretrained("clinic/cxr", **both).eval()
        processor = AutoImageProcessor.from_pretrained("clinic/cxr", **both)
        assert remote == ("hf_cxr" not in sys.modules), sys.modules.keys()
        film = torch.arange(64 * 64, dtype=torch.uint8).reshape(1, 64, 64).numpy()
        with torch.no_grad():
            return model(**processor(images=film, return_tensors="pt")).logits[0].tolist()

    print(json.dumps([logits(revision) for revision in sys.argv[2:]]))
"""


@pytest.fixture
def processor():
    return CXRImageProcessor(size={"height": 32, "width": 32})


def expected(model, processor):
    film = torch.arange(64 * 64, dtype=torch.uint8).reshape(1, 64, 64).numpy()
    with torch.no_grad():
        return model.eval()(**processor(images=film, return_tensors="pt")).logits[0].tolist()


def pushed(model, processor, online):
    """Push, tag v1.0, push the model with other weights; returns the logits of both and the first commit."""
    api = online()
    model.push_to_hub("clinic/cxr", private=True)
    processor.push_to_hub("clinic/cxr")
    first, sha = expected(model, processor), api.model_info("clinic/cxr").sha
    api.create_tag("clinic/cxr", tag="v1.0")
    with torch.no_grad():
        for weight in model.head.parameters():
            weight += 0.1
    model.push_to_hub("clinic/cxr")
    return first, expected(model, processor), sha


def test_a_model_by_name_tag_and_commit(hub, online, make_model, processor, tmp_path):
    first, second, sha = pushed(make_model(), processor, online)
    loaded = run(LOAD, hub.environment(OWNER, home=tmp_path / "elsewhere"), "hf_cxr", "main", "v1.0", sha)
    np.testing.assert_allclose(loaded, [second, first, first], rtol=1e-6)
    assert not np.allclose(first, second)


def test_a_model_that_brings_its_code(hub, online, make_model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(CXRDenseNetConfig, "_auto_class", "AutoConfig")
    monkeypatch.setattr(CXRDenseNetForImageClassification, "_auto_class", "AutoModelForImageClassification")
    monkeypatch.setattr(CXRImageProcessor, "_auto_class", "AutoImageProcessor")
    first, second, _ = pushed(make_model(), processor, online)
    assert "densenet.py" in hub.repo("clinic/cxr").files()
    loaded = run(LOAD, hub.environment(OWNER, home=tmp_path / "elsewhere"), "remote code", "main", "v1.0")
    np.testing.assert_allclose(loaded, [second, first], rtol=1e-6)


def films(seed, n):
    """Films of 16 bits, as radiographs are, and labels of which some are unknown."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 2**16, (n, 16, 16), dtype=np.uint16)
    labels = random.choice([0.0, 1.0, np.nan], (n, 3)).astype(np.float32)
    kinds = {"image": Image(), "labels": List(Value("float32"), length=3), "view": ClassLabel(names=["AP", "PA"])}
    rows = {
        "image": [Picture.fromarray(p) for p in pixels],
        "labels": labels.tolist(),
        "view": [i % 2 for i in range(n)],
    }
    return Dataset.from_dict(rows, features=Features(kinds)), pixels, labels


def test_a_data_set_as_parquet(hub, online, tmp_path):
    online()
    train, pixels, labels = films(0, 5)
    both = DatasetDict({"train": train, "test": films(1, 3)[0]})
    both.push_to_hub("clinic/films", private=True, num_shards={"train": 2, "test": 1})
    repo = hub.repo("clinic/films", "datasets")
    shards = ["data/test-00000-of-00001.parquet", *(f"data/train-{i:05d}-of-00002.parquet" for i in range(2))]
    assert [name for name in sorted(repo.files()) if name.startswith("data/")] == shards
    assert all(repo.at().files[name].lfs for name in shards)
    source = """
        import json
        import numpy as np
        from datasets import load_dataset

        films = load_dataset("clinic/films")
        print(json.dumps({
            "sizes": {split: len(rows) for split, rows in films.items()},
            "pixels": [np.asarray(image).tolist() for image in films["train"]["image"]],
            "labels": films["train"]["labels"][:], "views": films["train"].features["view"].names,
        }))
    """
    loaded = run(source, hub.environment(OWNER, home=tmp_path / "elsewhere"))
    assert (loaded["sizes"], loaded["views"]) == ({"train": 5, "test": 3}, ["AP", "PA"])
    np.testing.assert_array_equal(loaded["pixels"], pixels)
    np.testing.assert_array_equal(np.array(loaded["labels"], np.float32), labels)

    both.push_to_hub("clinic/films")  # one shard a split now: those before go
    assert len([name for name in repo.files() if name.startswith("data/")]) == 2
    assert run(source, hub.environment(OWNER, home=tmp_path / "third"))["sizes"] == loaded["sizes"]
    refused = """
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError
        try:
            load_dataset("clinic/films")
        except DatasetNotFoundError as error:
            print('"' + str(error) + '"')
    """
    assert "cannot be accessed" in run(refused, hub.environment(home=tmp_path / "fourth"))
