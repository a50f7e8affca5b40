"""How large is the gradient of each block, and does the head go before the embedding?"""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from grokscope.errors import GrokscopeError
from grokscope.probes.drawing import CYCLE, NEUTRAL, TEST, TRAIN, curve, time_axes
from grokscope.probes.findings import Findings, read_findings
from grokscope.probes.gradient_readings import (
    DID_NOT_MOVE,
    FORCED,
    RATIOS,
    UPDATES,
    GradientReader,
    updates,
    why_no_ratio,
)
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import register
from grokscope.probes.series import SaveSeries
from grokscope.probes.views import Content, Frames
from grokscope.runs import Params, Run

TC = "arXiv 2606.05863"

# LaTeX of the chain-rule bound on the embedding's gradient of one sample
_EMBEDDING_BOUND = (
    r"\beta_E=\left\|B\right\|_2\,\kappa^L\prod_{k}\left\|W_k\right\|_2\left\|U\right\|_2"
    r"\left\|\delta\right\| \\ z=BE,\quad\kappa=1\text{ (ReLU)},\,1.129\text{ (GELU)}"
)
# names that say more come first: a placeholder stands for any number of words
QUANTITIES = (
    Quantity(
        "gradients.with_decay.<block>.norm",
        "nat/weight",
        "‖g + λθ‖ of the block, λ the weight decay of the run.",
        formula=r"\left\|g+\lambda\theta\right\|,\quad g=\nabla_\theta L",
    ),
    Quantity(
        "gradients.with_decay.<block>.per_parameter",
        "nat/weight",
        "Root mean square of g + λθ over the block.",
        formula=r"\frac{\left\|g+\lambda\theta\right\|}{\sqrt{n}},\quad\theta\in\text{R}^n",
    ),
    Quantity(
        "gradients.with_decay.<block>.relative",
        "nat/weight²",
        "‖g + λθ‖/‖θ‖ of the block.",
        formula=r"\frac{\left\|g+\lambda\theta\right\|}{\left\|\theta\right\|}",
    ),
    Quantity(
        RATIOS["norm"],
        "1",
        "‖g‖ of the head over ‖g‖ of the embedding, without weight decay.",
        TC,
        formula=r"\frac{\left\|g_U\right\|}{\left\|g_E\right\|},\quad g_U=\nabla_U L,\quad g_E=\nabla_E L",
    ),
    Quantity(
        RATIOS["per_parameter"],
        "1",
        "The same with root mean squares, which takes the sizes of blocks out.",
        TC,
        formula=r"\frac{\left\|g_U\right\|/\sqrt{n_U}}{\left\|g_E\right\|/\sqrt{n_E}}",
    ),
    Quantity(
        RATIOS["relative"],
        "1",
        "The same with ‖g‖/‖θ‖.",
        TC,
        formula=r"\frac{\left\|g_U\right\|/\left\|U\right\|}{\left\|g_E\right\|/\left\|E\right\|}",
    ),
    Quantity(
        FORCED,
        "1",
        "Share of training samples whose head gradient exceeds the upper bound of their embedding gradient. "
        "There the bounds alone put the head first; elsewhere its size is a measurement.",
        TC,
        formula=r"\frac{1}{N}\left|\left\{i:\left\|\nabla_U\ell_i\right\|>\beta_{E,i}\right\}\right| \\ "
        + _EMBEDDING_BOUND,
    ),
    Quantity(
        "gradients.bound_slack.<block>",
        "1",
        "Mean over training samples of a per-sample gradient norm over its chain-rule bound: 1 is tight. The "
        "head's is an equality, ‖∇_Uℓ‖ = ‖δ‖‖h‖.",
        TC,
        formula=r"\operatorname*{mean}_{i:\beta_i>0}\frac{\left\|\nabla\ell_i\right\|}{\beta_i},"
        r"\quad\beta_U=\left\|\delta\right\|\left\|h_L\right\| \\ "
        r"\beta_{W_l}=\kappa^{L-l+1}\left\|h_{l-1}\right\|\prod_{k>l}\left\|W_k\right\|_2"
        r"\left\|U\right\|_2\left\|\delta\right\| \\ "
        + _EMBEDDING_BOUND
        + r" \\ \left\|h\right\|\text{ with a bias: }\sqrt{1+\left\|h\right\|^2}",
    ),
    Quantity(
        "gradients.cancellation.<block>",
        "1",
        "‖mean ∇ℓ_i‖ / mean ‖∇ℓ_i‖ over training samples: 1 where all pull one way, 0 where they cancel. It "
        "needs no bound, only norms in closed form: of every block of an MLP, of head and last mlp of a "
        "transformer without norms, elsewhere of the head, where it is not tied to the embedding.",
        TC,
        formula=r"\frac{\left\|\operatorname*{mean}_i\nabla\ell_i\right\|}"
        r"{\operatorname*{mean}_i\left\|\nabla\ell_i\right\|}",
    ),
    Quantity(
        UPDATES[0],
        "1",
        "‖ΔU‖/‖ΔE‖, how far head and embedding moved between consecutive saves.",
        TC,
        formula=r"\frac{\left\|U(t')-U(t)\right\|}{\left\|E(t')-E(t)\right\|},\quad t'\text{ the next save}",
    ),
    Quantity(
        UPDATES[1],
        "1",
        "The same with each update relative to the norm of its block.",
        TC,
        formula=r"\frac{\left\|U(t')-U(t)\right\|/\left\|U(t)\right\|}"
        r"{\left\|E(t')-E(t)\right\|/\left\|E(t)\right\|},\quad t'\text{ the next save}",
    ),
    Quantity(
        "gradients.<block>.norm",
        "nat/weight",
        "‖g‖ of the block: gradient of the training objective over all training samples, without decay.",
        TC,
        formula=r"\left\|g\right\|,\quad g=\nabla_\theta L",
    ),
    Quantity(
        "gradients.<block>.per_parameter",
        "nat/weight",
        "Root mean square of g over the block.",
        formula=r"\frac{\left\|g\right\|}{\sqrt{n}},\quad\theta\in\text{R}^n",
    ),
    Quantity(
        "gradients.<block>.relative",
        "nat/weight²",
        "‖g‖/‖θ‖ of the block.",
        formula=r"\frac{\left\|g\right\|}{\left\|\theta\right\|}",
    ),
)


@register(
    "gradients",
    title="Gradients: head and embedding",
    question="How large is the gradient of each block, and does the head go before the embedding?",
    quantities=QUANTITIES,
    caveat="Gradients are of the whole training set at the saved weights. An adaptive optimiser rescales "
    "them: what it really did is in the update ratio. The head's per-sample norm is an equality and the "
    "others have upper bounds, so a head that goes first is a measurement and follows from nothing, except "
    "on the share of samples whose head gradient exceeds the bound on the embedding's.",
)
def gradients(run: Run, record: Record) -> None:
    """Gradient sizes by block, the chain-rule account, and the updates between saves."""
    lacking = _why_no_gradient(run)
    if lacking is not None:
        _updates_only(run, record, lacking)
        return
    reader = GradientReader(run)
    series = SaveSeries(run.steps)
    reader.declare(series, record)
    read_findings(run, "gradients", reader, series)
    if reader.no_ratio is None:
        _updates(run, series, reader.head)
    series.record(record)
    record.notes["head_equality"] = reader.check_head(run.params(-1), int(run.steps[-1]))
    _note_order(record)


def _updates(run: Run, series: SaveSeries, head: str) -> None:
    """What the optimiser did between saves, of the tensors of head and embedding."""
    blocks = run.model.blocks

    def read(before: Params, after: Params) -> Findings:
        return updates(before, after, blocks[head], blocks["embedding"])

    names = (*blocks[head], *blocks["embedding"])
    read_findings(run, "gradients.updates", read, series, pairs=True, names=names)


def _why_no_gradient(run: Run) -> str | None:
    """Why no gradient of the training objective can be taken, ``None`` where it can."""
    lacking = run.lacks("function", "split")
    if lacking is not None or run.function is None:
        return lacking.reason if lacking else None
    try:
        GradientReader(run).gradient(run.params(-1))
    except GrokscopeError as error:  # a function given as code may answer and still not be differentiable
        return str(error)
    return None


def _updates_only(run: Run, record: Record, lacking: str) -> None:
    """How far head and embedding moved between saves, which takes no gradient; the rest is absent."""
    for quantity in QUANTITIES:
        if quantity.name not in UPDATES:
            record.skip(quantity.name, lacking)
    if (reason := why_no_ratio(run.model)) is not None:
        for name in UPDATES:
            record.skip(name, reason)
        return
    series = SaveSeries(run.steps)
    series.declare(*UPDATES, dims=("interval",), reason=DID_NOT_MOVE)
    _updates(run, series, "head")
    series.record(record)


def _note_order(record: Record) -> None:
    """In how many saves the head's gradient was the larger, in each of the three scales."""
    shares = {}
    for size, name in RATIOS.items():
        values = record.get(name)
        if values is not None:
            shares[size] = float((values > 1).mean())
    if shares:
        record.notes["head_first"] = {"share_of_saves": shares, "kind": "measured, not implied by the bounds"}


def _named(record: Record, prefix: str) -> list[tuple[str, str, str]]:
    """(series, block, colour) of every block under ``prefix``, or of block norms for an empty one."""
    found = []
    for name in record.names("gradients"):
        words = name.split(".")
        if prefix and words[1] == prefix:
            found.append((name, ".".join(words[2:])))
        elif not prefix and words[-1] == "norm" and words[1] != "with_decay":
            found.append((name, ".".join(words[1:-1])))
    known = {"head": TEST, "embedding": TRAIN}
    others = iter([c for c in CYCLE if c not in known.values()] * 2)
    return [(name, block, known.get(block) or next(others)) for name, block in found]


@gradients.view(
    "shares",
    "shares",
    "Whose gradient it is",
    "Shares of the blocks in the squared norm of the gradient of the training objective, without weight decay.",
)
def draw_shares(run: Run, record: Record) -> Content | None:
    """Squared gradient norms of the blocks over their sum."""
    found = _named(record, "")
    if len(found) < 2:
        return None
    squares = np.stack([np.square(np.asarray(record[name], dtype=float)) for name, _, _ in found], axis=1)
    total = squares.sum(1, keepdims=True)
    shares = np.divide(squares, total, out=np.zeros_like(squares), where=total > 0)
    return {"labels": [block for _, block, _ in found], "values": Frames(shares, "byte", low=0.0, high=1.0)}


def _log(axes: Axes) -> None:
    """A logarithmic axis that also labels its minor ticks, which are all there is under one decade."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _ratio_axes(axes: Axes, label: str) -> None:
    axes.axhline(1, color=NEUTRAL, linewidth=0.8, linestyle="--")
    _log(axes)
    axes.set_ylabel(label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


@gradients.figure(
    "Gradient of each block",
    "Norm of the gradient of the training objective by block (left), and relative to the norm of the block's "
    "parameters (right), over the whole training set and without weight decay.",
    needs=("gradients.<block>.per_parameter",),
)
def draw_norms(record: Record, figure: Figure) -> None:
    """Gradient norms of every block."""
    left, right = time_axes(figure, record, 2)
    for name, block, colour in _named(record, ""):
        curve(left, record, name, block, colour)
        curve(right, record, f"{name.removesuffix('norm')}relative", block, colour)
    for axes, label in ((left, "‖g‖ (nat/weight)"), (right, "‖g‖/‖θ‖ (nat/weight²)")):
        axes.set_yscale("log")
        axes.set_ylabel(label)
    left.legend(loc="best")


@gradients.figure(
    "Head over embedding",
    "Ratio of the head's gradient to the embedding's in three scales (left), and of what the optimiser "
    "really moved between consecutive saves (right). Above the dashed line the head is ahead.",
    needs=("gradients.head_over_embedding",),
)
def draw_ratios(record: Record, figure: Figure) -> None:
    """Head over embedding: gradients and updates."""
    left, right = time_axes(figure, record, 2)
    for (size, name), colour in zip(RATIOS.items(), (TRAIN, TEST, CYCLE[2]), strict=True):
        curve(
            left, record, name, {"norm": "‖g‖", "per_parameter": "RMS", "relative": "‖g‖/‖θ‖"}[size], colour
        )
    _ratio_axes(left, "head / embedding, gradient")
    curve(right, record, UPDATES[0], "‖Δθ‖", TRAIN)
    curve(right, record, UPDATES[1], "‖Δθ‖/‖θ‖", CYCLE[2])
    _ratio_axes(right, "head / embedding, update")


@gradients.figure(
    "Slack of the bounds and cancellation",
    "Left: per-sample gradient norm over its chain-rule bound, mean over training samples; the head's is an "
    "equality. Right: norm of the mean gradient over the mean per-sample norm; small means they cancel.",
    needs=("gradients.cancellation",),
)
def draw_account(record: Record, figure: Figure) -> None:
    """Bound slack and cancellation of every block that has them."""
    left, right = time_axes(figure, record, 2)
    for axes, kind, label in (
        (left, "bound_slack", "gradient / bound"),
        (right, "cancellation", "‖mean‖ / mean norm"),
    ):
        for name, block, colour in _named(record, kind):
            curve(axes, record, name, block, colour)
        axes.set_ylabel(label)
    left.set_ylim(-0.03, 1.05)
    left.legend(loc="best")
    _log(right)
