"""A folder to the Hub: one commit, one tag, and messages for all that can go wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from hf_cxr.errors import UserError

_KEPT_ON_HUB = ".gitattributes"


class UploadError(UserError, RuntimeError):
    """Nothing was changed on the Hub, or it is said what was; the message says what to do."""


@dataclass(frozen=True)
class Target:
    """Where a folder goes.

    Attributes:
        repo_id: `name` or `organisation/name`.
        marker: a file that every earlier upload of this kind left there: a repository with files but without it is
            somebody's other work, and is not overwritten.
        repo_type: `model`, `dataset` or `space`.
        private: of a new repository; of an existing one, what it has to be.
        tag: of this version; None counts on from the last (`v1`, `v2`, …).
    """

    repo_id: str
    marker: str
    repo_type: str = "model"
    private: bool = True
    tag: str | None = None


@dataclass(frozen=True)
class Uploaded:
    """url: of the repository; commit: its head; tag: of that commit; changed: whether there is a new commit."""

    url: str
    commit: str
    tag: str
    changed: bool


def check_target(target: Target) -> str | None:
    """Find out before any work whether the folder may go there; changes nothing.

    Returns:
        the head commit of the repository; None where there is none yet.

    Raises:
        UploadError: no token, no network, no permission; or the repository holds something else, or is open where
            private was wanted.
    """
    api = HfApi()
    with explained(target, "nothing was changed"):
        api.whoami()
        try:
            info = api.repo_info(target.repo_id, repo_type=target.repo_type)
        except RepositoryNotFoundError:
            return None
        files = set(api.list_repo_files(target.repo_id, repo_type=target.repo_type)) - {_KEPT_ON_HUB}
    if bool(info.private) is not target.private:
        now, wanted = ("private", "public") if info.private else ("public", "private")
        raise UploadError(
            f"{target.repo_id} exists and is {now}, {wanted} was asked for: say --{now}, change it in its settings on "
            "the Hub, or choose another name"
        )
    if files and target.marker not in files:
        raise UploadError(
            f"{target.repo_id} is taken: it holds {len(files)} files and no {target.marker}, so it is not from here; "
            "choose another name"
        )
    return info.sha


def upload(folder: Path, target: Target, message: str) -> Uploaded:
    """Make the repository hold exactly the folder's files, by one commit, and tag it.

    Safe to repeat: what arrived is not sent again, files that are there already make no commit, and a head that has a
    tag gets no second one. Two uploads at once: the later one is refused.

    Raises:
        UploadError: see `check_target`; and while sending, when the repository is as it was.
    """
    api = HfApi()
    before = check_target(target)
    with explained(target, "the repository's files are as they were; the same command tries again"):
        url = api.create_repo(
            target.repo_id,
            repo_type=target.repo_type,
            private=target.private,
            exist_ok=True,
            space_sdk="gradio" if target.repo_type == "space" else None,
        )
        done = api.upload_folder(
            repo_id=target.repo_id,
            repo_type=target.repo_type,
            folder_path=folder,
            commit_message=message,
            parent_commit=before,
            delete_patterns="*",
        )
    with explained(target, f"all files are there (commit {done.oid[:8]}), its tag is not; the same command adds it"):
        tag = _tag(target, api, done.oid)
    return Uploaded(str(url), done.oid, tag, done.oid != before)


def _tag(target: Target, api: HfApi, commit: str) -> str:
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(target.repo_id, repo_type=target.repo_type).tags}
    own = [name for name, at in tags.items() if at == commit]
    if own and target.tag in (None, *own):
        return target.tag or own[0]
    if target.tag in tags:
        raise UploadError(f"{target.repo_id} has a tag {target.tag!r} of another version; choose another")
    counted = [int(name[1:]) for name in tags if re.fullmatch(r"v\d+", name)]
    tag = target.tag or f"v{max(counted, default=0) + 1}"
    api.create_tag(target.repo_id, tag=tag, revision=commit, repo_type=target.repo_type)
    return tag


@contextmanager
def explained(target: Target, state: str) -> Iterator[None]:
    """Errors of the Hub and of the network as messages that say what to do.

    Args:
        state: what holds on the Hub when something fails.
    """
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise UploadError("no token: run `hf auth login`, or set HF_TOKEN to a token that may write") from error
    except OfflineModeIsEnabled as error:
        raise UploadError("HF_HUB_OFFLINE is set: unset it to upload") from error
    except HFValidationError as error:
        raise UploadError(f"{target.repo_id!r} is no name of a repository: {error}") from error
    except HfHubHTTPError as error:
        raise UploadError(f"{_reason(target, error)}; {state}") from error
    except (HTTPError, RuntimeError) as error:
        if not isinstance(error, HTTPError) and not isinstance(error.__cause__, HTTPError):
            raise  # the client says of a file that broke off that it is a RuntimeError
        raise UploadError(f"no connection to {HfApi().endpoint} ({type(error).__name__}: {error}); {state}") from error


def _reason(target: Target, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    said = (error.server_message or str(error)).strip().splitlines()[0]
    if status == 401:
        return f"the Hub does not accept the token ({said}): run `hf auth login` again"
    if status == 403 or isinstance(error, RepositoryNotFoundError):
        return f"this token may not write to {target.repo_id} ({said}): use one that may, or another name"
    if status in (409, 412):
        return f"{target.repo_id} was changed by somebody else in the meantime ({said})"
    if status == 429:
        return f"the Hub asks to wait ({said})"
    return f"the Hub answered {status} ({said})"
