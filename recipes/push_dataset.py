"""Publish a prepared data set on the Hub as Parquet shards with its statement. Private unless told otherwise.

    python recipes/push_dataset.py my-org/phantom-cxr --dataset phantom
    python recipes/push_dataset.py my-org/nih-cxr14 --dataset nih --data_dir /data/nih --public
    python recipes/push_dataset.py my-org/our-chexpert --dataset chexpert --data_dir /data/CheXpert --permitted

Splits, ages, views and findings are those that training reads. Data whose terms forbid giving them on (CheXpert, MIMIC)
go to private repositories only, and only with `--permitted`.
"""

import argparse
from pathlib import Path

from hf_cxr.data import BUILDERS, load_splits
from hf_cxr.errors import run_recipe
from hf_cxr.hub.card.statements import read_statement
from hf_cxr.hub.dataset import PROVENANCE, card_of, check_terms, push_dataset
from hf_cxr.hub.upload import Target


def main() -> None:
    """Parse, prepare, push."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repo_id", help="name on the Hub: organisation/name")
    parser.add_argument("--dataset", required=True, choices=sorted(BUILDERS))
    parser.add_argument("--data_dir", type=Path, help="folder of the data set; phantom makes its own")
    parser.add_argument("--cache_dir", type=Path, help="where Arrow files go; default: datasets' own")
    parser.add_argument("--view", default="all", help="frontal, PA, AP, lateral or all (default)")
    parser.add_argument("--max_shard_size", default="500MB", help="of a Parquet file")
    parser.add_argument("--public", action="store_true", help="everybody sees it")
    parser.add_argument("--permitted", action="store_true", help="the data's owner allows this private copy")
    parser.add_argument("--dry_run", action="store_true", help="show the card, upload nothing")
    options = parser.parse_args()
    check_terms(options.dataset, not options.public, options.permitted)
    statement = read_statement(options.dataset)
    splits, provenance = load_splits(options.dataset, options.data_dir, options.cache_dir, view=options.view)
    if options.dry_run:
        print(card_of(statement, provenance, None))
        print(f"\nNothing was uploaded; {sum(map(len, splits.values())):,} films would be.")
        return
    target = Target(options.repo_id, PROVENANCE, "dataset", private=not options.public)
    url = push_dataset(
        options.dataset, splits, provenance, target,
        permitted=options.permitted, max_shard_size=options.max_shard_size,
    )  # fmt: skip
    print(f"{url} ({'public' if options.public else 'private'}): {sum(map(len, splits.values())):,} films")


if __name__ == "__main__":
    run_recipe(main)
