"""Repositories in the words of the hub's answers."""

from __future__ import annotations

import hashlib
from typing import Any

from tests.hub.storage import Commit, File, Repo


def info(repo: Repo, commit: Commit, card: dict[str, Any] | None, blobs: bool) -> dict[str, Any]:
    """What `model_info`, `dataset_info` and `space_info` ask for; with `blobs` also of every file."""
    card = card or {}
    named = [card[key] for key in ("library_name", "pipeline_tag") if card.get(key)]
    licence = [f"license:{card['license']}"] if card.get("license") else []
    return {
        "_id": hashlib.sha1(repo.id.encode()).hexdigest()[:24],
        "id": repo.id,
        "author": repo.namespace,
        "sha": commit.sha,
        "createdAt": repo.created,
        "lastModified": commit.date,
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [*named, *(card.get("tags") or []), *licence],
        "cardData": card,
        "siblings": [_sibling(path, file, blobs) for path, file in sorted(commit.files.items())],
        **({"sdk": repo.sdk} if repo.kind == "spaces" else {}),
        **{key: card[key] for key in ("library_name", "pipeline_tag") if key in card and repo.kind == "models"},
        **({"model-index": card["model-index"]} if "model-index" in card else {}),
    }


def _sibling(path: str, file: File, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    return {"rfilename": path, "size": file.size, "blobId": file.blob_id, **_lfs(file, "sha256")}


def _lfs(file: File, oid: str) -> dict[str, Any]:
    return {"lfs": {oid: file.sha256, "size": file.size, "pointerSize": len(file.pointer)}} if file.lfs else {}


def entry(commit: Commit, path: str, expand: bool) -> dict[str, Any] | None:
    """A file or folder; None if the commit has neither of that name. With `expand`, its last commit too."""
    if (file := commit.files.get(path)) is not None:
        found = {"type": "file", "path": path, "oid": file.blob_id, "size": file.size, **_lfs(file, "oid")}
    elif below := sorted((n, f.blob_id) for n, f in commit.files.items() if n.startswith(f"{path}/")):
        found = {"type": "directory", "path": path, "oid": hashlib.sha1(repr(below).encode()).hexdigest(), "size": 0}
    else:
        return None
    if expand:
        last = commit.last_change(path)
        found["lastCommit"] = {"id": last.sha, "title": last.title, "date": last.date}
    return found


def entries(commit: Commit, folder: str, recursive: bool, expand: bool) -> list[dict[str, Any]]:
    """What is in a folder ("" is all), in one page; empty if there is no such folder."""
    start = f"{folder}/" if folder else ""
    paths = set()
    for name in commit.files:
        if name.startswith(start):
            parts = name[len(start) :].split("/")
            paths |= {start + "/".join(parts[:n]) for n in range(1, (len(parts) if recursive else 1) + 1)}
    return [found for path in sorted(paths) if (found := entry(commit, path, expand))]


def refs(repo: Repo) -> dict[str, Any]:
    def named(commits: dict[str, Commit], kind: str) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c.sha} for n, c in commits.items()]

    return {"branches": named(repo.branches, "heads"), "converts": [], "tags": named(repo.tags, "tags")}
