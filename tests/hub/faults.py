"""Faults that tests ask the hub for: answers with an error status, and connections that break."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from threading import Lock

# For `Hub.fail`, `Hub.cut` and `Hub.asked`: where the client asks.
CREATE_REPO = r"^/api/repos/create$"
PREUPLOAD = r"/preupload/"  # which files go through LFS
LFS_BATCH = r"\.git/info/lfs/objects/batch$"  # where LFS files go
LFS_UPLOAD = r"^/lfs-storage/"  # the bytes of an LFS file, by PUT
COMMIT = r"/commit/"
TAG = r"/tag/"
RESOLVE = r"/resolve/"  # a file, by HEAD and GET

MESSAGES = {
    401: "Invalid credentials in Authorization header",
    403: "Authorization error.",
    409: "Conflict: another operation on this repository is in progress",
    429: "We had to rate limit you",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
}


@dataclass
class Fault:
    """What happens to requests whose path matches.

    Attributes:
        times: requests that it still happens to; None for all. Tests set it to 0 to end the fault.
        skip: matching requests that pass before the first.
        met: requests that it has happened to.
        carried_out: whether the hub does what was asked for before the fault.
    """

    path: str
    method: str | None = None
    times: int | None = 1
    skip: int = 0
    carried_out: bool = False
    met: int = field(default=0, init=False)


@dataclass
class Failure(Fault):
    """An answer with an error status."""

    status: int = 500
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Cut(Fault):
    """A connection closed after so many bytes of the request's body or, if carried out, of the answer's."""

    after_bytes: int = 0


class Faults:
    """The faults of a hub, in the order in which they were asked for; a request meets one at most."""

    def __init__(self) -> None:
        self.all: list[Fault] = []
        self._lock = Lock()

    def add(self, fault: Fault) -> None:
        with self._lock:
            self.all.append(fault)

    def meet(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, which has then happened once more."""
        with self._lock:
            for fault in self.all:
                if fault.method in (None, method) and re.search(fault.path, path) and fault.times != 0:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.met += 1
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None
