import datetime
import gzip

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hospital_files import MAP, findings, read, write_hospital

from hf_cxr.data import DataProblems
from hf_cxr.data.hospital_map import TableSource
from hf_cxr.data.hospital_table import TableError, read_hospital_table
from hf_cxr.data.problems import ProblemLog
from hf_cxr.data.workbook import WorkbookError, read_sheet

COLUMNS = ("Bild", "Größe")
EXPECTED = [["a.png", "1,5"], ["b.png", "x"]]


def table(tmp_path, name, content, columns=COLUMNS, **how):
    """Rows as written, their lines, the problems and the notes."""
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    problems, notes = ProblemLog(), {}
    got = read_hospital_table(TableSource((name,), **how), tmp_path, columns, problems, notes)
    return got.frame.to_numpy().tolist(), got.lines.tolist(), problems, notes


def problems_of(log):
    with pytest.raises(DataProblems) as caught:
        log.raise_any()
    return str(caught.value)


@pytest.mark.parametrize(
    ("encoding", "mark"), [("utf-8", ""), ("utf-8-sig", ""), ("cp1252", ""), ("utf-16", ""), ("latin-1", "\x81")]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_dialect_gives_the_same_rows(tmp_path, encoding, mark, delimiter, end):
    lines = [["Bild", "Größe", f"Befund{mark}"], ["a.png", '"1,5"', '"a, b; c\td|e"'], ["b.png", "x", "y"]]
    text = end.join(delimiter.join(line) for line in lines) + end
    got, numbers, problems, notes = table(tmp_path, "t.csv", text.encode(encoding))
    assert (got, numbers, len(problems)) == (EXPECTED, [2, 3], 0)
    assert notes == ({"tables not in UTF-8, read as Windows-1252": 1} if encoding in ("cp1252", "latin-1") else {})


def test_line_numbers_are_a_text_editors(tmp_path):
    text = 'id,report\n\n1,"first\nsecond\r\nthird"\n,\n   , \n2,plain\n'
    got, numbers, _, _ = table(tmp_path, "t.csv", text, ["id"])
    assert (got, numbers) == ([["1"], ["2"]], [3, 8])


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_first_line_that_states_the_delimiter(tmp_path, delimiter):
    text = f"sep={delimiter}\r\nBild{delimiter}Größe\r\na{delimiter}1\r\n"
    got, numbers, problems, _ = table(tmp_path, "t.csv", text)
    assert (got, numbers, len(problems)) == ([["a", "1"]], [3], 0)


def test_headers_match_whatever_their_case_and_spaces(tmp_path):
    got, _, problems, _ = table(tmp_path, "t.csv", " BILD  ,größe \n a.png , 1 \n", ["bild", "GRÖSSE"])
    assert (got, len(problems)) == ([["a.png", "1"]], 0)


def test_a_missing_column_is_told_with_the_nearest(tmp_path):
    *_, problems, _ = table(tmp_path, "t.csv", "Bild,Diagnosen\na,b\n", ["Bild", "Diagnose"])
    assert "t.csv, row 1: no column 'Diagnose' (did you mean 'Diagnosen'?); found 'Bild', 'Diagnosen'" in problems_of(
        problems
    )


def test_a_column_named_twice(tmp_path):
    with pytest.raises(TableError, match=r"row 1: 2 columns are called 'Bild'"):
        table(tmp_path, "t.csv", "Bild,bild ,BILD\na,b,c\n".replace(",BILD", ",Bild"))


def test_decimal_commas_without_quotes_are_a_ragged_row(tmp_path):
    *_, problems, _ = table(tmp_path, "t.csv", "Bild,Größe\na,1,5\nb\nc,2,\n")
    said = problems_of(problems)
    assert "t.csv, row 2: received 3 cells, expected 2 as in the header; a cell that holds ',' needs quotes" in said
    assert "row 3: received 1 cells" in said
    assert "row 4" not in said


def test_a_quotation_mark_that_is_never_closed(tmp_path):
    text = 'Bild,Größe\na,"1\n' + "b,2\n" * 60_000
    with pytest.raises(TableError, match=r"row 2: field larger .* never closed"):
        table(tmp_path, "t.csv", text)


def test_an_encoding_and_a_delimiter_by_name(tmp_path):
    got, *_ = table(
        tmp_path, "t.txt", "Bild#Größe\na.png#1,5\nb.png#x\n".encode("cp437"), encoding="cp437", delimiter="#"
    )
    assert got == EXPECTED
    with pytest.raises(TableError, match="Name its encoding in the map"):
        table(tmp_path, "t.csv", b"Bild\n\xff", encoding="utf-8")


def test_gzip_and_the_first_of_several_names(tmp_path):
    content = gzip.compress("Bild;Größe\na.png;1,5\nb.png;x\n".encode())
    got, *_ = table(tmp_path, "b.csv.gz", content)
    assert got == EXPECTED
    source = TableSource(("a.csv", "b.csv"))
    assert read_hospital_table(source, tmp_path, COLUMNS, ProblemLog(), {}).path.name == "b.csv.gz"
    with pytest.raises(FileNotFoundError, match=r"no table a\.csv or c\.csv"):
        read_hospital_table(TableSource(("a.csv", "c.csv")), tmp_path, COLUMNS, ProblemLog(), {})


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("t.xls", b"\xd0\xcf\x11\xe0", "Save it as one of these"),
        ("t.csv", b"", "is empty"),
        ("t.csv.gz", b"\x1f\x8bx", "cannot be read as text"),
        ("t.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_table(tmp_path, name, content, part):
    with pytest.raises(TableError, match=part):
        table(tmp_path, name, content)


def test_parquet(tmp_path):
    frame = pa.table(
        {
            "ID": pa.array([7, None, 12345678901234567], pa.int64()),
            "words": [["a", "b's"], [], None],
            "number": [1.0, float("nan"), 0.5],
            "when": pd.to_datetime(["2024-05-01", None, "2024-05-02"]),
        }
    )
    pyarrow.parquet.write_table(frame, tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    got, numbers, *_ = table(tmp_path, "t.parquet", content, ["id", "words", "number", "when"])
    assert got == [
        ["7", "['a', \"b's\"]", "1", "2024-05-01 00:00:00"],
        ["", "[]", "", ""],
        ["12345678901234567", "", "0.5", "2024-05-02 00:00:00"],
    ]
    assert numbers == [1, 2, 3]


CELLS = {
    "A1": "PatNo", "C1": "Befund", "D1": "Tag", "A2": 7, "C2": " Erguss ", "D2": datetime.date(2024, 5, 1),
    "A4": 1.2e25, "C4": 0.5, "D4": datetime.datetime(2024, 5, 1, 8, 30), "A5": True, "C5": "text", "D5": 3.0,
}  # fmt: skip


def workbook(path, **changes):
    """As a hospital would save it: gaps, an empty row, dates, and a second sheet with an error in it."""
    book = openpyxl.Workbook()
    films, other = book.active, book.create_sheet("Other")
    films.title = "Films"
    for sheet, cells in ((films, CELLS | changes), (other, CELLS | {"A5": "#N/A"})):
        for place, value in cells.items():
            sheet[place] = value
    book.save(path)
    return path


def test_excel(tmp_path):
    """Rows keep the sheet's numbers."""
    content = workbook(tmp_path / "t.xlsx").read_bytes()
    got, numbers, problems, _ = table(tmp_path, "t.xlsx", content, ["patno", "Befund", "Tag"])
    assert got == [
        ["7", "Erguss", "2024-05-01"],
        ["1.2e+25", "0.5", "2024-05-01T08:30:00"],
        ["TRUE", "text", "3"],
    ]
    assert (numbers, len(problems)) == ([2, 4, 5], 0)


def test_workbooks_that_cannot_be_read(tmp_path):
    path = workbook(tmp_path / "t.xlsx")
    with pytest.raises(WorkbookError, match="no sheet 'Film'; its sheets are 'Films', 'Other'"):
        read_sheet(path, "Film")
    with pytest.raises(WorkbookError, match="row 5, column 1: the cell holds the error #N/A"):
        read_sheet(path, "Other")
    (tmp_path / "u.xlsx").write_bytes(b"no zip")
    with pytest.raises(WorkbookError, match=r"Save it as \.xlsx or \.csv"):
        read_sheet(tmp_path / "u.xlsx")


def test_repeated_rows_are_left_out_and_counted(tmp_path):
    films = (
        "file,patient,finding,comment\na.png,1,effusion,x\nb.png,2,normal,x\na.png, 1 ,effusion,y\nc.png,3,normal,\n"
    )
    index = read(write_hospital(tmp_path, images=False, films=films))
    assert list(index.films["id"]) == ["a.png", "b.png", "c.png"]
    assert list(index.films["row"]) == [2, 3, 5]
    assert index.notes["repeated rows left out"] == 1


def test_two_rows_of_a_film_that_differ_are_an_error(tmp_path):
    films = "file,patient,finding\na.png,1,effusion\nb.png,2,normal\na.png,1,normal\nc.png,3,normal\n"
    with pytest.raises(DataProblems, match=r"films\.csv, row 4: 'a\.png' is already the id of an earlier row"):
        read(write_hospital(tmp_path, images=False, films=films))


def test_a_hospital_in_excel_and_in_parquet(tmp_path):
    text = (
        MAP.replace("films.csv", "films.xlsx")
        .replace("patient: patient}", "patient: PatNo}")
        .replace("image: file", "image: Tag")
        .replace("column: finding", "column: Befund")
        .replace("{eff", "{erguss: Effusion, eff")
    )
    path = write_hospital(tmp_path, text, images=False, films="")
    workbook(tmp_path / "films.xlsx", A4=8, C4="normal", A5=1, C5="bacterial")
    first = read(path)
    assert sorted(first.films["patient"]) == ["1", "7", "8"]
    frame = pd.DataFrame({"Tag": first.films["id"], "PatNo": [7, 8, 1], "Befund": ["ERGUSS", "normal", "bacterial"]})
    frame.to_parquet(tmp_path / "films.parquet")
    path.write_text(path.read_text().replace("films.xlsx", "films.parquet"))
    assert findings(read(path)) == findings(first)
