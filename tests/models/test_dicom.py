"""From stored values to grays, and the forms in which a DICOM film comes."""

import copy
import io
import re

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from hf_cxr.models.dicom import read_dicom
from tests.conftest import TEST_DATA
from tests.models.dicom_files import bare, coded, film, gradient, lossless_jpeg, lut, written

DEPTHS = [(8, False), (8, True), (10, False), (12, False), (12, True), (16, False), (16, True)]


def grays(source, **options):
    return np.asarray(read_dicom(source, **options).image)


def by_pydicom(dataset):
    """Windowed by pydicom pixel by pixel, stretched from the range that it documents, inverted where that is asked."""
    bits, signed = dataset.BitsStored, dataset.PixelRepresentation
    ends = np.array([0, 2**bits - 1]) - (2 ** (bits - 1) if signed else 0)
    ends = ends * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    shown = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
    part = (shown - ends[0]) / (ends[1] - ends[0])
    return np.rint(255 * (1 - part if dataset.PhotometricInterpretation == "MONOCHROME1" else part))


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
def test_windows_are_those_of_pydicom(bits, signed, function, photometric):
    middle = 0 if signed else 2 ** (bits - 1)
    for rescale in ({}, {"RescaleSlope": 2, "RescaleIntercept": -100}):
        scale, shift = rescale.get("RescaleSlope", 1), rescale.get("RescaleIntercept", 0)
        dataset = film(
            gradient(bits, signed=signed), bits, VOILUTFunction=function, PhotometricInterpretation=photometric,
            WindowCenter=(middle + 3) * scale + shift, WindowWidth=2**bits * scale * 0.6, **rescale,
        )  # fmt: skip
        got = grays(dataset)
        np.testing.assert_array_equal(got, by_pydicom(dataset))
        assert len(np.unique(got)) > 150
        assert (got[:, 0].mean() > got[:, -1].mean()) == (photometric == "MONOCHROME1")


def test_windows_are_those_of_the_standard():
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, for every value of 16 bits: nothing is rounded on the way."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    c, w, x = 30000.0, 40000.0, values.astype(float)
    sigmoid = 255 / (1 + np.exp(-4 * (x - c) / w))
    exact = np.select([x <= c - w / 2, x > c + w / 2], [0, 255], ((x - c) / w + 0.5) * 255)
    below, above = x <= c - 0.5 - (w - 1) / 2, x > c - 0.5 + (w - 1) / 2
    linear = np.select([below, above], [0, 255], ((x - (c - 0.5)) / (w - 1) + 0.5) * 255)
    for function, expected in {"SIGMOID": sigmoid, "LINEAR_EXACT": exact, "LINEAR": linear}.items():
        dataset = film(values, 16, WindowCenter=c, WindowWidth=w, VOILUTFunction=function)
        np.testing.assert_array_equal(grays(dataset), np.rint(expected))


def test_a_falling_rescale_inverts():
    dataset = film(RescaleSlope=-1, RescaleIntercept=4095, WindowCenter=2048, WindowWidth=4096)
    rising = film(WindowCenter=2048, WindowWidth=4096)
    assert np.abs(grays(dataset).astype(int) - (255 - grays(rising).astype(int))).max() <= 1


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(("first", "bits"), [(0, 16), (200, 12), (-1500, 10)])
def test_voi_luts_come_before_windows(first, bits, syntax):
    table = np.rint((np.arange(3000) / 2999) ** 2 * (2**bits - 1))
    values = gradient(12, signed=first < 0)
    dataset = film(values, syntax=syntax, WindowCenter=100, WindowWidth=50, VOILUTSequence=[lut(table, first, bits)])
    at = np.clip(values.astype(int) - first, 0, 2999)
    expected = np.rint(table[at] * 255 / (2**bits - 1))
    read = read_dicom(written(dataset))
    np.testing.assert_array_equal(read.image, expected)
    assert read.notes == ("VOI LUT",)


def test_modality_luts():
    table = np.arange(4096)[::-1]
    dataset = film(ModalityLUTSequence=[lut(table, 0, 16)], WindowCenter=2048, WindowWidth=4096)
    dataset.ModalityLUTSequence[0].ModalityLUTType = "US"
    flipped = film(4095 - gradient(12), WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_array_equal(grays(written(dataset)), grays(flipped))


def test_the_first_of_several_windows():
    dataset = film(WindowCenter=[1000, 3000], WindowWidth=[2000, 500], WindowCenterWidthExplanation=["A", "B"])
    read = read_dicom(dataset)
    np.testing.assert_array_equal(read.image, grays(film(WindowCenter=1000, WindowWidth=2000)))
    assert read.notes == ("window 2000 wide (the first of 2)",)


@pytest.mark.parametrize(
    ("header", "note"),
    [
        (
            {"WindowCenter": 32768, "WindowWidth": 65536},
            "window 65536 wide is far wider than the values: percentiles 0.5–99.5",
        ),
        ({"WindowCenter": 5000, "WindowWidth": 10000}, "window 10000 wide is far wider than the values: percentiles"),
        ({"WindowCenter": 1000, "WindowWidth": 1}, "window 1 wide leaves the film nearly blank"),
        ({"WindowCenter": 1000, "WindowWidth": 0}, r"window 0 wide cannot be used \(ValueError\): percentiles"),
        ({"WindowCenter": 9000, "WindowWidth": 2000}, "window 2000 wide leaves the film nearly blank"),
        ({"WindowCenter": 1000, "WindowWidth": 800, "VOILUTFunction": "CUBIC"}, "window 800 wide cannot be used"),
        ({"WindowCenter": 1000}, "no window: percentiles 0.5–99.5"),
        ({"WindowWidth": 1000}, "no window: percentiles 0.5–99.5"),
        ({}, "no window: percentiles 0.5–99.5"),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_without_a_usable_window_percentiles(header, note, photometric):
    values = gradient(16, (200, 200), low=0.01, high=0.03)
    read = read_dicom(film(values, 16, PhotometricInterpretation=photometric, **header))
    low, high = np.percentile(values, [0.5, 99.5], method="inverted_cdf").astype(float)
    expected = np.clip((values - low) / (high - low), 0, 1) * 255
    np.testing.assert_array_equal(read.image, np.rint(expected if photometric == "MONOCHROME2" else 255 - expected))
    assert re.match(note, read.notes[0])


def test_percentiles_leave_out_borders_and_padding():
    inside = gradient(12, (200, 200), low=0.2, high=0.6)
    values = np.pad(inside, 40)  # a black border
    values[:30], values[-30:] = 4095, 700  # saturated, and padding
    expected = grays(film(inside))
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        read = read_dicom(film(values, PixelPaddingValue=700, PhotometricInterpretation=photometric))
        got = np.asarray(read.image).astype(int)
        flip = photometric == "MONOCHROME1"
        assert np.abs(got[40:-40, 40:-40] - (255 - expected if flip else expected)).max() <= 2
        assert (got[:30] == (0 if flip else 255)).all()
        assert (got[40:-40, :40] == (255 if flip else 0)).all()
        assert (got[-30:] == 0).all()
        assert "padding: 10.71% of the pixels made black" in read.notes


def test_padding_of_a_range_and_of_signed_pixels():
    values = gradient(16, low=0.4, high=0.6)
    values[0], values[1] = 10, 12
    got = grays(
        film(values, 16, PixelPaddingValue=9, PixelPaddingRangeLimit=12, PhotometricInterpretation="MONOCHROME1")
    )
    assert (got[:2] == 0).all()
    assert got[2].mean() > 100
    signed = gradient(16, signed=True, low=0.5, high=0.6)
    signed[0] = -2000
    dataset = film(signed, 16, PhotometricInterpretation="MONOCHROME1")
    dataset.add_new("PixelPaddingValue", "US", 63536)  # as many write -2000
    got = grays(written(dataset))
    assert (got[0] == 0).all()
    assert got[1].mean() > 100


def test_eight_bits_without_a_window_are_those_of_a_png(tmp_path):
    values = gradient(8, low=0.2, high=0.4)
    for header in ({}, {"WindowCenter": 30000, "WindowWidth": 60000}, {"RescaleSlope": 1, "RescaleIntercept": 0}):
        np.testing.assert_array_equal(grays(film(values, 8, **header)), values)
    inverted = grays(film(values, 8, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(inverted, 255 - values)
    np.testing.assert_array_equal(grays(film(gradient(8, signed=True), 8)), gradient(8))


def test_unused_bits_are_no_part_of_the_value():
    values = gradient(12)
    written_over = values | 0xA000
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    np.testing.assert_array_equal(grays(film(written_over, **window)), grays(film(values, **window)))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
@pytest.mark.filterwarnings("error::UserWarning")
def test_lossless_compression_changes_nothing(bits, signed, syntax):
    middle = 0 if signed else 2 ** (bits - 1)
    dataset = film(gradient(bits, signed=signed), bits, WindowCenter=middle, WindowWidth=2**bits * 0.7)
    expected = grays(dataset)
    dataset.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(grays(written(dataset)), expected)
    np.testing.assert_array_equal(grays(dataset), expected)


def test_jpeg():
    values, file = gradient(8, (64, 64)), io.BytesIO()
    Image.fromarray(values).save(file, "JPEG", quality=95)
    read = read_dicom(written(coded(film(values, 8), JPEGBaseline8Bit, file.getvalue())))
    assert np.abs(np.asarray(read.image).astype(int) - values).max() <= 4


@pytest.mark.parametrize(("bits", "signed"), DEPTHS)
def test_lossless_jpeg(bits, signed):
    values = gradient(bits, (16, 24), signed)
    values[5, 5:9] = values[0, 0]
    middle = 0 if signed else 2 ** (bits - 1)
    dataset = film(values, bits, WindowCenter=middle, WindowWidth=2**bits * 0.7)
    expected = grays(dataset)
    frame = lossless_jpeg(values.astype(np.int64) & (2**bits - 1), bits)
    np.testing.assert_array_equal(grays(written(coded(dataset, JPEGLosslessSV1, frame))), expected)


@pytest.mark.parametrize(
    ("name", "bits"), [("JPGExtended.dcm", 12), ("MR_small_jp2klossless.dcm", 16),
                       ("MR_small_RLE.dcm", 16), ("MR_small_bigendian.dcm", 16), ("MR_small_jpeg_ls_lossless.dcm", 16)]
)  # fmt: skip
def test_what_others_have_compressed(name, bits):
    """Not chest films, but after a change of their header a decoder's work for all that."""
    dataset = pydicom.dcmread(pydicom.data.get_testdata_file(name, download=False))
    dataset.Modality, dataset.BodyPartExamined, dataset.PatientPosition = "DX", "CHEST", "HFS"
    values = dataset.pixel_array.astype(float)
    assert dataset.BitsStored == bits
    for keyword in ("WindowCenter", "WindowWidth", "PixelPaddingValue", "PatientOrientation"):
        if keyword in dataset:
            del dataset[keyword]
    got = grays(dataset)
    assert np.corrcoef(got.ravel(), values.ravel())[0, 1] > 0.9
    assert got.std() > 20


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_form_is_the_same_film(syntax, tmp_path):
    values = gradient(12)
    dataset = film(values.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2"), syntax=syntax, Laterality="U",
                   WindowCenter=2000, WindowWidth=3000, PatientOrientation=["L", "F"])  # fmt: skip
    expected = grays(film(WindowCenter=2000, WindowWidth=3000))
    content, before = written(dataset), copy.deepcopy(dataset)
    (tmp_path / "film.dcm").write_bytes(content)
    with (tmp_path / "film.dcm").open("rb") as file:
        file.read(1000)
        for form in (str(tmp_path / "film.dcm"), tmp_path / "film.dcm", content, bytearray(content), file,
                     io.BytesIO(content), bare(dataset), dataset, pydicom.dcmread(io.BytesIO(content)),
                     pydicom.dcmread(tmp_path / "film.dcm", defer_size=100)):  # fmt: skip
            read = read_dicom(form)
            np.testing.assert_array_equal(read.image, expected)
            assert (read.image.mode, read.view, read.laterality, read.photometric) == ("L", "PA", "U", "MONOCHROME2")
            assert read.notes == ("window 3000 wide",)
    assert dataset == before
    assert dataset.file_meta == before.file_meta


def test_a_data_set_made_in_memory_needs_no_file_meta():
    dataset = film(WindowCenter=2048, WindowWidth=4096)
    expected = grays(dataset)
    del dataset.file_meta
    np.testing.assert_array_equal(grays(dataset), expected)


def test_gray_in_three_channels(tmp_path):
    values = gradient(8)
    read = read_dicom(film(np.stack([values] * 3, -1), 8, PhotometricInterpretation="RGB"))
    np.testing.assert_array_equal(read.image, values)
    assert (read.photometric, read.notes) == ("RGB", ("gray, as colours",))


def test_remarks():
    read = read_dicom(film(PresentationIntentType="FOR PROCESSING", PatientOrientation=["R", "F"]))
    assert read.notes[1:] == (
        "for processing: a detector's values, not yet what readers look at",
        "rows run towards R and columns towards F, usually L and F: left as stored",
    )


@pytest.fixture(scope="module")
def real():
    folder = TEST_DATA / "dicom"
    if not folder.is_dir():
        pytest.skip(f"real DICOM films not found at {folder}; set HF_CXR_TEST_DATA")
    return folder


def test_real_films(real):
    for name, view in {"test1": "PA", "test2": "AP", "test3": "AP"}.items():
        read = read_dicom(real / f"{name}.dcm")
        np.testing.assert_array_equal(read.image, pydicom.dcmread(real / f"{name}.dcm").pixel_array)
        assert (read.view, read.notes) == (view, ("no window: all 256 values of its 8 bits",))
    read = read_dicom(real / "RG1_J2KI.dcm")
    assert (read.view, read.laterality, read.photometric) == ("PA", None, "MONOCHROME1")
    assert read.notes == ("window 30000 wide", "MONOCHROME1: inverted")
    got = np.asarray(read.image)
    # Lungs darker than the mediastinum between them: not inverted twice, nor not at all.
    assert got[500:900, 400:600].mean() + 40 < got[500:900, 880:960].mean()
    assert np.subtract(*np.percentile(got, [99.5, 0.5])) > 128
