"""Why something is not taken for a film."""


class FilmError(ValueError):
    """An input that is no film: wrong type, range or shape, or without any contrast."""


class DicomRefusedError(FilmError):
    """A DICOM file that is not taken for a chest film. The message names no patient, study or file.

    Attributes:
        code: which refusal it is, one of `CODES`.
    """

    CODES = (
        "modality",  # other than projection radiography
        "body_part",  # other than chest
        "view",  # lateral unless wanted, oblique, decubitus, or a word that nobody knows
        "no_pixels",
        "multi_frame",
        "photometric",  # colours, palettes, bit depths and other forms of pixels that films do not have
        "too_large",  # more pixels than PIL.Image.MAX_IMAGE_PIXELS, or far more bytes than they need
        "syntax",  # a transfer syntax that nothing here decodes, or whose plug-in is not installed
        "broken",  # damaged, truncated, or at odds with its own header
        "blank",  # one value throughout
    )

    def __init__(self, reason: str, code: str) -> None:
        super().__init__(reason)
        self.code = code

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (str(self), self.code)
