"""Adapt a model to a new hospital: its films and its words in, a model, a report and an account of the change out.

    python recipes/check_data.py my_hospital.yaml --base runs/nih128
    accelerate launch recipes/finetune_lora.py recipes/configs/hospital_lora.yaml --base runs/nih128 \\
        --hospital my_hospital.yaml
    accelerate launch recipes/finetune_lora.py recipes/configs/hospital_lora.yaml --base my-org/cxr-nih \\
        --hospital my_hospital.yaml --method full --output_dir runs/my_hospital_full

`hf_cxr/data/hospital.py` explains `my_hospital.yaml`. Every setting is a key of the YAML file and an option of the
command line, which wins (`--help` lists them). The output folder gets the adapter (or, with `--method head` and `full`,
the model), `run.yaml`, `predictions_*.csv`, `eval_report.json`, `figures/`, and `change.html` with what got better,
what was forgotten and what it took.
"""

from transformers import set_seed

from hf_cxr.adaptation import own_films, parse_adaptation, prepare_adaptation, report_change, train_adaptation
from hf_cxr.change import write_change
from hf_cxr.energy import measured
from hf_cxr.errors import run_recipe
from hf_cxr.evaluation import EvalReport
from hf_cxr.experiment import report_run
from hf_cxr.films import label_summary
from hf_cxr.processes import start_processes
from hf_cxr.runs import RunFolder, describe_run, provenance
from hf_cxr.summary import RUN_FILES, closing_words


def main() -> None:
    """Parse, prepare, adapt, report, compare, say where everything is."""
    settings = parse_adaptation(description=__doc__)
    arguments = settings.training
    run = RunFolder(str(arguments.output_dir), overwrite=settings.run.overwrite, resume=settings.run.resume)
    _ = arguments.device  # sets up the processes as transformers wants them
    state = start_processes(arguments.use_cpu)
    set_seed(arguments.seed)

    base, processor, films = prepare_adaptation(settings)
    own = own_films(settings, base, processor)
    if state.is_main_process and films.joined is not None:
        print(films.joined)
    described = describe_run(settings.to_plain(), films.provenance, label_summary(films))
    state.wait_for_everyone()
    if state.is_main_process:
        run.claim(described)
    state.wait_for_everyone()

    with measured(settings.run.energy_country, continued=run.resume) as energy:
        model, log = train_adaptation(settings, base, processor, films, run, own.train)
    traced = provenance(described) | {"log": log, "energy": energy or None, "adapted_from": model.config.adapted_from}

    def compare(report: EvalReport) -> None:
        change = report_change(settings, base, model, films, own, log, report.provenance)
        if state.is_main_process:
            write_change(run.path, change)

    report = report_run(model, films, run, arguments, traced, earlier=base.config, also=compare)
    if state.is_main_process:
        print(closing_words(report, run.path, ("change.html", *RUN_FILES)))


if __name__ == "__main__":
    run_recipe(main)
