import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from hf_cxr import curves
from hf_cxr.bootstrap import Resamples
from hf_cxr.curves import Reader, ReaderError


@pytest.fixture
def films():
    random = np.random.default_rng(0)
    truth = (random.random(600) < 0.3).astype(float)
    score = np.round(random.normal(size=600) + 1.2 * truth, 1)  # with ties
    truth[::50] = np.nan
    return truth, score, Resamples.of(np.arange(600) // 2, 200)


def test_roc_is_scikit_learns(films):
    truth, score, resamples = films
    drawn = curves.with_band(truth, score, resamples)
    keep = ~np.isnan(truth)
    x, y, _ = roc_curve(truth[keep], score[keep], drop_intermediate=False)
    inside = np.abs(drawn.x[:, None] - x).min(axis=1) > 1e-9  # at a step straight up the reference has two values
    np.testing.assert_allclose(drawn.y[inside], np.interp(drawn.x[inside], x, y), atol=1e-9)
    assert np.trapezoid(drawn.y, drawn.x) == pytest.approx(roc_auc_score(truth[keep], score[keep]), abs=0.005)


def test_precision_recall_is_scikit_learns(films):
    truth, score, resamples = films
    drawn = curves.with_band(truth, score, resamples, "pr")
    keep = ~np.isnan(truth)
    precision, recall, _ = precision_recall_curve(truth[keep], score[keep])
    for x, y in zip(drawn.x, drawn.y, strict=True):
        if x > 0:  # the highest threshold that reaches this recall
            reached = np.flatnonzero(recall >= x - 1e-12)
            first = reached[recall[reached] == recall[reached].min()]
            assert y == pytest.approx(precision[first].max(), abs=1e-9)


@pytest.mark.parametrize("kind", curves.KINDS)
def test_band_holds_the_curve_and_narrows_with_more_patients(films, kind):
    truth, score, resamples = films
    drawn = curves.with_band(truth, score, resamples, kind)
    middle = slice(10, 90)
    assert (drawn.low[middle] <= drawn.y[middle] + 1e-9).mean() > 0.95
    assert (drawn.high[middle] >= drawn.y[middle] - 1e-9).mean() > 0.95
    four = np.tile(truth, 4), np.tile(score, 4), Resamples.of(np.arange(2400) // 2, 200)
    wide, narrow = ((d.high - d.low)[middle].mean() for d in (drawn, curves.with_band(*four, kind)))
    assert narrow < 0.65 * wide


def test_readers(tmp_path, films):
    truth, score, _ = films
    keep = ~np.isnan(truth)
    x, y, _ = roc_curve(truth[keep], score[keep])
    at = len(x) // 2
    on, above = (Reader("A", "Mass", min(1.0, y[at] + d), 1 - x[at]) for d in (0.0, 0.05))
    assert curves.readers_covered(truth, score, [on]) == 1
    assert curves.readers_covered(truth, score, [above]) == 0
    path = tmp_path / "readers.csv"
    pd.DataFrame([vars(on), vars(above)]).to_csv(path, index=False)
    assert curves.read_readers(path, ["Mass"]) == [on, above]
    with pytest.raises(ReaderError, match=r"unknown labels \['Mass'\]"):
        curves.read_readers(path, ["Nodule"])
    pd.DataFrame([vars(on) | {"sensitivity": 80}]).to_csv(path, index=False)
    with pytest.raises(ReaderError, match=r"line 2: shares must lie in \[0, 1\], got .*80"):
        curves.read_readers(path, ["Mass"])
    pd.DataFrame({"reader": [1]}).to_csv(path, index=False)
    with pytest.raises(ReaderError, match="no column"):
        curves.read_readers(path, ["Mass"])
