"""Repositories as the hub keeps them, in memory: branches and tags that name immutable commits.

A commit is made from its whole list of operations or not at all, so that an interrupted upload shows nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

MAX_REGULAR = 10 * 2**20  # bytes; larger files go through LFS
LFS_SUFFIXES = (
    ".arrow", ".bin", ".ckpt", ".gz", ".h5", ".joblib", ".msgpack", ".npy", ".npz", ".onnx", ".parquet", ".pickle",
    ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".tflite", ".tgz", ".xz", ".zip", ".zst",
)  # fmt: skip


class HubError(Exception):
    """What the hub refuses, as the client sees it: status, message and `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class File:
    """Content, and whether it is stored by LFS, where git has only a pointer."""

    content: bytes
    lfs: bool = False

    @property
    def size(self) -> int:
        return len(self.content)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def blob_id(self) -> str:
        blob = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def oid(self) -> str:
        """What the client compares its own file with, to leave unchanged ones out."""
        return self.sha256 if self.lfs else self.blob_id


@dataclass(frozen=True)
class Commit:
    """A state of the repository. `files` is never changed once the commit is made."""

    files: Mapping[str, File]
    parent: Commit | None
    title: str
    author: str
    date: str
    description: str = ""

    @cached_property
    def sha(self) -> str:
        tree = [(path, file.blob_id) for path, file in sorted(self.files.items())]
        whole = [tree, self.parent and self.parent.sha, self.title, self.description, self.author, self.date]
        return hashlib.sha1(json.dumps(whole).encode()).hexdigest()

    @property
    def history(self) -> list[Commit]:
        """This commit and those before it, newest first."""
        commits = [self]
        while (parent := commits[-1].parent) is not None:
            commits.append(parent)
        return commits

    def last_change(self, path: str) -> Commit:
        """The newest commit in which this file, or any file of this folder, became what it is here."""
        for commit in self.history:
            if commit.parent is None or _below(commit, path) != _below(commit.parent, path):
                return commit
        raise AssertionError("a history ends in a commit without parent")


def _below(commit: Commit, path: str) -> dict[str, str]:
    return {name: f.blob_id for name, f in commit.files.items() if name == path or name.startswith(f"{path}/")}


@dataclass
class Repo:
    """A repository of one kind: `models`, `datasets` or `spaces`.

    Attributes:
        id: `namespace/name`.
        sdk: of a Space.
        objects: LFS objects by SHA-256: they were uploaded, but are no file until a commit names them.
        awaited: sizes of LFS objects that the client was told to upload, by SHA-256.
    """

    kind: str
    id: str
    author: str
    private: bool = False
    sdk: str | None = None
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    awaited: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        files = {".gitattributes": File("".join(f"*{s} filter=lfs -text\n" for s in LFS_SUFFIXES).encode())}
        if self.kind == "spaces":
            files["README.md"] = File(f"---\ntitle: {self.id.split('/')[1]}\nsdk: {self.sdk}\n---\n".encode())
        self.created = _now()
        self.branches["main"] = Commit(files, None, "initial commit", self.author, self.created)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    @property
    def url_path(self) -> str:
        return self.id if self.kind == "models" else f"{self.kind}/{self.id}"

    def at(self, revision: str = "main") -> Commit:
        """The commit of a branch, tag or whole SHA; a 404 RevisionNotFound without one."""
        commits = {c.sha: c for ref in (*self.branches.values(), *self.tags.values()) for c in ref.history}
        found = self.branches.get(revision) or self.tags.get(revision) or commits.get(revision)
        if found is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """`{path: content}`, for tests to look at."""
        return {path: file.content for path, file in self.at(revision).files.items()}

    def upload_mode(self, path: str, size: int, sample: bytes) -> str:
        """`lfs` for large, binary and the known kinds of files, else `regular`."""
        binary = b"\0" in sample or not _is_text(sample)
        return "lfs" if path.endswith(LFS_SUFFIXES) or size > MAX_REGULAR or binary else "regular"

    def commit(self, branch: str, lines: Sequence[Mapping[str, Any]], author: str) -> Commit:
        """Apply the lines of a commit request (`{"key": ..., "value": ...}`) and move the branch.

        Raises:
            HubError: 404 on no branch or no file to delete, 412 on another parent than the header asks for, 400 on
                anything else. Nothing has then changed.
        """
        if branch not in self.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        if not lines or lines[0].get("key") != "header":
            raise HubError(400, "The first line of a commit is its header")
        header, parent = lines[0]["value"], self.branches[branch]
        if header.get("parentCommit") not in (None, parent.sha):
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        files = dict(parent.files)
        for line in lines[1:]:
            self._apply(files, line["key"], line["value"])
        commit = Commit(files, parent, header["summary"], author, _now(), header.get("description", ""))
        self.branches[branch] = commit
        return commit

    def _apply(self, files: dict[str, File], key: str, value: Mapping[str, Any]) -> None:
        path = str(value["path"]).rstrip("/")
        if not path or path.startswith("/") or {"..", "", ".git"} & set(path.split("/")):
            raise HubError(400, f"Invalid path: {value['path']}")
        if key == "file":
            files[path] = File(_decoded(value))
        elif key == "lfsFile":
            if value["oid"] not in self.objects:
                raise HubError(400, f"{path}: an LFS pointer pointed to a file that does not exist")
            files[path] = File(self.objects[value["oid"]], lfs=True)
        elif key in ("deletedFile", "deletedFolder"):
            gone = [n for n in files if n == path] if key == "deletedFile" else _inside(files, path)
            if not gone:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            for name in gone:
                del files[name]
        else:
            raise HubError(400, f"Unknown operation {key!r}")


def _decoded(value: Mapping[str, Any]) -> bytes:
    try:
        content = base64.b64decode(value["content"], validate=True)
    except binascii.Error as error:
        raise HubError(400, f"{value['path']}: {error}") from error
    if len(content) > MAX_REGULAR:
        raise HubError(400, f"{value['path']}: {len(content)} bytes; files above {MAX_REGULAR} go through LFS")
    return content


def _inside(files: Mapping[str, File], folder: str) -> list[str]:
    return [name for name in files if name.startswith(f"{folder}/")]


def _is_text(sample: bytes) -> bool:
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.start > len(sample) - 4  # a character cut at the sample's end
    return True


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
