"""Read many films with a trained model and write one table of what it says of them.

    python recipes/predict.py --model runs/nih128 images/ --output_dir out --heatmaps
    python recipes/predict.py --model runs/nih128 list.csv --output_dir out
    python recipes/predict.py --model runs/nih128 shards/ --output_dir out --format parquet
    python recipes/predict.py --model my-org/cxr-nih hf://datasets/my-org/films --output_dir out
    accelerate launch --config_file recipes/accelerate/two_cpu_processes.yaml recipes/predict.py \\
        --model runs/nih128 images/ --output_dir out

The source is one film or several, a folder of films (with all below it), a CSV with a column of paths relative to it,
or Parquet files with films in them as `datasets` writes them, here or on the Hub. Films are pictures, or DICOM files
under any name (extra `dicom`); what is no chest film is refused with its reason.

`predictions.csv` gets a row a film, in the source's order: `id`, what else the source says of it, `<label>_prob`,
`<label>_decision`, `gate_cleared` and `error` (`hf_cxr.predict.table.Reader` says what each holds). A film that cannot
be read keeps its row, with the error and no figures, and is listed in `errors.csv`. `predict.yaml` says which model and
settings made the table. No absolute path of this machine is written anywhere; columns of the source are carried as they
are.

Where the source has the truth, a column `<label>` (1, 0 or blank) for each label of the model, the table can be
evaluated once the films with errors are left out:

    table = pandas.read_csv("out/predictions.csv", dtype={"id": str, "patient": str})
    table[table.error.isna()].to_csv("read.csv", index=False)
    python recipes/evaluate.py --predictions read.csv --taxonomy nih

`--precision bfloat16` or `int8` computes the model's backbone in fewer bits; `recipes/compare_precision.py` says what
that brings and changes, and makes what int8 needs. `--batch_size 0` takes as many films at once as the memory does.

A run that was stopped goes on with `--resume` and gives the same table. Every film that was bad gives exit code 1, some
that were do not. Several machines need a common output folder.
"""

import sys
from pathlib import Path

from accelerate import PartialState

from hf_cxr.errors import run_recipe
from hf_cxr.predict import parse_predict_settings, predict
from hf_cxr.predict.writing import ERRORS_FILE, HEATMAPS, SETTINGS_FILE


def main() -> None:
    """Parse, predict, say where everything is."""
    done = predict(parse_predict_settings(description=__doc__))
    if PartialState().is_main_process:
        counts = done.counts
        print(f"{counts.films:,} films, {counts.cleared:,} of them cleared by the gate; {counts.errors:,} errors")
        for name in (done.table.name, ERRORS_FILE, HEATMAPS, SETTINGS_FILE):
            if (path := done.table.with_name(name)).exists():
                print(f"{name:20} {path.resolve()}")
    if done.counts.errors == done.counts.films:
        sys.exit(f"{Path(sys.argv[0]).name}: no film could be read, see {ERRORS_FILE}")


if __name__ == "__main__":
    run_recipe(main)
