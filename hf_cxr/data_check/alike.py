"""Films that are the same, or nearly: by their content, and by perceptual hashes of 256 bits.

Distance 24 was chosen by measuring (`imagehash.phash`, 16 × 16, on the decoded film). Of the 36 million pairs of
`nih128`'s films, and the half million of `kermany224`'s, that show different patients, none is nearer than 44; films of
one patient that are no copies come within 28. How far a copy is from its film, at most, of 150 films of each: saved as
JPEG of quality 75 or 30, 8 and 18; at half the size, 6; with more contrast, 18; with another gamma, 28 (95 % within
21). One that was cut by 2 % on each side is about 40 away, one with a new border 90: these are not found.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NEAR = 24
"""Bits of 256 in which two hashes of one film may differ."""
ROWS, COLUMNS = 64, 8192  # compared at once: the differences stay in the processor's cache


def same(content: list[bytes]) -> list[NDArray[np.int64]]:
    """Groups of two or more films of the same content, by their rows; empty content is of no film."""
    groups: dict[bytes, list[int]] = {}
    for row, digest in enumerate(content):
        if digest:
            groups.setdefault(digest, []).append(row)
    return [np.asarray(rows) for rows in groups.values() if len(rows) > 1]


def nearly_same(rows: NDArray[np.int64], hashes_N4: NDArray[np.uint64], most: int = NEAR) -> list[NDArray[np.int64]]:
    """Groups of two or more films, each within `most` bits of another of its group.

    Every pair is compared, in compiled loops: 17 seconds of one core for 100,000 films, a hundred times that for ten
    times as many. Equal hashes count once, so that thousands of copies of one film cost nothing.

    Args:
        rows: (N,) of the films. hashes_N4: their hashes.
    """
    if not len(rows):
        return []
    distinct, of_film = np.unique(hashes_N4, axis=0, return_inverse=True)
    of_film = of_film.reshape(-1)
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *_pairs(distinct, most)])
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(distinct),) * 2)
    group = connected_components(links, directed=False)[1][of_film]
    order = np.argsort(group, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return [np.sort(rows[part]) for part in parts if len(part) > 1]


def _pairs(hashes: NDArray[np.uint64], most: int) -> Iterator[NDArray[np.int64]]:
    """Pairs of hashes within `most` bits. Half of the bits settle nearly all others."""
    words = np.ascontiguousarray(hashes.T)
    n = len(hashes)
    for top in range(0, n, ROWS):
        mine = words[:, top : top + ROWS, None]
        for left in range(top, n, COLUMNS):
            theirs = words[:, None, left : left + COLUMNS]
            half = np.bitwise_count(mine[2] ^ theirs[2]) + np.bitwise_count(mine[3] ^ theirs[3])
            pairs = np.argwhere(half <= most) + np.array([top, left])
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            whole = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]).sum(1)
            yield pairs[whole <= most]
