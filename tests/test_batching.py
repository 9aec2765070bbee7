"""Batches are halved where memory runs out, and nothing else changes."""

import numpy as np
import pytest
import torch

from hf_cxr.batching import ON_ACCELERATOR, ON_CPU, BatchSize, FilmTooLargeError
from hf_cxr.inference import predict_logits
from tests.pipeline.helpers import lively


def too_many(most):
    """Work that the memory does not hold for more films at once; also which batches came to its end."""
    held = []

    def run(films):
        if len(films) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        held.append(len(films))
        return films * 2

    return run, held


def test_halves_and_goes_on():
    run, held = too_many(5)
    size, films = BatchSize(16), torch.arange(21)
    assert torch.equal(torch.cat(size.over(films, run)), films * 2)
    assert (held, size.films) == ([4] * 5 + [1], 4)
    held.clear()
    size.over(films[:8], run)  # what was learned holds: nothing fails any more
    assert held == [4, 4]


def test_half_of_the_batch_that_failed():
    """Of a short one: half of the nominal size would fail again as it is."""
    run, held = too_many(3)
    size = BatchSize(64)
    size.over(torch.arange(6), run)
    assert (held, size.films) == ([3, 3], 3)


def test_a_single_film_that_does_not_fit():
    run, _ = too_many(0)
    with pytest.raises(FilmTooLargeError, match="out of memory on cpu with a single film"):
        BatchSize(8).over(torch.arange(3), run)


def test_other_errors_are_not_taken_for_it():
    def run(films):
        raise RuntimeError("shape mismatch")

    size = BatchSize(8)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        size.over(torch.arange(3), run)
    assert size.films == 8


def test_where_nobody_chose():
    assert BatchSize.for_device(torch.device("cpu")).films == ON_CPU
    assert BatchSize.for_device(torch.device("cuda", 0)).films == ON_ACCELERATOR


def test_a_split_is_predicted_in_halves(make_model, make_films, monkeypatch):
    model, films = lively(make_model(link="conditional")), make_films(n_films=21)
    expected = predict_logits(model, films)
    real, batches = model.forward, []

    def forward(pixel_values, **kwargs):
        if len(pixel_values) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        batches.append(len(pixel_values))
        return real(pixel_values, **kwargs)

    monkeypatch.setattr(model, "forward", forward)
    np.testing.assert_allclose(predict_logits(model, films, batch_size=8), expected, atol=1e-5)
    assert max(batches) == 2
    assert sum(batches) == 21
