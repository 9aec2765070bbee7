"""A data set to the tests' hub and back, and sources that must not go there."""

import runpy
import sys

import pytest

from hf_cxr.data import load_splits
from hf_cxr.data.phantom import generate
from hf_cxr.hub.dataset import PROVENANCE, TermsError, check_terms, push_dataset
from hf_cxr.hub.upload import Target, UploadError
from tests.conftest import REPO
from tests.hub.client import run
from tests.hub.faults import COMMIT
from tests.hub.server import OWNER

LOAD = """
    import json
    from datasets import load_dataset
    splits = load_dataset("clinic/phantom")
    film = splits["test"][0]
    print(json.dumps({
        "films": {name: len(split) for name, split in splits.items()},
        "first": {"id": film["id"], "patient": film["patient"], "findings": film["findings"],
                  "size": film["image"].size, "sum": sum(film["image"].tobytes())},
    }))
"""


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    films = generate(folder / "phantom", n_images=60, image_size=64, progress=False)
    return load_splits("phantom", films, folder / "cache", view="all")


@pytest.mark.slow
def test_a_data_set_there_and_back(hub, online, phantom, tmp_path):
    online()
    splits, provenance = phantom
    target = Target("clinic/phantom", PROVENANCE, "dataset")
    failing = hub.fail(COMMIT, status=500, skip=1, times=None)
    with pytest.raises(UploadError, match="the Hub answered 500"):
        push_dataset("phantom", splits, provenance, target)
    assert not [name for name in hub.repo("clinic/phantom", "datasets").files() if name.endswith(".parquet")]
    failing.times = 0
    push_dataset("phantom", splits, provenance, target)
    repo = hub.repo("clinic/phantom", "datasets")
    assert repo.private
    card = repo.files()["README.md"].decode()
    assert "They show no patient." in " ".join(card.split())
    assert "synthetic" in card.split("---")[1]
    assert f"| train | {len(splits['train'])} | {provenance['splits']['train']['patients']} |" in card
    got = run(LOAD, hub.environment(OWNER, home=tmp_path / "home"))
    assert got["films"] == {name: len(split) for name, split in splits.items()}
    film = splits["test"][0]
    assert got["first"] == {
        "id": film["id"], "patient": film["patient"], "findings": film["findings"], "size": list(film["image"].size),
        "sum": sum(film["image"].tobytes()),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "private", "permitted", "message"),
    [
        ("chexpert", True, False, "not to be given on.*say --permitted if yours allow a private copy"),
        ("chexpert", False, True, "its films may not be made public"),
        ("mimic", True, False, "terms unknown here"),
        ("our_hospital", False, False, "say --permitted"),
    ],
)
def test_closed_sources_stay(hub, online, phantom, name, private, permitted, message):
    online()
    splits, provenance = phantom
    with pytest.raises(TermsError, match="these films are the phantom's"):
        push_dataset(name, splits, provenance, Target("clinic/x", PROVENANCE, "dataset"), permitted=True)
    real = provenance | {"synthetic": False}
    with pytest.raises(TermsError, match=message):
        push_dataset(
            name,
            splits,
            real,
            Target("clinic/x", PROVENANCE, "dataset", private=private),
            permitted=permitted,
        )
    assert hub.requests == []


def test_open_and_permitted_sources_may_go():
    check_terms("nih", private=False, permitted=False)
    check_terms("phantom", private=False, permitted=False)
    check_terms("chexpert", private=True, permitted=True)


def test_the_recipe_writes_a_folder_without_any_hub(tmp_path, monkeypatch, capsys):
    generate(tmp_path / "phantom", n_images=20, image_size=64, progress=False)
    words = [
        "--to_folder",
        "--dataset",
        "phantom",
        "--data_dir",
        tmp_path / "phantom",
        "--cache_dir",
        tmp_path / "cache",
    ]
    monkeypatch.setattr(sys, "argv", ["recipes/push_dataset.py", *map(str, [tmp_path / "shards", *words])])
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    runpy.run_path(str(REPO / "recipes" / "push_dataset.py"), run_name="__main__")
    assert "20 films" in capsys.readouterr().out
    splits = load_splits("shards", tmp_path / "shards", tmp_path / "cache")[0]
    assert sum(map(len, splits.values())) == 20
