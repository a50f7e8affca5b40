"""Pictures of the regions probe that follow the time cursor.

Shape legend: K keyframes, N training samples, h gates over all layers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from grokscope.measures.packed_gates import open_counts
from grokscope.measures.regions import GatedForm
from grokscope.probes.readings import Values, per_pair
from grokscope.probes.record import Record
from grokscope.probes.region_pass import TrainingPass
from grokscope.probes.views import Content, Frames, finite_rows, keyframes
from grokscope.runs import Params, Run

MOST_GATES = 1024


def flips(run: Run, record: Record) -> Content | None:
    """Of each gate, the share of training samples whose gate is another than at the save before.

    A gate is one neuron; at the first save nothing stands before it.
    """
    if record.get("regions.flipped") is None or run.lacks("function", "split", "anatomy"):
        return None
    rows = keyframes(record)
    rows = rows[rows > 0]
    rows = np.intersect1d(finite_rows(run, rows), finite_rows(run, rows - 1) + 1)
    if not len(rows):
        return None
    form = run.model.gated(run.params(int(rows[0])))
    if not isinstance(form, GatedForm):
        return None
    mask = run.task.train_rows
    through = TrainingPass(run.model, run.task.inputs[mask], run.task.targets[mask], form)

    def read(before: Params, after: Params) -> Values:
        shares = []
        for row in range(len(next(iter(before.values())))):
            sides = [
                through.gates({name: value[row] for name, value in side.items()}) for side in (before, after)
            ]
            changed = torch.cat(open_counts(sides[0] ^ sides[1], through.widths))
            shares.append(changed.double() / len(through.inputs))
        return {"flipped": torch.stack(shares)}

    # a keyframe and the save before it stand side by side among these
    needed = np.unique(np.concatenate([rows - 1, rows]))
    found = per_pair(replace(run, rows=run.rows[needed]), "flips", read)["flipped"].numpy()
    shares = found[np.searchsorted(needed, rows) - 1][:, :MOST_GATES]
    return {
        "layers": [{"label": "gates", "values": Frames(shares, "byte", rows, low=0.0)}],
        "labels": [str(gate) for gate in range(shares.shape[1])],
        "xlabel": "neuron",
        "ylabel": "share of training samples that changed",
        "chance": None,
    }
