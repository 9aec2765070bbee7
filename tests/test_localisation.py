"""Scores of heatmaps of known shape, NIH's box file, the phantom's boxes and masks."""

import csv

import numpy as np
import pytest

from hf_cxr.data.phantom import Patient, generate, load_mask, render_film
from hf_cxr.data.phantom.layouts import BOX_NAMES, largest_box
from hf_cxr.localisation import (
    Box,
    BoxError,
    boxes_to_masks,
    iou,
    pointing_hit,
    read_nih_boxes,
    score_film,
    score_localisation,
    share_inside,
)

HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def square(size=20, top=4, left=6, height=5, width=8):
    mask = np.zeros((size, size), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def spike(row, column, size=20):
    heatmap = np.full((size, size), 0.1)
    heatmap[row, column] = 1.0
    return heatmap


def test_a_perfect_and_a_useless_map():
    mask = square()
    perfect, outside, even = mask.astype(float), (~mask).astype(float), np.ones((20, 20))
    assert (pointing_hit(perfect, mask), iou(perfect, mask), share_inside(perfect, mask)) == (1, 1, 1)
    assert (pointing_hit(outside, mask), iou(outside, mask), share_inside(outside, mask)) == (0, 0, 0)
    area = 40 / 400  # what a map gets that knows nothing, by all three
    for figure in (pointing_hit(even, mask), iou(even, mask), share_inside(even, mask)):
        assert figure == pytest.approx(area)


def test_the_tolerance_is_in_pixels_from_the_mask():
    mask = square()  # columns 6 to 13, rows 4 to 8
    assert pointing_hit(spike(4, 6), mask) == 1
    assert pointing_hit(spike(4, 15), mask) == 0
    assert [pointing_hit(spike(4, 15), mask, t) for t in (1.9, 2.0)] == [0, 1]
    assert [pointing_hit(spike(11, 17), mask, t) for t in (4.9, 5.0)] == [0, 1]  # 3 down, 4 across


def test_ties_count_by_their_share():
    heatmap = spike(4, 6)
    heatmap[0, 0] = heatmap[0, 1] = 1.0
    assert pointing_hit(heatmap, square()) == pytest.approx(1 / 3)


def test_iou_and_share_against_counting():
    random = np.random.default_rng(0)
    heatmap, mask = random.random((30, 40)), np.zeros((30, 40), bool)
    mask[3:20, 5:30] = True
    marked = {(r, c) for r in range(30) for c in range(40) if heatmap[r, c] >= 0.3 * heatmap.max()}
    inside = {(r, c) for r in range(30) for c in range(40) if mask[r, c]}
    assert iou(heatmap, mask, 0.3) == pytest.approx(len(marked & inside) / len(marked | inside))
    assert iou(7 * heatmap, mask, 0.3) == pytest.approx(iou(heatmap, mask, 0.3))
    assert share_inside(heatmap, mask) == pytest.approx(sum(heatmap[p] for p in inside) / heatmap.sum())


def test_a_map_that_shows_nothing_hits_nothing():
    nothing, mask = np.zeros((20, 20)), square()
    mask[0, 0] = True  # where argmax of a flat map would point
    assert (pointing_hit(nothing, mask, 3), iou(nothing, mask), share_inside(nothing, mask)) == (0, 0, 0)


def test_score_is_the_mean_over_films_that_show_the_finding():
    masks = np.stack([square(), square(top=10), np.zeros((20, 20), bool), square(), square()])
    maps = np.stack([spike(5, 7), spike(5, 7), spike(1, 1), np.zeros((20, 20)), np.full((20, 20), np.nan)])
    score = score_localisation(maps, masks, tolerance=0)
    assert (score.n, score.n_empty, score.n_without_map, score.undefined) == (3, 1, 1, None)
    assert score.pointing == pytest.approx(1 / 3)
    assert score.inside == pytest.approx(np.mean([share_inside(maps[i], masks[i]) for i in (0, 1, 3)]))
    assert score.iou == pytest.approx(np.mean([iou(maps[i], masks[i]) for i in (0, 1, 3)]))
    assert score.area == pytest.approx(0.1)


def test_the_usual_tolerance_grows_with_the_film():
    """15 pixels of 500: none of 20, one of 50."""
    for size, hit in ((20, 0.0), (50, 1.0)):
        assert score_film(spike(9, 7, size), square(size)).pointing == hit  # one row below the mask
        assert score_film(spike(10, 7, size), square(size)).pointing == 0.0


def test_undefined_scores_are_null_with_the_reason():
    maps, masks = np.ones((2, 20, 20)), np.zeros((2, 20, 20), bool)
    score = score_localisation(maps, masks)
    assert (score.n, score.pointing, score.iou, score.inside, score.area) == (0, None, None, None, None)
    assert score.undefined == "no film shows the finding"
    unseen = score_localisation(np.full((2, 20, 20), np.nan), np.stack([square(), square()]))
    assert (unseen.n, unseen.n_without_map) == (0, 2)
    assert unseen.undefined == "no heatmap of a film that shows the finding"


def test_bad_input_is_refused():
    mask = square()
    with pytest.raises(ValueError, match=r"heatmaps \(1, 10, 10\), masks \(1, 20, 20\).*scale the masks"):
        score_localisation(np.zeros((1, 10, 10)), mask[None])
    for heatmap in (np.full((20, 20), -0.1), np.where(mask, np.nan, 0.0)):
        with pytest.raises(ValueError, match="0 or more"):
            pointing_hit(heatmap, mask)
    with pytest.raises(ValueError, match="mask bool with at least one true pixel"):
        share_inside(np.ones((20, 20)), mask.astype(int))
    with pytest.raises(ValueError, match="threshold=0; expected"):
        iou(np.ones((20, 20)), mask, 0)


def write(folder, *rows, header=HEADER):
    path = folder / "BBox_List_2017.csv"
    path.write_text(header + "".join(row + "\n" for row in rows))
    return path


def test_rows_as_nih_writes_them(tmp_path):
    """Rows in the published form: a broken header, trailing empty columns, Infiltrate."""
    boxes = read_nih_boxes(
        write(
            tmp_path,
            "00013118_008.png,Atelectasis,225.084745762712,547.019216763771,86.7796610169491,79.1864406779661,,,",
            "00014716_007.png,Infiltrate,686.101694915254,131.543498411017,185.491525423729,313.491525423729,,,",
        )
    )
    assert [(b.image, b.label) for b in boxes] == [
        ("00013118_008.png", "Atelectasis"),
        ("00014716_007.png", "Infiltration"),
    ]
    assert boxes[0].left == pytest.approx(225.084745762712 / 1024)
    assert boxes[0].height == pytest.approx(79.1864406779661 / 1024)
    rows, columns = np.nonzero(boxes[0].mask(1024, 1024))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (547, 625, 225, 311)
    small = boxes[0].mask(320, 320)
    assert small.sum() == pytest.approx(86.78 * 79.19 / 10.24, rel=0.05)


def test_a_box_smaller_than_a_pixel_still_has_one():
    mask = Box("a.png", "Nodule", 0.46, 0.93, 0.01, 0.01).mask(10, 10)
    assert np.argwhere(mask).tolist() == [[9, 4]]
    assert Box("a.png", "Nodule", 0.99, 0.0, 0.01, 1.0).mask(10, 10).sum() == 10


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png,Mass,1,2,3", "four numbers"),
        ("a.png,Mass,1,2,3,x", "four numbers"),
        ("a.png,Mass,1,2,3,0", "with area"),
        ("a.png,Mass,1,2,nan,4", "with area"),
        ("a.png,Mass,1030,2,3,4", "inside 1024"),
        ("a.png,Mass,1,2,3,4000", "inside 1024"),
        ("a.png,Mass,1,2,3,4,5", "then nothing"),
        (",Mass,1,2,3,4", "a film, a finding"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, row, reason):
    with pytest.raises(BoxError, match=rf"row 3.*{reason}"):
        read_nih_boxes(write(tmp_path, "b.png,Mass,1,2,3,4,,,", row))


def test_another_header_is_refused(tmp_path):
    with pytest.raises(BoxError, match="expected Image Index,Finding Label"):
        read_nih_boxes(write(tmp_path, header="image,label,x,y,w,h\n"))
    with pytest.raises(BoxError, match=r"header \[\]"):
        read_nih_boxes(write(tmp_path, header=""))


def test_the_phantoms_boxes_cover_its_masks(tmp_path):
    root = generate(tmp_path / "nih", n_images=60, image_size=64, progress=False)
    boxes = read_nih_boxes(root / "BBox_List_2017.csv", pixels=64)
    with (root / "BBox_List_2017.csv").open() as stream:
        assert len(boxes) == len(list(csv.reader(stream))) - 1 > 5
    assert {b.label for b in boxes} <= set(BOX_NAMES)
    masks = boxes_to_masks(boxes, 64, 64)
    for (image, label), box in masks.items():
        truth = load_mask(root, image, label)
        left, top, width, height = largest_box(truth)
        expected = np.zeros((64, 64), bool)
        expected[top : top + height, left : left + width] = True
        assert np.array_equal(box, expected), (image, label)
        assert pointing_hit(truth.astype(float), box, tolerance=0) > 0.3


def test_the_sign_drawn_on_a_phantom_film_is_where_its_mask_is():
    """The difference between a film with and without a sign is the perfect heatmap of it."""
    maps, masks = [], []
    for number in range(1, 9):
        patient = Patient(number, "MF"[number % 2], 50)
        shown = render_film(patient, 0, "PA", ["Mass"], image_size=128)
        without = render_film(patient, 0, "PA", [], image_size=128)
        maps.append(np.abs(shown.image.astype(float) - without.image))
        masks.append(shown.masks["Mass"])
    score = score_localisation(np.stack(maps), np.stack(masks))
    assert score.pointing == 1
    assert score.inside > 0.7
    elsewhere = score_localisation(np.stack(maps)[:, ::-1, ::-1], np.stack(masks))
    assert elsewhere.pointing < 0.3
    assert elsewhere.inside < 0.3
