import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hf_cxr.augmentation import AugmentationConfig
from hf_cxr.losses import HBCELoss, LossOutput, MaskedBCELoss
from hf_cxr.resuming import COMPLETE, last_complete_checkpoint
from hf_cxr.trainer import CXRTrainer, NonFiniteLossError
from hf_cxr.training_arguments import CXRTrainingArguments

AUGMENTED = AugmentationConfig(flip=0.5, rotation=10, brightness=0.1)


@pytest.fixture
def make_trainer(make_model, make_films, tmp_path):
    def make(
        model="densenet", loss=None, films=None, folder="run", augmentation=AUGMENTED, link="conditional", **arguments
    ):
        settings = {
            "per_device_train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 1e-3, "disable_tqdm": True,
            "use_cpu": True, "seed": 0,
        } | arguments  # fmt: skip
        return CXRTrainer(
            make_model(model, link=link, head_dropout=0.2),
            CXRTrainingArguments(output_dir=str(tmp_path / folder), **settings),
            loss or MaskedBCELoss(),
            films or make_films(unknown=0.1),
            make_films(seed=1),
            augmentation,
        )

    return make


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.model.state_dict().values()])


def test_training_learns_and_reports_flat_and_gated(make_trainer, make_films):
    trainer = make_trainer(films=make_films(n_films=256), num_train_epochs=12, learning_rate=5e-3, augmentation=None)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    assert rows[-1]["eval_macro_auroc"] > 0.75
    for key in ("gate_auroc", "gate_sensitivity", "gate_specificity", "gate_skip_rate", "gated_macro_auroc"):
        assert 0 <= rows[-1][f"eval_{key}"] <= 1
    assert rows[-1]["eval_share_out_of_order"] == 0
    assert trainer.state.best_metric == max(row["eval_macro_auroc"] for row in rows)
    # the model in hand is the best one, not the last
    assert trainer.evaluate()["eval_macro_auroc"] == trainer.state.best_metric


def test_components_of_the_loss_are_logged_and_add_up(make_trainer, nih):
    trainer = make_trainer(
        loss=HBCELoss(nih, "soft", scale=0.7), link="flat", logging_strategy="steps", logging_steps=2
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "grad_norm" in row]
    assert len(rows) == 6
    for row in rows:
        assert row["loss"] == pytest.approx(row["loss_bce"] + 0.7 * row["loss_penalty"], rel=1e-4)
        assert row["loss_penalty"] > 0
    evaluated = [row for row in trainer.state.log_history if "eval_loss" in row][-1]
    expected = evaluated["eval_loss_bce"] + 0.7 * evaluated["eval_loss_penalty"]
    assert evaluated["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_r1s_step_penalty_trains_the_very_model_that_flat_bce_trains(make_trainer, nih):
    """Its gradient is zero: only the reported loss differs. The results table has one row for both."""
    after = {}
    for name, loss in {"bce": MaskedBCELoss(), "step": HBCELoss(nih, "step", scale=1.0)}.items():
        trainer = make_trainer(loss=loss, folder=name, link="flat", ema_decay=0.9, max_grad_norm=1.0)
        trainer.train()
        after[name] = weights(trainer), trainer.state.log_history[-2]["eval_loss"]
    assert torch.equal(after["bce"][0], after["step"][0])
    assert after["step"][1] > after["bce"][1]


def test_gradient_accumulation_equals_the_large_batch(make_trainer, make_films):
    """1 × 16 and 4 × 4, labels unevenly known; a ViT without dropout, since batch norm sees the batch's size."""
    films = make_films(n_films=64)
    films.labels[:16] = math.nan
    films.labels[:16, 0] = 1.0
    after = []
    for size, steps in ((16, 1), (4, 4)):
        trainer = make_trainer(
            "vit", films=films, folder=f"a{steps}", per_device_train_batch_size=size,
            gradient_accumulation_steps=steps, num_train_epochs=1, optim="sgd", max_grad_norm=0,
        )  # fmt: skip
        trainer.model.head.trunk.dropout.p = 0.0
        trainer.train()
        row = next(row for row in trainer.state.log_history if "grad_norm" in row)
        after.append((weights(trainer), row["loss"], row["loss_bce"]))
    torch.testing.assert_close(after[0][0], after[1][0], atol=1e-6, rtol=1e-5)
    assert after[0][1:] == pytest.approx(after[1][1:], rel=1e-5)


@pytest.mark.parametrize("stop_at", [6, 9])
def test_resume_is_exact_at_and_within_an_epoch(make_trainer, stop_at):
    """With dropout, random augmentation, averaged weights and a schedule; 6 steps an epoch."""
    arguments = {"num_train_epochs": 3, "ema_decay": 0.9, "save_strategy": "steps", "eval_strategy": "steps"}
    steps = {"save_steps": 3, "eval_steps": 3, "save_total_limit": 20, "sampling": "label_balanced"}
    whole = make_trainer(folder="whole", **arguments, **steps)
    whole.train()
    again = make_trainer(folder="again", **arguments, **steps)
    checkpoint = Path(whole.args.output_dir) / f"checkpoint-{stop_at}"
    progress = checkpoint / "progress.json"
    before = json.loads(progress.read_text())["seconds"]
    assert 0 < before < whole.seconds
    progress.write_text(json.dumps({"seconds": before + 1000}))
    again.train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(weights(whole), weights(again))
    assert 1000 + before < again.seconds < 1000 + before + whole.seconds + 100

    def figures(trainer):
        timing = ("runtime", "per_second")
        last = [row for row in trainer.state.log_history if row["step"] > stop_at and "eval_loss" in row]
        return [{k: v for k, v in row.items() if not k.endswith(timing)} for row in last]

    assert figures(whole) == figures(again)


@pytest.mark.parametrize("model", ["densenet", "vit"])
def test_a_compiled_model_trains_the_same_and_is_saved_under_its_own_names(make_trainer, model):
    """Traced and differentiated by torch.compile, without its code generator, which rounds as it likes."""
    arguments = {"num_train_epochs": 2, "ema_decay": 0.9, "save_strategy": "epoch"}
    plain = make_trainer(model, folder="plain", **arguments)
    compiled = make_trainer(
        model, folder="compiled", torch_compile=True, torch_compile_backend="aot_eager", **arguments
    )
    calls = []
    compiled.model.head.register_forward_hook(lambda *_: calls.append(1))  # runs while it is traced, and then no more
    for trainer in (plain, compiled):
        trainer.train()
    assert len(calls) < compiled.state.global_step
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    torch.testing.assert_close(weights(compiled), weights(plain), atol=1e-4, rtol=1e-3)
    compiled.save_model()
    again = type(plain.model).from_pretrained(compiled.args.output_dir)
    assert torch.equal(torch.cat([p.flatten() for p in again.state_dict().values()]), weights(compiled))


class BreaksAt(nn.Module):
    """A loss that becomes NaN at its n-th call."""

    def __init__(self, n):
        super().__init__()
        self.n, self.calls, self.bce = n, 0, MaskedBCELoss()

    def forward(self, logits, labels, divisors=None):
        self.calls += 1
        out = self.bce(logits, labels, divisors)
        return LossOutput(out.total * math.nan, out.components) if self.calls == self.n else out


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_whole_checkpoints(make_trainer):
    trainer = make_trainer(loss=BreaksAt(9), num_train_epochs=3)
    with pytest.raises(NonFiniteLossError, match="not finite at or before step 12"):
        trainer.train()
    assert last_complete_checkpoint(_folder(trainer)).name == "checkpoint-6"
    assert not (_folder(trainer) / "checkpoint-12").exists()


def _folder(trainer):
    return Path(trainer.args.output_dir)


def test_an_interrupted_checkpoint_is_not_resumed_from(make_trainer):
    trainer = make_trainer()
    trainer.train()
    assert last_complete_checkpoint(_folder(trainer)).name == "checkpoint-12"
    (_folder(trainer) / "checkpoint-12" / COMPLETE).unlink()
    assert last_complete_checkpoint(_folder(trainer)).name == "checkpoint-6"


def test_undefined_best_metric_is_an_error(make_trainer):
    trainer = make_trainer()
    trainer.eval_dataset.labels[:, 7:] = 0  # no finding is positive; the gate keeps both classes
    with pytest.raises(RuntimeError, match="metric_for_best_model 'macro_auroc' is undefined"):
        trainer.evaluate()


def test_weight_decay_reaches_kernels_only(make_trainer):
    for model in ("densenet", "vit"):
        trainer = make_trainer(model)
        decayed = set(trainer.get_decay_parameter_names(trainer.model))
        for name, parameter in trainer.model.named_parameters():
            spared = parameter.ndim == 1 or "pos_embed" in name or "cls_token" in name
            assert (name in decayed) != spared, name


def test_plateau_follows_the_direction_of_the_metric(tmp_path):
    for metric, mode in (("macro_auroc", "max"), ("loss", "min")):
        arguments = CXRTrainingArguments(
            output_dir=str(tmp_path), lr_scheduler_type="reduce_lr_on_plateau", metric_for_best_model=metric,
            lr_scheduler_kwargs={"factor": 0.5}, use_cpu=True,
        )  # fmt: skip
        assert arguments.lr_scheduler_kwargs == {"mode": mode, "factor": 0.5}


def test_plateau_and_early_stopping_work_together(make_trainer):
    trainer = make_trainer(
        lr_scheduler_type="reduce_lr_on_plateau", lr_scheduler_kwargs={"patience": 0, "factor": 0.1},
        metric_for_best_model="loss", early_stopping_patience=2, num_train_epochs=30, learning_rate=0.05,
    )  # fmt: skip
    trainer.train()
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert rates[-1] < rates[0]
    assert trainer.state.global_step < 30 * 6


def test_averaged_weights_are_what_is_evaluated_and_kept(make_trainer):
    trainer = make_trainer(ema_decay=0.9)
    trainer.train()
    torch.testing.assert_close(
        trainer.model.head.trunk.classifier.weight.detach(), trainer.average.average["head.trunk.classifier.weight"]
    )
    assert trainer.evaluate()["eval_macro_auroc"] == pytest.approx(trainer.state.best_metric, abs=1e-6)


def test_the_average_follows_statistics_that_were_replaced_before_training(make_trainer):
    """As under DDP, whose wrapper makes other tensors of batch norm's statistics."""
    trainer = make_trainer(ema_decay=0.5)
    names = [name for name, _ in trainer.model.named_buffers() if name.endswith("running_mean")]
    for name in names:
        module = trainer.model.get_submodule(name.rpartition(".")[0])
        module.running_mean = module.running_mean.clone()
    trainer.train()
    assert names
    assert all(trainer.average.average[name].any() for name in names)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sampling": "focal"}, "expected one of uniform"),
        ({"ema_decay": 1.0}, "number below 1"),
        ({"gate_criterion": "sensitivity"}, "expected one of f1"),
        ({"logging_nan_inf_filter": True}, "must stay off"),
    ],
)
def test_arguments_are_checked(tmp_path, setting, message):
    with pytest.raises(ValueError, match=message):
        CXRTrainingArguments(output_dir=str(tmp_path), **setting)


def test_bf16_and_channels_last_change_little(make_trainer):
    losses = []
    for arguments in ({"channels_last": False}, {"channels_last": True}, {"channels_last": True, "bf16": True}):
        trainer = make_trainer(folder=f"p{len(losses)}", augmentation=None, **arguments)
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "grad_norm" in row])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    np.testing.assert_allclose(losses[2], losses[0], rtol=3e-2)
