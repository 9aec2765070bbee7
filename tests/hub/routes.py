"""What the hub answers to all but uploads: one function a route, as huggingface_hub's `hf_api.py` asks for them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from tests.hub.cards import check, metadata
from tests.hub.faults import MESSAGES
from tests.hub.listing import entries, entry, info, refs
from tests.hub.storage import HubError, Repo

if TYPE_CHECKING:
    from tests.hub.server import Hub

KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}


@dataclass(frozen=True)
class Request:
    """A request as it came; `path` is still quoted, as a revision may hold slashes."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    @property
    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None


@dataclass(frozen=True)
class Answer:
    """Status, body and headers; of a HEAD the body is left out, and its length stays."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def answered(value: Any, status: int = 200) -> Answer:
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"})


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = []


def route(methods: str, path: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Serve a path, in which `{kind}`, `{id}`, `{rev}` and `{path}` are passed on unquoted."""
    groups = {
        "{kind}": "(?P<kind>models|datasets|spaces)",
        "{id}": "(?P<id>[^/]+/[^/]+?)",
        "{rev}": "(?P<rev>[^/]+)",
        "{path}": "(?P<path>.+)",
    }
    for name, group in groups.items():
        path = path.replace(name, group)

    def add(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES.extend((method, re.compile(path), function) for method in methods.split())
        return function

    return add


def answer(hub: Hub, request: Request) -> Answer:
    """What the hub answers, errors included."""
    try:
        for method, path, function in ROUTES:
            if method == request.method and (found := path.fullmatch(request.path)):
                parts = {name: unquote(part) for name, part in found.groupdict().items() if part is not None}
                with hub.lock:
                    return function(hub, request, **parts)
        raise HubError(404, f"tests/hub serves no {request.method} {request.path}")
    except HubError as error:
        return refusal(error, request.path)


def refusal(error: HubError, path: str) -> Answer:
    code = error.code
    if (
        error.status == 401
        and error.message != MESSAGES[401]
        and re.search(r"^/api/(models|datasets|spaces)/.|/resolve/", path)
    ):
        # What the client itself concludes from such a 401, but only of https addresses.
        code = "RepoNotFound"
    said = " ".join(error.message.split()).encode("ascii", "replace").decode()  # as headers can hold it
    headers = {"X-Error-Message": said} | ({"X-Error-Code": code} if code else {}) | error.headers
    plain = answered({"error": error.message}, error.status)
    return Answer(plain.body, plain.status, plain.headers | headers)


@route("GET", "/api/whoami-v2")
def whoami(hub: Hub, request: Request) -> Answer:
    user = hub.user(request.token)
    if user is None:
        raise HubError(401, "Invalid username or password.")
    orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in user["orgs"]]
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": user["role"]}}
    return answered({"type": "user", "name": user["name"], "fullname": user["name"], "orgs": orgs, "auth": auth})


@route("POST", "/api/validate-yaml")
def validate(hub: Hub, request: Request) -> Answer:
    errors, warnings = check(request.json["content"], request.json["repoType"])
    lines = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
    return answered(lines, 400 if errors else 200)


def _named(hub: Hub, request: Request) -> tuple[str, str]:
    """Kind and id of what a request of /api/repos is about."""
    asked, user = request.json, hub.user(request.token)
    namespace = asked.get("organization") or (user or {}).get("name")
    return KINDS[asked.get("type") or "model"], f"{namespace}/{asked['name']}"


@route("POST", "/api/repos/create")
def create(hub: Hub, request: Request) -> Answer:
    kind, name = _named(hub, request)
    user, namespace = hub.user(request.token), name.split("/")[0]
    if user is None:
        raise HubError(401, "Invalid username or password.")
    if user["role"] != "write" or namespace not in (user["name"], *user["orgs"]):
        what = kind.removesuffix("s")
        raise HubError(403, f'You don\'t have the rights to create a {what} under the namespace "{namespace}"')
    made = Repo(kind, name, user["name"], request.json.get("visibility") == "private", request.json.get("sdk"))
    url = {"url": f"{hub.url}/{made.url_path}", "name": name, "id": name}
    if (kind, name) in hub.repos:
        return answered({"error": f"You already created this {kind.removesuffix('s')} repo: {name}", **url}, 409)
    hub.repos[kind, name] = made
    return answered(url)


@route("DELETE", "/api/repos/delete")
def delete(hub: Hub, request: Request) -> Answer:
    kind, name = _named(hub, request)
    hub.writable(kind, name, request.token)
    del hub.repos[kind, name]
    return answered({})


@route("PUT", "/api/{kind}/{id}/settings")
def settings(hub: Hub, request: Request, kind: str, id: str) -> Answer:
    repo = hub.writable(kind, id, request.token)
    if unknown := sorted(request.json.keys() - {"visibility"}):
        raise HubError(400, f"tests/hub has no settings {unknown}")
    repo.private = request.json["visibility"] == "private"
    return answered({"private": repo.private})


@route("GET", "/api/{kind}/{id}/auth-check(?P<write>/write)?")
def auth_check(hub: Hub, request: Request, kind: str, id: str, write: str = "") -> Answer:
    (hub.writable if write else hub.readable)(kind, id, request.token)
    return answered({})


@route("GET", "/api/{kind}/{id}(/revision/{rev})?")
def repo_info(hub: Hub, request: Request, kind: str, id: str, rev: str = "main") -> Answer:
    repo = hub.readable(kind, id, request.token)
    readme = repo.at(rev).files.get("README.md")
    card = metadata(readme.content.decode()) if readme else None
    return answered(info(repo, repo.at(rev), card, blobs="blobs" in request.query))


@route("GET", "/api/{kind}/{id}/refs")
def repo_refs(hub: Hub, request: Request, kind: str, id: str) -> Answer:
    return answered(refs(hub.readable(kind, id, request.token)))


@route("GET", "/api/{kind}/{id}/commits/{rev}")
def commits(hub: Hub, request: Request, kind: str, id: str, rev: str) -> Answer:
    history = hub.readable(kind, id, request.token).at(rev).history
    return answered(
        [
            {"id": c.sha, "title": c.title, "message": c.description, "date": c.date, "authors": [{"user": c.author}]}
            for c in history
        ]
    )


@route("GET", "/api/{kind}/{id}/tree/{rev}(/{path})?")
def tree(hub: Hub, request: Request, kind: str, id: str, rev: str, path: str = "") -> Answer:
    commit = hub.readable(kind, id, request.token).at(rev)
    recursive, expand = (request.query.get(name) == ["true"] for name in ("recursive", "expand"))
    found = entries(commit, path.strip("/"), recursive, expand)
    if path and not found:
        raise HubError(404, f"{path} does not exist on {rev!r}", "EntryNotFound")
    return answered(found)


@route("POST", "/api/{kind}/{id}/paths-info/{rev}")
def paths_info(hub: Hub, request: Request, kind: str, id: str, rev: str) -> Answer:
    commit, asked = hub.readable(kind, id, request.token).at(rev), parse_qs(request.body.decode())
    expand = asked.get("expand") == ["true"]
    return answered([found for path in asked["paths"] if (found := entry(commit, path.strip("/"), expand))])


@route("POST DELETE", "/api/{kind}/{id}/branch/{rev}")
def branch(hub: Hub, request: Request, kind: str, id: str, rev: str) -> Answer:
    repo = hub.writable(kind, id, request.token)
    if request.method == "DELETE":
        return _forget(repo.branches, rev)
    if rev in repo.branches:
        raise HubError(409, f"Reference already exists: refs/heads/{rev}")
    repo.branches[rev] = repo.at(request.json.get("startingPoint", "main"))
    return answered({})


@route("POST DELETE", "/api/{kind}/{id}/tag/{rev}")
def tag(hub: Hub, request: Request, kind: str, id: str, rev: str) -> Answer:
    repo = hub.writable(kind, id, request.token)
    if request.method == "DELETE":
        return _forget(repo.tags, rev)
    commit = repo.at(rev)
    if request.json["tag"] in repo.tags:
        raise HubError(409, f"Reference already exists: refs/tags/{request.json['tag']}")
    repo.tags[request.json["tag"]] = commit
    return answered({})


def _forget(named: dict[str, Any], name: str) -> Answer:
    if name not in named:
        raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
    del named[name]
    return answered({})


@route("HEAD GET", "/((?P<kind>datasets|spaces)/)?{id}/resolve/{rev}/{path}")
def resolve(hub: Hub, request: Request, id: str, rev: str, path: str, kind: str = "models") -> Answer:
    commit = hub.readable(kind, id, request.token).at(rev)
    if (file := commit.files.get(path)) is None:
        raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.sha)
    headers = {"X-Repo-Commit": commit.sha, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
    if file.lfs:
        headers |= {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    if found := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or ""):
        first, last = int(found[1]), min(int(found[2] or file.size), file.size - 1)
        if first > last:
            raise HubError(416, "Range not satisfiable", Content_Range=f"bytes */{file.size}")
        headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        return Answer(file.content[first : last + 1], 206, headers)
    return Answer(file.content, 200, headers)
