"""How large are the weights, in all and block by block?"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from grokscope.measures.norms import frobenius_norm
from grokscope.probes.drawing import CYCLE, INK, curve, legend, time_axes
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import register
from grokscope.probes.stepwise import record_series, rowwise, step_blocks
from grokscope.runs import Run

NOT_FINITE = "its weights are not finite at any save"


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
        ),
        Quantity("norm.<block>", "1", "Frobenius norm over the weight matrices of one block."),
    ),
    caveat="Weight matrices are those the model names, not tensors chosen by their number of axes. Position "
    "embeddings count as weights; biases, LayerNorm gains and buffers do not.",
)
def norms(run: Run, record: Record) -> None:
    """Frobenius norms of all weight matrices together and of each block."""
    matrices = run.model.matrices
    squares = {block: torch.zeros(len(run.rows), dtype=torch.float64) for block in matrices.values()}
    for rows, params in step_blocks(run, list(matrices)):
        for name, block in matrices.items():
            squares[block][rows] += rowwise(frobenius_norm, (), params[name]).square()
    record_series(record, "norm.total", torch.stack(list(squares.values())).sum(0).sqrt(), NOT_FINITE)
    for block, values in squares.items():
        record_series(record, f"norm.{block}", values.sqrt(), NOT_FINITE)


@norms.figure(
    "Weight norms over training",
    "Frobenius norm of all weight matrices together (thick) and of each block.",
    needs=("norm.total",),
)
def draw_norms(record: Record, figure: Figure) -> None:
    """The total and each block."""
    (axes,) = time_axes(figure, record)
    curve(axes, record, "norm.total", "all weights", INK, linewidth=2.6)
    blocks = [name for name in record.names("norm") if name != "norm.total"]
    for name, colour in zip(blocks, CYCLE, strict=False):
        curve(axes, record, name, name.removeprefix("norm."), colour)
    axes.set_ylabel("Frobenius norm")
    axes.set_ylim(bottom=0)
    legend(axes)
