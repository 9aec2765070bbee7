"""Publish a trained run on the Hub: verify it, write its card, upload it. Private unless told otherwise.

    python push_to_hub.py runs/nih128 my-org/cxr-densenet121-nih --dry_run      # all but the upload
    python push_to_hub.py runs/nih128 my-org/cxr-densenet121-nih --private
    python push_to_hub.py --verify runs/nih128

What leaves the machine: weights, configs, the models' code, the report, its figures, the card, and phantom films with
what the model said of them. Tables, images, settings and checkpoints stay (`hf_cxr/hub/contents.py` has the lists), and
nothing is uploaded that names a patient of the run's tables or a folder of this machine.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hf_cxr.errors import run_recipe
from hf_cxr.hub.card import CARD
from hf_cxr.hub.publish import Staged, publish, stage
from hf_cxr.hub.space import space_target, stage_space
from hf_cxr.hub.upload import Target, Uploaded, upload
from hf_cxr.hub.verify import WAYS, Reproduced, verify
from hf_cxr.verification import FILE


def main() -> None:
    """Parse, publish, say what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a finished run")
    parser.add_argument("repo_id", nargs="?", help="name on the Hub: organisation/name")
    parser.add_argument("--verify", action="store_true", help="only load the folder in a fresh process and compare")
    parser.add_argument("--dry_run", action="store_true", help="stage and verify, show everything, upload nothing")
    access = parser.add_mutually_exclusive_group()
    access.add_argument("--private", action="store_true", help="the default: only you and your organisation see it")
    access.add_argument("--public", action="store_true", help="everybody sees it")
    parser.add_argument("--tag", help="of this version; default: v1, v2, …")
    parser.add_argument("--report", type=Path, help="eval_report.json by recipes/evaluate.py instead of the run's own")
    parser.add_argument("--base", help="of an adapter: name on the Hub of the model that was adapted")
    parser.add_argument("--space", help="name of a Space that gets the model's demo: organisation/name")
    parser.add_argument("--onnx", action="store_true", help="add model.onnx (extra `onnx`), checked against the model")
    parser.add_argument("--torch_export", action="store_true", help="add model.pt2, a program of torch.export, checked")
    parser.add_argument("--stage_dir", type=Path, help="where --dry_run puts the files; default: a temporary folder")
    options = parser.parse_args()
    if options.verify:
        say_reproduced(verify(options.folder))
        return
    if options.repo_id is None:
        parser.error("repo_id is needed (organisation/name), or --verify")
    if options.stage_dir and options.stage_dir.exists() and any(options.stage_dir.iterdir()):
        parser.error(f"--stage_dir {options.stage_dir} is not empty")
    exports = [name for name, on in (("model.onnx", options.onnx), ("model.pt2", options.torch_export)) if on]
    if options.dry_run:
        into = options.stage_dir or Path(tempfile.mkdtemp(prefix="hf_cxr_"))
        into.mkdir(parents=True, exist_ok=True)
        say_staged(stage(options.folder, into, options.repo_id, options.report, exports, options.base))
        if options.space:
            with tempfile.TemporaryDirectory() as demo:
                print(f"\nSpace {options.space}: {len(stage_space(Path(demo), options.repo_id))} files of the demo")
        print(f"\n{(into / CARD).read_text(encoding='utf-8')}\nNothing was uploaded. The files are in {into.resolve()}")
        return
    with tempfile.TemporaryDirectory(prefix="hf_cxr_") as into:
        target = Target(options.repo_id, FILE, private=not options.public, tag=options.tag)
        staged, done = publish(options.folder, Path(into), target, options.report, exports, options.base)
        say_staged(staged)
    say_uploaded(done, target)
    if options.space:
        with tempfile.TemporaryDirectory(prefix="hf_cxr_") as into:
            stage_space(Path(into), options.repo_id)
            target = space_target(options.space, private=not options.public)
            say_uploaded(upload(Path(into), target, f"Demo of {options.repo_id}"), target)


def say_uploaded(done: Uploaded, target: Target) -> None:
    """Where it is, and who sees it."""
    state = "uploaded" if done.changed else "the same files were there already"
    seen_by = "private" if target.private else "public"
    print(f"\n{done.url} ({seen_by}): {state}, commit {done.commit[:8]}, tag {done.tag}")


def say_staged(staged: Staged) -> None:
    """What is published and what stays."""
    for name in staged.files:
        print(f"{(staged.folder / name).stat().st_size:>12,} {name}")
    print(f"stays here: {', '.join(staged.kept) or 'nothing'}")
    say_reproduced(staged.reproduced)
    for name, difference in staged.exported.items():
        print(f"verified {name}: the model's probabilities to {difference:.1g}")


def say_reproduced(reproduced: Sequence[Reproduced]) -> None:
    """How near the stored probabilities each way of loading comes."""
    for each in reproduced:
        print(f"verified {WAYS[each.way]}: stored probabilities to {each.difference:.1g}")


if __name__ == "__main__":
    run_recipe(main)
