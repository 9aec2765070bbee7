"""How many labelled films a hospital needs: adapt with fewer and more, by each method, and draw the AUROC.

    python recipes/learning_curve.py recipes/configs/hospital_lora.yaml --base runs/nih128 --hospital hospital.yaml \\
        --films 25 50 100 250 --methods head lora full --seeds 0 1 2 --output_dir runs/hospital_curve --jobs 2

Further options go to every run of `recipes/finetune_lora.py`; `--full` gives options of full fine-tuning alone, which
wants a smaller learning rate. All films are always one of the numbers. Validation films are the same for all, so that
what is learned from 25 is learned from 25 and the validation split. Numbers that the hospital does not have are left
out, and said. Started again, it goes on where it stopped; a finished run of other settings, films or base in the
output folder is an error. The output folder gets `<method>/n<films>/s<seed>/` (whole runs), and at the end
`learning_curve.json`, `.md` and `.png`.
"""

import argparse
import json
import shlex
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path

from tqdm.auto import tqdm

from hf_cxr.adaptation import AdaptationSettings, parse_adaptation
from hf_cxr.adaptation.curve import base_point, check_run, curve_point
from hf_cxr.change import draw_learning_curve, learning_markdown
from hf_cxr.data import load_splits
from hf_cxr.errors import run_recipe
from hf_cxr.launching import launch_run
from hf_cxr.loading import load_model
from hf_cxr.runs import REPORT_FILE
from hf_cxr.verification import identity

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
    # The films are looked up before anything is trained; the runs find them prepared.
    settings = settings_of([options.config, *words], out)
    splits, described = load_splits(
        settings.data.dataset, settings.data.data_dir, settings.data.cache_dir, **settings.data.builder_options()
    )
    available = len(splits["train"])
    if beyond := sorted(n for n in set(options.films) if n >= available):
        print(f"{available} training films: {', '.join(map(str, beyond))} left out, for all of them are always a point")
    numbers = sorted(set(options.films) - set(beyond))
    wanted = {}
    for method, n_films, seed in product(options.methods, [*numbers, None], options.seeds):
        own = shlex.split(options.full) if method == "full" else []
        number = [] if n_films is None else ["--n_films", str(n_films)]
        wanted[out / method / f"n{n_films or '_all'}" / f"s{seed}"] = [
            options.config, *words, *own, *number, "--method", method, "--seed", str(seed),
        ]  # fmt: skip
    waiting = {folder: each for folder, each in wanted.items() if not (folder / REPORT_FILE).is_file()}
    if len(waiting) < len(wanted):
        weights = identity(load_model(settings.adaptation.base))["weights"]
        for folder in wanted.keys() - waiting.keys():
            check_run(folder, settings_of(wanted[folder], folder), described["fingerprint"], weights)
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


def settings_of(words: list[str], folder: Path) -> AdaptationSettings:
    """Those that a run's process has."""
    return parse_adaptation([*words, "--output_dir", str(folder), "--disable_tqdm", "true"])


if __name__ == "__main__":
    run_recipe(main)
