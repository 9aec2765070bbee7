"""Routes of an upload: which files go through LFS, their bytes, and the commit that makes them files."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

from tests.hub.routes import Answer, Request, answered, route
from tests.hub.storage import HubError

if TYPE_CHECKING:
    from tests.hub.server import Hub

GIT = r"/((?P<kind>datasets|spaces)/)?{id}\.git/info/lfs"


@route("POST", "/api/{kind}/{id}/preupload/{rev}")
def preupload(hub: Hub, request: Request, kind: str, id: str, rev: str) -> Answer:
    repo = hub.writable(kind, id, request.token)
    if "create_pr" in request.query or "gitIgnore" in request.json:
        raise HubError(400, "tests/hub has neither pull requests nor .gitignore")
    stored = repo.at(rev).files
    told = []
    for file in request.json["files"]:
        mode = repo.upload_mode(file["path"], file["size"], base64.b64decode(file["sample"]))
        known = {"oid": stored[file["path"]].oid} if file["path"] in stored else {}
        told.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, **known})
    return answered({"files": told})


@route("POST", GIT + "/objects/batch")
def lfs_batch(hub: Hub, request: Request, id: str, kind: str = "models") -> Answer:
    repo, told = hub.writable(kind, id, request.token), []
    for asked in request.json["objects"]:
        oid, size = asked["oid"], asked["size"]
        told.append({"oid": oid, "size": size})
        if oid not in repo.objects:
            repo.awaited[oid] = size
            git = f"{hub.url}/{repo.url_path}.git/info/lfs"
            told[-1]["actions"] = {
                "upload": {"href": f"{hub.url}/lfs-storage/{kind}/{id}/{oid}"},
                "verify": {"href": f"{git}/verify"},
            }
    return answered({"transfer": "basic", "objects": told})


@route("PUT", "/lfs-storage/{kind}/{id}/(?P<oid>[0-9a-f]{64})")
def lfs_upload(hub: Hub, request: Request, kind: str, id: str, oid: str) -> Answer:
    # No token, as with the signed addresses of the hub's storage: what counts is that the batch offered it.
    repo = hub.repos.get((kind, id))
    if repo is None or oid not in repo.awaited:
        raise HubError(403, "Request has expired")
    found, size = hashlib.sha256(request.body).hexdigest(), len(request.body)
    if (found, size) != (oid, repo.awaited[oid]):
        raise HubError(400, f"BadDigest: got {size} bytes of SHA-256 {found}; expected {repo.awaited[oid]} of {oid}")
    repo.objects[oid] = request.body
    del repo.awaited[oid]
    return Answer()


@route("POST", GIT + "/verify")
def lfs_verify(hub: Hub, request: Request, id: str, kind: str = "models") -> Answer:
    repo = hub.writable(kind, id, request.token)
    if len(repo.objects.get(request.json["oid"], b"")) != request.json["size"]:
        raise HubError(404, f"No object {request.json['oid']} of {request.json['size']} bytes")
    return answered({})


@route("POST", "/api/{kind}/{id}/commit/{rev}")
def commit(hub: Hub, request: Request, kind: str, id: str, rev: str) -> Answer:
    repo, user = hub.writable(kind, id, request.token), hub.user(request.token)
    assert user is not None
    if "create_pr" in request.query:
        raise HubError(400, "tests/hub has no pull requests")
    made = repo.commit(rev, [json.loads(line) for line in request.body.splitlines()], user["name"])
    url = f"{hub.url}/{repo.url_path}/commit/{made.sha}"
    return answered({"success": True, "commitOid": made.sha, "commitUrl": url})
