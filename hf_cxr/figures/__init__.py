"""Every plot, from a log history, an EvalReport or a prediction table, as a PNG."""

from hf_cxr.figures.ablation import ablation_differences
from hf_cxr.figures.decisions import gate_trade_off, reliability_grid
from hf_cxr.figures.looking import Curve, Panel, heatmap_panels, risk_coverage_grid
from hf_cxr.figures.ranking import curve_grid, label_auroc
from hf_cxr.figures.structure import co_occurrence, hierarchy_tree
from hf_cxr.figures.training import learning_curves

__all__ = [
    "Curve",
    "Panel",
    "ablation_differences",
    "co_occurrence",
    "curve_grid",
    "gate_trade_off",
    "heatmap_panels",
    "hierarchy_tree",
    "label_auroc",
    "learning_curves",
    "reliability_grid",
    "risk_coverage_grid",
]
