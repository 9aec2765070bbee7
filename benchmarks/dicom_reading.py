"""How many DICOM films a second one core reads: decoded, windowed, 8 bits; by transfer syntax.

    OMP_NUM_THREADS=1 python benchmarks/dicom_reading.py

Synthetic films with the noise of a detector, written by pydicom (extra `dicom`). Alternates the syntaxes within one run
and prints medians with their quartiles.
"""

import argparse
import io
import time

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from hf_cxr.models import read_dicom

SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "RLE": RLELossless,
    "JPEG-LS, lossless": JPEGLSLossless,
    "JPEG 2000, lossless": JPEG2000Lossless,
}


def film(size: int, bits: int, syntax: str) -> bytes:
    rows, columns = np.mgrid[0:size, 0:size] / size
    signal = 0.5 + 0.3 * np.sin(7 * rows) * np.cos(5 * columns)
    noise = np.random.default_rng(0).normal(0, 0.01, (size, size))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PixelRepresentation = "MONOCHROME2", 1, 0
    dataset.Rows = dataset.Columns = size
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits, bits - 1
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
    dataset.PixelData = np.rint((signal + noise).clip(0, 1) * (2**bits - 1)).astype("<u2").tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2000, help="pixels of a side")
    parser.add_argument("--bits", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    films = {name: film(options.size, options.bits, syntax) for name, syntax in SYNTAXES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in films}
    for each in range(options.rounds + 1):
        for name, content in films.items():
            start = time.process_time()
            read_dicom(content)
            if each:  # the first round loads decoders
                seconds[name].append(time.process_time() - start)
    for name, taken in seconds.items():
        low, median, high = np.percentile(taken, [25, 50, 75])
        print(f"{name:20} {1 / median:6.1f} films/s  ({1 / high:.1f} to {1 / low:.1f})  {len(films[name]):>11,} bytes")


if __name__ == "__main__":
    main()
