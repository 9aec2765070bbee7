"""Training from Parquet shards as a user runs it: end to end, resumed in mid-epoch, on two processes."""

import json
import shutil
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate.data_loader import BatchSamplerShard
from datasets import Image
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory
from safetensors.torch import load_file
from torch.utils.data import BatchSampler

from hf_cxr.arguments import SettingsError, parse_settings
from hf_cxr.data import FilmStream, load_splits, write_shards
from hf_cxr.data.phantom import generate
from hf_cxr.evaluation import EvalReport
from hf_cxr.films import last_step, prepare_split
from hf_cxr.hub.dataset import PROVENANCE, push_dataset
from hf_cxr.hub.upload import Target
from hf_cxr.losses import build_loss
from hf_cxr.models import CXRImageProcessor
from hf_cxr.trainer import CXRTrainer
from tests.conftest import REPO
from tests.hub.client import in_process
from tests.hub.client import run as run_python
from tests.hub.server import OWNER, Hub
from tests.test_train_recipe import TINY, check_run, launch, train

STREAMED = TINY | {
    "dataset": "shards", "streaming": True, "stream_window": 40, "num_train_epochs": 2, "view": "all", "seed": 3,
    "save_strategy": "steps", "eval_strategy": "steps", "save_steps": 8, "eval_steps": 8, "head_dropout": 0.2,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """400 phantom films in shards of 60, which no number of processes divides."""
    place = tmp_path_factory.mktemp("data")
    phantom = generate(place / "phantom", n_images=400, image_size=64, progress=False)
    splits, provenance = load_splits("phantom", phantom, place / "cache", view="all", validation_fraction=0.25)
    return write_shards(splits, provenance, place / "shards", films_per_shard=60, films_per_row_group=16)


@pytest.fixture(scope="module")
def words(folder, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def make(out, *extra, **settings):
        file = out.parent / f"{out.name}.yaml"
        file.write_text(yaml.safe_dump(STREAMED | settings))
        return [str(file), "--data_dir", str(folder), "--cache_dir", str(cache), "--output_dir", str(out), *extra]

    return make


@pytest.fixture(scope="module")
def finished(words, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        train(patch, words(run))
    return run


def films_of(finished, split="train"):
    return yaml.safe_load((finished / "run.yaml").read_text())["data"]["splits"][split]["films"]


@pytest.mark.slow
def test_a_streamed_run_leaves_what_every_run_leaves(finished):
    check_run(finished, "--expect_consistent")
    run = yaml.safe_load((finished / "run.yaml").read_text())
    assert run["data"]["synthetic"]
    assert run["data"]["stream"] == {"films_repeated": 0, "films_left_out": 0}
    counts = run["labels"]["train"]["counts"]["Abnormal"]
    assert counts["positive"] + counts["negative"] == films_of(finished)
    stage = EvalReport.from_json(finished / "eval_report.json").provenance["training"]["model"]
    assert stage["films_unreadable"] == 0
    assert stage["steps"] == 2 * -(-films_of(finished) // 16)


class Interrupted(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_resumed_stream_ends_with_the_same_weights(words, finished, tmp_path, monkeypatch, n_workers):
    """Stopped in the second epoch, then resumed with other workers: to the last bit what ran through."""
    step = CXRTrainer.training_step

    def stopping(self, *args, **kwargs):
        if self.state.global_step == 19:
            raise Interrupted
        return step(self, *args, **kwargs)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(CXRTrainer, "training_step", stopping)
        with pytest.raises(Interrupted):
            train(patch, words(run))
    steps_an_epoch = -(-films_of(finished) // 16)
    saved = run / "checkpoint-16"
    assert json.loads((saved / "progress.json").read_text())["n_parts"] == 1
    assert 16 % steps_an_epoch, "the checkpoint is to lie within an epoch"
    train(monkeypatch, words(run, "--resume", "true", "--dataloader_num_workers", str(n_workers)))
    ours, theirs = (load_file(each / "model.safetensors") for each in (run, finished))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


SEEN = """
import json, runpy, sys
from hf_cxr.trainer import CXRTrainer

training_step = CXRTrainer.training_step

def told(self, model, inputs, *args):
    row = {"rank": self.args.process_index, "epoch": self._epoch(), "films": inputs["index"].tolist()}
    with open(f"SEEN.{self.args.process_index}", "a") as file:
        file.write(json.dumps(row) + "\\n")
    return training_step(self, model, inputs, *args)

CXRTrainer.training_step = told
runpy.run_path("RECIPE", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [0, 2])
def test_two_processes_see_every_film_of_an_epoch(words, folder, tmp_path, n_workers):
    seen = tmp_path / "seen"
    script = tmp_path / "told.py"
    script.write_text(SEEN.replace("SEEN", str(seen)).replace("RECIPE", str(REPO / "recipes" / "train.py")))
    run = tmp_path / "run"
    settings = {"per_device_train_batch_size": 8, "dataloader_num_workers": n_workers, "save_steps": 100}
    launch(words(run, **settings, eval_steps=100), 2, recipe=script)
    lines = [line for rank in (0, 1) for line in (tmp_path / f"seen.{rank}").read_text().splitlines()]
    rows = [json.loads(line) for line in lines]
    n_films = films_of(run)
    repeated = yaml.safe_load((run / "run.yaml").read_text())["data"]["stream"]["films_repeated"]
    for epoch in (0, 1):
        of_rank = [[r["films"] for r in rows if r["epoch"] == epoch and r["rank"] == rank] for rank in (0, 1)]
        assert len(of_rank[0]) == len(of_rank[1]) == -(-n_films // 16)
        counts = Counter(film for steps in of_rank for films in steps for film in films)
        assert set(counts) == set(range(n_films))
        assert counts.total() - n_films == repeated
    check_run(run, "--expect_consistent")


def test_settings_that_a_stream_cannot_have(words, tmp_path):
    with pytest.raises(SettingsError, match=r"sampling: label_balanced draws films again.*use uniform"):
        parse_settings(words(tmp_path / "run", sampling="label_balanced"))
    with pytest.raises(SettingsError, match="streaming reads Parquet shards, and dataset is nih"):
        parse_settings(words(tmp_path / "run", dataset="nih"))
    with pytest.raises(SettingsError, match="stream_window: got 0"):
        parse_settings(words(tmp_path / "run", stream_window=0))


def test_only_training_streams(words, tmp_path, nih):
    settings = parse_settings(words(tmp_path / "run"))
    with pytest.raises(SettingsError, match=r"only recipes/train\.py reads films while it trains"):
        prepare_split(settings.data, settings.labels, CXRImageProcessor(), nih, "test")


def test_a_trainer_refuses_to_balance_a_stream(words, folder, tmp_path, nih, make_model):
    settings = parse_settings(words(tmp_path / "run"))
    settings.training.sampling = "label_balanced"
    rows = load_splits("shards", folder, tmp_path, streaming=True, view="all")[0]["train"]
    labels = torch.zeros(len(rows), len(nih.names)).numpy()
    stream = FilmStream(rows, labels, str(folder), CXRImageProcessor().read, 64)
    with pytest.raises(ValueError, match="sampling label_balanced: a stream reads each shard once an epoch"):
        CXRTrainer(make_model(), settings.training, build_loss("bce", nih), stream, stream)


STREAM = """
    import json, sys
    import numpy as np
    from torch.utils.data import DataLoader
    from hf_cxr.data import FilmStream, load_splits
    from hf_cxr.models import CXRImageProcessor
    address, cache = sys.argv[1:]
    splits, provenance = load_splits("shards", address, cache, streaming=True)
    labels = np.zeros((len(splits["train"]), 1), np.float32)
    read = CXRImageProcessor(size={"height": 64, "width": 64}).read
    stream = FilmStream(splits["train"], labels, address, read, 64)
    order = list(stream.order(0, lambda: 0, 16, n_workers=2))
    loader = DataLoader(stream, sampler=order, batch_size=16, num_workers=2)
    sums = {int(i): int(film.sum()) for b in loader for i, film in zip(b["index"], b["pixel_values"])}
    print(json.dumps([provenance["synthetic"], splits["train"]["id"][:], [sums[i] for i in range(len(stream))]]))
"""


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_streamed(folder, tmp_path):
    """As `recipes/push_dataset.py` leaves it there: with row groups and names of datasets' own choice."""
    splits, provenance = load_splits("shards", folder, tmp_path / "cache", view="all")
    with Hub(tmp_path / "hf_home") as hub, pytest.MonkeyPatch.context() as patch:
        in_process(hub, OWNER, patch)
        target = Target("clinic/phantom", PROVENANCE, "dataset")
        push_dataset("phantom", splits, provenance, target, max_shard_size="500KB")
        set_client_factory(default_client_factory)
        environment = hub.environment(OWNER, home=tmp_path / "home")
        synthetic, ids, sums = run_python(STREAM, environment, "hf://datasets/clinic/phantom", str(tmp_path / "there"))
        assert not hub.crashes
    assert synthetic
    assert ids == splits["train"]["id"][:]
    read = CXRImageProcessor(size={"height": 64, "width": 64}).read
    films = splits["train"].cast_column("image", Image(decode=False))["image"][:]
    assert sums == [int(read(film["bytes"])[0].sum()) for film in films]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_unreadable_films_are_left_out_and_counted(words, folder, tmp_path, nih, make_model, n_workers):
    broken = shutil.copytree(folder, tmp_path / "broken")
    shard = broken / "train-00001-of-00004.parquet"
    table = pq.read_table(shard)
    films = table["image"].to_pylist()
    films[7]["bytes"] = b"no film"
    pq.write_table(table.set_column(table.schema.names.index("image"), "image", pa.array(films)), shard)
    rows = load_splits("shards", broken, tmp_path, streaming=True, view="all")[0]["train"]
    labels = torch.zeros(len(rows), len(nih.names)).numpy()
    read = CXRImageProcessor(size={"height": 64, "width": 64}).read
    stream = FilmStream(rows, labels, str(broken), read, 64, skip_unreadable=True)
    settings = parse_settings(words(tmp_path / "run", dataloader_num_workers=n_workers))
    trainer = CXRTrainer(make_model(), settings.training, build_loss("bce", nih), stream, stream)
    for _ in range(2):
        met = torch.cat([batch["index"] for batch in trainer.get_train_dataloader()]).tolist()
        assert sorted(met) == [i for i in range(len(rows)) if i != 67]
        assert trainer.unreadable_films() == {"films_unreadable": 1}


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("n_processes", [1, 2, 3])
@pytest.mark.parametrize("n_films", [48, 50, 63])
def test_the_last_step_is_told_as_accelerate_makes_it(n_films, n_processes, drop_last):
    training = SimpleNamespace(world_size=n_processes, train_batch_size=8, dataloader_drop_last=drop_last)
    batches = BatchSampler(range(n_films), 8, drop_last)
    dealt = [BatchSamplerShard(batches, n_processes, i) if n_processes > 1 else batches for i in range(n_processes)]
    counts = Counter(film for own in dealt for batch in own for film in batch)
    told = last_step(n_films, training)
    assert told == {"films_repeated": counts.total() - len(counts), "films_left_out": n_films - len(counts)}
