"""What an adaptation changed: a model before against the model after, and learning curves over numbers of films."""

from hf_cxr.change.compute import annotated_labels, compare_models
from hf_cxr.change.errors import ChangeError
from hf_cxr.change.learning_curve import draw_learning_curve, learning_markdown
from hf_cxr.change.report import ChangeReport, Cost
from hf_cxr.change.side import Side
from hf_cxr.change.words import verdict
from hf_cxr.change.write import CHANGE_FILE, write_change

__all__ = [
    "CHANGE_FILE",
    "ChangeError",
    "ChangeReport",
    "Cost",
    "Side",
    "annotated_labels",
    "compare_models",
    "draw_learning_curve",
    "learning_markdown",
    "verdict",
    "write_change",
]
