"""Write a prepared data set as Parquet shards: on the Hub with its statement, private unless told otherwise, or here.

    python recipes/push_dataset.py my-org/phantom-cxr --dataset phantom
    python recipes/push_dataset.py my-org/nih-cxr14 --dataset nih --data_dir /data/nih --public
    python recipes/push_dataset.py my-org/our-chexpert --dataset chexpert --data_dir /data/CheXpert --permitted
    python recipes/push_dataset.py /data/chexpert_shards --to_folder --dataset chexpert --data_dir /data/CheXpert

Splits, ages, views and findings are those that training reads. Data whose terms forbid giving them on (CheXpert, MIMIC)
go to private repositories only, and only with `--permitted`. Either is trained from by `--dataset shards --data_dir
FOLDER` (or `hf://datasets/my-org/nih-cxr14`), without a cache by `--streaming true`.
"""

import argparse
from pathlib import Path

from hf_cxr.data import BUILDERS, load_splits, write_shards
from hf_cxr.errors import run_recipe
from hf_cxr.hub.card.statements import read_statement
from hf_cxr.hub.dataset import PROVENANCE, card_of, check_terms, push_dataset
from hf_cxr.hub.upload import Target


def main() -> None:
    """Parse, prepare, push."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", help="name on the Hub, organisation/name; with --to_folder a new folder")
    parser.add_argument("--to_folder", action="store_true", help="write to a folder; nothing leaves this machine")
    parser.add_argument("--dataset", required=True, choices=sorted(BUILDERS))
    parser.add_argument("--data_dir", type=Path, help="folder of the data set; phantom makes its own")
    parser.add_argument("--cache_dir", type=Path, help="where Arrow files go; default: datasets' own")
    parser.add_argument("--view", default="all", help="frontal, PA, AP, lateral or all (default)")
    parser.add_argument("--max_shard_size", default="500MB", help="of a Parquet file on the Hub")
    parser.add_argument("--public", action="store_true", help="everybody sees it")
    parser.add_argument("--permitted", action="store_true", help="the data's owner allows this private copy")
    parser.add_argument("--dry_run", action="store_true", help="show the card, upload nothing")
    options = parser.parse_args()
    if not options.to_folder:
        check_terms(options.dataset, not options.public, options.permitted)
        statement = read_statement(options.dataset)
    splits, provenance = load_splits(options.dataset, options.data_dir, options.cache_dir, view=options.view)
    if options.to_folder:
        folder = write_shards(splits, provenance, Path(options.target))
        print(f"{folder.resolve()}: {sum(map(len, splits.values())):,} films")
        return
    if options.dry_run:
        print(card_of(statement, provenance, None))
        print(f"\nNothing was uploaded; {sum(map(len, splits.values())):,} films would be.")
        return
    target = Target(options.target, PROVENANCE, "dataset", private=not options.public)
    url = push_dataset(
        options.dataset, splits, provenance, target,
        permitted=options.permitted, max_shard_size=options.max_shard_size,
    )  # fmt: skip
    print(f"{url} ({'public' if options.public else 'private'}): {sum(map(len, splits.values())):,} films")


if __name__ == "__main__":
    run_recipe(main)
