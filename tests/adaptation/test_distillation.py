"""Labels that are unknown are held to the base, known ones are not."""

import numpy as np
import pytest
import torch

from hf_cxr.adaptation.distillation import DistillingTrainer, distillation_loss, evenly, opinion
from hf_cxr.inference import predict_logits
from hf_cxr.losses import MaskedBCELoss
from hf_cxr.training_arguments import CXRTrainingArguments
from tests.conftest import Films


def test_the_loss_is_the_divergence_of_the_unknown_cells():
    logits = torch.randn(5, 4, requires_grad=True, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1.0, torch.nan, 0.0, torch.nan]]).repeat(5, 1)
    teacher = torch.rand(5, 4, generator=torch.Generator().manual_seed(1))
    teacher[:, 3] = torch.nan
    loss = distillation_loss(logits, labels, teacher, torch.tensor(5.0))
    p, q = teacher[:, 1].double(), logits[:, 1].double().sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    torch.testing.assert_close(loss.double(), expected, atol=1e-6, rtol=0)
    loss.backward()
    assert (logits.grad[:, 1] != 0).all()
    assert (logits.grad[:, [0, 2, 3]] == 0).all()


def test_a_rare_label_is_held_as_tightly_as_a_common_one():
    """The loss of a small change of the logit is the same for 2 % and for 40 %; unweighted, it is 12 times less."""
    teacher = torch.tensor([[0.02, 0.4, torch.nan]]).repeat(6, 1)
    weight = evenly(teacher)
    assert weight[2] == 1

    def cost(label, weight_L):
        logits = teacher.nan_to_num(0.5).logit()
        logits[:, label] += 0.1
        unknown = torch.full_like(teacher, torch.nan)
        return distillation_loss(logits, unknown, teacher, torch.tensor(12.0), weight_L).item()

    assert cost(0, weight) == pytest.approx(cost(1, weight), rel=0.06)
    assert cost(1, 1.0) / cost(0, 1.0) == pytest.approx(12, rel=0.06)


@pytest.mark.parametrize("sure", [0.0, 1.0])
def test_a_teacher_who_is_sure_makes_no_nan(sure):
    logits = torch.full((2, 1), 30.0 if sure else -30.0, requires_grad=True)
    loss = distillation_loss(logits, torch.full((2, 1), torch.nan), torch.full((2, 1), sure), torch.tensor(2.0))
    assert loss.item() == pytest.approx(0, abs=1e-6)
    nothing = distillation_loss(logits, torch.ones(2, 1), torch.full((2, 1), sure), torch.tensor(0.0))
    nothing.backward()
    assert nothing.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_the_opinion_is_the_uncalibrated_one_and_the_model_stays(make_model, nih):
    model, films = make_model(link="conditional"), Films(nih, n_films=5)
    plain = torch.from_numpy(predict_logits(model, films))
    model.config.calibration = {"coefficients": dict.fromkeys(nih.names, (2.0, 2.0, 1.0))}
    calibrated = torch.from_numpy(predict_logits(model, films))
    assert torch.equal(opinion(model, films), plain.sigmoid())
    assert not torch.equal(plain, calibrated)
    assert torch.equal(torch.from_numpy(predict_logits(model, films)), calibrated)


def forgotten(make_model, nih, tmp_path, weight):
    """How far a model's opinion moves on labels that are never known, when others are trained."""
    model = make_model(link="conditional")
    with torch.no_grad():
        model.head.trunk.classifier.weight.mul_(30)  # opinions that differ between films
    films = Films(nih, n_films=32)
    known = [nih.names.index(name) for name in ("Abnormal", "Effusion", "Pneumonia")]
    labels = torch.full_like(films.labels, torch.nan)
    labels[:, known] = films.labels[:, known]
    films.labels = labels
    before = opinion(model, films)
    arguments = CXRTrainingArguments(
        output_dir=str(tmp_path / str(weight)), num_train_epochs=12, per_device_train_batch_size=8, learning_rate=1e-1,
        metric_for_best_model="loss", disable_tqdm=True, gradient_accumulation_steps=2, save_strategy="no",
        load_best_model_at_end=False, eval_strategy="no",
    )  # fmt: skip
    trainer = DistillingTrainer(model, arguments, MaskedBCELoss(), films, films, teacher_NL=before, weight=weight)
    trainer.train()
    after = opinion(model, films)
    unknown = [i for i in range(len(nih.names)) if i not in known]
    log = trainer.state.log_history
    return (after - before)[:, unknown].abs().mean().item(), [e["loss_distillation"] for e in log if "loss" in e]


@pytest.mark.slow
def test_distillation_keeps_what_is_not_labelled(make_model, nih, tmp_path):
    without, seen = forgotten(make_model, nih, tmp_path, 0.0)
    kept, logged = forgotten(make_model, nih, tmp_path, 10.0)
    assert kept < 0.5 * without
    assert np.isfinite([*seen, *logged]).all()
    assert logged[-1] < seen[-1]
