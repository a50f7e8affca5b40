"""How large are the weights, in all and block by block?"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from grokscope.measures.crossings import first_hold
from grokscope.measures.norms import frobenius_norm
from grokscope.measures.states import normalised_skill
from grokscope.probes.dense import dense_series
from grokscope.probes.drawing import CYCLE, INK, curve, legend, time_axes
from grokscope.probes.readings import Values, per_save
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import register
from grokscope.probes.stepwise import record_series, rowwise
from grokscope.runs import Params, Run

GROK_LEVEL = 0.9
NOT_FINITE = "its weights are not finite at any save"
NO_MATRIX = "no tensor of it is a weight matrix"


@register(
    "norms",
    title="Weight norms",
    question="How large are the weights, and which block grows or shrinks?",
    quantities=(
        Quantity(
            "norm.total",
            "1",
            "Frobenius norm over all weight matrices, taken as one vector: no biases, no LayerNorm gains, no "
            "buffers; position embeddings count.",
            "arXiv 2606.13753",
            formula=r"\sqrt{\sum_W\left\|W\right\|_F^2}",
        ),
        Quantity(
            "norm.at_grok",
            "1",
            "norm.total at the first save at or after the first evaluation whose test skill, over all test "
            "pairs, is at least 0.9; its median over seeds is W_c.",
            "arXiv 2606.13753",
            formula=r"\sqrt{\sum_W\left\|W(t)\right\|_F^2} \\ "
            r"t=\min\left\{u\in\text{saves}:u\ge v\right\} \\ "
            r"v=\min\left\{u\in\text{evaluations}:s(u)\ge 0.9\right\} \\ "
            r"s=\frac{\text{accuracy}\,-\,\text{chance}}{1-\text{chance}}",
        ),
        Quantity(
            "norm.<block>",
            "1",
            "Frobenius norm over the weight matrices of one block.",
            formula=r"\sqrt{\sum_{W\in\text{block}}\left\|W\right\|_F^2}",
        ),
    ),
    caveat="Weight matrices are those the model names, not tensors chosen by their number of axes. Position "
    "embeddings count as weights; biases, LayerNorm gains and buffers do not.",
    after=("loss",),
)
def norms(run: Run, record: Record) -> None:
    """Frobenius norms of all weight matrices together and of each block."""
    matrices = run.model.matrices
    if not matrices:
        for name in ("norm.total", "norm.at_grok", "norm.<block>"):
            record.skip(name, NO_MATRIX)
        return

    def read(params: Params) -> Values:
        squares: Values = {}
        for name, block in matrices.items():
            square = rowwise(frobenius_norm, (), params[name]).square()
            squares[block] = squares[block] + square if block in squares else square
        return squares

    squares = per_save(run, "norms", read, names=list(matrices))
    total = torch.stack(list(squares.values())).sum(0).sqrt()
    record_series(record, "norm.total", total, NOT_FINITE)
    _at_grok(run, record, total)
    for block, values in squares.items():
        record_series(record, f"norm.{block}", values.sqrt(), NOT_FINITE)


def _at_grok(run: Run, record: Record, total: Tensor) -> None:
    """The norm at ``grok_90``, one evaluation being enough (q = 1)."""
    dense, chance, name = dense_series(run, record), run.task.chance, "norm.at_grok"
    if chance is None or "accuracy.test" not in dense:
        lacking = run.lacks("function", "split")
        record.skip(
            name,
            lacking.reason
            if lacking
            else "the test accuracy was not measured (run the loss probe) or is not defined",
        )
        return
    steps, accuracy = dense["accuracy.test"]
    grok = first_hold(steps, normalised_skill(accuracy, chance), GROK_LEVEL, "above", 1)
    saved = [] if grok.by is None else np.flatnonzero(record.steps >= grok.by)
    if not len(saved) or not bool(total[saved[0]].isfinite()):
        record.skip(name, f"the test skill never reaches {GROK_LEVEL}, or not before the last save")
        return
    record.add(name, total[saved[0]], dims=())
    record.notes[name] = {"step": int(record.steps[saved[0]])}


@norms.figure(
    "Weight norms over training",
    "Frobenius norm of all weight matrices together (thick) and of each block.",
    needs=("norm.total",),
)
def draw_norms(record: Record, figure: Figure) -> None:
    """The total and each block."""
    (axes,) = time_axes(figure, record)
    curve(axes, record, "norm.total", "all weights", INK, linewidth=2.6)
    blocks = [n for n in record.names("norm") if n not in ("norm.total", "norm.at_grok")]
    for name, colour in zip(blocks, CYCLE, strict=False):
        curve(axes, record, name, name.removeprefix("norm."), colour)
    axes.set_ylabel("Frobenius norm")
    axes.set_ylim(bottom=0)
    legend(axes)
