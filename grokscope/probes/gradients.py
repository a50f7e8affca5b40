"""How large is the gradient of each block, and does the head go before the embedding?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import one_hot

from grokscope.errors import Absent
from grokscope.measures.chain_rule import (
    Account,
    bound_slack,
    cancellation,
    head_gradient_norms,
    logit_gradient,
    per_sample_account,
)
from grokscope.measures.gradients import (
    BlockGradient,
    gradient_norms,
    head_over_embedding,
    update_norms,
    update_ratio,
    with_decay,
)
from grokscope.models import Model, Params
from grokscope.probes.drawing import CYCLE, NEUTRAL, TEST, TRAIN, curve, time_axes
from grokscope.probes.record import Quantity, Record
from grokscope.probes.registry import register
from grokscope.probes.series import SaveSeries
from grokscope.runs import Run

TC = "arXiv 2606.05863"
SIZES = ("norm", "per_parameter", "relative")
RATIOS = {
    "norm": "gradients.head_over_embedding",
    "per_parameter": "gradients.head_over_embedding_per_parameter",
    "relative": "gradients.head_over_embedding_relative",
}
UPDATES = ("gradients.update_ratio", "gradients.update_ratio.relative")
FORCED = "gradients.head_above_bound"
CHECKED_SAMPLES = 4

# names that say more come first: a placeholder stands for any number of words
QUANTITIES = (
    Quantity(
        "gradients.with_decay.<block>.norm",
        "1/weight",
        "‖g + λθ‖ of the block, λ the weight decay of the run.",
    ),
    Quantity(
        "gradients.with_decay.<block>.per_parameter", "1/weight", "Root mean square of g + λθ over the block."
    ),
    Quantity("gradients.with_decay.<block>.relative", "1/weight²", "‖g + λθ‖/‖θ‖ of the block."),
    Quantity(RATIOS["norm"], "1", "‖g‖ of the head over ‖g‖ of the embedding, without weight decay.", TC),
    Quantity(
        RATIOS["per_parameter"],
        "1",
        "The same with root mean squares, which takes the sizes of blocks out.",
        TC,
    ),
    Quantity(RATIOS["relative"], "1", "The same with ‖g‖/‖θ‖.", TC),
    Quantity(
        FORCED,
        "1",
        "Share of training samples whose head gradient exceeds the upper bound of their embedding gradient. "
        "There the bounds alone put the head first; elsewhere its size is a measurement.",
        TC,
    ),
    Quantity(
        "gradients.bound_slack.<block>",
        "1",
        "Mean over training samples of a per-sample gradient norm over its chain-rule bound: 1 is tight. The "
        "head's is an equality, ‖∇_Uℓ‖ = ‖δ‖‖h‖.",
        TC,
    ),
    Quantity(
        "gradients.cancellation.<block>",
        "1",
        "‖mean ∇ℓ_i‖ / mean ‖∇ℓ_i‖ over training samples: 1 where all pull one way, 0 where they cancel.",
        TC,
    ),
    Quantity(UPDATES[0], "1", "‖ΔU‖/‖ΔE‖, how far head and embedding moved between consecutive saves.", TC),
    Quantity(UPDATES[1], "1", "The same with each update relative to the norm of its block.", TC),
    Quantity(
        "gradients.<block>.norm",
        "1/weight",
        "‖g‖ of the block: gradient of the training objective over all training samples, without decay.",
        TC,
    ),
    Quantity("gradients.<block>.per_parameter", "1/weight", "Root mean square of g over the block."),
    Quantity("gradients.<block>.relative", "1/weight²", "‖g‖/‖θ‖ of the block."),
)


@dataclass(frozen=True)
class Objective:
    """The training objective as a sum over samples of ``weight`` times ℓ_i, by its gradient in the outputs.

    Attributes:
        inputs: (N, 2) or (N, d) training samples; for completion the rows of the matrix.
        targets: (N,) classes or (N, C) values.
        observed: (N, C) bool entries that count, ``None`` for all.
        loss: ``cross-entropy`` or ``squared``, ℓ_i = ½‖z − y‖² over the observed entries.
        weight: 1/N for a mean, 1 for a sum.
    """

    inputs: Tensor
    targets: Tensor
    observed: Tensor | None
    loss: str
    weight: float

    def delta(self, outputs: Tensor) -> Tensor:
        """(N, C): δ_i = ∂ℓ_i/∂z_i.

        Taken in closed form and not by differentiating the loss: log-softmax would lose the digits of the
        small δ that a fitted run has.
        """
        if self.loss == "cross-entropy":
            return logit_gradient(outputs, self.targets)
        if self.observed is not None:
            return torch.where(self.observed, outputs - self.targets, 0.0)
        return outputs - one_hot(self.targets, outputs.shape[1])


def training_objective(run: Run) -> Objective:
    """What the run was trained on; an imported run without a recipe is taken to have used cross-entropy."""
    task = run.task
    if task.kind == "regression":
        return Objective(task.inputs, task.targets, task.train_mask, "squared", 1.0)
    inputs, targets = task.inputs[task.train_mask], task.targets[task.train_mask]
    loss = run.config.get("train", {}).get("loss", "cross-entropy")
    return Objective(inputs, targets, None, loss, 1 / len(inputs))


@register(
    "gradients",
    title="Gradients: head and embedding",
    question="How large is the gradient of each block, and does the head go before the embedding?",
    quantities=QUANTITIES,
    caveat="Gradients are of the whole training set at the saved weights; an adaptive optimiser rescales them, "
    "so what it really did is in the update ratio. The head's per-sample norm is an equality and the others "
    "have upper bounds, so a head that goes first is a measurement and follows from nothing, except for the "
    "share of samples whose head gradient exceeds the bound on the embedding's.",
)
def gradients(run: Run, record: Record) -> None:
    """Gradient sizes by block, the chain-rule account, and the updates between saves."""
    reader = _Reader(run)
    series = SaveSeries(run.steps)
    reader.declare(series, record)
    previous: Params | None = None
    for index, params in run.each():
        reader.read(series, index, params)
        if previous is not None and reader.has_embedding:
            reader.compare(series, index, previous, params)
        previous = params
    series.record(record)
    if previous is not None:
        record.notes["head_equality"] = reader.check_head(previous, int(run.steps[-1]))
    _note_order(record)


class _Reader:
    """The blocks of one run, which quantities they have, and how each save fills them."""

    def __init__(self, run: Run) -> None:
        self.model: Model = run.model
        self.objective = training_objective(run)
        self.blocks = self.model.blocks
        # a deep linear net names no head: its last layer is what multiplies the head's input
        self.head = "head" if "head" in self.blocks else list(self.blocks)[-1]
        self.has_embedding = "embedding" in self.blocks
        self.head_has_bias = any(p.block == self.head and p.kind == "bias" for p in self.model.parts)
        train = run.config.get("train", {})
        self.decay: float | None = train.get("weight_decay")
        self.no_account = self._why_no_account()

    def _why_no_account(self) -> str | None:
        """Why blocks below the head have no per-sample account, ``None`` where they have."""
        if self.objective.loss != "cross-entropy":
            return "the bounds of blocks below the head are stated for cross-entropy; the loss is squared"
        form = self.model.gated(self.model.init(torch.Generator().manual_seed(0), torch.float64))
        if isinstance(form, Absent):
            return form.reason
        if self.model.combine not in ("concatenation", "sum"):
            return f"{self.model.combine} stands between the embedding and the logits, and no bound covers it"
        return None

    def declare(self, series: SaveSeries, record: Record) -> None:
        """Make room for what is defined, and say why the rest is not."""
        for block in self.blocks:
            names = [f"gradients.{block}.{size}" for size in SIZES]
            series.declare(*names, reason="the block's parameters are all zero")
            decayed = [f"gradients.with_decay.{block}.{size}" for size in SIZES]
            if self.decay:
                series.declare(*decayed, reason="the block's parameters are all zero")
            else:
                for name in decayed:
                    record.skip(name, _no_decay(self.decay))
            account = [f"gradients.bound_slack.{block}", f"gradients.cancellation.{block}"]
            if block == self.head or self.no_account is None:
                series.declare(*account)
            else:
                for name in account:
                    record.skip(name, self.no_account)
        if self.has_embedding:
            series.declare(*RATIOS.values(), reason="the embedding has no gradient")
            series.declare(*UPDATES, dims=("interval",), reason="the embedding did not move")
        else:
            for name in (*RATIOS.values(), *UPDATES):
                record.skip(name, f"a {self.model.family} model has no embedding")
        if self.no_account is None:
            series.declare(FORCED)
        else:
            record.skip(FORCED, self.no_account)

    def gradient(self, params: Params) -> tuple[Params, Tensor, Tensor]:
        """Gradient of the objective by tensor, outputs (N, C) and δ (N, C)."""
        objective = self.objective
        with torch.enable_grad():
            leaves = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
            outputs = self.model.forward(leaves, objective.inputs)
            delta = objective.delta(outputs.detach())
            found = torch.autograd.grad(
                outputs, list(leaves.values()), objective.weight * delta, allow_unused=True
            )
        grads = {
            name: torch.zeros_like(leaf) if grad is None else grad
            for (name, leaf), grad in zip(leaves.items(), found, strict=True)
        }
        return grads, outputs.detach(), delta

    def read(self, series: SaveSeries, index: int, params: Params) -> None:
        """Fill everything that one save decides."""
        every = [f"gradients.{block}.{size}" for block in self.blocks for size in SIZES]
        every += [f"gradients.with_decay.{block}.{size}" for block in self.blocks for size in SIZES]
        every += [f"gradients.{kind}.{b}" for b in self.blocks for kind in ("bound_slack", "cancellation")]
        with series.unless_refused(*every, *RATIOS.values(), FORCED):
            grads, _, delta = self.gradient(params)
            sizes = gradient_norms(grads, params, self.blocks)
            _put_sizes(series, index, "gradients", sizes)
            if self.decay:
                decayed = with_decay(grads, params, dict.fromkeys(params, self.decay))
                shown = gradient_norms(decayed, params, self.blocks)
                _put_sizes(series, index, "gradients.with_decay", shown)
            if self.has_embedding:
                ratio = head_over_embedding(sizes[self.head], sizes["embedding"])
                for size, name in RATIOS.items():
                    series.put(name, index, getattr(ratio, size))
            self._account(series, index, params, delta, sizes)

    def _account(
        self,
        series: SaveSeries,
        index: int,
        params: Params,
        delta: Tensor,
        sizes: dict[str, BlockGradient],
    ) -> None:
        """Slack of the bounds and cancellation between samples, over all training samples."""
        sides = self._sides(params, delta)
        # the objective may be a sum over samples, the account is of their mean
        to_mean = 1 / (self.objective.weight * len(delta))
        for block, (norms, bounds) in sides.items():
            slack, shrink = f"gradients.bound_slack.{block}", f"gradients.cancellation.{block}"
            with series.unless_refused(slack):
                series.put(slack, index, bound_slack(norms, bounds))
            with series.unless_refused(shrink):
                series.put(shrink, index, cancellation(sizes[block].norm * to_mean, norms))
        if self.no_account is None:
            above = sides[self.head][0] > sides["embedding"][1]
            series.put(FORCED, index, float(above.double().mean()))

    def _sides(self, params: Params, delta: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Block → per-sample norms and their bounds, (N,) each, over all tensors of the block."""
        inputs = self.objective.inputs
        if self.no_account is not None:
            norms = self.head_norms(params, delta)
            return {self.head: (norms, norms)}
        account = self._chain_rule(params)
        assert account.embedding is not None
        found = {"embedding": account.embedding, self.head: account.head}
        found |= {f"hidden.{number}": layer for number, layer in enumerate(account.layers, start=1)}
        assert all(len(layer.weight) == len(inputs) for layer in found.values())
        return {block: (side.with_bias, side.bound_with_bias) for block, side in found.items()}

    def _chain_rule(self, params: Params) -> Account:
        model, inputs = self.model, self.objective.inputs
        form = model.gated(params)
        assert not isinstance(form, Absent)
        tables = model.embeddings(params)
        return per_sample_account(
            form,
            model.combined(params, inputs),
            self.objective.targets,
            embedding_width=next(iter(tables.values())).shape[-1],
            combine=model.combine,
            same_operand=None if model.separate_embeddings else inputs[:, 0] == inputs[:, 1],
        )

    def head_norms(self, params: Params, delta: Tensor) -> Tensor:
        """(N,) ‖∇_U ℓ_i‖ by the closed form, with the head's bias where it has one."""
        features = self.model.head_input(params, self.objective.inputs)
        weight, both = head_gradient_norms(features, delta)
        return both if self.head_has_bias else weight

    def compare(self, series: SaveSeries, index: int, before: Params, after: Params) -> None:
        """Fill what the optimiser did between two saves."""
        blocks = {block: self.blocks[block] for block in (self.head, "embedding")}
        with series.unless_refused(*UPDATES):
            moved = update_norms(before, after, blocks)
            head, embedding = moved[self.head], moved["embedding"]
            series.put(UPDATES[0], index, update_ratio(head.norm, embedding.norm))
            if head.relative is not None and embedding.relative is not None:
                series.put(UPDATES[1], index, update_ratio(head.relative, embedding.relative))

    def check_head(self, params: Params, step: int) -> dict[str, object]:
        """The head's closed form against autograd, one backward pass a sample."""
        found: dict[str, object] = {"step": step, "samples": CHECKED_SAMPLES}
        try:
            delta = self.gradient(params)[2]
            closed = self.head_norms(params, delta)
        except ValueError as error:
            return {**found, "reason": str(error)}
        rows = torch.unique(torch.linspace(0, len(delta) - 1, CHECKED_SAMPLES).long())
        leaves = {n: v.clone().requires_grad_(n in self.blocks[self.head]) for n, v in params.items()}
        worst = 0.0
        with torch.enable_grad():
            outputs = self.model.forward(leaves, self.objective.inputs[rows])
            for number, row in enumerate(rows.tolist()):
                tensors = [leaves[name] for name in self.blocks[self.head]]
                grads = torch.autograd.grad(outputs[number], tensors, delta[row], retain_graph=True)
                norm = math.hypot(*(float(torch.linalg.vector_norm(grad)) for grad in grads))
                worst = max(worst, abs(norm - float(closed[row])) / max(norm, float(closed[row]), 1e-300))
        return {**found, "samples": len(rows), "largest_relative_difference": worst}


def _no_decay(decay: float | None) -> str:
    if decay is None:
        return "the weight decay of the run is not recorded"
    return "the run has no weight decay: the gradient with it is the gradient"


def _put_sizes(series: SaveSeries, index: int, prefix: str, sizes: dict[str, BlockGradient]) -> None:
    for block, found in sizes.items():
        for size in SIZES:
            series.put(f"{prefix}.{block}.{size}", index, getattr(found, size))


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


def _ratio_axes(axes: Axes, label: str) -> None:
    axes.axhline(1, color=NEUTRAL, linewidth=0.8, linestyle="--")
    axes.set_yscale("log")
    axes.set_ylabel(label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


@gradients.figure(
    "Gradient of each block",
    "Norm of the gradient of the training objective by block (left), and relative to the norm of the block's "
    "parameters (right), over the whole training set and without weight decay.",
)
def draw_norms(record: Record, figure: Figure) -> None:
    """Gradient norms of every block."""
    left, right = time_axes(figure, record, 2)
    for name, block, colour in _named(record, ""):
        curve(left, record, name, block, colour)
        curve(right, record, f"{name.removesuffix('norm')}relative", block, colour)
    for axes, label in ((left, "‖g‖ (1/weight)"), (right, "‖g‖/‖θ‖ (1/weight²)")):
        axes.set_yscale("log")
        axes.set_ylabel(label)
    left.legend(loc="best")


@gradients.figure(
    "Head over embedding",
    "Ratio of the head's gradient to the embedding's in three scales (left), and of what the optimiser really "
    "moved between consecutive saves (right). Above the dashed line the head is ahead.",
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
    "equality. Right: norm of the mean gradient over the mean per-sample norm; small means that samples cancel.",
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
    right.set_yscale("log")
