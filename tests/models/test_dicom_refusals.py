"""What is no chest film, or cannot be read: each with its code, cheaply, and without naming anybody."""

import importlib.util
import io
import pickle
import re
import struct
import sys
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)
from transformers.dynamic_module_utils import get_imports

from hf_cxr.models import dicom
from hf_cxr.models.dicom import DicomFilm, read_dicom
from hf_cxr.models.film_errors import DicomRefusedError, FilmError
from tests.conftest import REPO, TEST_DATA
from tests.models.dicom_files import NAMES, code, coded, film, gradient, written

BLANK = np.full((48, 64), 700, np.uint16)
COLOURS = np.dstack([gradient(8), gradient(8)[:, ::-1], gradient(8)])
HEADERS = [
    ({"Modality": "CT"}, "modality", "modality 'CT'; expected CR, DX, RG, XR"),
    ({"Modality": "RF"}, "modality", "modality 'RF'"),
    ({"Modality": None}, "modality", "modality not stated"),
    ({"BodyPartExamined": "RIBCAGE"}, "body_part", "body part 'RIBCAGE'; expected CHEST"),
    ({"BodyPartExamined": "ABDOMEN"}, "body_part", "body part 'ABDOMEN'"),
    ({"BodyPartExamined": None, "AnatomicRegionSequence": [code("T-D8700", "Hand")]}, "body_part", "'Hand'"),
    ({"ViewPosition": "LL"}, "view", r"lateral view \(ViewPosition\); expected a frontal one"),
    ({"ViewPosition": "RLD"}, "view", r"view 'RLD' \(ViewPosition\); expected AP or PA"),
    ({"ViewPosition": None, "ViewCodeSequence": [code("R-10232", "left lateral")]}, "view", "lateral view"),
    ({"ViewPosition": None, "PatientPosition": "XX"}, "view", r"view 'XX' \(PatientPosition\)"),
    ({"ViewPosition": None, "PatientPosition": "LAT"}, "view", "lateral view"),
    ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, "view", r"lateral view \(PatientOrientation\)"),
    ({"NumberOfFrames": 2, "PixelData": gradient().tobytes() * 2}, "multi_frame", "2 frames"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "photometric", "'PALETTE COLOR', 1 samples a pixel"),
    ({"PhotometricInterpretation": None}, "photometric", "not stated"),
    ({"SamplesPerPixel": 3}, "photometric", "3 samples"),
    ({"BitsAllocated": 32}, "photometric", "of 32"),
    ({"HighBit": 15}, "photometric", "12 bits up to bit 15 of 16"),
    ({"BitsStored": 17}, "photometric", "17 bits"),
    ({"Rows": 60000, "Columns": 60000}, "too_large", "60,000 × 60,000 pixels; expected at most 89,478,485"),
    ({"Rows": 0}, "broken", "0 rows"),
    ({"Rows": None}, "broken", "Rows is missing"),
    ({"syntax": MPEG2MPML, "PixelData": encapsulate([b"12"])}, "syntax", "'MPEG2 Main Profile / Main Level'; expected"),
]
PIXELS = [
    ({"PixelData": None}, "no_pixels", "no pixel data"),
    ({"PixelData": b""}, "no_pixels", "no pixel data"),
    ({"Rows": 47}, "broken", "6,144 bytes of pixels; expected 6,016"),
    ({"Rows": 24}, "broken", "6,144 bytes of pixels; expected 3,072"),
    ({"Rows": 100}, "broken", "6,144 bytes of pixels; expected 12,800"),
    ({"values": BLANK}, "blank", "one value in every pixel"),
    ({"values": BLANK, "PixelPaddingValue": 700}, "blank", "one value in every pixel"),
    ({"RescaleSlope": 0, "RescaleIntercept": 5}, "blank", "one value in every pixel"),
    ({"values": COLOURS, "bits": 8, "PhotometricInterpretation": "RGB"}, "photometric", "colours"),
    ({"values": COLOURS * 0, "bits": 8, "PhotometricInterpretation": "RGB"}, "blank", "one value"),
]


def refused(source, code, message, **options):
    with pytest.raises(DicomRefusedError, match=message) as caught:
        read_dicom(source, **options)
    assert caught.value.code == code
    assert code in DicomRefusedError.CODES
    assert not any(name in str(caught.value) for name in NAMES.values())
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None  # no traceback of pydicom's either


@pytest.mark.parametrize(("header", "code", "message"), HEADERS + PIXELS)
def test_what_is_refused(header, code, message):
    dataset = film(**header)
    refused(dataset, code, message)
    refused(written(dataset), code, message)


class HeaderOnly(io.BytesIO):
    """A file whose pixels must not be read."""

    def read(self, size=-1):
        assert 0 <= size < 2**16, "read on beyond the header"
        return super().read(size)


@pytest.mark.parametrize(("header", "code", "message"), HEADERS)
def test_the_header_is_enough_to_refuse(header, code, message):
    content = written(film(**header))
    refused(HeaderOnly(content[: content.rindex(b"\xe0\x7f\x10\x00") + 100]), code, message)


@pytest.mark.parametrize(
    ("header", "view"),
    [
        ({}, "PA"),
        ({"ViewPosition": None}, None),
        ({"ViewPosition": ""}, None),
        ({"ViewPosition": "AP"}, "AP"),
        ({"BodyPartExamined": None}, "PA"),
        ({"BodyPartExamined": None, "AnatomicRegionSequence": [code("T-D3000", "Brustkorb")]}, "PA"),
        ({"BodyPartExamined": "THORAX", "Modality": "CR"}, "PA"),
        ({"ViewPosition": None, "ViewCodeSequence": [code("R-10206", "antero-posterior")]}, "AP"),
        ({"ViewPosition": None, "PatientPosition": "PA"}, "PA"),
        ({"ViewPosition": None, "PatientPosition": "HFS"}, None),
        ({"ViewPosition": None, "PatientPosition": "ERECT", "PatientOrientation": ["L", "F"]}, None),
        ({"ViewPosition": "AP", "PatientPosition": "XX"}, "AP"),
        ({"NumberOfFrames": 1}, "PA"),
    ],
)
def test_what_is_taken(header, view):
    assert read_dicom(written(film(**header))).view == view


def test_lateral_films_on_demand():
    for header in ({"ViewPosition": "LL"}, {"ViewPosition": None, "PatientOrientation": ["P", "F"]}):
        assert read_dicom(film(**header), lateral=True).view == "LATERAL"
    refused(film(ViewPosition="RLO"), "view", "RLO", lateral=True)


def test_nothing_else_of_the_header_is_kept():
    read = read_dicom(written(film(Laterality="DOE", WindowWidth=1, WindowCenter=1)))
    assert set(vars(read)) == {"image", "notes", "view", "laterality", "photometric"} == set(DicomFilm.__annotations__)
    assert read.laterality is None
    kept = repr({**vars(read), "image": (read.image.info, read.image.mode)})
    assert not any(name in kept for name in [*NAMES.values(), "DOE"])


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_truncated_files(syntax):
    dataset = film(syntax=ImplicitVRLittleEndian)
    if syntax != ImplicitVRLittleEndian:
        dataset = film()
        dataset.compress(syntax, generate_instance_uid=False)
    content = written(dataset)
    pixels = content.rindex(b"\xe0\x7f\x10\x00")
    for length in range(0, len(content) - 8, 97):
        with pytest.raises(DicomRefusedError) as caught:
            read_dicom(content[:length])
        assert caught.value.code == "broken" or length <= pixels + 12
    for length in (pixels + 20, pixels + 300, len(content) - 10):
        refused(content[:length], "broken", "truncated|bytes of pixels|cannot be decoded")


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_an_image_without_its_end(syntax):
    dataset = film()
    dataset.compress(syntax, generate_instance_uid=False)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    refused(coded(dataset, syntax, frame[: len(frame) // 2]), "broken", "has no end: truncated")


def test_damaged_files():
    dataset, random = film(), np.random.default_rng(0)
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    for content in (written(dataset), written(film())):
        for _ in range(150):
            damaged = bytearray(content)
            for at in random.integers(128, len(content), 8):
                damaged[at] = random.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    said = repr(read_dicom(bytes(damaged)))
                except DicomRefusedError as error:
                    said = str(error)
            assert not any(name in said for name in NAMES.values())
    for nothing in (b"", b"no film" * 100, bytes(1000), random.bytes(5000)):
        refused(nothing, "broken", "no DICOM image|not readable as DICOM")


def test_more_pixels_than_the_header_says():
    """A decoder would make room for them."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((4000, 4000), np.uint8)).save(file, "JPEG")
    refused(
        coded(film(bits=8), JPEGBaseline8Bit, file.getvalue()), "broken", r"\(48, 64\) pixels by its header, but \(40"
    )
    dataset = film()
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    frame = bytearray(get_frame(dataset.PixelData, 0, number_of_frames=1))
    struct.pack_into(">2I", frame, 8, 60000, 60000)
    refused(coded(dataset, JPEG2000Lossless, bytes(frame)), "broken", r"but \(60000, 60000\) in the image")
    struct.pack_into(">2I", frame, 8, 64, 48)
    struct.pack_into(">H", frame, 40, 900)
    refused(coded(dataset, JPEG2000Lossless, bytes(frame)), "broken", "in the image")


def test_more_bytes_than_its_pixels_need(monkeypatch):
    monkeypatch.setattr(dicom, "SPARE_BYTES", 1000)
    refused(written(film()) + bytes(8000), "too_large", "bytes for 6,144 of pixels")
    assert read_dicom(written(film())).view == "PA"


def test_a_deflated_file_is_not_inflated(monkeypatch):
    monkeypatch.setattr(zlib, "decompress", lambda *_: pytest.fail("inflated"))
    refused(written(film(syntax=DeflatedExplicitVRLittleEndian)), "syntax", "deflated as a whole")


def test_pillows_limit_is_the_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 64 - 1)
    refused(
        written(film()), "too_large", r"48 × 64 pixels; expected at most 3,071 pixels \(PIL.Image.MAX_IMAGE_PIXELS\)"
    )
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_dicom(written(film())).view == "PA"


def test_a_private_transfer_syntax():
    refused(
        film(syntax="1.2.3.4"), "syntax", "transfer syntax of a private kind; expected pixels stored uncompressed or"
    )


def test_a_missing_plug_in(monkeypatch):
    dataset = film()
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    monkeypatch.setattr(get_decoder(JPEGLSLossless), "_available", {})
    refused(written(dataset), "syntax", r"no decoder for .*'JPEG-LS Lossless.*pip install \"hf_cxr\[dicom\]\"")


def test_without_pydicom(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.setitem(sys.modules, name, None)
    spec = importlib.util.spec_from_file_location("hf_cxr.models.dicom_again", dicom.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    assert not again.is_dataset(object())
    with pytest.raises(ImportError, match=r'needs pydicom, version 3 or later: pip install "hf_cxr\[dicom\]"'):
        again.read_dicom(b"anything")


def test_as_remote_code_it_asks_for_nothing_more():
    for path in (REPO / "hf_cxr" / "models").glob("*.py"):
        assert not {"pydicom", "pylibjpeg", "jpeg_ls"} & set(get_imports(path)), path


def test_a_refusal_crosses_processes():
    error = pickle.loads(pickle.dumps(DicomRefusedError("no", "view")))
    assert (type(error), str(error), error.code, isinstance(error, FilmError)) == (
        DicomRefusedError,
        "no",
        "view",
        True,
    )


def test_a_missing_file_is_no_refusal(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "gone.dcm"))):
        read_dicom(tmp_path / "gone.dcm")


@pytest.mark.parametrize(("name", "code"), [("test4", "body_part"), ("test5", "modality"), ("test6", "view")])
def test_real_films_that_must_be_refused(name, code):
    folder = TEST_DATA / "dicom"
    if not folder.is_dir():
        pytest.skip(f"real DICOM films not found at {folder}; set HF_CXR_TEST_DATA")
    said = {"body_part": "RIBCAGE", "modality": "'CT'", "view": r"view 'XX' \(PatientPosition\)"}[code]
    refused(folder / f"{name}.dcm", code, said)
    refused(pydicom.dcmread(folder / f"{name}.dcm"), code, said)
