from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from hf_cxr.experiment import remember_films
from hf_cxr.film_reference import (
    QUANTILE,
    REFERENCE_FILE,
    Cloud,
    FilmReference,
    FilmReferenceError,
    describe,
    some_films,
)
from hf_cxr.inference import pooled_features


def drawn(n=400, width=6, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, width)) @ random.normal(size=(width, width)) + 3


def test_distance_is_mahalanobis_in_units_of_the_threshold():
    points, others = drawn(), drawn(20, seed=1)
    cloud = Cloud.fit(points, np.arange(400))
    scale = points.std(0) + 1e-3
    covariance = ledoit_wolf((points - points.mean(0)) / scale, assume_centered=True)[0]
    inverse = np.linalg.inv(covariance)
    expected = [mahalanobis(x / scale, points.mean(0) / scale, inverse) / cloud.threshold for x in others]
    assert cloud.distance(others) == pytest.approx(expected, rel=1e-9)


def test_a_fresh_draw_exceeds_the_threshold_as_often_as_it_says():
    cloud = Cloud.fit(drawn(2000), np.arange(2000))
    fresh = np.random.default_rng(5)
    mixing = np.random.default_rng(0)
    mixing.normal(size=(2000, 6))
    others = fresh.normal(size=(20000, 6)) @ mixing.normal(size=(6, 6)) + 3
    assert (cloud.distance(others) > 1).mean() == pytest.approx(1 - QUANTILE, abs=0.006)


def test_patients_are_held_out_whole():
    """Twin films: were one in the fit that judges the other, the threshold would be too low."""
    random = np.random.default_rng(0)
    singles = random.normal(size=(60, 40))
    twins = np.repeat(singles, 3, axis=0)
    whole = Cloud.fit(twins, np.repeat(np.arange(60), 3)).threshold
    apart = Cloud.fit(twins, np.arange(180)).threshold
    assert whole > 1.1 * apart


def test_looks_do_not_depend_on_exposure():
    films = np.random.default_rng(0).integers(40, 100, (3, 32, 32)).astype(np.uint8)
    assert describe(films * 2 + 5) == pytest.approx(describe(films), abs=1e-5)
    assert describe(films).shape == (3, 96)


def test_what_is_no_upright_film_stands_out(phantoms):
    reference = FilmReference.fit(phantoms[:300], None, np.arange(300) // 2)
    fresh = phantoms[300:]
    random = np.random.default_rng(0)
    kinds = {
        "inverted": 255 - fresh,
        "upside down": fresh[:, ::-1],
        "sideways": np.rot90(fresh, axes=(1, 2)),
        "noise": random.integers(0, 256, fresh.shape).astype(np.uint8),
    }
    beyond = {kind: (reference.looks.distance(describe(films)) > 1).mean() for kind, films in kinds.items()}
    assert min(beyond.values()) > 0.95, beyond
    assert (reference.looks.distance(describe(fresh)) > 1).mean() < 0.08


def test_saved_and_loaded_it_gives_the_same_distances(tmp_path, phantoms):
    features = drawn(200)
    reference = FilmReference.fit(phantoms[:200], features, np.arange(200) // 2)
    assert reference.save(tmp_path) == tmp_path / REFERENCE_FILE
    again = FilmReference.load(tmp_path)
    assert (again.image_size, again.n_films, again.n_patients) == (32, 200, 100)
    assert np.array_equal(again.looks.distance(describe(phantoms)), reference.looks.distance(describe(phantoms)))
    assert np.array_equal(again.features.distance(features), reference.features.distance(features))
    assert [path.name for path in tmp_path.iterdir()] == [REFERENCE_FILE]


def test_a_model_without_features_has_looks_alone(tmp_path, phantoms):
    FilmReference.fit(phantoms[:200], None, np.arange(200)).save(tmp_path)
    assert FilmReference.load(tmp_path).features is None


@pytest.mark.parametrize("content", [b"", b"no such format at all"])
def test_a_damaged_file_is_told(tmp_path, content):
    (tmp_path / REFERENCE_FILE).write_bytes(content)
    with pytest.raises(FilmReferenceError, match="holds no reference"):
        FilmReference.load(tmp_path)


def test_no_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="fit a reference"):
        FilmReference.load(tmp_path)


@pytest.mark.parametrize(
    ("points", "patients", "why"),
    [
        (drawn(50), np.arange(50), "too few"),
        (drawn(200), np.zeros(200), "1 patients are too few"),
        (np.full((200, 3), np.nan), np.arange(200), "not finite"),
        (drawn(200), np.arange(100), r"\(N,\)"),
    ],
)
def test_what_no_reference_can_be_made_of(points, patients, why):
    with pytest.raises(FilmReferenceError, match=why):
        Cloud.fit(points, patients)


def test_points_of_another_width_are_refused():
    with pytest.raises(FilmReferenceError, match=r"expected \(N, 6\)"):
        Cloud.fit(drawn(), np.arange(400)).distance(drawn(5, 4))


def test_of_very_many_films_whole_patients_are_looked_at():
    patients = np.repeat(np.arange(100), 7)
    rows = some_films(patients, most=300)
    assert len(rows) == 294  # 42 patients
    assert (np.unique(patients[rows], return_counts=True)[1] == 7).all()
    np.testing.assert_array_equal(rows, some_films(patients, most=300))
    np.testing.assert_array_equal(some_films(patients), np.arange(700))


def test_a_run_remembers_what_its_films_look_like(make_model, tmp_path):
    """What training leaves beside a model; nothing where there are too few films."""
    pixels = np.random.default_rng(0).integers(0, 255, (120, 32, 32), dtype=np.uint8)
    patients = [f"p{i // 4}" for i in range(120)]
    films = SimpleNamespace(pixels=lambda split, rows: pixels[rows], decoded={"validation": {"patient": patients}})
    remember_films(make_model(), films, tmp_path)
    reference = FilmReference.load(tmp_path)
    assert (reference.n_films, reference.n_patients) == (120, 30)
    assert len(reference.features.distance(pooled_features(make_model(), pixels[:3]))) == 3
    (tmp_path / "few").mkdir()
    few = SimpleNamespace(pixels=lambda split, rows: pixels[rows], decoded={"validation": {"patient": patients[:50]}})
    remember_films(make_model(), few, tmp_path / "few")
    assert not list((tmp_path / "few").iterdir())
