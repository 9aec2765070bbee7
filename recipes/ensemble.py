"""Join finished runs of one recipe, which differ in their seed, into one model: the mean of their probabilities.

    for seed in 0 1 2; do
        accelerate launch recipes/train.py recipes/configs/nih128_cpu.yaml --data_dir ../shared/data/nih128 \\
            --seed $seed --output_dir runs/nih128_s$seed
    done
    python recipes/ensemble.py runs/nih128_s0 runs/nih128_s1 runs/nih128_s2 --output_dir runs/nih128_ensemble

The folder is a run's like any other: the model is calibrated on the validation films, has its thresholds from there and
its figures from the test films, and is read, published and evaluated by the same commands. Each film costs as many
passes as there are members. Trained adapters are joined by `average_adapters.py` instead.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from hf_cxr.arguments import DataArguments, LabelArguments
from hf_cxr.ensemble import check_films, energy_of, joined, log_of, read_members, settings_of
from hf_cxr.errors import run_recipe
from hf_cxr.experiment import finish_run
from hf_cxr.films import label_summary, prepare
from hf_cxr.processes import start_processes
from hf_cxr.runs import RunFolder, describe_run, provenance
from hf_cxr.summary import RUN_FILES, closing_words


def main() -> None:
    """Parse, check the members, join, evaluate, say where everything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs of recipes/train.py")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--data_dir", help="the runs' films; default: where the first of them found them")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in output_dir")
    options = parser.parse_args()

    state = start_processes()
    run = RunFolder(options.output_dir, overwrite=options.overwrite)
    members = read_members(options.runs)
    model = joined(members)
    settings = settings_of(members)
    data, labels = DataArguments(**settings["data"]), LabelArguments(**settings["labels"])
    if options.data_dir:
        data = replace(data, data_dir=options.data_dir)
    processor = members[0].processor
    films = prepare(data, labels, processor, labels.hierarchy(), seed=members[0].seed, may_stream=True)
    check_films(members, films)

    described = describe_run(settings, films.provenance, label_summary(films))
    state.wait_for_everyone()
    if state.is_main_process:
        run.claim(described)
    state.wait_for_everyone()
    traced = provenance(described) | {"log": log_of(members), "energy": energy_of(members)}
    choices = SimpleNamespace(**{key: settings["training"][key] for key in ("calibration", "gate_criterion")})
    report = finish_run(model, processor, films, run, choices, traced)
    if state.is_main_process:
        print(closing_words(report, run.path, RUN_FILES))


if __name__ == "__main__":
    run_recipe(main)
