import numpy as np
import pytest
from PIL import Image

from hf_cxr.change import ChangeError, draw_learning_curve, learning_markdown
from hf_cxr.change.learning_curve import learning_points


def run(method, n_films, seed=0, macro=0.7, viral=0.6, **more):
    return {"method": method, "n_films": n_films, "seed": seed, "macro AUROC": macro, "Viral": viral, **more}


RUNS = [
    run("full", 50, macro=0.6), run("other", 50), run("lora", 200, 0, 0.8), run("lora", 200, 1, 0.9, None),
    run("lora", 50, 0, 0.7, None), run("head", 50, macro=0.65, **{"macro AUROC_ci": [0.6, 0.71]}),
]  # fmt: skip


def test_seeds_come_together():
    points = learning_points(RUNS)
    assert list(points) == ["macro AUROC", "Viral"]
    assert list(points["Viral"]) == ["head", "lora", "full", "other"]
    assert list(points["Viral"]["lora"]) == [50, 200]
    several = points["macro AUROC"]["lora"][200]
    assert (several.mean, several.low, several.high) == (pytest.approx(0.85), 0.8, 0.9)
    one = points["macro AUROC"]["head"][50]
    assert (one.mean, one.low, one.high) == (0.65, 0.6, 0.71)
    assert points["Viral"]["lora"][50].mean is None
    partly = points["Viral"]["lora"][200]
    assert (partly.mean, partly.low, partly.n_seeds, partly.n_runs) == (0.6, None, 1, 2)


def test_the_table():
    rows = learning_markdown(RUNS, {"macro AUROC": 0.5, "Viral": None}).splitlines()[2:]
    assert rows == [
        "| method | films | seeds | macro AUROC | Viral |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| base before adaptation | 0 | – | 0.500 | – |",
        "| head | 50 | 1 | 0.650 (0.600–0.710) | 0.600 |",
        "| lora | 50 | 1 | 0.700 | – |",
        "| lora | 200 | 2 | 0.850 (0.800–0.900) | 0.600, 1 of 2 seeds |",
        "| full | 50 | 1 | 0.600 | 0.600 |",
        "| other | 50 | 1 | 0.700 | 0.600 |",
    ]


def test_the_figure_shows_the_base(tmp_path):
    for name, base in (("without", None), ("with", {"macro AUROC": 0.62})):
        draw_learning_curve(RUNS, tmp_path / f"{name}.png", "Learning curve", base)
    one, other = (np.asarray(Image.open(tmp_path / f"{name}.png").convert("L")) for name in ("without", "with"))
    assert one.shape == other.shape
    half = one.shape[1] // 2
    # A line across the first picture, which the second, whose label the base lacks, has not.
    dark = [(picture < 100).sum(axis=1) for picture in (one[:, :half], other[:, :half])]
    assert dark[1].max() > dark[0].max() + 50 or (dark[1] - dark[0]).max() > 100


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([], "no runs"),
        ([{"method": "head", "n_films": 1, "seed": 0}], "no label's AUROC"),
        ([run("head", 5), {"method": "head", "n_films": 6, "seed": 0, "Viral": 0.5}], "run 2 has no macro AUROC"),
        ([run("head", 5), run("head", 6, Mass=0.5)], r"run 2 has \['Mass'\]"),
        ([run("head", 5), run("head", 5)], "run 2 repeats method head, 5 films, seed 0"),
        ([run("head", 0)], "run 1 has 0 films"),
        ([run("head", 5, macro=1.2)], "label 'macro AUROC': AUROC 1.2"),
        ([run("head", 5, macro=float("nan"))], "AUROC nan"),
    ],
)
def test_mistakes_are_told(runs, words, tmp_path):
    for use in (learning_markdown, lambda runs: draw_learning_curve(runs, tmp_path / "a.png", "")):
        with pytest.raises(ChangeError, match=words):
            use(runs)
    assert not list(tmp_path.iterdir())
