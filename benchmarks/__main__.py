"""Everything that is claimed of speed, measured in one command.

    make bench                                     # all: an hour and a half on two cores
    python -m benchmarks loader_steady mc_dropout  # some, by name; the others' figures stay
    python -m benchmarks --list

Each measurement runs in a process of its own. A comparison runs ours and the peer's in turn, and then each side once
more alone, for its peak of memory. Written are `results.json`, `results.md`, `results.png` and `growth.png` in this
folder. Peers are in the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from datetime import date
from typing import Any

from benchmarks import results
from benchmarks.catalogue import CATALOGUE
from benchmarks.machine import describe, peak_bytes
from benchmarks.timing import Budget, Comparison, alternate, spread, timed


def measure(name: str) -> dict[str, Any]:
    """One entry of the catalogue, here."""
    what = CATALOGUE[name]()
    if isinstance(what, Comparison):
        return compare(what)
    if isinstance(what, Budget):
        seconds, amount = timed(what.work(), what.rounds)
        return {
            "kind": "budget",
            "title": what.title,
            "unit": what.unit,
            "amount": amount,
            "at_most": what.seconds,
            "rounds": what.rounds,
            "seconds": spread(seconds),
        }
    return {"kind": "growth", **what}


def compare(what: Comparison) -> dict[str, Any]:
    """Rates of both sides, their ratio, and our share of what is possible at all."""
    rates = alternate(what.sides(), what.rounds)
    row: dict[str, Any] = {
        "kind": "comparison",
        "title": what.title,
        "unit": what.unit,
        "ours": what.ours,
        "peer": what.peer,
        "target": what.target,
        "rounds": what.rounds,
        "rates": {side: rates.summary(side) for side in rates.by_side},
        "ratio": rates.ratio(what.ours, what.peer),
        "note": what.note,
    }
    if what.bound is not None:
        limit, share = what.bound(row["rates"][what.ours]["median"])
        row["bound"] = {"what": limit, "share": share}
    return row


def memory(name: str, side: str) -> int:
    """Peak of one side of a comparison alone, in two rounds, here."""
    what = CATALOGUE[name]()
    assert isinstance(what, Comparison)
    run = what.sides()[side]
    run()
    run()
    return peak_bytes()


def apart(*words: str) -> Any:
    """The answer of this program in a process of its own."""
    done = subprocess.run([sys.executable, "-m", "benchmarks", *words], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="default: all")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.names) - CATALOGUE.keys():
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CATALOGUE)}")
    if options.list:
        for name, make in CATALOGUE.items():
            print(f"{name:24} {(make.__doc__ or '').strip().splitlines()[0]}")
        return
    if options.here:
        (name,) = options.names
        print(json.dumps(memory(name, options.side) if options.side else measure(name)))
        return
    found = results.load()
    machine = describe()
    for name in options.names or CATALOGUE:
        print(f"{name} …", file=sys.stderr, flush=True)
        entry = apart(name, "--here") | {"date": date.today().isoformat(), "machine": machine}
        if entry["kind"] == "comparison":
            entry["peak_bytes"] = {side: apart(name, "--here", "--side", side) for side in entry["rates"]}
        found[name] = entry
        results.store(found)  # what took minutes is not lost when the next one fails
    # In the catalogue's order; what it no longer has is no claim any more.
    results.store({name: found[name] for name in CATALOGUE if name in found})
    results.present()
    print(results.TABLE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
