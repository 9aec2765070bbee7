"""The benchmarks of data and inference run, on little; and what they find is shown as it is."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import indexing, inference, loading, results
from benchmarks.timing import Budget, Comparison, Rates, alternate, timed
from tests.conftest import REPO

LITTLE = loading.Size(drawn=10, repeats=2, source=96, film=32, batch=8, workers=2)


@pytest.fixture
def tiny(monkeypatch, make_model, nih):
    """The benchmarks' models, of conftest's kinds."""

    def model_of(backbone, size, hierarchy=nih):
        kind = "vit" if "vit" in backbone else "densenet"
        return make_model(kind, hierarchy, size, link="conditional", head_dropout=0.2).eval()

    monkeypatch.setattr(inference, "model_of", model_of)
    monkeypatch.setattr(inference, "matmul_rate", lambda dtype: 1e12)  # measuring it takes seconds


def compared(what):
    """The row of a comparison in one round."""
    assert what.ours != what.peer
    row = command.compare(replace(what, rounds=1))
    assert list(row["rates"]) == [what.ours, what.peer]
    assert all(rate["median"] > 0 for rate in row["rates"].values())
    return row


# ---- data ----


@pytest.mark.parametrize("make", [loading.loader_steady, loading.loader_steady_workers, loading.loader_first_epoch])
def test_both_loaders_bring_every_film_once_a_round(make):
    what = make(LITTLE)
    films = {side: run() for side, run in what.sides().items()}
    assert films == {"hf_cxr": 20, "torchxrayvision": 20}


def test_the_loader_is_held_against_the_copying_of_memory(monkeypatch):
    monkeypatch.setattr(loading, "copy_rate", lambda: 1e9)
    limit, share = loading.loader_steady(LITTLE).bound(1000.0)
    assert "copying" in limit
    assert share == pytest.approx(1000 * 32 * 32 * 5 / 1e9)


def test_a_first_epoch_decodes_each_time(monkeypatch):
    caches, decode = [], loading.decode

    def kept(*given, **how):
        caches.append(decode(*given, **how)[0])
        return caches[-1], 0

    monkeypatch.setattr(loading, "decode", kept)
    run = loading.our_first_epoch(loading.draw(LITTLE), replace(LITTLE, workers=0))
    run(), run()
    names = [cache._fingerprint for cache in caches]
    assert len(names) == len(set(names)) == 2
    assert caches[0]["pixels"][:] == caches[1]["pixels"][:]


def test_the_loader_makes_what_the_trainer_makes():
    trainer = loading.trainer_of(loading.film_rows(loading.draw(LITTLE)), LITTLE)
    prepare = loading.pixels_for(trainer)
    batch = next(iter(trainer.get_train_dataloader()))
    pixels = prepare(batch)
    assert pixels.shape == (8, 1, 32, 32)
    assert pixels.dtype == torch.float32
    plain = (batch["pixel_values"] / 255 - trainer.model.config.image_mean) / trainer.model.config.image_std
    assert (pixels - plain).abs().mean() > 0.05  # augmented
    assert pixels.mean().item() == pytest.approx(plain.mean().item(), abs=0.3)  # and normalised


def test_loader_beside_a_training_step():
    row = compared(loading.loader_share(LITTLE, backbone="test_resnet"))
    assert row["target"] == 20


@pytest.mark.parametrize("make", [indexing.index_nih, indexing.index_chexpert])
def test_published_tables(make):
    pytest.importorskip("torchxrayvision")
    what = make(rows=3000)
    assert isinstance(what, Budget)
    seconds, rows = timed(what.work(), 1)
    assert rows == 3000
    assert 0 < seconds[0] < what.seconds == 10


# ---- inference ----


def test_doubt_and_heatmaps(tiny):
    assert compared(inference.mc_dropout(size=32, n_passes=4))["target"] == 20
    assert compared(inference.heatmaps(size=32))["target"] == 40
    compared(inference.look_at_once(size=32))
    compared(inference.inference_bf16(size=32, films=2))


def test_the_peer_of_dropout_drops(tiny, monkeypatch):
    model = inference.model_of("densenet121", 32)
    drawn = []
    monkeypatch.setattr(torch, "stack", lambda logits: drawn.extend(logits) or torch.cat(logits))
    inference.plain_passes(model, torch.randn(1, 1, 32, 32), 3)()
    assert len(drawn) == 3
    assert not torch.equal(drawn[0], drawn[1])
    assert not model.head.trunk.dropout.training


def test_the_gate_clears_the_share_that_it_is_said_to(tiny):
    pixels = torch.randn(10, 1, 32, 32)
    model = inference.two_stages(16, 32, pixels, cleared=0.6)
    with torch.no_grad():
        assert model(pixels).finding_model_ran.sum() == 4
    assert compared(inference.two_stage(gate_size=16, size=32, films=10))["target"] == 1.7


def test_two_stages_whose_flagged_films_differ_are_not_timed(tiny, monkeypatch):
    forward = inference.CXRTwoStageForImageClassification.forward

    def wrong(self, pixel_values, run_all=False, **_):
        out = forward(self, pixel_values, run_all=run_all)
        out.logits += run_all
        return out

    monkeypatch.setattr(inference.CXRTwoStageForImageClassification, "forward", wrong)
    with pytest.raises(AssertionError, match="not close"):
        inference.two_stage(gate_size=16, size=32, films=10).sides()


def test_bootstrap_counts_its_resamples():
    sides = inference.bootstrap(n_films=2000, n_resamples=50, of_the_loop=1).sides()
    assert {side: run() for side, run in sides.items()} == {"bootstrap_table": 50, "scikit-learn": 1}


# ---- the frame ----


def test_sides_take_turns_and_the_first_round_does_not_count():
    order, now = [], [0.0]

    def side(name, seconds):
        def run():
            order.append(name)
            now[0] += seconds if len(order) > 2 else 100
            return 6

        return run

    rates = alternate({"a": side("a", 2), "b": side("b", 3)}, 2, clock=lambda: now[0])
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert rates.by_side == {"a": [3, 3], "b": [2, 2]}
    assert rates.ratio("a", "b") == {"median": 1.5, "low": 1.5, "high": 1.5}
    drifting = Rates({"a": [10, 5], "b": [5, 2.5]})  # the machine slowed down; the ratio did not
    assert drifting.ratio("a", "b")["high"] == 2


def test_one_entry_goes_from_the_catalogue_to_the_page(monkeypatch, tmp_path, capsys):
    def toy():
        """A toy."""
        side = lambda amount: lambda: amount  # noqa: E731
        return Comparison("toy", "films", "us", "them", 20, lambda: {"us": side(5.0), "them": side(1.0)}, rounds=1)

    monkeypatch.setattr(command, "CATALOGUE", {"toy": toy})
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--here", "toy"])
    command.main()
    row = json.loads(capsys.readouterr().out)
    assert row["kind"] == "comparison"
    assert row["title"] == "toy"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "toy", "tox"])
    with pytest.raises(SystemExit):
        command.main()
    assert "unknown: tox; there are toy" in capsys.readouterr().err


LIMITS = {"copy_gb_s": 70.0, "matmul_fp32_gflop_s": 190, "matmul_bf16_gflop_s": 840}
MADE_UP = {
    "date": "2026-01-02",
    "machine": {
        "processor": "a processor", "cores": 2, "memory_gib": 8.0, "accelerator": None, "versions": {"torch": "2"},
        "limits": LIMITS,
    },
}  # fmt: skip


def spread(middle):
    return {"median": middle, "low": 0.9 * middle, "high": 1.1 * middle}


def comparison(title, ratio, target):
    return MADE_UP | {
        "kind": "comparison", "title": title, "unit": "films", "ours": "us", "peer": "them", "target": target,
        "rounds": 7, "rates": {"us": spread(1234.0), "them": spread(1234.0 / ratio)}, "ratio": spread(ratio),
        "peak_bytes": {"us": 2**30, "them": 3 * 2**30}, "bound": {"what": "the copying rate", "share": 0.25},
        "note": "made up",
    }  # fmt: skip


ROWS = [
    comparison("met", 21.0, 20),
    comparison("missed", 19.0, 20),
    comparison("not asked", 2.5, None),
    MADE_UP
    | {"kind": "budget", "title": "tables", "unit": "rows", "amount": 9.0, "at_most": 10, "seconds": spread(11.0)},
    MADE_UP
    | {
        "kind": "growth", "title": "epochs", "films": [10, 20], "seconds": [1.0, 2.0], "slope": 1.0,
        "peak_bytes": [2**30, 1.5 * 2**30], "memory_at_most": 1.1,
    },
    MADE_UP
    | {
        "kind": "learning", "title": "two epochs", "ours": [0.6666, 0.7], "peer": [0.65, 0.71],
        "ours_seconds": [1234.5, 9], "peer_seconds": [20, 21],
    },
]  # fmt: skip


def test_the_page_says_what_was_met_and_what_not():
    lines = {line.split("|")[1].strip(): line for line in results.page(ROWS).splitlines() if line.startswith("| ")}
    assert "1,234 films/s" in lines["met"]
    assert "**21** (18.9 to 23.1)" in lines["met"]
    assert "20 ✓" in lines["met"]
    assert "20 ✗" in lines["missed"]
    assert "✓" not in lines["not asked"] + lines["missed"]
    assert "1.00 GiB / 3.00 GiB" in lines["met"]
    assert "25% of the copying rate" in lines["met"]
    assert "10 ✗" in lines["tables (9 rows)"]
    assert "| 1.00 | ≤ 1.1 ✓ | 1.50, ≤ 1.1 ✗ |" in lines["epochs"]
    assert "| 0.667, 0.700 | 1,234, 9 | 0.650, 0.710 | 20, 21 |" in lines["two epochs"]


def test_the_readme_quotes_what_was_measured():
    readme, rows = results.README.read_text(encoding="utf-8"), list(results.load().values())
    assert results.quoted(readme, rows) == readme
    assert all(row["title"] in readme for row in rows if row["kind"] in {"comparison", "budget", "growth"})
    assert "| met | them | 21 (18.9–23.1) | 20 |" in results.quoted(readme, ROWS)
    assert "| epochs | 10 to 20 | 1.00 | 1.50 (asked 1.1) |" in results.quoted(readme, ROWS)
    with pytest.raises(ValueError, match="`<!-- budget -->`"):
        results.quoted(readme.replace("<!-- budget -->", ""), ROWS)


def test_figures_and_the_file_of_results(tmp_path):
    results.draw_ratios([row for row in ROWS if row["kind"] == "comparison"], tmp_path / "a.png")
    results.draw_growth([row for row in ROWS if row["kind"] == "growth"], tmp_path / "b.png")
    assert min((tmp_path / name).stat().st_size for name in ("a.png", "b.png")) > 5000
    file = tmp_path / "results.json"
    assert results.load(file) == {}
    results.store({"met": ROWS[0]}, file)
    assert results.load(file) == {"met": ROWS[0]}
    assert [path.name for path in tmp_path.glob("results*")] == ["results.json"]


def test_the_list_names_every_measurement():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--list"], cwd=REPO, stdout=subprocess.PIPE, text=True, check=True
    )
    listed = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert [line[0] for line in listed] == list(command.CATALOGUE)
    assert all(len(line) == 2 and line[1].endswith(".") for line in listed)
