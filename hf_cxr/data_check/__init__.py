"""Is this data usable? What `recipes/check_data.py` does."""

from hf_cxr.data_check.arguments import CheckArguments, parse_check_settings
from hf_cxr.data_check.result import ERROR, NOTE, WARNING, Check, Finding
from hf_cxr.data_check.run import check
from hf_cxr.data_check.writing import CheckFolderError, check_folder, page_text, write_check

__all__ = [
    "ERROR",
    "NOTE",
    "WARNING",
    "Check",
    "CheckArguments",
    "CheckFolderError",
    "Finding",
    "check",
    "check_folder",
    "page_text",
    "parse_check_settings",
    "write_check",
]
