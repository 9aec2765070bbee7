"""The columns of the table, and from a batch of films to its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_cxr.batching import ON_CPU, BatchSize
from hf_cxr.decisions import decide, stored_thresholds
from hf_cxr.hierarchy import SCORED_KINDS
from hf_cxr.models import CXRTwoStageForImageClassification
from hf_cxr.models.processing import normalise
from hf_cxr.pipeline import ChestXRayClassificationPipeline
from hf_cxr.predict.overlays import file_name, overlay
from hf_cxr.predict.reading import Film
from hf_cxr.predict.sources import ID, SourceError
from hf_cxr.predictions import probabilities

NUMBER = "row number in the source"
"""Column of the parts alone, by which they are checked when they are joined."""
CLEARED, RAN, ERROR = "gate_cleared", "finding_model_ran", "error"
DOUBT = ("entropy", "deviation")


class Reader:
    """A model with what its table needs: columns, thresholds, and the rows of a batch.

    Columns are `id`, what the source carries, and of the model, labels in its order:

    - `<label>_prob`: float64 in [0, 1], calibrated by the model. Of a two-stage model the finding model looks only at
      films that its gate passes, as in `forward`: on the others the findings' probabilities are P(gate) times their
      prevalence among abnormal films. A run's `predictions_*.csv` have it look at every film (`run_all`), so they
      differ there, and only there.
    - `<label>_decision`: 1 or 0 by the label's stored operating point; no column where none is stored. 0 of all labels
      but the gate where the finding model did not look.
    - `<label>_entropy`, `<label>_deviation`: `uncertainty.mc_dropout`, in nats and of the probability; only with
      passes.
    - `gate_cleared`: 1 where the gate's probability is below its stored operating point; blank without one.
    - `finding_model_ran`: 1 or 0; of two-stage models only.
    - `error`: why the film was not read, and then every column from `<label>_prob` on is blank.

    Args:
        pipe: the model's pipeline, whose forward pass is used; no autocast.
        carried: the source's columns.
        n_passes, seed: of the dropout; 0 for none.
        heatmaps: make them, too.
        batch_size: films that go through the model together.

    Raises:
        SourceError: the source has a column of the same name as one of these.
    """

    def __init__(
        self,
        pipe: ChestXRayClassificationPipeline,
        carried: pa.Schema,
        *,
        n_passes: int = 0,
        seed: int = 0,
        heatmaps: bool = False,
        batch_size: BatchSize | None = None,
    ) -> None:
        self.pipe, self.config, self.hierarchy = pipe, pipe.network.config, pipe.hierarchy
        self.passes: dict[str, Any] = {"n_passes": n_passes or None, "seed": seed}
        self.heatmaps = heatmaps
        self.batch_size = batch_size or BatchSize(ON_CPU)
        self.thresholds = stored_thresholds(self.config.operating_points, self.hierarchy)
        self.two_stage = isinstance(pipe.network, CXRTwoStageForImageClassification)
        names = self.hierarchy.names
        self.schema = pa.schema(
            [
                (NUMBER, pa.int64()),
                (ID, pa.string()),
                *carried,
                *((f"{name}_prob", pa.float64()) for name in names),
                *((f"{name}_decision", pa.int8()) for name in names if name in self.thresholds),
                *((f"{name}_{figure}", pa.float64()) for figure in DOUBT for name in names if n_passes),
                (CLEARED, pa.int8()),
                *(((RAN, pa.int8()),) if self.two_stage else ()),
                (ERROR, pa.string()),
            ]
        )
        if twice := sorted({name for name in self.schema.names if self.schema.names.count(name) > 1}):
            raise SourceError(f"the source has the columns {twice}, which the table makes itself; rename or drop them")

    def read(self, films: Sequence[Film]) -> tuple[list[dict[str, Any]], dict[str, NDArray[np.uint8]]]:
        """Films to their rows, and overlays (S, S, 3) by their files' names."""
        rows = [{NUMBER: f.row.number, ID: f.row.id, **f.row.metadata, ERROR: f.error} for f in films]
        overlays: dict[str, NDArray[np.uint8]] = {}
        good = [(row, film.pixels) for row, film in zip(rows, films, strict=True) if film.pixels is not None]
        if not good:
            return rows, overlays
        outputs = self._run(torch.from_numpy(np.stack([pixels for _, pixels in good])))
        finite = torch.isfinite(outputs["logits"]).all(1).tolist()
        for at, (row, pixels) in enumerate(good):
            if not finite[at]:
                row[ERROR] = "the model's figures for this film are not finite"
                continue
            row |= self._figures(outputs, at)
            for label, heat in self._maps(outputs, at, row).items():
                overlays[file_name(row[ID], label)] = overlay(pixels, heat)
        return rows, overlays

    def _run(self, pixels_NSS: Tensor) -> dict[str, Tensor]:
        wanted = {"heatmaps": self.hierarchy.names} if self.heatmaps else {}

        def run(pixels_BSS: Tensor) -> dict[str, Tensor]:
            pixels = pixels_BSS[:, None].to(self.pipe.device)
            inputs = normalise(pixels, self.config.image_mean, self.config.image_std)
            outputs: dict[str, Tensor] = self.pipe.forward({"pixel_values": inputs}, **self.passes, **wanted)
            return outputs

        parts = self.batch_size.over(pixels_NSS, run)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _figures(self, outputs: dict[str, Tensor], at: int) -> dict[str, Any]:
        """A film's columns."""
        names, gate = self.hierarchy.names, self.hierarchy.gate
        probability = dict(zip(names, probabilities(outputs["logits"][at].numpy()).tolist(), strict=True))
        ran = bool(outputs["finding_model_ran"][at]) if self.two_stage else None
        positive = decide(probability, self.thresholds, gate, ran)
        cleared = {CLEARED: int(not positive[gate])} if gate in positive else {}
        doubt = {
            f"{name}_{figure}": value
            for figure in DOUBT
            if figure in outputs
            for name, value in zip(names, outputs[figure][at].double().tolist(), strict=True)
        }
        return {
            **{f"{name}_prob": p for name, p in probability.items()},
            **{f"{name}_decision": int(decided) for name, decided in positive.items()},
            **doubt,
            **cleared,
            **({} if ran is None else {RAN: int(ran)}),
        }

    def _maps(self, outputs: dict[str, Tensor], at: int, row: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
        """Heatmaps of the findings decided positive, on a film that the gate does not clear."""
        if not self.heatmaps or row.get(CLEARED) == 1:
            return {}
        kinds = self.config.node_kinds
        shown = [n for n in self.hierarchy.names if kinds[n] in SCORED_KINDS and row.get(f"{n}_decision") == 1]
        return {name: outputs["heatmaps"][at, self.hierarchy.names.index(name)].numpy() for name in shown}
