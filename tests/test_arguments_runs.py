import runpy
import shutil
import sys

import pytest
import yaml

from hf_cxr.adaptation import parse_adaptation
from hf_cxr.arguments import SettingsError, parse_settings
from hf_cxr.processes import launch_mark
from hf_cxr.runs import FinishedRunError, RunFolder, RunFolderError, describe_run
from tests.conftest import REPO

SHIPPED = sorted((REPO / "recipes" / "configs").glob("*.yaml"))
ADAPTATIONS = [path for path in SHIPPED if path.name.startswith("hospital_")]
CONFIGS = [path for path in SHIPPED if path not in ADAPTATIONS and not path.name.startswith("ablation_")]


@pytest.fixture
def config(tmp_path):
    def write(text):
        (tmp_path / "settings.yaml").write_text(text)
        return str(tmp_path / "settings.yaml")

    return write


def test_command_line_beats_yaml_beats_defaults(config):
    file = config(
        "learning_rate: 1.0e-3\nimage_size: 64\nbf16: true\nuse_cpu: true\nbackbone_kwargs: {growth_rate: 8}\n"
    )
    settings = parse_settings([file, "--image_size", "96", "--flip=0.5"])
    assert settings.training.learning_rate == 1e-3
    assert settings.model.image_size == 96
    assert settings.training.bf16 is True
    assert settings.model.backbone_kwargs == {"growth_rate": 8}
    assert settings.augmentation.flip == 0.5
    assert settings.model.head == "plain"


def test_exponents_without_a_dot_are_numbers(config):
    """YAML reads 1e-3 as a word; the parser makes it the number that was meant."""
    assert parse_settings([config("learning_rate: 1e-3\nuse_cpu: true\n")]).training.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("learning_rat: 1\n", [], r"settings\.yaml: unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ("", [], "expected a mapping"),
        ("use_cpu: true\n", ["--imagesize", "3"], "unknown options --imagesize 3; did you mean 'image_size'"),
        ("use_cpu: true\n", ["--loss", "focal"], "loss: got 'focal', expected one of bce"),
        ("use_cpu: true\n", ["--link", "both"], "link: got 'both'"),
        ("loss: hbce_soft\nflat_taxonomy: true\n", [], "penalises edges of the taxonomy, and 'nih_flat' has none"),
        ("use_cpu: true\n", ["--backbone_kwargs", "{a"], "backbone_kwargs: .* is not JSON"),
    ],
)
def test_bad_settings_are_named(config, text, words, message):
    with pytest.raises(SettingsError, match=message):
        parse_settings([config(text), *words])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_parses_and_names_a_model_that_exists(path):
    import timm

    settings = parse_settings([str(path), "--use_cpu", "true", "--output_dir", "x"])
    assert timm.is_model(settings.model.backbone)
    assert settings.labels.hierarchy().gate == "Abnormal"
    settings.labels.policy(0)


@pytest.mark.parametrize("path", ADAPTATIONS, ids=lambda p: p.stem)
def test_every_shipped_config_of_an_adaptation_parses(path):
    settings = parse_adaptation([str(path), "--base", "runs/nih128", "--hospital", "map.yaml", "--use_cpu", "true"])
    assert settings.data.data_dir == "map.yaml"
    settings.labels.policy(0)


@pytest.mark.parametrize("path", sorted((REPO / "recipes" / "accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_accelerate_config_is_understood(path):
    from accelerate.commands.config.config_args import load_config_from_file

    text = path.read_text()
    assert f"--config_file recipes/accelerate/{path.name}" in text, "each file says the command that uses it"
    load_config_from_file(str(path))


def test_paths_and_verbosity_do_not_change_the_settings_hash(config):
    hashes = set()
    for words in (["--output_dir", "a"], ["--output_dir", "b", "--data_dir", "/elsewhere"], ["--seed", "5"]):
        settings = parse_settings([config("use_cpu: true\n"), *words])
        hashes.add(describe_run(settings.to_plain(), {}, {})["settings_hash"])
    assert len(hashes) == 2


RUN = {"settings": {"training": {"seed": 0, "learning_rate": 1e-3}}, "data": {"fingerprint": "a"}}


def finished(path):
    RunFolder(path).claim(RUN)
    (path / "eval_report.json").write_text("{}")


def test_a_finished_run_is_not_touched_unless_told(tmp_path):
    run = tmp_path / "run"
    finished(run)
    with pytest.raises(RunFolderError, match=r"a finished run: --overwrite true replaces it"):
        RunFolder(run)
    with pytest.raises(RunFolderError, match="nothing to resume"):
        RunFolder(run, resume=True)
    folder = RunFolder(run, overwrite=True)
    assert (run / "eval_report.json").exists()  # nothing is lost before the new run is ready to start
    folder.claim(RUN)
    assert not (run / "eval_report.json").exists()


def test_an_unfinished_run_is_resumed_with_the_same_settings_only(tmp_path):
    RunFolder(tmp_path / "run").claim(RUN)
    with pytest.raises(RunFolderError, match=r"an unfinished run.*--resume true goes on with it"):
        RunFolder(tmp_path / "run")
    RunFolder(tmp_path / "run", resume=True).claim(RUN)
    other = {**RUN, "settings": {"training": {"seed": 0, "learning_rate": 5e-3}}}
    with pytest.raises(RunFolderError, match=r"settings\.training\.learning_rate: was 0\.001, is 0\.005"):
        RunFolder(tmp_path / "run", resume=True).claim(other)
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text()) == RUN


def test_a_folder_that_is_no_run_is_never_deleted(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for arguments in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(RunFolderError, match="no run"):
            RunFolder(tmp_path, **arguments)


@pytest.fixture
def attempt(monkeypatch):
    """This process as a worker of a launcher, in its n-th attempt."""

    def be(launch, n):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", f"/tmp/torchelastic_{launch}/none_x/attempt_{n}/0/error.json")

    return be


def test_workers_started_anew_go_on_whatever_their_command_says(tmp_path, attempt):
    run = tmp_path / "run"
    finished(run)  # by someone else
    attempt("a", 0)
    RunFolder(run, overwrite=True)  # killed before it claimed the folder
    attempt("a", 1)
    folder = RunFolder(run, overwrite=True)
    assert not folder.resume
    folder.claim(RUN | {"launched_by": [launch_mark()]})
    assert not (run / "eval_report.json").exists()
    (run / "checkpoint-3").mkdir()
    (run / "checkpoint-3" / "complete").touch()
    attempt("a", 2)
    for command in ({}, {"overwrite": True}, {"resume": True}):
        folder = RunFolder(run, **command)
        assert folder.resume
        folder.claim(RUN | {"launched_by": [launch_mark()]})
        assert folder.checkpoint(run) == run / "checkpoint-3"
    attempt("b", 1)  # another launch, refused and tried again
    with pytest.raises(RunFolderError, match="an unfinished run"):
        RunFolder(run)
    attempt("a", 3)
    (run / "eval_report.json").touch()
    with pytest.raises(FinishedRunError):
        RunFolder(run, overwrite=True)


def test_the_launch_is_written_into_run_yaml(config, attempt):
    described = {}
    for launch, n in (("a", 0), ("a", 1), ("b", 0)):
        attempt(launch, n)
        plain = parse_settings([config("use_cpu: true\n")]).to_plain()
        described[launch, n] = describe_run(plain, {}, {})["launched_by"]
    assert described["a", 0] == described["a", 1] != described["b", 0]
    assert len(described["a", 0]) == 1


def test_what_an_interrupted_claim_leaves_can_be_claimed_again(tmp_path, monkeypatch):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "run.yaml.partial").write_text("settings:")
    RunFolder(tmp_path / "new").claim(RUN)

    run = tmp_path / "old"
    finished(run)
    (run / "checkpoint-3").mkdir()
    (run / "checkpoint-3" / "complete").touch()

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            RunFolder(run, overwrite=True).claim(RUN)
    # Neither finished nor to be gone on with from what is half deleted.
    assert RunFolder(run, resume=True).checkpoint(run) is None
    RunFolder(run, overwrite=True).claim(RUN)
    assert [path.name for path in run.iterdir()] == ["run.yaml"]


def test_a_finished_run_that_is_queued_again_is_left_and_all_is_well(tmp_path, config, monkeypatch, capsys):
    run = tmp_path / "run"
    words = [config("use_cpu: true\n"), "--output_dir", str(run), "--resume", "true"]
    RunFolder(run).claim(describe_run(parse_settings(words).to_plain(), {}, {}))
    (run / "eval_report.json").write_text("{}")
    recipe = str(REPO / "recipes" / "train.py")
    monkeypatch.setattr(sys, "argv", [recipe, *words])
    runpy.run_path(recipe, run_name="__main__")
    assert "nothing to resume" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [recipe, *words, "--learning_rate", "0.5"])
    with pytest.raises(SystemExit, match=r"learning_rate: was 5e-05, is 0\.5"):
        runpy.run_path(recipe, run_name="__main__")
