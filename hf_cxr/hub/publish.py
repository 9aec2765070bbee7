"""A finished run to the Hub: checked, staged, verified as a stranger would load it, uploaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi

from hf_cxr.errors import UserError
from hf_cxr.evaluation import EvalReport, EvaluationError
from hf_cxr.export import Exported, export_onnx, export_program
from hf_cxr.hub.card import write_card
from hf_cxr.hub.contents import ADAPTER_CONFIG, FIGURES, check_anonymous, survey
from hf_cxr.hub.remote_code import add_code
from hf_cxr.hub.upload import Target, Uploaded, check_target, explained, upload
from hf_cxr.hub.verify import Reproduced, verify
from hf_cxr.loading import load_model, load_processor
from hf_cxr.models import CXRPreTrainedModel
from hf_cxr.runs import REPORT_FILE
from hf_cxr.verification import FILE as VERIFICATION_FILE
from hf_cxr.verification import Verification, identity, verify_with

EXPORTS: dict[str, Callable[..., Exported]] = {"model.onnx": export_onnx, "model.pt2": export_program}


class RunError(UserError, ValueError):
    """The folder is no finished run, or its parts do not belong together."""


@dataclass(frozen=True)
class Staged:
    """A folder that is ready to be uploaded; `files` are relative to it, `kept` relative to the run.

    Attributes:
        exported: `{file: largest difference of its probabilities to the model's}`.
    """

    folder: Path
    files: tuple[str, ...]
    kept: tuple[str, ...]
    reproduced: tuple[Reproduced, ...]
    exported: dict[str, float]


def stage(
    run: Path,
    into: Path,
    repo_id: str | None,
    report: Path | None = None,
    exports: Sequence[str] = (),
    base: str | None = None,
) -> Staged:
    """Make a self-contained copy of a run: weights, configs, code, report, card, verification films; and check it.

    Args:
        run: folder that `recipes/train.py` wrote.
        into: an empty folder.
        repo_id: of the repository, for the card.
        report: an `eval_report.json` of this model by `recipes/evaluate.py`, in place of the run's own.
        exports: further files of the model, of `EXPORTS`.
        base: of an adapter, the name on the Hub of the model that was adapted, if it was adapted from a folder.

    Raises:
        ExportError: a further file does not say what the model says.
        RunError: no model, no report, or a report of another model; an adapter whose base is not on the Hub.
        ContentsError: files that must not be published.
        NotReproducedError: the copy gives other probabilities than the model did, or has weights that are not finite.
    """
    contents = survey(run)
    for needed in ("config.json", "preprocessor_config.json"):
        if needed not in contents.published:
            raise RunError(f"{run} has no {needed}: it is no finished run of recipes/train.py")
    for name in contents.published:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(run / name, into / name)
    if report is not None:
        _replace_report(into, report)
    is_adapter = ADAPTER_CONFIG in contents.published
    if is_adapter:
        _name_base(into / ADAPTER_CONFIG, base)
    model, processor = load_model(run), load_processor(run)
    _check_report(into, run, model)
    if not (into / VERIFICATION_FILE).is_file() or Verification.load(into).identity != identity(model):
        # The report vouches for the model as it is now: an older run's, or one whose calibration was moved.
        verify_with(model, processor).save(into)
    exported = {name: EXPORTS[name](model, processor, into / name).largest_difference for name in exports}
    if not is_adapter:  # transformers would put an adapter on its base without the adapter's own config
        add_code(into, model)
    write_card(into, repo_id, run=run)
    check_anonymous(into, run)
    reproduced = tuple(verify(into))
    files = tuple(sorted(path.relative_to(into).as_posix() for path in into.rglob("*") if path.is_file()))
    return Staged(into, files, contents.kept, reproduced, exported)


def publish(
    run: Path,
    into: Path,
    target: Target,
    report: Path | None = None,
    exports: Sequence[str] = (),
    base: str | None = None,
) -> tuple[Staged, Uploaded]:
    """Stage a run and upload it; for the arguments see `stage`.

    Raises:
        See `stage` and `upload`; what can be known of the Hub is checked first.
    """
    survey(run)
    check_target(target)
    staged = stage(run, into, target.repo_id, report, exports, base)
    return staged, upload(staged.folder, target, f"Model of hf_cxr {version('hf_cxr')}, with its report and card")


def _replace_report(into: Path, report: Path) -> None:
    """Figures of the run's own report go with it."""
    if not report.is_file():
        raise RunError(f"report {report} does not exist")
    for name in (*FIGURES, "eval_report_validation.json"):
        if not name.startswith("figures/learning_curves"):
            (into / name).unlink(missing_ok=True)
    shutil.copyfile(report, into / REPORT_FILE)


def _name_base(path: Path, base: str | None) -> None:
    """Write into an adapter's config where on the Hub its base is, at which commit.

    That it is the base which was adapted shows in the verification, which loads it from there.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    name = base or config.get("base_model_name_or_path")
    if not name or Path(name).exists():
        raise RunError(
            f"the adapter's base is the folder {name}: publish that first, and name it by --base my-org/name"
        )
    target = Target(name, VERIFICATION_FILE)
    with explained(target, "nothing was changed"):
        config |= {"base_model_name_or_path": name, "revision": HfApi().model_info(name).sha}
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _check_report(into: Path, run: Path, model: CXRPreTrainedModel) -> None:
    if not (into / REPORT_FILE).is_file():
        raise RunError(f"{run} has no {REPORT_FILE}: the run is not finished; a model is published with its figures")
    again = f"evaluate it again (recipes/evaluate.py --model {run}) and name the new report by --report"
    try:
        report = EvalReport.from_json(into / REPORT_FILE)
    except (EvaluationError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run}/{REPORT_FILE} cannot be read ({error}); {again}") from error
    theirs, ours = report.provenance.get("model"), identity(model)
    if theirs is None:
        raise RunError(f"the report does not say which model it is of; {again}")
    if different := [part for part in ours if theirs.get(part) != ours[part]]:
        raise RunError(f"the report is of another model than the folder's: {' and '.join(different)} differ; {again}")
