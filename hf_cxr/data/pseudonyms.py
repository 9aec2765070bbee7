"""Keyed hashes in place of a hospital's identifiers, made with a key that stays on this machine."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from hf_cxr.data.hospital_cells import identifier
from hf_cxr.data.near import folded
from hf_cxr.errors import UserError

KEY_FILE = "pseudonyms.key"
OPTION = '--data_options \'{"key_file": "/folder/pseudonyms.key"}\' (in Python, the option key_file)'
WARNING = "# Keep this file here and to yourself: with it, ids can be found again by trying; without it, never."
KEY_BYTES = 32
DIGITS = 16  # of 4 bits: among a million ids, two meet with a probability of 3 in 100 million
OLDEST = 90
"""Years at which ages are capped (HIPAA, 45 CFR 164.514(b)(2)(i)(C))."""


class PseudonymError(UserError, ValueError):
    """A key that cannot be read or kept."""


class Pseudonyms:
    """What a hospital's ids are called in everything that is written.

    Args:
        file: with the key. It is made, readable by its owner alone, where it is not there yet; with another key the
            same ids are called otherwise.

    Raises:
        PseudonymError: the file holds no key, or cannot be written or read.
    """

    def __init__(self, file: Path) -> None:
        try:
            if not file.exists():
                _make(file)
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PseudonymError(
                f"{file}: no key for pseudonyms can be kept there ({error}); name another place: {OPTION}"
            ) from error
        keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        try:
            (key,) = keys
            self._key = bytes.fromhex(key)
        except ValueError:
            self._key = b""
        if len(self._key) != KEY_BYTES:
            raise PseudonymError(
                f"{file}: holds no key of {2 * KEY_BYTES} hex digits; restore it, or name another: {OPTION}"
            )

    def of(self, kind: str, value: str) -> str:
        """The pseudonym of an id: 16 hex digits, the same for all spellings that the builder takes for one.

        Args:
            kind: `image`, `patient` or `study`, whose ids are apart. value: as a table of the hospital has it; an image
                is a file, of which `IM1` and `im1`, or `1` and `01`, are two.
        """
        if kind != "image":
            with suppress(ValueError):  # a file's name, say, where the hospital has no studies
                value = identifier(value)
            value = folded(value)
        message = f"{kind}\0{value}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:DIGITS]

    @property
    def fingerprint(self) -> str:
        """Tells two keys apart without giving them away."""
        return hashlib.sha256(b"fingerprint" + self._key).hexdigest()


def _make(file: Path) -> None:
    """Write a new key; the file appears whole or not at all, and one that another process made meanwhile stays.

    Where there are no hard links (FAT, some shares) it is written in place, and taken away again if that fails.
    """
    text = f"{WARNING}\n{secrets.token_hex(KEY_BYTES)}\n"
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    _write(partial, text)
    try:
        os.link(partial, file)
    except FileExistsError:
        pass
    except OSError:
        with suppress(FileExistsError):
            _write(file, text)
    finally:
        partial.unlink()


def _write(file: Path, text: str) -> None:
    """Write a file that is not there yet, for its owner alone.

    Raises:
        FileExistsError: it is there.
    """
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as content:
            content.write(text)
    except BaseException:
        file.unlink()
        raise
