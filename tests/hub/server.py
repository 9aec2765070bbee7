"""A hub on this machine for tests, with users, repositories of models, data sets and Spaces, and faults on request.

It serves what huggingface_hub, transformers and datasets ask for in uploads, downloads and look-ups over HTTP with
LFS. It has no pull requests, no .gitignore, no Xet, no search and no running Spaces; a request that it does not know
gets a 404 that says so.
"""

from __future__ import annotations

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import RLock, Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub import uploads  # noqa: F401 – its routes are served too
from tests.hub.client import environment
from tests.hub.faults import MESSAGES, Cut, Failure, Fault, Faults
from tests.hub.routes import Answer, Request, answer, refusal
from tests.hub.storage import HubError, Repo

OWNER, READER, STRANGER = "hf_owner", "hf_reader", "hf_stranger"


class Asked(NamedTuple):
    """A request that the hub got; `status` is None where the connection was cut. `path` is unquoted."""

    method: str
    path: str
    status: int | None


class Hub:
    """The hub; serves while it is open (`with Hub(folder) as hub`).

    Attributes:
        url: the endpoint, `http://127.0.0.1:PORT`.
        users: by token, `{"name": ..., "orgs": [...], "role": "write" | "read"}`; tests may change them. A user and
            the members of an organisation see its private repositories, and write to all of them with role `write`.
        repos: by (`models` | `datasets` | `spaces`, `namespace/name`).
        faults: those asked for by `fail` and `cut`.
        requests: all requests, in the order in which they were answered.
        crashes: errors of this hub itself, which are no answer of a hub's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.users: dict[str, dict[str, Any]] = {
            OWNER: {"name": "owner", "orgs": ["clinic"], "role": "write"},
            READER: {"name": "owner", "orgs": ["clinic"], "role": "read"},
            STRANGER: {"name": "stranger", "orgs": [], "role": "write"},
        }
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[Asked] = []
        self.crashes: list[BaseException | None] = []
        self.lock = RLock()
        self.faults = Faults()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, token: str | None = None, home: Path | None = None, patient: bool = False) -> dict[str, str]:
        """An environment for a subprocess whose hub this is.

        Args:
            token: HF_TOKEN; None is a user who is not logged in.
            home: HF_HOME, by default the same in all environments of this hub; another one has empty caches.
            patient: whether the client waits between its tries as long as it would with the real hub (1, 2, 4, 8,
                8 s), and not some 50 ms. How often it tries is the same.
        """
        return environment(self.url, token, home or self.folder, patient)

    def fail(
        self, path: str, method: str | None = None, status: int = 500, times: int | None = 1, skip: int = 0,
        headers: dict[str, str] | None = None, message: str | None = None, carried_out: bool = False,
    ) -> Failure:  # fmt: skip
        """Answer the next `times` requests (None: all) whose path and method match with this status.

        Args:
            path: a regular expression, searched in the unquoted path without query; `faults` has common ones.
            skip: matching requests that pass first.
            headers: more headers of the answer, such as `{"Retry-After": "2"}`.
            carried_out: do what was asked for nevertheless, as when a gateway loses the answer.
        """
        said = MESSAGES.get(status, "Error") if message is None else message
        failure = Failure(path, method, times, skip, carried_out, status, said, headers or {})
        self.faults.add(failure)
        return failure

    def cut(
        self, path: str, after_bytes: int = 0, method: str | None = None, times: int | None = 1, skip: int = 0,
        carried_out: bool = False,
    ) -> Cut:  # fmt: skip
        """Close the connection of such requests after so many bytes of their body; they are not carried out.

        With `carried_out` they are, and the answer is cut after so many bytes of its body; at 0 its headers go too.
        """
        cut = Cut(path, method, times, skip, carried_out, after_bytes)
        self.faults.add(cut)
        return cut

    @property
    def unmet(self) -> list[Fault]:
        """Faults that no request has met."""
        return [fault for fault in self.faults.all if not fault.met]

    def asked(self, path: str, method: str | None = None) -> list[Asked]:
        """Requests whose path matches, as in `fail`."""
        return [r for r in list(self.requests) if re.search(path, r.path) and method in (None, r.method)]

    def repo(self, id: str, kind: str = "models") -> Repo:
        """For tests to look at; KeyError without one."""
        return self.repos[kind, id]

    def user(self, token: str | None) -> dict[str, Any] | None:
        """Whose token it is, None without one; a 401 of an unknown one."""
        if token is not None and token not in self.users:
            raise HubError(401, MESSAGES[401])
        return self.users[token] if token else None

    def readable(self, kind: str, id: str, token: str | None) -> Repo:
        """The repository if the token may see it, else a 401 or 404, by which nobody learns whether it is there."""
        user, repo = self.user(token), self.repos.get((kind, id))
        if repo is None or (repo.private and not _member(user, repo.namespace)):
            raise (
                HubError(404, "Repository not found", "RepoNotFound")
                if user
                else HubError(401, "Invalid username or password.", "RepoNotFound")
            )
        return repo

    def writable(self, kind: str, id: str, token: str | None) -> Repo:
        """The repository if the token may change it."""
        repo, user = self.readable(kind, id, token), self.user(token)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if user["role"] != "write" or not _member(user, repo.namespace):
            raise HubError(403, MESSAGES[403])
        return repo


def _member(user: dict[str, Any] | None, namespace: str) -> bool:
    return user is not None and namespace in (user["name"], *user["orgs"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none; anything else fails the test."""
        if not isinstance(error := sys.exception(), ConnectionError):
            self.hub.crashes.append(error)


class _Broken(Exception):
    """The connection ended, by a fault or by the client."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms
    wbufsize = -1  # headers and body in one packet
    timeout = 60
    server: _Server

    def _serve(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        fault = hub.faults.meet(self.command, unquote(url.path))
        cut = fault if isinstance(fault, Cut) else None
        try:
            body = self._body(cut.after_bytes if cut and not cut.carried_out else None)
            request = Request(self.command, url.path, parse_qs(url.query), self.headers, body)
            reply = self._reply(request, fault)
            hub.requests.append(Asked(self.command, unquote(url.path), None if cut else reply.status))
            self._send(reply, cut.after_bytes if cut else None)
        except _Broken:
            hub.requests.append(Asked(self.command, unquote(url.path), None))
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _reply(self, request: Request, fault: Fault | None) -> Answer:
        try:
            reply = answer(self.server.hub, request) if fault is None or fault.carried_out else None
            if isinstance(fault, Failure):
                return refusal(HubError(fault.status, fault.message, **fault.headers), request.path)
            assert reply is not None, "a cut that is not carried out ends with the request's body"
            return reply
        except Exception as error:
            self.server.hub.crashes.append(error)
            return refusal(HubError(500, f"tests/hub crashed: {error!r}"), request.path)

    def _body(self, at_most: int | None) -> bytes:
        """The request's body; the connection ends after `at_most` bytes of it, or where it is shorter than it said."""
        if "Transfer-Encoding" in self.headers:
            self.server.hub.crashes.append(NotImplementedError("a chunked request, which the clients do not send"))
            raise _Broken
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size if at_most is None else min(size, at_most))
        if at_most is not None or len(body) < size:
            raise _Broken
        return body

    def _send(self, reply: Answer, cut_after: int | None) -> None:
        if cut_after == 0:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:cut_after])
        self.close_connection = self.close_connection or cut_after is not None

    def log_message(self, *_: object) -> None:
        """Nothing: pytest shows what a test prints."""
