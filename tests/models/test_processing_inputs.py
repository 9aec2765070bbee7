"""Where a film comes from: path, URL, bytes, open file, DICOM; and what is wrong with files."""

import functools
import http.server
import io
import struct
import threading
import zlib

import numpy as np
import PIL
import pydicom
import pytest
import torch
from huggingface_hub.utils import httpx
from PIL import Image
from transformers.image_utils import load_image

from hf_cxr.models import CXRImageProcessor, FilmError
from hf_cxr.models.film_errors import DicomRefusedError
from hf_cxr.models.processing import film_to_gray
from tests.conftest import TEST_DATA
from tests.models.dicom_files import bare, film, gradient, written

SIXTEEN = gradient(16, (32, 32))
EIGHT = np.rint(SIXTEEN * (255 / 65535)).astype(np.uint8)


@pytest.fixture
def processor():
    return CXRImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture
def folder(tmp_path):
    """The same film as 16-bit PNG and as DICOM, with and without a preamble."""
    Image.fromarray(SIXTEEN).save(tmp_path / "film.png")
    dataset = film(SIXTEEN, 16, VOILUTFunction="LINEAR_EXACT", WindowCenter=32767.5, WindowWidth=65535)
    (tmp_path / "film.dcm").write_bytes(written(dataset))
    (tmp_path / "IM0001").write_bytes(written(dataset))
    (tmp_path / "lateral.dcm").write_bytes(written(film(SIXTEEN, 16, ViewPosition="LL")))
    (tmp_path / "bare.DICOM").write_bytes(bare(dataset))
    return tmp_path


@pytest.fixture
def server(folder):
    """The folder by HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


NAMES = ["film.png", "film.dcm", "IM0001", "bare.DICOM"]


@pytest.mark.parametrize("name", NAMES)
def test_every_way_to_the_same_pixels(processor, folder, server, name):
    path = folder / name
    ways = [path, str(path), f"{server}/{name}", f"{server}/{name}?token=1"]
    if name != "bare.DICOM":  # which only its name gives away
        ways += [path.read_bytes(), bytearray(path.read_bytes()), io.BytesIO(path.read_bytes())]
    for way in ways:
        opened = processor.open(way)
        assert isinstance(opened, Image.Image)
        np.testing.assert_array_equal(processor.prepare(opened), EIGHT)
        pixels = processor(way, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels, processor([EIGHT], return_tensors="pt")["pixel_values"])
    with path.open("rb") as file:
        if name != "bare.DICOM":
            file.read(50)
            np.testing.assert_array_equal(processor.prepare(processor.open(file)), EIGHT)
    assert processor([str(way) for way in ways[:2]])["pixel_values"].shape == (2, 1, 32, 32)


def test_a_data_set_is_a_film(processor, folder):
    dataset = pydicom.dcmread(folder / "film.dcm")
    np.testing.assert_array_equal(film_to_gray(dataset), EIGHT)
    np.testing.assert_array_equal(processor.prepare(dataset), EIGHT)
    assert processor([dataset, dataset])["pixel_values"].shape == (2, 1, 32, 32)


def test_refusals_keep_their_code_and_say_which_film(processor, folder):
    lateral = folder / "lateral.dcm"
    for image in (lateral, lateral.read_bytes(), pydicom.dcmread(lateral)):
        with pytest.raises(DicomRefusedError, match=r"^film 1: lateral view") as caught:
            processor([EIGHT, image])
        assert caught.value.code == "view"
        with pytest.raises(DicomRefusedError, match=r"^lateral view"):
            processor.prepare(processor.open(image))


def test_lateral_films_if_the_processor_is_for_them(folder, tmp_path):
    CXRImageProcessor(lateral=True, size={"height": 32, "width": 32}).save_pretrained(tmp_path / "saved")
    processor = CXRImageProcessor.from_pretrained(tmp_path / "saved")
    for image in (folder / "lateral.dcm", pydicom.dcmread(folder / "lateral.dcm")):
        assert processor(image)["pixel_values"].shape == (1, 1, 32, 32)
    assert not CXRImageProcessor().lateral


def test_what_the_server_does_not_have(processor, server):
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        processor(f"{server}/gone.png")


def test_missing_files_stay_what_they_are(processor, tmp_path):
    for name in ("gone.png", "gone.dcm"):
        with pytest.raises(FileNotFoundError, match="No such file"):
            processor(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        processor(tmp_path)


def png(width, height, data=b""):
    """A PNG file of this size by its header."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(14000, 14000), "196000000 pixels. exceeds limit of 178956970 pixels, could be decompression bomb"),
        (png(10000, 10000), "10,000 × 10,000 pixels; expected at most 89,478,485"),
        (png(32, 32, b"\0" * 100), "image file is truncated"),
        (png(32, 32)[:60], "OSError|SyntaxError"),
        (b"", "not a picture in a format that Pillow reads, nor DICOM"),
        (b"no picture" * 20, "not a picture in a format that Pillow reads, nor DICOM"),
    ],
)
def test_bad_files(processor, tmp_path, content, message):
    (tmp_path / "film.png").write_bytes(content)
    for image in (tmp_path / "film.png", content, io.BytesIO(content)):
        with pytest.raises(FilmError, match=f"^film 1: .*({message})") as caught:
            processor([EIGHT, image])
        assert " at 0x" not in str(caught.value)


def test_bombs_are_refused_on_opening_and_broken_files_on_preparing(processor, tmp_path):
    """As batch prediction uses them."""
    with pytest.raises(FilmError, match="decompression bomb"):
        processor.open(png(14000, 14000))
    with pytest.raises(PIL.UnidentifiedImageError):
        processor.open(b"no picture")
    opened = processor.open(png(32, 32, b"\0" * 100))
    with pytest.raises(FilmError, match="OSError: image file is truncated"):
        processor.prepare(opened)


def test_a_broken_film_does_not_keep_its_file_open(processor, tmp_path, monkeypatch):
    (tmp_path / "film.png").write_bytes(png(32, 32, b"\0" * 100))
    real, opened = Image.open, []
    monkeypatch.setattr(Image, "open", lambda path: opened.append(real(path)) or opened[0])
    with pytest.raises(FilmError):
        processor(tmp_path / "film.png")
    assert opened[0].fp is None or opened[0].fp.closed


def test_exif_orientation_is_not_applied_as_it_is_not_in_training(processor, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(EIGHT).save(tmp_path / "turned.png", exif=exif)
    assert Image.open(tmp_path / "turned.png").getexif()[0x0112] == 6
    np.testing.assert_array_equal(processor.prepare(processor.open(tmp_path / "turned.png")), EIGHT)
    np.testing.assert_array_equal(processor.prepare(Image.open(tmp_path / "turned.png")), EIGHT)


def test_a_film_that_load_image_has_saturated_is_refused(processor, folder):
    saturated = load_image(str(folder / "film.png"))  # what pipeline("image-classification") passes on
    with pytest.raises(FilmError, match=r'film 0: \d+% of the pixels are white: a 16-bit film .*"chest-xray'):
        processor(saturated)
    Image.fromarray(EIGHT).save(folder / "eight.png")
    same = processor(load_image(str(folder / "eight.png")), return_tensors="pt")["pixel_values"]
    assert torch.equal(same, processor(folder / "film.png", return_tensors="pt")["pixel_values"])


def test_the_pipeline_reads_dicom(make_model, folder):
    from transformers import pipeline

    model = make_model()
    read = pipeline("chest-xray-classification", model=model, image_processor=CXRImageProcessor.for_model(model.config))
    assert read(folder / "film.dcm") == read(folder / "film.png")
    with pytest.raises(FilmError, match=r"^film 1: .*lateral\.dcm: lateral view"):
        read([str(folder / "film.dcm"), str(folder / "lateral.dcm")])


def test_real_films(processor):
    if not (TEST_DATA / "dicom").is_dir():
        pytest.skip(f"real DICOM films not found at {TEST_DATA / 'dicom'}; set HF_CXR_TEST_DATA")
    for name in ("test1", "test2", "test3", "RG1_J2KI"):
        path = TEST_DATA / "dicom" / f"{name}.dcm"
        assert processor.prepare(processor.open(path)).std() > 30
