import stat

import pytest

from hf_cxr.data.pseudonyms import PseudonymError, Pseudonyms


def test_one_name_for_all_spellings_another_for_another_kind_and_another_key(tmp_path):
    here = Pseudonyms(tmp_path / "key")
    assert {here.of("patient", spelling) for spelling in ("007", "7", "7.0", " 7 ")} == {here.of("patient", "7")}
    assert here.of("patient", "Ab1") == here.of("patient", "AB1")
    names = {here.of(kind, value) for kind in ("patient", "study", "image") for value in ("7", "8")}
    assert len(names) == 6
    assert all(len(name) == 16 and set(name) <= set("0123456789abcdef") for name in names)
    again, elsewhere = Pseudonyms(tmp_path / "key"), Pseudonyms(tmp_path / "other")
    assert again.of("patient", "7") == here.of("patient", "7") != elsewhere.of("patient", "7")
    assert again.fingerprint == here.fingerprint != elsewhere.fingerprint


def test_the_key_is_its_owners(tmp_path):
    Pseudonyms(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("content", ["", "# only words\n", "abcd\n", "zz" * 32 + "\n", "00" * 32 + "\n" + "11" * 32])
def test_a_broken_key_is_not_replaced(tmp_path, content):
    (tmp_path / "key").write_text(content)
    with pytest.raises(PseudonymError, match="holds no key of 64 hex digits"):
        Pseudonyms(tmp_path / "key")
    assert (tmp_path / "key").read_text() == content


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(PseudonymError, match="name a key_file"):
        Pseudonyms(tmp_path / "nowhere" / "key")
