import os
import stat

import pytest

from hf_cxr.data.pseudonyms import PseudonymError, Pseudonyms


def test_one_name_for_all_spellings_another_for_another_kind_and_another_key(tmp_path):
    here = Pseudonyms(tmp_path / "key")
    assert {here.of("patient", spelling) for spelling in ("007", "7", "7.0", " 7 ")} == {here.of("patient", "7")}
    assert here.of("patient", "Ab1") == here.of("patient", "AB1")
    # files are told apart as they are named
    images = ("007", "7", "7.0", "IM1.png", "im1.png", "IM1.png ")
    assert len({here.of("image", name) for name in images}) == len(images)
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


def test_a_disk_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")  # what Linux says on FAT

    monkeypatch.setattr(os, "link", refuse)
    here = Pseudonyms(tmp_path / "key")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert Pseudonyms(tmp_path / "key").fingerprint == here.fingerprint


def test_a_key_that_another_process_made_meanwhile_stays(tmp_path, monkeypatch):
    theirs = "ab" * 32

    def made_meanwhile(*_):
        (tmp_path / "key").write_text(theirs)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", made_meanwhile)
    Pseudonyms(tmp_path / "key")
    assert (tmp_path / "key").read_text() == theirs


@pytest.mark.parametrize("content", ["", "# only words\n", "abcd\n", "zz" * 32 + "\n", "00" * 32 + "\n" + "11" * 32])
def test_a_broken_key_is_not_replaced(tmp_path, content):
    (tmp_path / "key").write_text(content)
    with pytest.raises(PseudonymError, match="holds no key of 64 hex digits"):
        Pseudonyms(tmp_path / "key")
    assert (tmp_path / "key").read_text() == content


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(PseudonymError, match='"key_file": '):
        Pseudonyms(tmp_path / "nowhere" / "key")
