"""What the user named, as a source: films, a folder of them, a list, Parquet files, or a data set of the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError

from hf_cxr.predict.arguments import PredictArguments
from hf_cxr.predict.lists import CsvSource
from hf_cxr.predict.shards import ParquetSource
from hf_cxr.predict.sources import (
    LIST,
    SHARD,
    FilesSource,
    FolderSource,
    Source,
    SourceError,
    films_below,
    is_film,
    is_shard,
    walk,
)

HUB = "hf://datasets/"


def fetched(named: Sequence[str]) -> list[str]:
    """The same, a data set of the Hub as the folder of its Parquet files; to be called on one process first.

    `hf://datasets/organisation/name`, with `@revision` where another than the head is wanted, and with a folder of it
    behind (`hf://datasets/org/name/data`) where not all is.

    Raises:
        SourceError: it cannot be had, or holds no Parquet files.
    """
    return [_from_hub(name) if name.startswith(HUB) else name for name in named]


def _from_hub(name: str) -> str:
    owner, _, rest = name.removeprefix(HUB).partition("/")
    repo, _, below = rest.partition("/")
    repo, _, revision = repo.partition("@")
    wanted = f"{below}/**/*{SHARD}" if below else f"**/*{SHARD}"
    try:
        folder = snapshot_download(
            f"{owner}/{repo}", repo_type="dataset", revision=revision or None,
            allow_patterns=[wanted, wanted.replace("**/", "")],
        )  # fmt: skip
    except (HfHubHTTPError, HFValidationError, HTTPError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SourceError(f"{name}: cannot be fetched from the Hub ({type(error).__name__}: {reason})") from None
    if next(walk(Path(folder) / below, is_shard), None) is None:
        raise SourceError(f"{name}: holds no {SHARD} files")
    return str(Path(folder) / below)


def open_source(settings: PredictArguments, labels: Sequence[str]) -> Source:
    """The source by its kind: films, a `.csv`, a `.parquet`, or a folder of either films or Parquet files.

    Raises:
        SourceError: none of these, columns are missing, or the table would be written into the folder of films.
    """
    paths = [Path(name) for name in settings.source]
    for path in paths:
        if not path.exists():
            raise SourceError(f"{path}: no such file or folder")
    films = [is_film(path) for path in paths]
    if all(films):
        return FilesSource(paths)
    if len(paths) > 1:
        raise SourceError(f"{paths[films.index(False)]}: no film; expected one source, or several films")
    path = paths[0]
    if path.is_dir():
        if Path(settings.output_dir).resolve().is_relative_to(path.resolve()):
            raise SourceError(f"output_dir {settings.output_dir} lies in the source {path}; choose one outside it")
        shard = next(walk(path, is_shard), None)
        if shard is None or next(films_below(path), None) is not None:
            return FolderSource(path)
    elif path.suffix.lower() == LIST:
        return CsvSource(path, labels, settings.path_column, settings.id_column)
    elif path.suffix.lower() != SHARD:
        raise SourceError(f"{path}: expected films, a folder, a {LIST} or a {SHARD}")
    return ParquetSource(path, settings.image_column, settings.id_column)
