"""Published data sets in their publishers' layout, each a hospital with a ready map (`hospitals/*.yaml`).

Their maps say what each word was taken for, and why. None has lists of its own but MIMIC-CXR-JPG: test and validation
patients are cut, seeded, and kept in `splits/` in the folder.
"""

from __future__ import annotations

from hf_cxr.data.hospital import Hospital


class PadChest(Hospital):
    """PadChest: 160,861 films of 67,625 patients of the Hospital San Juan de Alicante, 2009-2017.

    Labels: 193 words for findings and diagnoses, of reports read by physicians (a quarter) or by a network trained on
    these. Laterals are among the films; costal and excluded ones are left out.

    Expects in `data_dir`: `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv` (or `.gz`), and the images below it,
    in any folders.

    Citation: A. Bustos, A. Pertusa, J.-M. Salinas, M. de la Iglesia-Vayá, "PadChest: A large chest x-ray image dataset
    with multi-label annotated reports", Medical Image Analysis 66, 2020.
    """

    MAP = "padchest"


class VinDrCXR(Hospital):
    """VinDr-CXR, training part: 15,000 frontal films of two hospitals in Hanoi, 2018-2020; patients are not known.

    Labels: 14 kinds of findings boxed by three of 17 radiologists each; present where two of three agree.

    Expects in `data_dir`: Kaggle's `train.csv` (or `vinbigdata-train.csv`, or `.gz`), and the images below it, named by
    `image_id` with any ending.

    Citation: H. Q. Nguyen, K. Lam, L. T. Le et al., "VinDr-CXR: An open dataset of chest X-rays with radiologist's
    annotations", Scientific Data 9, 2022.
    """

    MAP = "vindr_cxr"


class MIMICCXRJPG(Hospital):
    """MIMIC-CXR-JPG: 377,110 films in 227,835 studies of the Beth Israel Deaconess Medical Center, 2011-2016.

    Labels: 14 observations of a study, mined from its report by the CheXpert labeler, as CheXpert's training set has
    them. Splits are the publisher's.

    Expects in `data_dir`: `mimic-cxr-2.0.0-metadata.csv`, `mimic-cxr-2.0.0-chexpert.csv` and
    `mimic-cxr-2.0.0-split.csv` (each also as `.gz`), and `files/p10/p10000032/s50414267/….jpg`.

    Citation: A. E. W. Johnson, T. J. Pollard, N. R. Greenbaum et al., "MIMIC-CXR-JPG, a large publicly available
    database of labeled chest radiographs", arXiv 1901.07042, 2019.
    """

    MAP = "mimic_cxr_jpg"


class BRAX(Hospital):
    """BRAX: 40,967 films in 24,959 studies of the Hospital Israelita Albert Einstein, São Paulo.

    Labels: CheXpert's 14 observations, mined from Portuguese reports.

    Expects in `data_dir`: `master_spreadsheet_update.csv` and the folder `images/` that its column `PngPath` begins
    with.

    Citation: E. P. Reis, J. P. Q. de Paiva, M. C. B. da Silva et al., "BRAX, Brazilian labeled chest x-ray dataset",
    Scientific Data 9, 2022.
    """

    MAP = "brax"
