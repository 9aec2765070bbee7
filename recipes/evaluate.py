"""Evaluate a model on a data set, or any system's table of predictions, and write a report.

    python recipes/evaluate.py --model runs/nih128 --dataset nih --data_dir ../shared/data/nih128 --split test \\
        --output_dir report
    python recipes/evaluate.py --predictions table.csv --taxonomy chexpert --output_dir report
    python recipes/evaluate.py --predictions theirs.csv --taxonomy chexpert --id_column Path --truth_suffix _GT \\
        --prob_suffix _Pred --patient_pattern '(patient\\d+)' --output_dir report
    python recipes/evaluate.py --predictions a.csv --compare b.csv --taxonomy nih --output_dir report

Operating points come from `--validation` (a table of another split) or from the model's config; without them the
report ranks and does not decide. The output folder gets `eval_report.json`, `report.md`, `report.html` and `figures/`.
"""

from pathlib import Path

from hf_cxr.errors import run_recipe
from hf_cxr.processes import start_processes
from hf_cxr.report import write_report
from hf_cxr.report.arguments import parse_report_settings
from hf_cxr.report.build import build
from hf_cxr.report.inputs import gather
from hf_cxr.report.write import check_folder
from hf_cxr.summary import closing_words


def main() -> None:
    """Parse, gather predictions, evaluate, write."""
    state = start_processes()
    settings, data, labels = parse_report_settings(description=__doc__)
    folder = Path(settings.output_dir)
    check_folder(folder, settings.overwrite)
    inputs = gather(settings, data, labels)
    if not state.is_main_process:
        return
    report = build(inputs, settings)
    title = settings.title or f"{inputs.provenance['source']}, {settings.split}"
    write_report(
        folder,
        report,
        inputs.table,
        inputs.hierarchy,
        title,
        readers=inputs.readers,
        inspection=inputs.inspection,
        overwrite=settings.overwrite,
    )
    print(closing_words(report, folder, ("report.html", "report.md", "eval_report.json", "figures")))


if __name__ == "__main__":
    run_recipe(main)
