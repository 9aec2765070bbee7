"""What a model's own validation films look like, and how far another film is from them.

Two views of a film are kept apart, because they answer two questions:

- its *looks*: where it is bright and where it has edges (`describe`), which tells what is no upright frontal chest
  film, wherever it was taken;
- its *features*, the model's pooled ones, which tell how unlike all films of a place are to what the model was trained
  on. They do not serve to judge single films: of another hospital's good films, two thirds lie beyond their threshold.

Measured with the validation films of `nih128` at 128 × 128 (721 films of 213 patients) and a threshold that 1 % of its
held-out films exceed. Beyond it in looks are 3.7 % of its test films, the strangest being films of infants between wide
black borders, and a lateral one; and 2.6 % of `kermany224` (another hospital, children). Of what is no such film:

| kind | beyond | AUROC against kermany224 |
|---|---|---|
| inverted | 100 % | 1.00 |
| upside down: films of adults, of children | 100 %, 86 % | 1.00, 0.99 |
| turned to either side: films of adults, of children | 100 %, 98 % | 1.00, 1.00 |
| photographs: 23 whole, 100 parts of two | 100 %, 99 % | 1.00, 1.00 |
| noise of any grain | 100 % | 1.00 |
| next to blank | 100 % | 1.00 |
| 26 MR slices | 100 % | 1.00 |
| CT slices, up to three windows each, 37 | 95 % | 0.98 |
| drawn limbs, hands, CT slices | 100 % | 1.00 |

The slices are pydicom's test files, half of them of a few pixels. Mirrored films are not told apart. Of the features'
threshold, 5 % of the test films and 69 % of `kermany224` are beyond.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from torch.nn.functional import adaptive_avg_pool2d

from hf_cxr.errors import UserError

REFERENCE_FILE = "film_reference.safetensors"
QUANTILE = 0.99
"""Of the held-out films' distances: the share of a model's own films that lies within the threshold."""
DIRECTIONS = 48
"""Principal directions kept. 32 miss a quarter of the films turned to a side, 64 are no better."""
FOLDS = 10
FEWEST_FILMS, FEWEST_PATIENTS = 100, 20
BRIGHTNESS, EDGES = 8, 4
"""Cells a side in which `describe` looks at brightness and at edges."""
FAINTEST_EDGE = 0.01  # of a film's deviation; keeps the logarithm of an empty cell within what films have

Float = NDArray[np.float64]


class FilmReferenceError(UserError, ValueError):
    """Films that no reference can be made of, or a file that holds none."""


def describe(pixels_NSS: ArrayLike) -> Float:
    """How films look: brightness of 8 × 8 cells, and strength of edges along and across in 4 × 4.

    All in units of the film's own deviation, so that exposure does not matter.

    Args:
        pixels_NSS: (N, S, S) uint8 films, S at least 8.

    Returns:
        (N, 96).

    Raises:
        FilmReferenceError: another shape.
    """
    films = torch.as_tensor(np.array(pixels_NSS), dtype=torch.float32)[:, None]
    if films.ndim != 4 or min(films.shape[2:]) < BRIGHTNESS:
        raise FilmReferenceError(f"films {tuple(np.shape(pixels_NSS))}; expected (N, S, S), S at least {BRIGHTNESS}")
    deviation = films.std((1, 2, 3), keepdim=True).clamp(min=1)
    cells = (adaptive_avg_pool2d(films, BRIGHTNESS) - films.mean((1, 2, 3), keepdim=True)) / deviation
    edges = [
        torch.log(adaptive_avg_pool2d(films.diff(dim=axis).abs(), EDGES) / deviation + FAINTEST_EDGE) for axis in (3, 2)
    ]
    return torch.cat([part.flatten(1) for part in (cells, *edges)], 1).double().numpy()


MOST_FILMS = 4096
"""Films that are looked at: what more of them would say does not pay for the memory that they take at once."""


def some_films(patients: ArrayLike, most: int = MOST_FILMS) -> NDArray[np.intp]:
    """Rows of all films, or of whole patients, drawn with a fixed seed, whose films are not more than `most`.

    Args:
        patients: (N,) patient of each film.
    """
    codes, counts = np.unique(np.asarray(patients), return_inverse=True, return_counts=True)[1:]
    order = np.random.default_rng(0).permutation(len(counts))
    chosen = order[np.cumsum(counts[order]) <= most]
    return np.flatnonzero(np.isin(codes, chosen))


@dataclass(frozen=True)
class Cloud:
    """Points, and how far from them others are: a Mahalanobis distance among their first principal directions.

    Attributes:
        mean: (C,) of the points. whitener: (C, K), after which their covariance is the unit matrix (shrunk as by
            Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices").
        threshold: distance within which `QUANTILE` of held-out patients' points lie.
    """

    mean: Float
    whitener: Float
    threshold: float

    @classmethod
    def fit(cls, points_NC: ArrayLike, patients: ArrayLike) -> Cloud:
        """Fit to points; the threshold comes from patients left out, a tenth of them at a time.

        A patient's films are alike: were they on both sides, the distances would be too small.

        Args:
            points_NC: (N, C). patients: (N,) patient of each.

        Raises:
            FilmReferenceError: fewer than 100 films or 20 patients, or points that are not finite.
        """
        points = np.asarray(points_NC, dtype=np.float64)
        codes = np.unique(np.asarray(patients), return_inverse=True)[1]
        n_patients = int(codes.max(initial=-1)) + 1
        if points.ndim != 2 or len(points) != len(codes):
            raise FilmReferenceError(f"points {points.shape} of {len(codes)} patients' films; expected (N, C) and (N,)")
        if len(points) < FEWEST_FILMS or n_patients < FEWEST_PATIENTS:
            raise FilmReferenceError(
                f"{len(points)} films of {n_patients} patients are too few to know what films look like; expected "
                f"{FEWEST_FILMS} of {FEWEST_PATIENTS} or more"
            )
        if not np.isfinite(points).all():
            raise FilmReferenceError("some films' values are not finite")
        fold = np.random.default_rng(0).permutation(n_patients)[codes] % FOLDS
        held = np.empty(len(points))
        for i in range(FOLDS):
            held[fold == i] = _distance(points[fold == i], *_whitened(points[fold != i]))
        return cls(*_whitened(points), float(np.quantile(held, QUANTILE)))

    def distance(self, points_NC: ArrayLike) -> Float:
        """(N,) distance of each point, 1 at the threshold.

        Raises:
            FilmReferenceError: points of another width.
        """
        points = np.asarray(points_NC, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != len(self.mean):
            raise FilmReferenceError(f"points {points.shape}; expected (N, {len(self.mean)}), as was fitted")
        return _distance(points, self.mean, self.whitener) / self.threshold


def _whitened(points: Float) -> tuple[Float, Float]:
    mean, scale = points.mean(0), points.std(0) + 1e-3  # a value that never varies may do so elsewhere
    standard = (points - mean) / scale
    pca = PCA(min(DIRECTIONS, points.shape[1], (len(points) - 1) // 4), svd_solver="full").fit(standard)
    precision = LedoitWolf(assume_centered=True).fit(pca.transform(standard)).precision_
    return mean, pca.components_.T @ np.linalg.cholesky(precision) / scale[:, None]


def _distance(points: Float, mean: Float, whitener: Float) -> Float:
    return np.linalg.norm((points - mean) @ whitener, axis=1)


@dataclass(frozen=True)
class FilmReference:
    """What a model's validation films look like, and what the model makes of them.

    Attributes:
        looks: of `describe`. features: of the pooled features; None of a model that gives none.
        image_size: of the films, in pixels. n_films, n_patients: that it was fitted to.
    """

    looks: Cloud
    features: Cloud | None
    image_size: int
    n_films: int
    n_patients: int

    @classmethod
    def fit(cls, pixels_NSS: NDArray[np.uint8], features_NC: ArrayLike | None, patients: ArrayLike) -> FilmReference:
        """Fit to films.

        Args:
            pixels_NSS: (N, S, S) as the model's processor prepares them. features_NC: `pooler_output` of them.
            patients: (N,) patient of each.

        Raises:
            FilmReferenceError: see `Cloud.fit`.
        """
        features = None if features_NC is None else Cloud.fit(features_NC, patients)
        n_patients = len(np.unique(np.asarray(patients)))
        looks = Cloud.fit(describe(pixels_NSS), patients)
        return cls(looks, features, pixels_NSS.shape[1], len(pixels_NSS), n_patients)

    def save(self, folder: str | Path) -> Path:
        """Write `film_reference.safetensors` beside the model; it appears whole or not at all."""
        path = Path(folder) / REFERENCE_FILE
        clouds = {"looks": self.looks} | ({"features": self.features} if self.features else {})
        tensors = {f"{name}.{part}": np.ascontiguousarray(getattr(cloud, part))
                   for name, cloud in clouds.items() for part in ("mean", "whitener")}  # fmt: skip
        about: dict[str, Any] = {name: getattr(self, name) for name in ("image_size", "n_films", "n_patients")}
        about["thresholds"] = {name: cloud.threshold for name, cloud in clouds.items()}
        partial = path.with_name(f".{path.name}.partial")
        save_file(tensors, partial, metadata={"film_reference": json.dumps(about)})
        os.replace(partial, path)
        return path

    @classmethod
    def load(cls, folder: str | Path) -> FilmReference:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: there is none. FilmReferenceError: the file is damaged, or another.
        """
        path = Path(folder) / REFERENCE_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; fit a reference to the model's validation films")
        try:
            with safe_open(path, "np") as file:
                about = json.loads(file.metadata()["film_reference"])
                clouds = {
                    name: Cloud(file.get_tensor(f"{name}.mean"), file.get_tensor(f"{name}.whitener"), threshold)
                    for name, threshold in about.pop("thresholds").items()
                }
            return cls(clouds["looks"], clouds.get("features"), **about)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FilmReferenceError(
                f"{path}: holds no reference ({type(error).__name__}); delete it and fit another"
            ) from error
