"""How many labelled films a hospital needs: adapt with fewer and more, by each method, and draw the AUROC.

    python recipes/learning_curve.py recipes/configs/hospital_lora.yaml --base runs/nih128 --hospital hospital.yaml \\
        --films 25 50 100 250 --methods head lora full --seeds 0 1 2 --output_dir runs/hospital_curve --jobs 2

Further options go to every run of `recipes/finetune_lora.py`; `--full` gives options of full fine-tuning alone, which
wants a smaller learning rate. All films are always one of the numbers. Validation films are the same for all, so that
what is learned from 25 is learned from 25 and the validation split. Started again, it goes on where it stopped. The
output folder gets `<method>/n<films>/s<seed>/` (whole runs), and at the end `learning_curve.json`, `.md` and `.png`.
"""

import argparse
import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

from tqdm.auto import tqdm

from hf_cxr.adaptation.curve import base_point, curve_point
from hf_cxr.change import draw_learning_curve, learning_markdown
from hf_cxr.errors import run_recipe
from hf_cxr.launching import launch_run
from hf_cxr.runs import REPORT_FILE

ADAPT = Path(__file__).with_name("finetune_lora.py")


def main() -> None:
    """Parse, run what is not there, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="settings of the runs")
    parser.add_argument("--films", type=int, nargs="+", default=[25, 50, 100, 250], help="numbers of training films")
    parser.add_argument("--methods", nargs="+", default=["head", "lora", "full"], choices=["head", "lora", "full"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the films drawn and of the training")
    parser.add_argument("--full", default="--learning_rate 5e-4", help="options of full fine-tuning alone")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/learning_curve"), help="folder of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--accelerate_config", type=Path, help="of each run; default: one process")
    options, words = parser.parse_known_args()
    out = options.output_dir
    wanted = {}
    for method, n_films, seed in product(options.methods, [*sorted(set(options.films)), None], options.seeds):
        own = shlex.split(options.full) if method == "full" else []
        number = [] if n_films is None else ["--n_films", str(n_films)]
        wanted[out / method / f"n{n_films or '_all'}" / f"s{seed}"] = [
            options.config, *words, *own, *number, "--method", method, "--seed", str(seed),
        ]  # fmt: skip
    waiting = {folder: each for folder, each in wanted.items() if not (folder / REPORT_FILE).is_file()}
    print(f"{len(wanted)} runs, {len(wanted) - len(waiting)} finished")
    launch = partial(launch_run, ADAPT, accelerate_config=options.accelerate_config, jobs=options.jobs)
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = pool.map(lambda each: launch(*each), waiting.items())
        for _ in tqdm(jobs, total=len(waiting), desc="runs"):
            pass
    points, base = [curve_point(folder) for folder in wanted], base_point(next(iter(wanted)))
    text = learning_markdown(points, base)
    (out / "learning_curve.json").write_text(json.dumps({"runs": points, "base": base}, indent=2), encoding="utf-8")
    (out / "learning_curve.md").write_text(text, encoding="utf-8")
    draw_learning_curve(points, out / "learning_curve.png", "Adaptation, by number of labelled training films", base)
    print(f"\n{text}")
    for name in ("learning_curve.md", "learning_curve.json", "learning_curve.png"):
        print(f"{name:20} {(out / name).resolve()}")


if __name__ == "__main__":
    run_recipe(main)
