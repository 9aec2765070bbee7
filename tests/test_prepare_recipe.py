"""recipes/prepare_data.py: parts on several machines, and training that finds them."""

import importlib.util
import shutil
import sys

import pytest

from hf_cxr import films as films_module
from hf_cxr.arguments import SettingsError, parse_settings
from hf_cxr.data import DataProblems, decoding
from hf_cxr.data.phantom import generate
from hf_cxr.films import prepare_films
from tests.conftest import REPO

SPEC = importlib.util.spec_from_file_location("prepare_data", REPO / "recipes" / "prepare_data.py")
prepare_data = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(prepare_data)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("phantom") / "films", n_images=300, image_size=64, progress=False)


@pytest.fixture
def words(tmp_path, drawn):
    """Settings of a small run on phantom films, `fit` and `view` other than by default."""
    shutil.copytree(drawn, tmp_path / "films")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"dataset: nih\ndata_dir: {tmp_path / 'films'}\ncache_dir: {tmp_path / 'cache'}\n"
        "image_size: 32\nfit: crop\nview: all\n"
        f"allow_empty_labels: true\noutput_dir: {tmp_path / 'run'}\nnum_proc: 1\n"
    )
    return [str(config)]


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *words])
    prepare_data.main()


def counted(monkeypatch):
    """The pieces that are decoded from now on."""
    taken, write = [], decoding._write
    monkeypatch.setattr(decoding, "_write", lambda work, piece, *rest: (taken.append(piece), write(work, piece, *rest)))
    return taken


def test_training_finds_all_parts_and_decodes_nothing(words, monkeypatch, capsys):
    taken = counted(monkeypatch)
    for part in ("2/2", "1/2"):
        run(monkeypatch, *words, "--part", part)
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["train", "validation", "test"] * 2
    assert sum(int(line.split()[1]) for line in told) == 300
    assert len(taken) > 3
    taken.clear()
    films = prepare_films(parse_settings(words))
    assert taken == []
    assert sum(map(len, films.decoded.values())) == 300
    run(monkeypatch, *words)
    assert taken == []
    assert capsys.readouterr().out.count(" 0 decoded now") == 3
    run(monkeypatch, *words, "--fit", "pad", "--part", "1/1")
    assert len(taken) > 3


def test_unreadable_films_of_all_splits_are_told_together(words, monkeypatch, tmp_path):
    run(monkeypatch, *words)
    for path in sorted((tmp_path / "films" / "images").iterdir())[::50]:
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataProblems) as caught:
        run(monkeypatch, *words)
    assert caught.value.totals == {"unreadable image": 6}


@pytest.mark.parametrize("part", ["3/2", "0/2", "half", "1/0", "-1/2", "1.5/2"])
def test_a_part_that_is_none(words, monkeypatch, part):
    with pytest.raises(SettingsError, match="part: got"):
        run(monkeypatch, *words, f"--part={part}")


def test_all_processes_of_a_run_decode_at_once(words, monkeypatch):
    """None waits for the first one, which might take longer than the process group's time limit."""
    at_once = []

    class State:
        is_local_main_process = False
        first = False

        def main_process_first(self):
            return self

        def __enter__(self):
            State.first = True

        def __exit__(self, *error):
            State.first = False

    def decode(films, *rest, progress, **options):
        at_once.append((State.first, progress))
        raise DataProblems([], {"unreadable image": 1})

    monkeypatch.setattr(films_module, "PartialState", State)
    monkeypatch.setattr(films_module, "decode", decode)
    with pytest.raises(DataProblems, match="3 unreadable image"):
        prepare_films(parse_settings(words))
    assert at_once == [(False, False)] * 3
