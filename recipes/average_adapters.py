"""Average the adapters of several sites into one, and see what it is worth at each: federated averaging without server.

    python recipes/average_adapters.py runs/site_a runs/site_b --base runs/nih128 --output_dir runs/averaged
    python recipes/average_adapters.py runs/site_a runs/site_b --base runs/nih128 --weights 2 1 --method linear \\
        --output_dir runs/averaged --evaluate site_a.yaml site_b.yaml

Each site adapts the same base by `recipes/finetune_lora.py --method lora` and sends five files of its folder, which are
all that is read: `adapter_config.json`, `adapter_model.safetensors`, `config.json`, `preprocessor_config.json` and
`eval_report.json`. The others stay: `predictions_*.csv` has a row a film, `run.yaml` the site's paths. No film leaves a
site. For a further round each site merges the average (`--base runs/averaged`) and adapts again.

The output folder is an adapter like the sites' own: any recipe takes it as a model. With it come `averaging.json` and
`averaging.md`: which sites gave what share and, with `--evaluate`, for each map (`hf_cxr/data/hospital.py`) whose films
are on this machine the base, every site's adapter and the average on its test films. A site without films here runs the
same command on its own machine with its own map.

Methods are PEFT's (`hf_cxr/adaptation/merging.py` explains them). cat and svd take sites with different ranks and
layers; so do magnitude_prune_svd and dare_linear_svd. linear is for adapters trained with the same seed.
"""

import argparse
import json
from pathlib import Path

from hf_cxr.adaptation.averaging import RESULT_FILE, average, new_folder, shares_of
from hf_cxr.adaptation.averaging_report import average_markdown, describe_average, evaluate_average, names_of
from hf_cxr.adaptation.merging import METHODS, AveragingArguments
from hf_cxr.adaptation.sites import read_sites
from hf_cxr.errors import run_recipe
from hf_cxr.loading import load_model
from hf_cxr.processes import start_processes


def main() -> None:
    """Parse, check every site, average, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", type=Path, nargs="+", help="folders of recipes/finetune_lora.py --method lora")
    parser.add_argument("--base", required=True, help="what all were adapted from: a run's folder or a name on the Hub")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--weights", type=float, nargs="+", help="one each; default: their numbers of training films")
    parser.add_argument("--method", default="cat", choices=list(METHODS))
    parser.add_argument("--density", type=float, help="share of weights that ties, dare and magnitude_prune keep")
    parser.add_argument("--rank", type=int, help="of the result of an svd method; default: the sites' greatest")
    parser.add_argument("--seed", type=int, default=0, help="of what dare leaves out, and of the intervals")
    parser.add_argument("--evaluate", type=Path, nargs="+", default=[], help="maps of hospitals (YAML)")
    parser.add_argument("--overwrite", action="store_true", help="replace an average in output_dir")
    options = parser.parse_args()
    arguments = AveragingArguments(options.method, options.density, options.rank, options.seed)

    start_processes()
    base = load_model(options.base)
    sites = read_sites(base, options.base, options.adapters)
    shares = shares_of(sites, options.weights)
    print(f"weights: {'given' if options.weights else 'numbers of training films'}")
    for name, site, share in zip(names_of(sites), sites, shares, strict=True):
        print(f"  {name:30} {site.films:6,} films, weight {share:.3f}, report {site.report}")
    processor = sites[0].processor
    with new_folder(options.output_dir, options.overwrite, [options.base, *options.adapters]) as folder:
        averaged = average(base, options.base, sites, shares, arguments).save(folder, processor)
        result = describe_average(base, averaged, sites, shares, arguments, by_films=options.weights is None)
        result["evaluation"] = evaluate_average(options.evaluate, base, sites, averaged, processor, options.seed)
        text = average_markdown(result)
        (folder / "averaging.md").write_text(text, encoding="utf-8")
        result_text = json.dumps(result, indent=2, allow_nan=False, ensure_ascii=False)
        (folder / RESULT_FILE).write_text(result_text, encoding="utf-8")
    print(f"\n{text}")
    for name in ("averaging.md", RESULT_FILE, "adapter_model.safetensors"):
        print(f"{name:26} {(options.output_dir / name).resolve()}")


if __name__ == "__main__":
    run_recipe(main)
