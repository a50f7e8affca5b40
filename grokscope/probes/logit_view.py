"""The logit map: the answer's logit of every pair of residues, at a few saves.

Shape legend: K keyframes, p residues, N = p² pairs, C classes.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from grokscope.probes.readings import Values, by_save, per_save
from grokscope.probes.record import Record
from grokscope.probes.views import MOST_MAPS, Content, Frames, finite_rows, keyframes
from grokscope.runs import Params, Run


def logit_map(run: Run, record: Record) -> Content | None:
    """(K, p, p): z_y less the mean over classes, for every pair (a, b)."""
    task = run.task
    if task.kind == "regression" or not task.is_grid or run.lacks("function"):
        return None

    def read(params: Params) -> Values:
        found = torch.empty(len(task.inputs), dtype=torch.float64)
        for rows, logits in run.model.logit_blocks(params, task.inputs, grid=True):
            answer = logits.gather(1, task.targets[rows][:, None])[:, 0]
            found[rows] = answer - logits.mean(1)
        return {"answer": found.float()}

    rows = finite_rows(run, keyframes(record, MOST_MAPS))
    if not len(rows):
        return None
    values = per_save(replace(run, rows=run.rows[rows]), "logit-map", by_save(read))["answer"].numpy()
    side = math.isqrt(values.shape[1])
    low, high = values.min(1).astype(float), values.max(1).astype(float)
    return {
        "layers": [{
            "label": "logit of the answer over the mean",
            "values": Frames(values.reshape(-1, side, side), "byte", rows, low=low, high=high, unit="logit"),
        }],
        "rows": "a",
        "cols": "b",
        "diverging": False,
    }  # fmt: skip
