"""Decode a data set's films before training, on as many machines as there are.

    python recipes/prepare_data.py recipes/configs/nih128_cpu.yaml --data_dir ../shared/data/nih128
    python recipes/prepare_data.py recipes/configs/chexpert_densenet121_hbce.yaml --data_dir /data/CheXpert --part 3/8

The settings are those of `recipes/train.py`, all of them, as the same films at another size or fit are others. With
`--part 3/8` it decodes the third of eight parts of every split; the eight may run at once, on machines that have the
folders of the data set and of the cache (`--cache_dir`) in common under the same names. Nothing is put together
afterwards: training finds every film where it lies. A run that was killed goes on where it was.
"""

import argparse
import time

from hf_cxr.arguments import Settings, SettingsError, parse_settings
from hf_cxr.data import DataProblems, decode_part, load_splits
from hf_cxr.errors import run_recipe
from hf_cxr.films import processor_of


def main() -> None:
    """Parse, decode, say what was done and where it is."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--part", default="1/1")
    options, words = own.parse_known_args()
    prepare(parse_settings(words, description=__doc__), *part_of(options.part))


def part_of(text: str) -> tuple[int, int]:
    """`"3/8"` -> part 2, counted from 0, of 8."""
    number, _, total = text.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise SettingsError(f"part: got {text!r}, expected K/N with K from 1 to N, such as 3/8")
    return int(number) - 1, int(total)


def prepare(settings: Settings, part: int, parts: int) -> None:
    """Decode this part of every split that training reads from the cache."""
    data, processor = settings.data, processor_of(settings)
    splits, _ = load_splits(data.dataset, data.data_dir, data.cache_dir, **data.builder_options())
    problems = []
    for name, films in splits.items():
        if name == "train" and data.streaming:
            continue
        began = time.perf_counter()
        try:
            done = decode_part(
                films,
                processor.read,
                image_size=settings.model.image_size,
                fingerprint_of_read=processor.fingerprint,
                part=part,
                parts=parts,
                num_proc=data.num_proc,
                skip_unreadable=data.skip_missing,
            )
        except DataProblems as found:  # those of the other splits are to be told with them
            problems.append(found)
            continue
        rate = done.decoded / (time.perf_counter() - began)
        print(
            f"{name:10} {done.films:>11,} films, {done.n_bytes / 1e6:,.1f} MB; {done.decoded:,} decoded now, "
            f"{rate:,.0f} a second; {done.left_out:,} unreadable; {done.folder}"
        )
    if problems:
        raise DataProblems.together(problems)


if __name__ == "__main__":
    run_recipe(main)
