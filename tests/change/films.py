"""Synthetic films of a hospital with two kinds of pneumonia, and models that rank them as well as one likes."""

from dataclasses import replace

import numpy as np
import pandas as pd

from hf_cxr.change import Side
from hf_cxr.hierarchy import Hierarchy, Node
from hf_cxr.operating_points import OperatingPoints
from hf_cxr.predictions import PredictionTable

NODES = (
    Node("Abnormal", "gate"),
    Node("Opacity", "group", ("Abnormal",)),
    Node("Pneumonia", parents=("Opacity",)),
    Node("Mass", parents=("Abnormal",)),
)
NEW = (Node("Bacterial", parents=("Pneumonia",)), Node("Viral", parents=("Pneumonia",)))
OLD = Hierarchy("old", NODES, "any_finding")
GROWN = replace(OLD, nodes=NODES + NEW, name="grown")


def truths(n, seed=0):
    """Truth by label: normal, viral or bacterial; some films with a mass, too."""
    random = np.random.default_rng(seed)
    kind, mass = random.choice(3, n, p=[0.4, 0.3, 0.3]), random.random(n) < 0.3
    pneumonia = kind > 0
    named = {"Pneumonia": pneumonia, "Opacity": pneumonia, "Mass": mass, "Abnormal": pneumonia | mass}
    named |= {"Bacterial": kind == 1, "Viral": kind == 2}
    return {name: values.astype(float) for name, values in named.items()}


def make_side(hierarchy=OLD, gain=1.0, n=400, seed=0, truth=None, points=True, **gains):
    """A model whose log odds are `gain` (or `<label>=…`) apart on true films; two films a patient."""
    truth = truth or truths(n)
    random = np.random.default_rng(seed)
    values = np.column_stack([truth[name] for name in hierarchy.names])
    apart = np.array([gains.get(name, gain) for name in hierarchy.names])
    odds = random.normal(size=values.shape) + apart * np.nan_to_num(values) - 1
    n = len(values)
    table = PredictionTable(
        hierarchy.names, np.array([f"film{i:04}" for i in range(n)]), np.array([f"p{i // 2}" for i in range(n)]),
        values, 1 / (1 + np.exp(-odds)), pd.DataFrame(index=range(n)),
    )  # fmt: skip
    own = OperatingPoints("validation", 0.3, "sensitivity >= 0.95", "highest F1", dict.fromkeys(hierarchy.names, 0.4))
    return Side(table, hierarchy, own if points else None)


def with_probability(side, name, values):
    """The side with other probabilities of one label."""
    probability = side.table.probability.copy()
    probability[:, side.table.names.index(name)] = values
    return replace(side, table=replace(side.table, probability=probability))
