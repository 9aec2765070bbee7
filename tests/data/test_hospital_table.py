import gzip
import zipfile

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


SHEET = """<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>
<row r="1"><c r="A1" t="s"><v>0</v></c><c r="C1" t="s"><v>1</v></c><c r="D1" t="inlineStr"><is><t>Tag</t></is></c></row>
<row r="2"><c r="A2"><v>7</v></c><c r="C2" t="s"><v>2</v></c><c r="D2" s="1"><v>45413</v></c></row>
<row r="3"/>
<row r="4"><c r="A4"><v>1.2E+25</v></c><c r="C4"><v>0.5</v></c><c r="D4" s="2"><v>45413.354166666664</v></c></row>
<row r="5"><c r="A5" t="b"><v>1</v></c><c r="C5" t="str"><f>B1</f><v>text</v></c><c r="D5" s="3"><v>3</v></c></row>
</sheetData></worksheet>"""
WORKBOOK = {
    "xl/workbook.xml": """<workbook xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"
        xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"><sheets>
        <sheet name="Films" sheetId="1" r:id="rId5"/><sheet name="Other" sheetId="2" r:id="rId6"/></sheets>
        </workbook>""",
    "xl/_rels/workbook.xml.rels": """<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
        <Relationship Id="rId6" Type="x" Target="worksheets/sheet2.xml"/>
        <Relationship Id="rId5" Type="x" Target="/xl/worksheets/sheet1.xml"/></Relationships>""",
    "xl/sharedStrings.xml": """<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><si><t>PatNo</t></si>
        <si><r><t>Be</t></r><r><rPr/><t>fund</t></r><rPh sb="0" eb="1"><t>no</t></rPh></si>
        <si><t xml:space="preserve"> Erguss </t></si></sst>""",
    "xl/styles.xml": """<styleSheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><numFmts>
        <numFmt numFmtId="164" formatCode="dd\\.mm\\.yyyy\\ hh:mm"/>
        <numFmt numFmtId="165" formatCode="0.0 &quot;days&quot;"/></numFmts>
        <cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="164"/><xf numFmtId="165"/></cellXfs>
        </styleSheet>""",
    "xl/worksheets/sheet1.xml": SHEET,
    "xl/worksheets/sheet2.xml": SHEET.replace('t="b"><v>1</v>', 't="e"><v>#N/A</v>'),
}


def workbook(path, parts=WORKBOOK):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def test_excel(tmp_path):
    """As Excel writes it: shared and rich text, styles, a formula's value, gaps; rows keep the sheet's numbers."""
    content = workbook(tmp_path / "t.xlsx").read_bytes()
    got, numbers, problems, _ = table(tmp_path, "t.xlsx", content, ["patno", "Befund", "Tag"])
    assert got == [
        ["7", "Erguss", "2024-05-01"],
        ["1.2E+25", "0.5", "2024-05-01T08:30:00"],
        ["TRUE", "text", "3"],
    ]
    assert (numbers, len(problems)) == ([2, 4, 5], 0)


def test_excel_dates_from_1904_and_without_styles(tmp_path):
    book = WORKBOOK["xl/workbook.xml"].replace("<sheets>", '<workbookPr date1904="1"/><sheets>')
    rows = read_sheet(workbook(tmp_path / "t.xlsx", {**WORKBOOK, "xl/workbook.xml": book}))
    assert rows[1] == (2, ["7", "", " Erguss ", "2028-05-02"])
    plain = {name: part for name, part in WORKBOOK.items() if name != "xl/styles.xml"}
    assert read_sheet(workbook(tmp_path / "u.xlsx", plain))[1][1][3] == "45413"


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
    sheet = SHEET.replace("1.2E+25", "8").replace("<v>0.5</v>", "<v>normal</v>").replace('"C4"', '"C4" t="str"')
    sheet = sheet.replace("<v>text</v>", "<v>bacterial</v>").replace('r="A5" t="b"', 'r="A5"')
    workbook(tmp_path / "films.xlsx", {**WORKBOOK, "xl/worksheets/sheet1.xml": sheet})
    first = read(path)
    assert sorted(first.films["patient"]) == ["1", "7", "8"]
    frame = pd.DataFrame({"Tag": first.films["id"], "PatNo": [7, 8, 1], "Befund": ["ERGUSS", "normal", "bacterial"]})
    frame.to_parquet(tmp_path / "films.parquet")
    path.write_text(path.read_text().replace("films.xlsx", "films.parquet"))
    assert findings(read(path)) == findings(first)
