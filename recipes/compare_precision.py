"""Measure what bfloat16 and int8 bring and cost a model: films a second, and the change in AUROC.

    python recipes/compare_precision.py --model runs/nih128 --dataset nih --data_dir ../shared/data/nih128 \\
        --output_dir precision
    python recipes/predict.py --model runs/nih128 images/ --precision int8 --int8 precision/int8

Scored on the validation split, by default; int8, on a CPU and with the extra `onnx`, takes its scales from 256 training
films. The output folder gets `precision.json`, `precision.txt` and the model's backbone in int8, `int8/`, which
`recipes/predict.py` needs: nobody predicts in int8 who has not seen what it changes. A run's own data and labels are
the defaults. Rates depend on the machine: bfloat16 and int8 are fast on processors with instructions for them.
"""

from pathlib import Path

from hf_cxr.errors import run_recipe
from hf_cxr.precision_comparison import compare_precisions, comparison_table, parse_comparison_settings
from hf_cxr.processes import start_processes


def main() -> None:
    """Parse, compare, show."""
    settings, data, labels = parse_comparison_settings(description=__doc__)
    report = compare_precisions(settings, data, labels, start_processes(settings.use_cpu))
    print(f"\n{comparison_table(report)}\n\n{Path(settings.output_dir).resolve()}")


if __name__ == "__main__":
    run_recipe(main)
