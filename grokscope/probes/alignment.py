"""Do the Jacobians of the network come to lie along their inputs, and before the test accuracy rises?"""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import jacrev, vmap

from grokscope.errors import Absent
from grokscope.measures.alignment import alignment, gated_jacobian
from grokscope.probes.drawing import TEST, TRAIN, curve, legend, time_axes
from grokscope.probes.readings import Values, per_save
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import register
from grokscope.probes.stepwise import no_params, record_series
from grokscope.runs import Params, Run

GA = "arXiv 2506.12284"
SAMPLES = 128
"""Of each subset, drawn once; all where there are no more."""
_ENTRIES = 2**23
UNDEFINED = "at every save its inputs or its Jacobians are zero or not finite"
_JACOBIAN = r" \\ J_x=\frac{\partial f}{\partial x}\in\text{R}^{C\times d}"
_WHERE = "x is the input in which the network can be moved: features, or the embedded operands in a row."
# name, unit, words, formula
_MEASURES = (
    ("centroid", "1", "Mean cosine of J_xᵀ1 with x.", r"\operatorname*{mean}_x\cos(J_x^T 1,x)"),
    ("centroid_inner", "1", "Mean of ⟨J_xᵀ1, x⟩.", r"\operatorname*{mean}_x\,\langle J_x^T 1,x\rangle"),
    ("centroid_norm", "1", "Mean of ‖J_xᵀ1‖.", r"\operatorname*{mean}_x\left\|J_x^T 1\right\|"),
    (
        "common_row",
        "1",
        "Mean of ‖J_xᵀ1‖/(√C‖J_x‖): how much of the Jacobian is a row that all classes share. Under cross-entropy such "
        "a row changes nothing, and the centroid says little where this is under 0.01.",
        r"\operatorname*{mean}_x\frac{\left\|J_x^T 1\right\|}{\sqrt{C}\left\|J_x\right\|_F}",
    ),
    (
        "row_max",
        "1",
        "Mean of the largest cosine of a row of J_x with x.",
        r"\operatorname*{mean}_x\max_c\cos(J_{x,c},x)",
    ),
    ("row_min", "1", "Mean of the smallest one.", r"\operatorname*{mean}_x\min_c\cos(J_{x,c},x)"),
    (
        "first_component",
        "1",
        "Mean of σ₁²/Σσ² of J_x, one over its stable rank: 1 where all rows are parallel.",
        r"\operatorname*{mean}_x\frac{\sigma_1(J_x)^2}{\sum_i\sigma_i(J_x)^2}",
    ),
    (
        "jacobian_norm",
        "1",
        "Mean of ‖J_x‖_F, what the penalty of GrokAlign acts on.",
        r"\operatorname*{mean}_x\left\|J_x\right\|_F",
    ),
)  # fmt: skip


@register(
    "alignment",
    title="Alignment of Jacobians",
    question="Do the Jacobians of the network come to lie along their inputs?",
    quantities=tuple(
        Quantity(f"alignment.{name}.<subset>", unit, f"{words} {_WHERE}", GA, formula=formula + _JACOBIAN)
        for name, unit, words, formula in _MEASURES
    ),
    caveat=f"Over at most {SAMPLES} training and as many test samples, the same at every save. At a kink of ReLU the "
    "derivative is that of the closed gate. A sample whose Jacobian or input is zero has no angle, and counts in "
    "no mean of them.",
    needs=("function", "split"),
)
def align(run: Run, record: Record) -> None:
    """Means over samples of train and test, at every save."""
    chosen = samples(run)
    inputs = torch.cat([run.task.inputs[places] for places in chosen.values()])
    lacking = run.model.embedded(no_params(run.model), inputs[:1])
    if isinstance(lacking, Absent):
        for name, *_ in _MEASURES:
            record.skip(f"alignment.{name}.<subset>", lacking.reason)
        return

    def read(params: Params) -> Values:
        rows: list[Values] = []
        for index in range(len(next(iter(params.values())))):
            rows.append(_read(run, {name: value[index] for name, value in params.items()}, inputs, chosen))
        return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}

    found = per_save(run, "alignment", read, options={"samples": SAMPLES})
    for key, values in found.items():
        record_series(record, f"alignment.{key}", values, UNDEFINED)
    record.notes["alignment.samples"] = {name: len(places) for name, places in chosen.items()}


def samples(run: Run) -> dict[str, Tensor]:
    """Subset → places of its samples in the task's inputs, in order; never more than :data:`SAMPLES`."""
    of_rows = run.task.train_mask if run.task.train_mask.ndim == 1 else run.task.train_mask.any(1)
    found = {}
    for name, mask in (("train", of_rows), ("test", ~of_rows)):
        places = mask.nonzero()[:, 0]
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(0))
        if len(places):
            found[name] = places[order[:SAMPLES].sort().values]
    return found


def jacobians(run: Run, params: Params, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """J_x (N, C, d) and x (N, d): by the gates where the network has them, else by differentiating."""
    model = run.model
    x = model.embedded(params, inputs)
    assert isinstance(x, Tensor)
    form = model.gated(params)
    # a transformer's gated form begins behind its attention
    if not isinstance(form, Absent) and model.combine in ("concatenation", "sum", "none"):
        found = gated_jacobian(form, model.combined(params, inputs))
        return (torch.cat([found, found], dim=2) if model.combine == "sum" else found), x
    one = jacrev(lambda row: model.from_embedded(params, row[None])[0])
    size = max(1, _ENTRIES // (x.shape[1] * model.n_classes * 8))
    return vmap(one, chunk_size=size)(x), x


def _read(run: Run, params: Params, inputs: Tensor, chosen: dict[str, Tensor]) -> Values:
    found: Values = {}
    start = 0
    for subset, places in chosen.items():
        part = inputs[start : start + len(places)]
        start += len(places)
        measured = _over(run, params, part)
        found |= {f"{name}.{subset}": values.nanmean() for name, values in measured.items()}
    return found


def _over(run: Run, params: Params, inputs: Tensor) -> dict[str, Tensor]:
    """(N,) of every measure, in blocks of bounded memory; NaN where the weights give no finite Jacobian."""
    width = run.model.embedded(params, inputs[:1])
    assert isinstance(width, Tensor)
    rows = max(1, _ENTRIES // (width.shape[1] * run.model.n_classes))
    parts: dict[str, list[Tensor]] = {name: [] for name, *_ in _MEASURES}
    for block in inputs.split(rows):
        try:
            found = alignment(*(value.detach() for value in jacobians(run, params, block)))
        except ValueError:
            for values in parts.values():
                values.append(torch.full((len(block),), torch.nan, dtype=torch.float64))
            continue
        for name, values in parts.items():
            values.append(found.norm if name == "jacobian_norm" else getattr(found, name))
    return {name: torch.cat(values) for name, values in parts.items()}


@align.figure(
    "Alignment over training",
    "Largest and smallest cosine of a row of the Jacobian with the input, and the share of the first component.",
    needs=("alignment.row_max.train",),
)
def draw_alignment(record: Record, figure: Figure) -> None:
    """Rows on the left, first component on the right."""
    left, right = time_axes(figure, record, 2)
    for subset, colour in (("train", TRAIN), ("test", TEST)):
        curve(left, record, f"alignment.row_max.{subset}", f"largest, {subset}", colour)
        curve(left, record, f"alignment.row_min.{subset}", f"smallest, {subset}", colour, linestyle="--")
        curve(right, record, f"alignment.first_component.{subset}", subset, colour)
    left.set_ylabel("cosine of a row with x")
    right.set_ylabel("first component of the Jacobian")
    for axes in (left, right):
        legend(axes)


@align.figure(
    "Centroids and the size of Jacobians",
    "Cosine of the sum of the Jacobian's rows with the input, and the Frobenius norm.",
    needs=("alignment.jacobian_norm.train",),
)
def draw_size(record: Record, figure: Figure) -> None:
    """Centroid on the left, norm on the right."""
    left, right = time_axes(figure, record, 2)
    for subset, colour in (("train", TRAIN), ("test", TEST)):
        curve(left, record, f"alignment.centroid.{subset}", subset, colour)
        curve(right, record, f"alignment.jacobian_norm.{subset}", subset, colour)
    left.set_ylabel("cosine of the centroid with x")
    right.set_ylabel("norm of the Jacobian")
    for axes in (left, right):
        legend(axes)
