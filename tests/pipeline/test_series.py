"""Forms of a film and of a series: order, streaming, batches."""

import itertools
import math

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.pipelines.pt_utils import KeyDataset

from hf_cxr.models import FilmError, read_dicom
from tests.models.dicom_files import film as dicom
from tests.models.dicom_files import written
from tests.pipeline.helpers import (
    OPTIONS,
    N,
    assert_all_same,
    assert_same,
    pixels,
    reader,
)


def test_every_form_of_a_film_is_the_same_film(model, films, tmp_path):
    read, values = reader(model), pixels()[3]
    expected = read(films[3])
    from_8_bit = tmp_path / "8_bit.png"
    Image.fromarray(values).save(from_8_bit)
    same = [tmp_path / "film_3.png", Image.open(films[3]), values, torch.tensor(values), Image.fromarray(values),
            str(from_8_bit), values.astype(np.uint16) * 257, values[None], np.stack([values] * 3, -1)]  # fmt: skip
    for film in same:
        assert_same(read(film), expected)
    assert abs(read(films[4])["gate"]["probability"] - expected["gate"]["probability"]) > 1e-3


def test_dicom_in_every_form_is_one_film(model, tmp_path):
    read, dataset = reader(model), dicom()
    (tmp_path / "IM0001").write_bytes(written(dataset))
    expected = read(Image.fromarray(np.asarray(read_dicom(dataset).image)))
    with (tmp_path / "IM0001").open("rb") as file:
        for film in (tmp_path / "IM0001", dataset, file):
            assert_same(read(film), expected)
    assert_all_same(read([dataset, tmp_path / "IM0001"]), [expected] * 2)
    refused = dicom(Modality="CT")
    with pytest.raises(FilmError, match=r"film 1: .*CT") as caught:
        read([dataset, refused])
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("which", ["model", "two_stage"])
def test_batches_change_nothing_and_keep_the_order(which, options, request, films):
    read = reader(request.getfixturevalue(which))
    singly = [read(film, **options) for film in films]
    assert len({row["gate"]["probability"] for row in singly}) == N  # so that a mix-up would show
    for batch_size in (1, 3, 7, 10):
        together = read(films, batch_size=batch_size, **options)
        assert isinstance(together, list)
        assert_all_same(together, singly)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("form", ["generator", "iterator"])
def test_a_generator_is_read_no_further_than_needed(model, form, batch_size):
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield pixels()[i % N]

    read = reader(model)
    stream = read(endless() if form == "generator" else map(np.asarray, endless()), batch_size=batch_size)
    assert len(taken) == 0
    first = list(itertools.islice(iter(stream), 4))
    assert len(taken) == math.ceil(4 / batch_size) * batch_size
    for row, values in zip(first, pixels(), strict=False):
        assert_same(row, read(values))


def test_every_form_of_a_series(model, films):
    read = reader(model, batch_size=2)
    expected = read(films)
    dataset = datasets.Dataset.from_dict({"image": films, "id": range(N)}).cast_column("image", datasets.Image())
    series = {
        "KeyDataset": KeyDataset(dataset, "image"),
        "column": dataset["image"],
        "streamed column": (row["image"] for row in dataset.to_iterable_dataset()),
        "tuple": tuple(films),
        "array": pixels()[:, None],
        "tensor": torch.tensor(pixels()[:, None]),
        "empty": [],
    }
    got = {name: read(films) for name, films in series.items()}
    assert {name for name, rows in got.items() if isinstance(rows, list)} == {"tuple", "array", "tensor", "empty"}
    assert got.pop("empty") == []
    for rows in got.values():
        assert_all_same(rows, expected)
    assert list(read(film for film in ())) == []
    stream = read(KeyDataset(dataset, "image"))
    assert len(stream) == N
    for _ in range(2):  # transformers' own iterator would lose films the second time
        assert_all_same(stream, expected)


def test_workers_load_the_films(model, films):
    read = reader(model)
    assert_all_same(read(films, num_workers=1), read(films))


def test_settings_of_the_pipeline_hold_until_a_call_says_otherwise(model, films):
    read = reader(model, n_passes=3, seed=2, heatmaps="Mass", max_entropy=0.2)
    assert_same(read(films[0]), reader(model)(films[0], n_passes=3, seed=2, heatmaps="Mass", max_entropy=0.2))
    plain = read(films[0], n_passes=None, heatmaps=None, max_entropy=None)
    assert_same(plain, reader(model)(films[0]))
    assert_same(read(films[0], seed=4), reader(model)(films[0], n_passes=3, seed=4, heatmaps="Mass", max_entropy=0.2))
