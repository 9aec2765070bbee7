"""A sheet of an Excel workbook as text, by openpyxl."""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from hf_cxr.errors import UserError


class WorkbookError(UserError, ValueError):
    """A workbook that cannot be read; the message says why and what to do."""


def read_sheet(path: Path, sheet: str | None = None) -> list[tuple[int, list[str]]]:
    """The rows of a sheet that hold anything.

    Formulas give the value that Excel last computed; a merged cell stands where its range begins.

    Args:
        sheet: its name; None takes the first.

    Returns:
        The row's number in the sheet, and its cells as text from column A on: a whole number without a point, true and
        false as TRUE and FALSE, dates as `2024-05-01` or `2024-05-01T08:30:00`.

    Raises:
        WorkbookError: no workbook, no such sheet, or a cell that holds an error such as #N/A.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what a table does not need: styles, validation
            book = openpyxl.load_workbook(path, read_only=True, data_only=True)
    except (BadZipFile, InvalidFileException, KeyError, ValueError, TypeError) as error:
        raise WorkbookError(
            f"{path} cannot be read as an Excel workbook ({error}). Save it as .xlsx or .csv."
        ) from error
    try:
        if sheet is not None and sheet not in book.sheetnames:
            raise WorkbookError(
                f"{path} has no sheet {sheet!r}; its sheets are {', '.join(map(repr, book.sheetnames))}"
            )
        chosen = book[book.sheetnames[0] if sheet is None else sheet]
        chosen.reset_dimensions()  # what the file says of its size is often wrong
        rows = []
        for number, cells in enumerate(chosen.iter_rows(), start=1):
            texts = [_text(cell, f"{path}, row {number}, column {i}") for i, cell in enumerate(cells, start=1)]
            if any(texts):
                rows.append((number, texts))
        return rows
    finally:
        book.close()


def _text(cell: Any, where: str) -> str:
    value = cell.value
    if cell.data_type == "e":
        raise WorkbookError(f"{where}: the cell holds the error {value}; mend the formula, or clear the cell")
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, datetime.datetime):
        rounded = (value + datetime.timedelta(microseconds=500_000)).replace(microsecond=0)
        return (rounded if rounded.time() != datetime.time() else rounded.date()).isoformat()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)
