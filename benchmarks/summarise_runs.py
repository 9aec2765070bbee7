"""One row for each group of runs that differ in their seed only: mean and spread of the reported figures.

    python benchmarks/summarise_runs.py runs/ablation/*_s[0-9]

A group is the folder's name up to `_s<seed>`. The spread is the sample standard deviation over seeds. Everything is
read from `eval_report.json`; nothing is computed again.
"""

import argparse
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np


def figures(report: dict[str, Any]) -> dict[str, float]:
    training = next(iter(report["provenance"]["training"].values()))
    return {
        "macro AUROC": report["aggregate"]["macro_auroc"],
        "weighted": report["aggregate"]["weighted_auroc"],
        "gate AUROC": report["gate"]["auroc"],
        "films out of order": report["hierarchy"]["flat"]["share_out_of_order"],
        "edges broken at 0.5": report["hierarchy"]["flat"]["edges_violated"],
        "minutes": training["seconds"] / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    for run in parser.parse_args().runs:
        report = json.loads((run / "eval_report.json").read_text(encoding="utf-8"))
        groups[re.sub(r"_s\d+$", "", run.name)].append(figures(report))
    names = list(next(iter(groups.values()))[0])
    print("| group | seeds | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 2) + "|")
    for group, rows in groups.items():
        cells = []
        for name in names:
            values = [row[name] for row in rows]
            digits = 1 if name in ("minutes", "edges broken at 0.5") else 4
            spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.{digits}f}{spread}")
        print(f"| {group} | {len(rows)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
