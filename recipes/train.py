"""Train a hierarchical chest X-ray classifier: data set folder in, trained and evaluated model out.

    accelerate launch recipes/train.py recipes/configs/quickstart.yaml
    accelerate launch recipes/train.py recipes/configs/nih128_cpu.yaml --data_dir ../shared/data/nih128
    accelerate launch recipes/train.py recipes/configs/chexpert_densenet121_hbce.yaml \\
        --data_dir /data/CheXpert-v1.0-small

Every setting is a key of the YAML file and an option of the command line, which wins (`--help` lists them).
Workers that are started anew after one was killed go on from the last complete checkpoint by themselves:

    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --standalone --nproc_per_node 2 --max-restarts 3 recipes/train.py …

Without that variable torch may spend restarts in vain. Jobs that a cluster may queue again say `--resume true` from the
start; where they find the run finished they end well.

The output folder gets the model, `run.yaml`, `predictions_*.csv`, `eval_report.json` and `figures/`.
"""

from pathlib import Path

import torch
from transformers import set_seed

from hf_cxr.arguments import parse_settings
from hf_cxr.energy import measured
from hf_cxr.errors import run_recipe
from hf_cxr.experiment import finish_run, train_model
from hf_cxr.films import label_summary, prepare_films
from hf_cxr.models import CXRImageProcessor
from hf_cxr.processes import start_processes
from hf_cxr.runs import FinishedRunError, RunFolder, check_same, describe_run, provenance
from hf_cxr.summary import RUN_FILES, closing_words


def main() -> None:
    """Parse, prepare, train, evaluate, say where everything is."""
    settings = parse_settings(description=__doc__)
    arguments = settings.training
    _ = arguments.device  # sets up the processes as transformers wants them
    state = start_processes(arguments.use_cpu)
    try:
        run = RunFolder(str(arguments.output_dir), overwrite=settings.run.overwrite, resume=settings.run.resume)
    except FinishedRunError as finished:  # a job that was queued again: all is well, if it is this run
        check_same(Path(str(arguments.output_dir)), {"settings": settings.to_plain()})
        if state.is_main_process:
            print(finished)
        return
    set_seed(arguments.seed)
    torch.set_flush_denormal(True)  # moments of idle weights decay into denormals, on which CPUs crawl

    films = prepare_films(settings)
    described = describe_run(settings.to_plain(), films.provenance, label_summary(films))
    state.wait_for_everyone()
    if state.is_main_process:
        run.claim(described)
    state.wait_for_everyone()

    with measured(settings.run.energy_country, continued=run.resume) as energy:
        model, log = train_model(settings, films, run)
    traced = provenance(described) | {"log": log, "energy": energy or None}
    processor = CXRImageProcessor.for_model(model.config, settings.model.fit, settings.data.wants_lateral)
    report = finish_run(model, processor, films, run, arguments, traced)
    if state.is_main_process:
        print(closing_words(report, run.path, RUN_FILES))


if __name__ == "__main__":
    run_recipe(main)
