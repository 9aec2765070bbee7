import pandas as pd
import pytest
from hospital_files import MAP, read, rows, write_hospital

from hf_cxr.data import DataProblems
from hf_cxr.data.hospital_cells import VIEWS, age, chosen, date, identifier, one_spelling, years_between
from hf_cxr.data.hospital_map import Choices


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("007", "7"), ("7", "7"), ("7.0", "7"), ("7,00", "7"), ("000", "0"), (" P 007 ", "P 007"), ("\u200b12", "12"),
        ("0012345678901234567890", "12345678901234567890"), ("1e5", "1e5"), ("7.5", "7.5"), ("a07", "a07"),
    ],
)  # fmt: skip
def test_identifiers_survive_spreadsheets(cell, expected):
    assert identifier(cell) == expected


@pytest.mark.parametrize("cell", ["", "nan", "None", "1.2E+10", "1,23457E+17", " - "])
def test_no_identifiers(cell):
    with pytest.raises(ValueError, match="is no identifier"):
        identifier(cell)


def test_one_spelling_whatever_the_order():
    ids = pd.Series(["p1", "P1", "q2", "P1", ""])
    spelled, given_up = one_spelling(ids)
    assert (spelled.tolist(), given_up) == (["P1", "P1", "q2", "P1", ""], 1)
    assert one_spelling(ids[::-1])[0].tolist() == ["", "P1", "q2", "P1", "P1"]


@pytest.mark.parametrize(
    ("cell", "years"),
    [
        ("58", 58), ("58.9", 58), ("58,0", 58), ("058Y", 58), ("58 years", 58), ("010M", 0), ("25 months", 2),
        ("003D", 0), ("52 w", 0), ("40-44", 42), ("40 to 44", 42), ("85 or more", 85), ("90+", 90), (">89", 89),
        ("≥ 90", 90), ("0", 0), ("414", 414),
    ],
)  # fmt: skip
def test_ages(cell, years):
    assert age(cell) == years


@pytest.mark.parametrize("cell", ["-3", "old", "44-40", "5 or 6", "1961-02-05", "58 kg"])
def test_no_ages(cell):
    with pytest.raises(ValueError, match="is no age"):
        age(cell)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("1961", (1961, 0, 0)), ("1961.0", (1961, 0, 0)), ("19610205", (1961, 2, 5)), ("1961-02-05", (1961, 2, 5)),
        ("1961/2/5", (1961, 2, 5)), ("05.02.1961", (1961, 2, 5)), ("1961-02-05T08:30:00", (1961, 2, 5)),
        ("5.2.1961 08:30", (1961, 2, 5)),
    ],
)  # fmt: skip
def test_dates(cell, expected):
    assert date(cell, None) == expected


@pytest.mark.parametrize("cell", ["05/02/1961", "1961-02-30", "19611332", "5 Feb 1961", "61"])
def test_no_dates_or_ones_that_could_be_two(cell):
    with pytest.raises(ValueError, match=r"."):
        date(cell, None)


def test_a_date_format():
    assert date("05/02/1961", "%d/%m/%Y") == (1961, 2, 5)


def test_years_of_two_digits_are_before_the_film(tmp_path):
    ages = "patient: patient, age: {born: born, on: on, date_format: '%d/%m/%y'}}"
    films = "file,patient,finding,born,on\na,1,normal,05/02/61,04/02/20\nb,2,normal,05/02/12,05/02/20\nc,3,normal,,\n"
    index = read(write_hospital(tmp_path, MAP.replace("patient: patient}", ages), images=False, films=films))
    assert index.films["age"].tolist() == [58, 8, pd.NA]
    assert index.notes["impossible ages"] == 0


@pytest.mark.parametrize(
    ("born", "on", "years"),
    [
        ((1961, 2, 5), (2020, 2, 4), 58), ((1961, 2, 5), (2020, 2, 5), 59), ((1961, 0, 0), (2020, 1, 1), 59),
        ((2020, 5, 1), (2020, 4, 1), -1), (None, (2020, 1, 1), None),
    ],
)  # fmt: skip
def test_years_between(born, on, years):
    assert years_between(born, on) == years


def test_the_maps_words_come_before_the_builders():
    parse, expected = chosen(Choices("v", {"pa": "AP", "": "leave_out"}), VIEWS)
    assert [parse(cell) for cell in ("PA", "ap", " L ", "", "?")] == ["AP", "AP", "LATERAL", "leave_out", None]
    with pytest.raises(ValueError, match="not known"):
        parse("oblique")
    assert "`values` in the map" in expected
    assert chosen(Choices("v", {}, "unknown"), VIEWS)[0]("oblique") is None


def test_cells_that_cannot_be_read_name_file_row_column_and_remedy(tmp_path):
    text = MAP.replace("patient: patient}", "patient: patient, sex: sex, view: view, age: {born: born, on: on}}")
    films = (
        "file,patient,finding,sex,view,born,on\n"
        "a.png,1.2E+10,normal,m,PA,1961,20200101\n"
        "b.png,2,normal,divers,PA,1961,20200101\n"
        "c.png,3,normal,f,schräg,1961,20200101\n"
        "d.png,4,normal,f,AP,05/02/1961,20200101\n"
        ",5,normal,f,AP,1961,20200101\n"
        "f.png,,normal,f,AP,1961,20200101\n"
    )
    with pytest.raises(DataProblems) as caught:
        read(write_hospital(tmp_path, text, images=False, films=films))
    assert caught.value.totals == {"malformed cell": 6}
    for part in (
        "films.csv, row 2: patient is '1.2E+10', expected an identifier; one with lost digits (1.2E+10) has to be",
        "films.csv, row 3: sex is 'divers', expected one of 'm'",
        "films.csv, row 4: view is 'schräg', expected one of 'pa'",
        "films.csv, row 5: born is '05/02/1961', expected a year or a date",
        "name any other as age.date_format",
        "films.csv, row 6: file is '', expected the film's file",
        "films.csv, row 7: patient is '', expected an identifier",
    ):
        assert part in str(caught.value)


def test_lost_zeros_and_other_spellings_are_one_patient(tmp_path):
    films = rows(12).replace("p1_1.png,001", "p1_1.png,1").replace("p2_1.png,002", "p2_1.png,2.0")
    films = films.replace("p3_0.png,003", "p3_0.png,X3").replace("p3_1.png,003", "p3_1.png,x3 ")
    index = read(write_hospital(tmp_path, images=False, films=films))
    patients = index.films.groupby("patient")["id"].agg(list).to_dict()
    assert patients["1"] == ["p1_0.png", "p1_1.png"]
    assert patients["2"] == ["p2_0.png", "p2_1.png"]
    assert patients["X3"] == ["p3_0.png", "p3_1.png"]
    assert len(patients) == 12
    assert index.notes["patients spelled in several ways"] == 1


def test_impossible_ages_are_unknown_and_counted(tmp_path):
    text = MAP.replace("patient: patient}", "patient: patient, age: {born: born, on: on}}")
    dates = ("2021,2020", "1800,2020", ",2020", "1980,2020")
    films = "\n".join(["file,patient,finding,born,on", *(f"f{i},{i},normal,{date}" for i, date in enumerate(dates))])
    index = read(write_hospital(tmp_path, text, images=False, films=films))
    assert index.films["age"].tolist() == [pd.NA, pd.NA, pd.NA, 40]
    assert index.notes["impossible ages"] == 2
