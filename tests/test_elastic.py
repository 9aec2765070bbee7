"""Runs that are killed and go on, and checkpoints in parts: the same model as if nothing had been."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_cxr.arguments import SettingsError
from hf_cxr.data.phantom import generate
from hf_cxr.losses import MaskedBCELoss
from hf_cxr.processes import start_processes
from hf_cxr.resuming import last_complete_checkpoint
from hf_cxr.trainer import CXRTrainer
from hf_cxr.training_arguments import CXRTrainingArguments
from tests.conftest import REPO
from tests.test_train_recipe import TINY, VIT

TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
STEPS = {  # 20 steps in 2 epochs, and most checkpoints in the midst of one
    "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3, "save_steps": 3,
    "per_device_train_batch_size": 8, "head_dropout": 0.2, "log_level": "info",
}  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Command line words of a tiny run; few enough checkpoints are kept that some are deleted on the way."""
    phantom = generate(tmp_path_factory.mktemp("data") / "phantom", n_images=240, image_size=64, progress=False)
    cache = tmp_path_factory.mktemp("cache")

    def make(out, **settings):
        file = out.parent / f"{out.name}.yaml"
        file.write_text(yaml.safe_dump(TINY | settings))
        return [str(file), "--data_dir", str(phantom), "--cache_dir", str(cache), "--output_dir", str(out)]

    return make


@contextmanager
def launched(launcher, script, words, log):
    """The launcher, left running; nothing of it is left at the end."""
    command = [sys.executable, *launcher, str(script), *words]
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    # Else workers may find the addresses of those before them, and a restart is spent in vain (pytorch/pytorch#135712).
    environment = os.environ | own | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=REPO)
    try:
        yield process
        assert process.wait(timeout=250) == 0, log.read_text()[-3000:]
    finally:
        with suppress(psutil.NoSuchProcess):
            for child in [*psutil.Process(process.pid).children(recursive=True), process]:
                child.kill()


def kill_a_worker(process, rank, when):
    """SIGKILL as soon as something is there to be seen; returns what was seen."""
    while True:
        assert process.poll() is None, "the run ended before it could be killed"
        for worker in psutil.Process(process.pid).children():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, KeyError):
                if worker.environ()["RANK"] == str(rank) and (seen := when()):
                    worker.kill()
                    worker.wait(timeout=30)
                    return seen
        time.sleep(0.01)


def complete(run):
    return sorted(path.parent for path in run.glob("checkpoint-*/complete"))


@pytest.mark.slow
def test_killed_workers_end_with_the_same_bytes(words, tmp_path):
    """Killed before it began, in the midst of an epoch and among the reports, and told to overwrite all the time."""
    settings = STEPS | {"ema_decay": 0.9}
    recipe, log = REPO / "recipes" / "train.py", tmp_path / "log"
    once = tmp_path / "once"
    with launched(TORCHRUN, recipe, words(once, **settings), log):
        pass

    run = tmp_path / "run"
    other = run / "checkpoint-999"
    other.mkdir(parents=True)
    for file, text in (("run.yaml", "settings: {}"), ("eval_report.json", "{}"), ("checkpoint-999/complete", "")):
        (run / file).write_text(text)
    command = [*words(run, **settings), "--overwrite", "true"]
    with launched([*TORCHRUN, "--max-restarts", "3"], recipe, command, log) as process:
        kill_a_worker(process, 0, lambda: True)
        kill_a_worker(process, 1, lambda: not other.exists() and complete(run))
        kill_a_worker(process, 0, (run / "model.safetensors").exists)
    said = log.read_text()
    steps = [int(part.split()[0]) for part in said.split("and global step ")[1:]]
    assert 0 < min(steps) < max(steps)  # went on in the midst, and after the last kill from the end
    assert not other.exists()
    for name in ("model.safetensors", "predictions_test.csv", "predictions_validation.csv"):
        assert (run / name).read_bytes() == (once / name).read_bytes(), name
    assert not complete(run)


SHARDING_CPUS = """
import runpy, sys
from accelerate import DistributedType, PartialState
begin = PartialState.__init__
def begin_sharding(self, *args, **kwargs):
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
PartialState.__init__ = begin_sharding
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_sharded_checkpoints_go_on_to_the_model_of_whole_ones(words, tmp_path):
    """accelerate shards on accelerators only, torch also over gloo: accelerate is told that these CPUs are some."""
    shipped = yaml.safe_load((REPO / "recipes" / "accelerate" / "fsdp.yaml").read_text())
    assert shipped["fsdp_config"]["fsdp_state_dict_type"] == "SHARDED_STATE_DICT"
    config, script, log = tmp_path / "fsdp.yaml", tmp_path / "train.py", tmp_path / "log"
    here = {"use_cpu": True, "num_processes": 2, "mixed_precision": "no", "main_process_port": 0}
    config.write_text(yaml.safe_dump(shipped | here))
    script.write_text(SHARDING_CPUS)
    recipe = str(REPO / "recipes" / "train.py")
    # Without dropout: each process would draw other masks.
    settings = VIT | STEPS | {"head_dropout": 0.0, "num_train_epochs": 1}
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    with launched(TORCHRUN, recipe, words(whole, **settings), log):
        pass

    # By default ("static") restarted workers find the addresses of those before them, whatever the variable says.
    restarts = ["--rdzv_backend", "c10d", "--max_restarts", "3"]
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config), *restarts]
    with launched(launcher, script, [recipe, *words(sharded, **settings)], log) as process:
        kill_a_worker(process, 1, lambda: complete(sharded))
        parts = sorted(path.name for path in complete(sharded)[0].glob("pytorch_model_fsdp_0/*.distcp"))
        assert parts == ["__0_0.distcp", "__1_0.distcp"]  # one of each process
    said = log.read_text()
    assert "and global step 3" in said

    one, two = (load_file(folder / "model.safetensors") for folder in (whole, sharded))
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)
    tables = [pd.read_csv(folder / "predictions_test.csv") for folder in (whole, sharded)]
    for name in tables[0].filter(like="_prob"):
        np.testing.assert_allclose(tables[1][name], tables[0][name], atol=1e-6)
    assert json.loads((sharded / "config.json").read_text())["architectures"] == ["CXRViTForImageClassification"]


def test_a_training_that_was_over_stays_over(make_model, make_films, tmp_path):
    """Killed among the reports after an early stop; what draws random numbers next finds those of the unkilled run."""

    def trained(folder, resume=None):
        arguments = CXRTrainingArguments(
            output_dir=str(tmp_path / folder), num_train_epochs=9, early_stopping_patience=1, learning_rate=0.0,
            per_device_train_batch_size=16, disable_tqdm=True, use_cpu=True,
        )  # fmt: skip
        model = make_model("vit", head_dropout=0.2)
        trainer = CXRTrainer(model, arguments, MaskedBCELoss(), make_films(), make_films(seed=1))
        trainer.train(resume_from_checkpoint=resume)
        return trainer.state.global_step, torch.rand(3)

    once, drawn = trained("once")
    assert once == 6  # two epochs: without learning the second is no better
    again, drawn_again = trained("again", str(last_complete_checkpoint(tmp_path / "once")))
    assert again == once
    assert torch.equal(drawn, drawn_again)


def test_sharding_that_would_silently_not_happen_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SettingsError, match="several accelerators only"):
        start_processes(use_cpu=True)
