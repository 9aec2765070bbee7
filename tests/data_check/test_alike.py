import io

import numpy as np
from PIL import Image, ImageEnhance

from hf_cxr.data_check.alike import COLUMNS, NEAR, nearly_same, same
from hf_cxr.data_check.decoding import look_at
from hf_cxr.models import CXRImageProcessor
from tests.data_check.hospitals import phantom


def hashes(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**63, (n, 4)).astype(np.uint64)


def flipped(words, bits, seed):
    """The same hash with so many bits changed."""
    changed = np.unpackbits(words.view(np.uint8))
    changed[np.random.default_rng(seed).choice(256, bits, replace=False)] ^= 1
    return np.packbits(changed).view(np.uint64)


def test_pairs_are_those_of_a_slow_loop():
    far = hashes(300)
    near = [flipped(far[i], bits, i) for i, bits in ((0, 0), (5, 1), (7, NEAR), (9, NEAR + 1), (200, 20))]
    together = np.vstack([far, near])
    rows = np.arange(len(together)) * 3
    expected = {
        (i * 3, j * 3)
        for i in range(len(together))
        for j in range(i)
        if int(np.bitwise_count(together[i] ^ together[j]).sum()) <= NEAR
    }
    found = {(int(group[1]), int(group[0])) for group in nearly_same(rows, together)}
    assert found == expected == {(900, 0), (903, 15), (906, 21), (912, 600)}


def test_pairs_across_blocks_are_found():
    far = hashes(COLUMNS + 100)
    far[COLUMNS + 50] = flipped(far[3], 10, 0)
    assert [group.tolist() for group in nearly_same(np.arange(len(far)), far)] == [[3, COLUMNS + 50]]


def test_a_chain_is_one_group_and_nothing_is_no_group():
    first = hashes(1)[0]
    second = flipped(first, 20, 1)
    third = flipped(second, 20, 2)
    assert [g.tolist() for g in nearly_same(np.arange(3), np.array([first, second, third]))] == [[0, 1, 2]]
    assert nearly_same(np.arange(0), np.zeros((0, 4), np.uint64)) == []


def test_same_content():
    assert [g.tolist() for g in same([b"a", b"", b"b", b"a", b"", b"a"])] == [[0, 3, 5]]


def test_copies_of_a_film_are_near_and_other_films_are_not(tmp_path):
    film = phantom(3, 256)
    jpeg = io.BytesIO()
    film.save(jpeg, "JPEG", quality=40)
    pictures = {
        "film.png": film,
        "copy.bmp": film,
        "copy.jpg": Image.open(jpeg),
        "half.png": film.resize((128, 128), Image.Resampling.BILINEAR),
        "contrast.png": ImageEnhance.Contrast(film).enhance(0.8),
        "other.png": phantom(5, 256),
    }
    seen = {}
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
        seen[name] = look_at(str(tmp_path / name), CXRImageProcessor(), None)
    bits = {name: int(np.bitwise_count(film.alike ^ seen["film.png"].alike).sum()) for name, film in seen.items()}
    assert max(bits[name] for name in bits if name != "other.png") <= NEAR < bits["other.png"]
    assert [name for name in seen if seen[name].content == seen["film.png"].content] == ["film.png", "copy.bmp"]
