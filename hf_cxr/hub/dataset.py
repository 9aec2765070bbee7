"""A prepared data set to the Hub: Parquet shards with the films inside, and its statement as the card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from datasets import DatasetDict
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from hf_cxr.errors import UserError
from hf_cxr.hub.card.statements import Statement, read_statement
from hf_cxr.hub.upload import Target, check_target, explained

PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Terms:
    """What a source's terms say: whether its films may be given on, and where the terms are."""

    open: bool
    said: str


TERMS = {
    "phantom": Terms(True, "synthetic, made by this project"),
    "nih": Terms(True, "NIH Clinical Center: no restriction of use; link, citation and acknowledgement are asked for"),
    "chexpert": Terms(False, "Stanford University Dataset Research Use Agreement: not to be given on"),
}
"""By name of the data set. One that is not here is treated as closed."""


class TermsError(UserError, PermissionError):
    """The source's terms forbid what was asked for."""


def check_terms(name: str, private: bool, permitted: bool) -> None:
    """Raise unless a source may go where it is asked to go.

    Args:
        private: whether the target is.
        permitted: the user says that the terms, or their owner, allow the copy.

    Raises:
        TermsError: closed, and the target is public or nobody said that it is permitted.
    """
    terms = TERMS.get(name, Terms(False, "terms unknown here"))
    if terms.open or (private and permitted):
        return
    what = "its films may not be made public" if permitted else "say --permitted if yours allow a private copy"
    raise TermsError(f"{name} ({terms.said}): {what}")


def card_of(statement: Statement, provenance: dict[str, Any], earlier: DatasetCard | None) -> DatasetCard:
    """The data set's statement with counts, and with the metadata by which the Hub shows and loads the shards.

    Args:
        statement: `read_statement(name)`.
        provenance: of `data.load_splits`.
        earlier: the card that `datasets` wrote beside the shards; its `dataset_info` and `configs` are kept.
    """
    rows = "\n".join(f"| {split} | {n['films']:,} | {n['patients']:,} |" for split, n in provenance["splits"].items())
    text = f"{statement.text.strip()}\n\n## These files\n\n| split | films | patients |\n|---|---|---|\n{rows}\n\n"
    text += "No patient is in two splits. `findings`: 1 (present), 0 (absent), -1 (uncertain), null (unknown).\n"
    synthetic = not statement.about.of_patients
    about = {
        **({} if earlier is None else earlier.data.to_dict()),
        "license": "apache-2.0" if synthetic else "other",
        "task_categories": ["image-classification"],
        "tags": ["chest-x-ray", "medical", "multi-label", "hf_cxr", *(["synthetic"] if synthetic else [])],
        "pretty_name": statement.about.title,
    }
    return DatasetCard(f"---\n{DatasetCardData(**about).to_yaml()}\n---\n\n{text}")


def push_dataset(
    name: str,
    splits: DatasetDict,
    provenance: dict[str, Any],
    target: Target,
    *,
    permitted: bool = False,
    max_shard_size: str = "500MB",
) -> str:
    """Upload a prepared data set.

    By `datasets`, shard by shard: what arrived before an interruption is not sent again, and nothing of it is seen
    until the last shard is there. `provenance.json` goes before, and is what the repository is known by.

    Returns:
        address of the repository.

    Raises:
        TermsError: see `check_terms`; or drawn films would pass for another data set's.
        CardError: there is no statement on the data set.
        UploadError: see `upload`.
    """
    if provenance["synthetic"] and name != "phantom":
        raise TermsError(f"these films are the phantom's, not {name}'s: push them as phantom")
    check_terms(name, target.private, permitted)
    statement, api = read_statement(name), HfApi()
    check_target(target)
    with explained(target, "the same command goes on"):
        url = api.create_repo(target.repo_id, repo_type="dataset", private=target.private, exist_ok=True)
        api.upload_file(
            repo_id=target.repo_id,
            repo_type="dataset",
            path_in_repo=PROVENANCE,
            path_or_fileobj=json.dumps(provenance, indent=2).encode(),
            commit_message="Where these films come from",
        )
        splits.push_to_hub(target.repo_id, private=target.private, max_shard_size=max_shard_size)
        card = card_of(statement, provenance, DatasetCard.load(target.repo_id))
        card.push_to_hub(target.repo_id, repo_type="dataset", commit_message="Statement")
    return str(url)
