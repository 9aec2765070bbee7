"""What is uploaded is read once and deleted, whatever it is."""

import sys

import numpy as np
import pytest
from PIL import Image

from hf_cxr.demo.uploads import UploadError, read_upload
from tests.demo.films import phantom, put
from tests.models.dicom_files import film as dicom
from tests.models.dicom_files import gradient


@pytest.fixture
def place(tmp_path):
    """A folder as Gradio makes one for each upload."""
    (tmp_path / "0123abcd").mkdir()
    return tmp_path / "0123abcd"


@pytest.mark.parametrize(("name", "deep"), [("a.png", False), ("a.png", True), ("a.jpg", False), ("no suffix", True)])
def test_films_come_at_full_size_and_the_file_goes(name, deep, read, place):
    path = place / name
    phantom(deep=deep).save(path, "JPEG" if name == "a.jpg" else "PNG")
    film = read_upload(path, read.image_processor)
    assert (film.mode, film.size) == ("L", (400, 512))
    assert np.abs(np.asarray(film, float) - np.asarray(phantom())).max() < (20 if name == "a.jpg" else 1)
    assert not place.exists()


def broken(which, path):
    if which == "text":
        path.write_text("no film")
    elif which == "empty":
        path.write_bytes(b"")
    elif which == "gif":
        phantom().save(path, "GIF")
    elif which == "blank":
        put(Image.new("L", (64, 80), 7), path)
    elif which == "dicom":
        path.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 64)
    elif which != "gone":
        content = put(phantom(), path).read_bytes()
        path.write_bytes(content[: len(content) // 2] if which == "half" else content[:8] + b"\xff" * 500)
    return path


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ("text", "not a film that can be read here: expected a PNG, JPEG or DICOM"),
        ("empty", "not a film that can be read here"),
        ("gif", "not a film that can be read here"),
        ("blank", r"cannot be used as a film: .*blank.*Export the film again"),
        ("half", "broken or incomplete. Export the film again"),
        ("garbage", "broken or incomplete"),
        ("dicom", "cannot be used as a film"),
        ("gone", "Choose it again"),
    ],
)
def test_what_is_no_film_is_said_in_words_and_deleted(which, message, read, place, recwarn):
    with pytest.raises(UploadError, match=message) as caught:
        read_upload(broken(which, place / "Müller, Anna.png"), read.image_processor)
    for said in (caught.value, *(warning.message for warning in recwarn)):
        assert "Müller" not in str(said)
    assert str(place) not in str(caught.value)
    assert not place.exists()


def test_dicom(read, place):
    dicom(gradient(bits=12, shape=(48, 64))).save_as(place / "a.dcm", enforce_file_format=True)
    film = read_upload(place / "a.dcm", read.image_processor)
    assert (film.mode, film.size) == ("L", (64, 48))
    assert (np.diff(np.asarray(film, int)) >= 0).all()  # brighter from left to right
    assert not place.exists()
    place.mkdir()
    dicom(gradient(), BodyPartExamined="RIBCAGE").save_as(place / "b.dcm", enforce_file_format=True)
    with pytest.raises(UploadError, match="cannot be used as a film: body part 'RIBCAGE'; expected CHEST"):
        read_upload(place / "b.dcm", read.image_processor)
    assert not place.exists()


def test_dicom_where_nothing_reads_it(read, place, monkeypatch):
    dicom().save_as(place / "a.dcm", enforce_file_format=True)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UploadError, match="Export the film as PNG or JPEG"):
        read_upload(place / "a.dcm", read.image_processor)
    assert not place.exists()


def test_bombs_are_refused(read, place, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UploadError, match="too many pixels"):
        read_upload(put(phantom(), place / "large.png"), read.image_processor)
    assert not place.exists()


def test_strips_are_refused(read, place):
    with pytest.raises(UploadError, match="No chest film has 3 × 400 pixels"):
        read_upload(put(phantom().crop((0, 0, 3, 400)), place / "strip.png"), read.image_processor)
    assert not place.exists()


def test_an_upload_beside_others_is_deleted_alone(read, place):
    paths = [put(phantom(number), place / f"{number}.png") for number in (1, 2)]
    read_upload(paths[0], read.image_processor)
    assert list(place.iterdir()) == [paths[1]]
