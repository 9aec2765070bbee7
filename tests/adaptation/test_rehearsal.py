"""Films of the base's own, mixed among a hospital's: held to the base's opinion, teaching nothing else."""

import numpy as np
import pytest
import torch
import yaml

from hf_cxr.adaptation import own_films, parse_adaptation, prepare_adaptation, train_adaptation, training
from hf_cxr.arguments import SettingsError
from hf_cxr.data.phantom import generate
from hf_cxr.inference import predict_logits
from hf_cxr.models import CXRImageProcessor
from hf_cxr.runs import RunFolder


class Stopped(Exception):
    pass


@pytest.fixture
def base(make_model, tmp_path):
    """A model whose run says that it was trained on drawn films, which are there."""
    folder = generate(tmp_path / "phantom", n_images=60, image_size=64, progress=False)
    model = make_model(link="conditional", image_size=48).eval()
    model.save_pretrained(tmp_path / "base")
    CXRImageProcessor.for_model(model.config).save_pretrained(tmp_path / "base")
    data = {"dataset": "nih", "data_dir": str(folder), "cache_dir": str(tmp_path / "cache")}
    run = {"settings": {"data": data, "labels": {"taxonomy": "nih"}}}
    (tmp_path / "base" / "run.yaml").write_text(yaml.safe_dump(run))
    return tmp_path / "base"


@pytest.fixture
def begin(base, hospital, tmp_path, monkeypatch):
    """Everything up to the training: what the trainer would get."""

    def run(*words):
        given = ["--base", base, "--hospital", hospital, "--output_dir", tmp_path / "run", "--epoch_films", 1]
        given += ["--cache_dir", tmp_path / "cache", *words]
        settings = parse_adaptation([str(word) for word in given])
        model, processor, films = prepare_adaptation(settings)
        own = own_films(settings, model, processor)
        got = {}

        def stop(adapted, arguments, loss, train, *_, teacher_NL, **__):
            got.update(train=train, teacher=teacher_NL)
            raise Stopped

        monkeypatch.setattr(training, "DistillingTrainer", stop)
        with pytest.raises(Stopped):
            train_adaptation(settings, model, processor, films, RunFolder(tmp_path / "run"), own.train)
        return model, films, own, got["train"], got["teacher"]

    return run


def test_they_come_without_labels_and_hold_what_the_hospital_does_not_annotate(begin):
    base, films, own, train, teacher = begin("--distillation", 1, "--rehearsal", 0.5)
    n_here = len(films.decoded["train"])
    n_own = round(0.5 * n_here)
    assert len(train) == n_here + n_own
    assert torch.isnan(train.labels[n_here:]).all()
    theirs = {bytes(film) for film in own.train.pixels("train").reshape(-1, 48 * 48)}
    rehearsed = train.__getitems__(list(range(n_here, len(train))))
    assert {film["pixel_values"].numpy().tobytes() for film in rehearsed} <= theirs

    annotated = ~torch.isnan(train.labels).all(0)
    names = base.config.label_names
    assert {"Effusion", "Cardiomegaly"} <= {name for name, is_so in zip(names, annotated, strict=False) if is_so}
    assert not annotated[names.index("Mass")]
    assert torch.isnan(teacher[n_here:, annotated]).all()
    opinion = torch.from_numpy(predict_logits(base, train)).sigmoid()
    held = ~annotated[: len(names)]
    torch.testing.assert_close(teacher[n_here:, : len(names)][:, held], opinion[n_here:, held])
    assert torch.isnan(teacher[:, len(names) :]).all()  # of the hospital's new findings the base knows nothing


def test_there_are_never_more_than_there_are(begin):
    _, films, own, train, _ = begin("--distillation", 1, "--rehearsal", 100)
    assert len(train) == len(films.decoded["train"]) + len(own.train.decoded["train"])
    rows = train.__getitems__(list(range(len(films.decoded["train"]), len(train))))
    np.testing.assert_array_equal(
        np.concatenate([row["pixel_values"].numpy() for row in rows]), own.train.pixels("train")
    )


def test_a_folder_that_was_named_has_to_be_there(begin, base, tmp_path):
    with pytest.raises(SettingsError, match="there is no runs/typo"):
        begin("--base_data_dir", "runs/typo")
    (base / "run.yaml").rename(tmp_path / "run.yaml")
    with pytest.raises(SettingsError, match=r"has no run\.yaml, which says how the films in"):
        begin("--base_data_dir", tmp_path / "phantom")
    _, _, own, _, _ = begin()
    assert own.test is None
    assert "no run.yaml" in own.why_not


def test_the_default_may_be_on_another_machine(begin, base):
    run = yaml.safe_load((base / "run.yaml").read_text())
    run["settings"]["data"]["data_dir"] = "elsewhere"
    (base / "run.yaml").write_text(yaml.safe_dump(run))
    _, _, own, _, _ = begin()
    assert own.why_not == "the base's data (nih) are not on this machine; name them by --base_data_dir"


@pytest.mark.parametrize("words", [("--distillation", 0), ("--distillation", 1, "--rehearsal", 0)])
def test_none_are_wanted(begin, words):
    _, films, own, train, _ = begin(*words)
    assert own.train is None
    assert own.test is not None
    assert len(train) == len(films.decoded["train"])
