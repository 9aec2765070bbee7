"""The order of streamed films: each once, the same for a seed and epoch, and every reader among its own row groups."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from hf_cxr.data import StreamOrder

STARTS = np.array([0, 7, 8, 20, 33, 40, 41, 55, 64, 70, 83, 97])  # 97 films in 11 row groups


def order(batch_size=4, window=12, n_parts=1, seed=0, epoch=0):
    return StreamOrder(STARTS, seed, lambda: epoch, batch_size, window, lambda: n_parts)


@pytest.mark.parametrize("n_parts", [1, 2, 3, 8, 200])
@pytest.mark.parametrize("batch_size", [1, 4, 97, 200])
def test_every_film_comes_once_in_an_epoch(n_parts, batch_size):
    films = list(order(batch_size, n_parts=n_parts))
    assert sorted(films) == list(range(97))
    assert len(order(batch_size, n_parts=n_parts)) == 97


def test_the_order_is_a_function_of_seed_and_epoch():
    assert list(order()) == list(order())
    orders = {tuple(order(seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6
    assert list(order()) != sorted(order())


def test_films_of_a_window_come_from_several_row_groups():
    """Expected number of row groups among 24 films in a row: some, of 11, but not all in file order."""
    groups = np.searchsorted(STARTS, list(order(window=24)), side="right")
    assert (np.diff(groups) != 0).mean() > 0.5
    assert len(set(groups[:24])) < 8


def readers(n_processes, n_workers, order):
    """Films of every reader in the order it meets them, as accelerate and DataLoader deal them."""
    met = []
    for process in range(n_processes):
        batches = BatchSampler(order, order.batch_size, False)
        own = list(BatchSamplerShard(batches, n_processes, process) if n_processes > 1 else batches)
        met += [list(chain(*own[worker::n_workers])) for worker in range(n_workers)]
    return met


@pytest.mark.parametrize(("n_processes", "n_workers"), [(1, 1), (2, 1), (1, 3), (2, 2), (3, 2)])
def test_readers_share_the_row_groups_out(n_processes, n_workers):
    n_readers = n_processes * n_workers
    met = readers(n_processes, n_workers, order(n_parts=n_readers))
    counts = Counter(film for films in met for film in films)
    assert set(counts) == set(range(97))
    n_step = 4 * n_processes
    assert counts.total() == (-(-97 // n_step) * n_step if n_processes > 1 else 97)
    # but for films that fill up the last step, and row groups in which two parts meet
    kept = [films[: 97 // (4 * n_readers) * 4] for films in met]
    groups = Counter(group for films in kept for group in set(np.searchsorted(STARTS, films, side="right").tolist()))
    assert groups.total() <= 11 + n_readers - 1
