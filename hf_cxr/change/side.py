"""One model on the films, and whether two of them can be compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_cxr.change.errors import ChangeError
from hf_cxr.change.pairs import SIDES
from hf_cxr.hierarchy import Hierarchy
from hf_cxr.operating_points import OperatingPoints
from hf_cxr.predictions import PredictionTable


@dataclass(frozen=True)
class Side:
    """One model on the films.

    Attributes:
        table: its predictions. hierarchy: its nodes, which are the table's labels.
        operating_points: those stored with the model, of another split than this one; None if it has none.
    """

    table: PredictionTable
    hierarchy: Hierarchy
    operating_points: OperatingPoints | None = None


def check_alike(name: str, before: Side, after: Side) -> None:
    """Refuse sides that cannot be compared; `name` is of the films.

    Raises:
        ChangeError: a table and its hierarchy have other labels; other films, order, patients or truth.
    """
    for side, model in zip(SIDES, (before, after), strict=True):
        _check_labels(name, side, model)
    _check_films(name, before.table, after.table)


def _check_labels(name: str, side: str, model: Side) -> None:
    table, nodes = set(model.table.names), set(model.hierarchy.names)
    if table != nodes:
        raise ChangeError(
            f"{name}, {side}: the table lacks {sorted(nodes - table)} and has beyond the taxonomy "
            f"'{model.hierarchy.name}' {sorted(table - nodes)}; give the taxonomy of the model that made the table"
        )


def _check_films(name: str, before: PredictionTable, after: PredictionTable) -> None:
    ids = [list(map(str, table.ids)) for table in (before, after)]
    if set(ids[0]) != set(ids[1]):
        only = [sorted(set(a) - set(b)) for a, b in (ids, ids[::-1])]
        raise ChangeError(
            f"{name}: the two tables have different films: {len(only[0])} only before, e.g. {only[0][:2]}, "
            f"{len(only[1])} only after, e.g. {only[1][:2]}; run both models on the same films"
        )
    if ids[0] != ids[1]:
        row = next(i for i, (one, other) in enumerate(zip(*ids, strict=True)) if one != other)
        raise ChangeError(
            f"{name}: the two tables have the same films in another order, first in row {row + 1}: '{ids[0][row]}' "
            f"before, '{ids[1][row]}' after; sort both by id"
        )
    if before.unit != after.unit or list(map(str, before.patients)) != list(map(str, after.patients)):
        raise ChangeError(
            f"{name}: the two tables name other patients (unit '{before.unit}' before, '{after.unit}' after) for the "
            "same films; read both with the same patient column"
        )
    for label in (n for n in before.names if n in after.names):
        one, other = before.column(label)[0], after.column(label)[0]
        differs = ~((one == other) | (np.isnan(one) & np.isnan(other)))
        if differs.any():
            film = ids[0][int(np.argmax(differs))]
            raise ChangeError(
                f"{name}, label '{label}': the two tables disagree on the truth of {int(differs.sum())} films, first "
                f"'{film}'; score both models against the same labels and policies"
            )
