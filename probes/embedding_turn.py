"""A worked plug-in probe: how far does the embedding turn between two saves?

grokscope report quickstart-s0 --plugin probes/embedding_turn.py
"""

from matplotlib.figure import Figure

from grokscope.probes import Quantity, Record, register
from grokscope.probes.drawing import TRAIN, curve, time_axes
from grokscope.runs import Run


@register(
    "embedding_turn",
    title="Turning of the embedding",
    question="When does the embedding change direction rather than length?",
    quantities=[
        Quantity("embedding_turn.cosine", "1", "Cosine between the embeddings of consecutive saves.")
    ],
    caveat="The saves are not equally spaced, so compare neighbours, not distant steps.",
)
def embedding_turn(run: Run, record: Record) -> None:
    tables = list(run.model.embeddings(run.stacked()).values())  # each (steps, residues, width)
    if not tables:
        return record.skip("embedding_turn.cosine", f"a {run.model.family} model has no embedding")
    flat = tables[0].flatten(1)
    unit = flat / flat.norm(dim=1, keepdim=True)
    return record.add("embedding_turn.cosine", (unit[1:] * unit[:-1]).sum(1), dims=["interval"])


@embedding_turn.figure("Cosine between consecutive saves", "1 means that only the length changed.")
def draw(record: Record, figure: Figure) -> None:
    (axes,) = time_axes(figure, record)
    curve(axes, record, "embedding_turn.cosine", "cosine", TRAIN)
    axes.set_ylabel("cosine")
