import time

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from film_folders import write_image

from hf_cxr.data import DataProblems, FilmDataset, NIHChestXray14, decode

SIZE = 16


def prepare(image):
    return np.asarray(image.convert("L").resize((SIZE, SIZE)))


class Reading:
    """A `read` of what `prepare` makes of a picture."""

    def __init__(self, prepare):
        self.prepare = prepare

    def __call__(self, source):
        with PIL.Image.open(source) as image:
            image.load()
            return self.prepare(image), None


class Counting:
    """A `prepare` that keeps the modes it met."""

    def __init__(self):
        self.modes = []

    def __call__(self, image):
        self.modes.append((image.mode, type(image)))
        gray = np.asarray(image if image.mode == "I;16" else image.convert("L"))
        scaled = gray // 257 if gray.dtype == np.uint16 else gray
        return scaled[:SIZE, :SIZE].astype(np.uint8)


def training(folder, cache):
    builder = NIHChestXray14(data_dir=folder, cache_dir=cache)
    builder.download_and_prepare()
    return builder.as_dataset(split="train")


def run(dataset, prepare=prepare, **options):
    return decode(dataset, Reading(prepare), **{"image_size": SIZE, "fingerprint_of_read": "gray", **options})


@pytest.mark.parametrize("num_proc", [None, 2])
def test_pixels_are_those_of_prepare_and_the_rest_is_kept(nih, cache, num_proc):
    films = training(nih(), cache)
    decoded, left_out = run(films, num_proc=num_proc)
    assert left_out == 0
    assert decoded.column_names == [name for name in films.column_names if name != "image"] + ["pixels"]
    for before, after in zip(films, decoded, strict=True):
        assert after.pop("pixels") == prepare(before.pop("image")).tobytes()
        assert after == before


def test_a_second_call_decodes_nothing_and_a_change_of_key_does(nih, cache):
    films = training(nih(), cache)
    counts = []
    for options in ({}, {}, {"fingerprint_of_read": "other"}, {"image_size": 8}, {}):
        size = options.get("image_size", SIZE)
        counter = Counting()
        run(films, lambda image, counter=counter, size=size: counter(image)[:size, :size].copy(), **options)
        counts.append(len(counter.modes))
    assert counts == [26, 0, 26, 26, 0]


def test_a_changed_image_is_decoded_anew(nih, cache):
    folder = nih()
    before, _ = run(training(folder, cache))
    write_image(folder / "images" / before[0]["id"], seed=77)
    after, _ = run(training(folder, cache))
    assert [a != b for a, b in zip(before["pixels"], after["pixels"], strict=True)] == [True] + 25 * [False]


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "RGB", "P"])
def test_images_reach_prepare_as_they_are(nih, cache, mode):
    folder = nih()
    films = training(folder, cache)
    write_image(folder / "images" / films[3]["id"], seed=5, mode=mode)
    films = training(folder, cache)
    counter = Counting()
    decoded, _ = run(films, counter)
    assert [m for m, _ in counter.modes].count(mode) == 1
    assert counter.modes[3][0] == mode
    if mode != "P":
        gray = np.random.default_rng(5).integers(0, 256, (24, 24), dtype=np.uint8)
        assert decoded[3]["pixels"] == gray[:SIZE, :SIZE].tobytes()


def truncate(folder, names):
    for i, name in enumerate(names):
        path = folder / "images" / name
        # the header stays whole: only decoding finds out
        path.write_bytes(path.read_bytes()[: 60 + i])


@pytest.mark.parametrize("num_proc", [None, 2])
def test_truncated_pixels_are_collected_over_the_whole_pass(nih, cache, num_proc):
    folder = nih()
    names = training(folder, cache)["id"][:]
    truncate(folder, names[4:16])
    films = training(folder, cache)
    with pytest.raises(DataProblems) as caught:
        run(films, num_proc=num_proc)
    error = caught.value
    assert error.totals == {"unreadable image": 12}
    assert len(error.problems) == 10
    assert [problem.file for problem in error.problems] == names[4:14]
    assert error.problems[0].image == str(folder / "images" / names[4])
    assert "skip_unreadable=True" in str(error)

    # nothing of the failed pass is kept: the same films are tried again
    counter = Counting()
    decoded, left_out = run(films, counter, skip_unreadable=True)
    assert left_out == 12
    assert len(counter.modes) == 14
    assert list(decoded["id"]) == names[:4] + names[16:]
    counter = Counting()
    assert run(films, counter, skip_unreadable=True)[1] == 12
    assert counter.modes == []
    with pytest.raises(DataProblems):
        run(films)

    taken = FilmDataset(decoded, np.zeros((14, 1), np.float32)).__getitems__([3, 4])
    for item, name in zip(taken, (names[3], names[16]), strict=True):
        whole = np.asarray(PIL.Image.open(folder / "images" / name))
        np.testing.assert_array_equal(item["pixel_values"][0], whole[:SIZE, :SIZE])


def test_a_film_that_read_refuses_is_listed_and_can_be_left_out(nih, cache):
    films = training(nih(), cache)

    def refuses(image):
        raise ValueError("blank film")

    with pytest.raises(DataProblems, match="blank film") as caught:
        run(films, refuses)
    assert caught.value.totals == {"unreadable image": len(films)}
    assert run(films, refuses, skip_unreadable=True)[1] == len(films)


def test_a_defect_of_read_is_no_unreadable_image(nih, cache):
    films = training(nih(), cache)

    def broken(image):
        raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="my own"):
        run(films, broken, skip_unreadable=True)
    for wrong in (np.zeros((SIZE, SIZE)), np.zeros((SIZE, 4), np.uint8)):
        with pytest.raises(ValueError, match=r"read gave .* expected uint8 \(16, 16\)"):
            run(films, lambda image, wrong=wrong: wrong)


def test_the_view_of_a_file_is_taken_where_the_tables_have_none(nih, cache):
    films = training(nih(), cache)
    stated = ["PA" if i % 2 else None for i in range(len(films))]
    films = films.remove_columns("view").add_column("view", stated)
    decoded, _ = decode(
        films, lambda path: (np.zeros((SIZE, SIZE), np.uint8), "AP"), image_size=SIZE, fingerprint_of_read="seen"
    )
    assert decoded["view"][:] == [view or "AP" for view in stated]


def test_no_films(nih, cache):
    with pytest.raises(ValueError, match="received no films"):
        run(training(nih(), cache).select([]))


def films_of(count, size, folder, seed=0):
    """Random decoded films in an Arrow file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)
    features = datasets.Features({"pixels": datasets.Value("binary"), "id": datasets.Value("string")})
    rows = {"pixels": [film.tobytes() for film in pixels], "id": [str(i) for i in range(count)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(folder, max_shard_size="4MB")
    return datasets.load_from_disk(folder), pixels


def test_film_dataset_gives_the_rows_asked_for(tmp_path):
    decoded, pixels = films_of(300, 12, tmp_path)
    labels = np.random.default_rng(1).random((300, 3), dtype=np.float32)
    labels[7, 1] = np.nan
    order = np.random.default_rng(2).permutation(300)
    for films, source in ((decoded, np.arange(300)), (decoded.select(order), order)):
        data = FilmDataset(films, labels)
        assert len(data) == 300
        rows = [7, 299, 0, 7, 123]
        items = data.__getitems__(rows)
        for row, item in zip(rows, items, strict=True):
            assert set(item) == {"pixel_values", "labels", "index"}
            assert item["pixel_values"].dtype == torch.uint8
            assert item["labels"].dtype == torch.float32
            np.testing.assert_array_equal(item["pixel_values"], pixels[source[row]][None])
            np.testing.assert_array_equal(item["labels"], labels[row])
            assert item["index"].dtype == torch.int64
            assert item["index"].item() == row
            single = data[row]
            assert all(torch.equal(single[key], item[key]) or key == "labels" for key in item)


@pytest.mark.parametrize("workers", [0, 2])
def test_film_dataset_in_a_data_loader(tmp_path, workers):
    decoded, pixels = films_of(100, 8, tmp_path)
    labels = np.arange(200, dtype=np.float32).reshape(100, 2)
    loader = torch.utils.data.DataLoader(FilmDataset(decoded, labels), batch_size=32, num_workers=workers)
    batches = list(loader)
    assert batches[0]["pixel_values"].shape == (32, 1, 8, 8)
    assert batches[-1]["labels"].shape == (4, 2)
    np.testing.assert_array_equal(torch.cat([b["pixel_values"] for b in batches])[:, 0], pixels)
    assert torch.cat([b["index"] for b in batches]).tolist() == list(range(100))


def test_the_caller_may_write_into_what_it_got(tmp_path):
    decoded, pixels = films_of(10, 8, tmp_path)
    data = FilmDataset(decoded, np.zeros((10, 1), np.float32))
    data[4]["pixel_values"].zero_()
    np.testing.assert_array_equal(data[4]["pixel_values"][0], pixels[4])


@pytest.mark.parametrize(
    "labels",
    [np.zeros((9, 2), np.float32), np.zeros((10, 2)), np.zeros(10, np.float32)],
)
def test_labels_must_fit(tmp_path, labels):
    decoded, _ = films_of(10, 8, tmp_path)
    with pytest.raises(ValueError, match=r"expected float32 \(N, L\)"):
        FilmDataset(decoded, labels)


def test_films_must_be_square_and_of_one_size(tmp_path):
    decoded = datasets.Dataset.from_dict({"pixels": [b"1234", b"123456789", b"12345"]})
    data = FilmDataset(decoded, np.zeros((3, 1), np.float32))
    with pytest.raises(ValueError, match="expected 4 bytes in each"):
        data.__getitems__([0, 1])
    with pytest.raises(ValueError, match="expected a square number"):
        FilmDataset(decoded.select([2]), np.zeros((1, 1), np.float32))


def test_reading_is_fast(tmp_path):
    decoded, _ = films_of(4000, 128, tmp_path)
    data = FilmDataset(decoded, np.zeros((4000, 15), np.float32))
    batches = np.random.default_rng(0).integers(0, 4000, (100, 64)).tolist()
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for batch in batches:
            data.__getitems__(batch)
        best = max(best, 6400 / (time.perf_counter() - start))
    assert best > 20_000, f"{best:,.0f} films a second"
