"""DICOM films for tests, written by pydicom itself."""

import io
import struct

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

NAMES = {
    "PatientName": "Doe^Jane", "PatientID": "PID-4711", "PatientBirthDate": "19400305", "AccessionNumber": "ACC-0815",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.11", "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.12",
    "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.13", "InstitutionName": "General Hospital",
    "ReferringPhysicianName": "Roe^Richard", "StudyDescription": "THORAX DOE",
}  # fmt: skip


def gradient(bits=12, shape=(48, 64), signed=False, low=0.0, high=1.0):
    """Values over this part of the range, each row from left to right and every row somewhat brighter."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    part = low + (high - low) * (columns / (shape[1] - 1) * 0.9 + rows / (shape[0] - 1) * 0.1)
    values = np.rint(part * (2**bits - 1)).astype(np.int64) - (2 ** (bits - 1) if signed else 0)
    return values.astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")


def film(values=None, bits=12, syntax=ExplicitVRLittleEndian, **header):
    """A data set of these stored values; a header element of None is left out."""
    values = gradient(bits) if values is None else values
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    elements = {
        **NAMES, "Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "PA",
        "PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 3 if values.ndim == 3 else 1,
        "Rows": values.shape[0], "Columns": values.shape[1], "BitsAllocated": 8 * values.itemsize, "BitsStored": bits,
        "HighBit": bits - 1, "PixelRepresentation": int(values.dtype.kind == "i"),
        **({"PlanarConfiguration": 0} if values.ndim == 3 else {}),
    } | header  # fmt: skip
    for keyword, value in elements.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" not in header:
        dataset.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
        dataset["PixelData"].VR = "OW" if values.itemsize == 2 else "OB"
    return dataset


def coded(dataset, syntax, frame):
    """The data set with this compressed image for its pixels."""
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    return dataset


def lossless_jpeg(values, bits):
    """ITU-T T.81 Annex H with predictor 1 (the left neighbour) and a Huffman table of 5 bits a category."""
    rows, columns = values.shape
    left = np.empty_like(values)
    left[:, 1:], left[1:, 0], left[0, 0] = values[:, :-1], values[:-1, 0], 2 ** (bits - 1)
    stream = ""
    for difference in ((values - left + 32768) % 65536 - 32768).ravel().tolist():
        size = abs(difference).bit_length()
        stream += f"{size:05b}"
        if 0 < size < 16:
            stream += f"{difference if difference > 0 else difference + 2**size - 1:0{size}b}"
    stream += "1" * (-len(stream) % 8)
    data = bytes(int(stream[i : i + 8], 2) for i in range(0, len(stream), 8)).replace(b"\xff", b"\xff\0")
    table = bytes([0, 0, 0, 0, 0, 17] + [0] * 11 + list(range(17)))
    return (
        b"\xff\xd8\xff\xc3" + struct.pack(">HBHHB3B", 11, bits, rows, columns, 1, 1, 0x11, 0)
        + b"\xff\xc4" + struct.pack(">H", len(table) + 2) + table
        + b"\xff\xda" + struct.pack(">HB5B", 8, 1, 1, 0, 1, 0, 0) + data + b"\xff\xd9"
    )  # fmt: skip


def lut(values, first, bits):
    """The item of a VOI or modality LUT sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    item.add_new("LUTData", "OW", np.asarray(values, np.uint16).tobytes())
    return item


def code(value, meaning):
    """The item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SRT", meaning
    return item


def written(dataset, **options):
    """The bytes of a file of it."""
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, **{"enforce_file_format": True, **options})
    return file.getvalue()


def bare(dataset):
    """The same without preamble and file meta information, which tell the transfer syntax."""
    syntax, alone = dataset.file_meta.TransferSyntaxUID, Dataset(dataset)
    file = io.BytesIO()
    pydicom.dcmwrite(file, alone, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    return file.getvalue()
