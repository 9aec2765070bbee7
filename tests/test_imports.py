"""The import directions of the README's architecture, held by parsing every module."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "hf_cxr"

# module -> what it may import of the project, `errors` aside. Recipes may import everything.
ALLOWED = {
    "errors": set(),
    "hierarchy": set(),
    "labels": {"hierarchy"},
    "losses": {"hierarchy"},
    "data": set(),
    "models": set(),
    "augmentation": set(),
    "averaging": set(),
    "sampling": set(),
    "metrics": set(),
    "bootstrap": set(),
    "delong": {"metrics"},
    "intervals": {"bootstrap", "delong", "metrics"},
    "gating": {"metrics"},
    "consistency": {"hierarchy"},
    "projection": {"hierarchy"},
    "predictions": set(),
    "thresholds": {"metrics"},
    "calibration": {"hierarchy", "metrics", "predictions"},
    "prior_shift": {"calibration", "metrics"},
    "reliability": {"metrics"},
    "operating_points": {"gating", "hierarchy", "metrics", "predictions", "thresholds"},
    "evaluation": {"hierarchy", "metrics", "gating", "consistency", "operating_points", "predictions"},
    "subgroups": {"bootstrap", "evaluation", "hierarchy", "intervals", "predictions"},
    "full_report": {
        "bootstrap", "calibration", "consistency", "curves", "delong", "evaluation", "hierarchy", "intervals",
        "metrics", "operating_points", "predictions", "projection", "reliability", "subgroups",
    },
    "report": {
        "arguments", "bootstrap", "calibration", "compute", "curves", "data", "evaluation", "experiment", "figures",
        "films", "full_report", "hierarchy", "inspection", "loading", "localisation", "metrics", "models",
        "operating_points",
        "predictions", "projection", "risk", "runs", "uncertainty", "verification",
    },
    "compute": {"models"},
    "inspection": {"explain", "inference", "localisation", "models", "uncertainty"},
    "evaluate_metrics": {"metrics", "reliability"},
    "summary": {"evaluation"},
    "curves": {"bootstrap", "metrics"},
    "figures": {"bootstrap", "curves", "evaluation", "hierarchy", "metrics", "predictions"},
    "processes": {"arguments", "data"},
    "batching": set(),
    "quantisation": {"models", "verification"},
    "precision": {"models", "quantisation"},
    "precision_comparison": {
        "arguments", "evaluation", "films", "hierarchy", "inference", "loading", "metrics", "models", "precision",
        "predictions", "quantisation", "verification",
    },
    "inference": {"batching", "models"},
    "uncertainty": {"models"},
    "explain": {"models", "uncertainty"},
    "risk": {"metrics"},
    "localisation": set(),
    "training_arguments": {"calibration", "operating_points", "sampling"},
    "resuming": {"averaging", "data"},
    "epoch_figures": {"evaluation", "hierarchy", "losses", "operating_points", "predictions"},
    "trainer": {
        "models", "losses", "epoch_figures", "augmentation", "averaging", "data", "resuming", "sampling",
        "training_arguments",
    },
    "arguments": {"data", "hierarchy", "labels", "losses", "models", "augmentation", "training_arguments"},
    "runs": {"processes", "resuming"},
    "memory": set(),
    "films": {
        "arguments", "data", "hierarchy", "hospital_taxonomy", "labels", "memory", "models",
        "training_arguments",
    },
    "first_weights": {"arguments", "loading", "models", "runs", "verification"},
    "experiment": {
        "arguments", "calibration", "evaluation", "figures", "film_reference", "films", "first_weights", "full_report",
        "hierarchy", "inference", "labels", "losses", "models", "operating_points", "predictions", "refitting", "runs",
        "trainer", "training_arguments", "verification",
    },
    "ensemble": {"films", "loading", "models", "runs", "verification"},
    "hospital_taxonomy": {"data", "hierarchy"},
    "verification": {"data", "models"},
    "energy": set(),
    "launching": {"data", "runs"},
    "film_reference": set(),
    "data_check": {
        "arguments", "data", "figures", "film_reference", "films", "hierarchy", "hospital_taxonomy", "inference",
        "labels", "loading", "models", "report", "runs",
    },
    "growth": {"hierarchy", "models"},
    "loading": {"growth", "models", "verification"},
    "refitting": {"calibration", "hierarchy", "metrics", "operating_points", "predictions"},
    "change": {
        "bootstrap", "figures", "hierarchy", "intervals", "metrics", "operating_points", "predictions", "reliability",
        "report",
    },
    "adaptation": {
        "arguments", "augmentation", "change", "data", "experiment", "films", "growth", "hierarchy", "inference",
        "loading", "losses", "models", "operating_points", "predictions", "runs", "trainer", "training_arguments",
        "verification",
    },
    "export": {"decisions", "hierarchy", "models", "verification"},
    "hub": {
        "adaptation", "arguments", "augmentation", "change", "evaluation", "export", "figures",
        "film_reference", "hierarchy", "loading", "metrics",
        "models", "report", "runs", "training_arguments", "verification",
    },
    "demo": {"arguments", "data", "hierarchy", "models", "pipeline", "predict", "uncertainty"},
    "ablation": {"arguments", "runs"},
    "ablation_results": {
        "ablation", "bootstrap", "evaluation", "hierarchy", "intervals", "predictions", "runs",
    },
    "series": {"models"},
    "decisions": {"hierarchy"},
    "findings": {"decisions", "hierarchy", "models", "predictions"},
    "switching": {"loading", "models"},
    "pipeline": {"explain", "findings", "hierarchy", "loading", "models", "series", "switching", "uncertainty"},
    "predict": {
        "arguments", "batching", "decisions", "hierarchy", "loading", "models", "pipeline", "precision", "predictions",
        "processes", "uncertainty",
    },
    "__init__": {"hierarchy", "models", "pipeline"},
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """Top-level parts of the project that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "hf_cxr":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("hf_cxr.")}
    return found


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = part(path)
    assert own in ALLOWED, f"{own} is new: say in ALLOWED and in the README what it may import"
    assert imported(path) - {own, "errors"} <= ALLOWED[own]


def test_models_travel_alone():
    """Remote code is copied flat: siblings only, no absolute import of the project."""
    for path in (PACKAGE / "models").glob("*.py"):
        assert not imported(path), path
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.ImportFrom) and node.level > 1), path
