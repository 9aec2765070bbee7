"""A sheet of an Excel workbook (.xlsx) as text, by the standard library alone (ECMA-376, parts 1 and 18).

Only what a table needs: cells as they are stored. Formulas give the value Excel last computed, dates come out as
ISO text, and a merged cell stands where its range begins.
"""

from __future__ import annotations

import datetime
import posixpath
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from xml.etree import ElementTree

from hf_cxr.errors import UserError

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_STRICT = "{http://purl.oclc.org/ooxml/spreadsheetml/main}"
_LINK = re.compile(r"\{.*/relationships\}id")
_DATE_IDS = {*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)}  # the built-in formats that show dates
_NOT_CODE = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]')
_PLACE = re.compile(r"([A-Z]+)(\d+)")
_EPOCHS = {False: datetime.datetime(1899, 12, 30), True: datetime.datetime(1904, 1, 1)}


class WorkbookError(UserError, ValueError):
    """A workbook that cannot be read; the message says why and what to do."""


def read_sheet(path: Path, sheet: str | None = None) -> list[tuple[int, list[str]]]:
    """The rows of a sheet that hold anything.

    Args:
        sheet: its name; None takes the first.

    Returns:
        The row's number in the sheet, and its cells as text from column A on: numbers as Excel stores them (a whole
        one without a point), true and false as TRUE and FALSE, dates as `2024-05-01` or `2024-05-01T08:30:00`.

    Raises:
        WorkbookError: no workbook, no such sheet, or a cell that holds an error such as #N/A.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name, dates_from_1904 = _sheet_file(archive, path, sheet)
            strings = _strings(archive)
            dates = _date_styles(archive)
            with archive.open(name) as file:
                return list(_rows(file, path, strings, dates, _EPOCHS[dates_from_1904]))
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, ValueError, IndexError) as error:
        if isinstance(error, WorkbookError):
            raise
        raise WorkbookError(
            f"{path} cannot be read as an Excel workbook ({error}). Save it as .xlsx or .csv."
        ) from error


def _parts(archive: zipfile.ZipFile, name: str) -> ElementTree.Element | None:
    return ElementTree.fromstring(archive.read(name)) if name in archive.namelist() else None


def _tag(element: ElementTree.Element) -> str:
    return element.tag.removeprefix(_MAIN).removeprefix(_STRICT)


def _all(element: ElementTree.Element | None, tag: str) -> Iterator[ElementTree.Element]:
    return (e for e in ([] if element is None else element.iter()) if _tag(e) == tag)


def _sheet_file(archive: zipfile.ZipFile, path: Path, sheet: str | None) -> tuple[str, bool]:
    book = _parts(archive, "xl/workbook.xml")
    sheets = {e.get("name", ""): next(v for k, v in e.attrib.items() if _LINK.match(k)) for e in _all(book, "sheet")}
    if not sheets or (sheet is not None and sheet not in sheets):
        raise WorkbookError(f"{path} has no sheet {sheet!r}; its sheets are {', '.join(map(repr, sheets))}")
    links = _parts(archive, "xl/_rels/workbook.xml.rels")
    targets = {e.get("Id"): e.get("Target", "") for e in ([] if links is None else links)}
    target = targets[sheets[next(iter(sheets)) if sheet is None else sheet]]
    properties = next(_all(book, "workbookPr"), None)
    dates_from_1904 = properties is not None and properties.get("date1904") in ("1", "true")
    return posixpath.normpath(posixpath.join("/xl", target)).lstrip("/"), dates_from_1904


def _strings(archive: zipfile.ZipFile) -> list[str]:
    return [_text(item) for item in _all(_parts(archive, "xl/sharedStrings.xml"), "si")]


def _text(element: ElementTree.Element) -> str:
    """The runs of a text, without its phonetic guides."""
    return "".join(
        (child.text or "") if _tag(child) == "t" else _text(child) for child in element if _tag(child) in ("t", "r")
    )


def _date_styles(archive: zipfile.ZipFile) -> set[int]:
    styles = _parts(archive, "xl/styles.xml")
    formats = {int(e.get("numFmtId", 0)): e.get("formatCode", "") for e in _all(styles, "numFmt")}
    dates = {i for i, code in formats.items() if re.search(r"[dmyhs]", _NOT_CODE.sub("", code).lower())} | _DATE_IDS
    cells = next(_all(styles, "cellXfs"), None)
    return {i for i, e in enumerate([] if cells is None else cells) if int(e.get("numFmtId", 0)) in dates}


def _rows(
    file: IO[bytes], path: Path, strings: list[str], dates: set[int], epoch: datetime.datetime
) -> Iterator[tuple[int, list[str]]]:
    number = 0
    for _, row in ElementTree.iterparse(file):
        if _tag(row) != "row":
            continue
        number = int(row.get("r", number + 1))
        cells: list[str] = []
        for cell in row:
            match = _PLACE.fullmatch(cell.get("r", ""))
            column = _column(match[1]) if match else len(cells)
            cells += [""] * (column - len(cells))
            cells.append(_value(cell, f"{path}, row {number}, column {column + 1}", strings, dates, epoch))
        if any(cells):
            yield number, cells
        row.clear()  # the tree would otherwise grow with the sheet


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1


def _value(cell: ElementTree.Element, where: str, strings: list[str], dates: set[int], epoch: datetime.datetime) -> str:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return "".join(_text(e) for e in cell if _tag(e) == "is")
    stored = next((e.text or "" for e in cell if _tag(e) == "v"), "")
    if kind == "e":
        raise WorkbookError(f"{where}: the cell holds the error {stored}; mend the formula, or clear the cell")
    if kind == "s":
        return strings[int(stored)]
    if kind == "b":
        return "TRUE" if stored == "1" else "FALSE"
    if kind != "n" or not stored:
        return stored
    number = float(stored)
    if int(cell.get("s", 0)) in dates:
        moment = epoch + datetime.timedelta(days=number)
        moment = (moment + datetime.timedelta(microseconds=500_000)).replace(microsecond=0)
        return moment.isoformat() if number % 1 else moment.date().isoformat()
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else stored
