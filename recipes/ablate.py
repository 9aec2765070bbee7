"""Train every arm of an ablation plan, compare them on the same films, and write a table and a figure.

    python recipes/ablate.py recipes/configs/ablation_hbce.yaml --data_dir ../shared/data/nih128
    python recipes/ablate.py PLAN.yaml --data_dir DIR --jobs 4 --accelerate_config recipes/accelerate/one_gpu.yaml

`hf_cxr/ablation.py` says what a plan holds. Further options go to every run of `recipes/train.py` and win over the
plan's settings. Started again, it goes on where it stopped: finished runs are kept, an interrupted one is resumed. The
output folder gets `<arm>/s<seed>/` (whole runs), at the end `ablation.json` and `ablation.md`, and of several arms
`ablation.png`. A plan of one arm trains several seeds of a recipe, which `ensemble.py` joins.
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from hf_cxr.ablation import Plan, check
from hf_cxr.ablation_results import markdown, summarise
from hf_cxr.errors import run_recipe
from hf_cxr.figures import ablation_differences
from hf_cxr.launching import launch_run

TRAIN = Path(__file__).with_name("train.py")


def main() -> None:
    """Parse, check every arm, run what is not there, summarise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )  # no abbreviations: what is not of this recipe goes to the runs, and --seed is not --seeds
    parser.add_argument("plan", type=Path, help="YAML file of the ablation")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablation"), help="folder of all runs")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the plan's")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--accelerate_config", type=Path, help="of each run; default: one process")
    parser.add_argument("--n_resamples", type=int, default=1000, help="of the bootstrap over patients")
    options, words = parser.parse_known_args()
    if options.n_resamples < 100 or options.jobs < 1:
        parser.error(f"n_resamples {options.n_resamples}, jobs {options.jobs}: expected 100 or more, and 1 or more")
    plan = Plan.read(options.plan)
    if options.seeds:
        plan = plan.with_seeds(options.seeds)
    runs = plan.runs(options.output_dir, words)
    check(runs)
    waiting = [run for run in runs if not run.finished]
    print(f"{len(plan.arms)} arms × {len(plan.seeds)} seeds: {len(runs)} runs, {len(runs) - len(waiting)} finished")
    with ThreadPoolExecutor(options.jobs) as pool:
        launch = partial(launch_run, TRAIN, accelerate_config=options.accelerate_config, jobs=options.jobs)
        jobs = pool.map(lambda run: launch(run.folder, run.words), waiting)
        for _ in tqdm(jobs, total=len(waiting), desc="runs"):
            pass
    summary = summarise(plan, runs, options.n_resamples)
    text = markdown(summary)
    folder = options.output_dir
    (folder / "ablation.json").write_text(json.dumps(summary, indent=2, allow_nan=False), encoding="utf-8")
    (folder / "ablation.md").write_text(text, encoding="utf-8")
    files = ["ablation.md", "ablation.json"]
    if len(plan.arms) > 1:  # one arm's seeds have no difference to draw
        ablation_differences(summary, folder / "ablation.png", f"{options.plan.stem}, {summary['split']} split")
        files.append("ablation.png")
    print(f"\n{text}")
    for name in files:
        print(f"{name:14} {(folder / name).resolve()}")


if __name__ == "__main__":
    run_recipe(main)
