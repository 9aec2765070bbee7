"""A film, or a series of them in any form, as a transformers pipeline goes through it: numbered, in order, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from hf_cxr.models.dicom import is_dataset


@dataclass(frozen=True)
class Film:
    """A film and its place in a series, for error messages."""

    position: int
    image: Any


class _Films(Dataset[Film]):
    """A series that can be indexed. transformers streams what is a torch Dataset."""

    def __init__(self, films: Any) -> None:
        self.films = films

    def __len__(self) -> int:
        return len(self.films)

    def __getitem__(self, position: int) -> Film:
        return Film(position, self.films[position])


class _FilmStream(IterableDataset[Film]):
    """A series that can only be gone through."""

    def __init__(self, films: Iterable[Any]) -> None:
        self.films = films

    def __iter__(self) -> Iterator[Film]:
        return (Film(position, image) for position, image in enumerate(self.films))


class Results:
    """A series' dicts, started afresh each time it is gone through.

    transformers' own iterator keeps the size of a last batch that was not full, and the second time silently gives only
    as many films of every batch; its length is that in batches.
    """

    def __init__(self, films: Any, start: Callable[[], Iterable[dict[str, Any]]]) -> None:
        self.films, self.start = films, start

    def __len__(self) -> int:
        return len(self.films)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.start())


def numbered(inputs: Any) -> Any:
    """A single film as it is; several as transformers takes them, each a `Film`."""
    one = isinstance(inputs, (str, bytes, PathLike, Mapping)) or hasattr(inputs, "read") or is_dataset(inputs)
    if one or 0 <= getattr(inputs, "ndim", -1) < 4:
        return inputs
    if isinstance(inputs, (list, tuple)) or hasattr(inputs, "ndim"):
        return [Film(position, image) for position, image in enumerate(inputs)]
    if isinstance(inputs, (Dataset, Sequence)) and not isinstance(inputs, IterableDataset):
        return _Films(inputs)
    return _FilmStream(inputs) if isinstance(inputs, Iterable) else inputs


def placed(position: int | None, image: Any, reason: str) -> str:
    """The reason, with the film's position and path before it as far as they are known."""
    path = str(image) if isinstance(image, (str, PathLike)) else getattr(image, "filename", "")
    place = ["" if position is None else f"film {position}", str(path)[:200]]  # a film may be written out in base64
    return ": ".join([*filter(None, place), reason])
