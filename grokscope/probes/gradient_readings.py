"""What the gradients probe reads off the weights of one save, and off two: sizes, bounds and updates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from grokscope.errors import Absent
from grokscope.measures.blocks import FirstLayer, block_rows, block_slices
from grokscope.measures.chain_rule import (
    Account,
    SampleNorms,
    account_of,
    bound_slack,
    cancellation,
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
from grokscope.measures.regions import GatedForm
from grokscope.measures.sample_gradients import (
    bypassed_layer_norms,
    gate_pullback,
    head_gradient_norms,
    logit_gradient,
    row_norms,
)
from grokscope.measures.stablemax import stablemax_gradient
from grokscope.probes.findings import Findings
from grokscope.probes.record import Record
from grokscope.probes.series import SaveSeries
from grokscope.runs import Model, Params, Run

SIZES = ("norm", "per_parameter", "relative")
RATIOS = {
    "norm": "gradients.head_over_embedding",
    "per_parameter": "gradients.head_over_embedding_per_parameter",
    "relative": "gradients.head_over_embedding_relative",
}
UPDATES = ("gradients.update_ratio", "gradients.update_ratio.relative")
DID_NOT_MOVE = "the embedding did not move"
NO_HEAD = "no tensor is declared to be the head"
FORCED = "gradients.head_above_bound"
Sides = dict[str, tuple[Tensor, Tensor | None]]
"""Block → per-sample gradient norms, and their bounds where there are any, (N,) each."""
_DIGITS = 1e-250
CHECKED_SAMPLES = 4


@dataclass(frozen=True)
class Objective:
    """The training objective as a sum over samples of ``weight`` times ℓ_i, by its gradient in the outputs.

    Attributes:
        inputs: (N, 2) or (N, d) training samples; for completion the rows of the matrix.
        targets: (N,) classes or (N, C) values.
        observed: (N, C) bool entries that count, ``None`` for all.
        loss: ``cross-entropy``, ``stablemax`` or ``squared``, ℓ_i = ½‖z − y‖² over the observed entries.
        weight: 1/N for a mean, 1 for a sum.
    """

    inputs: Tensor
    targets: Tensor
    observed: Tensor | None
    loss: str
    weight: float

    def delta(self, outputs: Tensor, rows: slice = slice(None)) -> Tensor:
        """(n, C): δ_i = ∂ℓ_i/∂z_i of some rows, from their outputs.

        Taken in closed form and not by differentiating the loss: log-softmax would lose the digits of the
        small δ that a fitted run has.
        """
        if self.loss == "cross-entropy":
            return logit_gradient(outputs, self.targets[rows])
        if self.loss == "stablemax":
            return stablemax_gradient(outputs, self.targets[rows])
        if self.observed is not None:
            return torch.where(self.observed[rows], outputs - self.targets[rows], 0.0)
        return outputs - one_hot(self.targets[rows], outputs.shape[1])


def training_objective(run: Run) -> Objective:
    """What the run was trained on; an imported run without a recipe is taken to have used cross-entropy."""
    task = run.task
    if task.kind == "regression":
        # samples that nothing of was observed take no part
        rows, weight = task.train_rows, 1 / int(task.train_mask.sum()) if task.mean_loss else 1.0
        if bool(rows.all()):
            return Objective(task.inputs, task.targets, task.train_mask, "squared", weight)
        return Objective(task.inputs[rows], task.targets[rows], task.train_mask[rows], "squared", weight)
    inputs, targets = task.inputs[task.train_mask], task.targets[task.train_mask]
    loss = run.config.get("train", {}).get("loss", "cross-entropy")
    return Objective(inputs, targets, None, loss, 1 / len(inputs))


class GradientReader:
    """The blocks of one run, which quantities they have, and how each save fills them."""

    def __init__(self, run: Run) -> None:
        self.model: Model = run.model
        self.objective = training_objective(run)
        self.blocks = self.model.blocks
        # a deep linear net names no head: its last layer is what multiplies the head's input; a tied head has no
        # block of its own at all
        self.head = "head" if "head" in self.blocks else list(self.blocks)[-1]
        if self.model.tied:
            self.head = ""
        self.no_ratio = why_no_ratio(self.model)
        self.closed_head = not self.model.tied and self.model.no_anatomy is None
        self.head_has_bias = any(p.block == self.head and p.kind == "bias" for p in self.model.parts)
        self.decay = run.weight_decay
        form = self.model.gated(self.model.init(torch.Generator().manual_seed(0), torch.float64))
        self.no_account = self._why_no_account(form)
        self.bypassed = self.model.gated_block if self.no_account and self._has_bypass(form) else None
        self.no_norms = self._why_no_norms()
        self.linearised = self.model.linearised(self.objective.inputs)
        self.names: dict[str, None] = {}

    def _why_no_account(self, form: GatedForm | Absent) -> str | None:
        """Why blocks below the head have no bounds, ``None`` where they have."""
        if isinstance(form, Absent):
            return form.reason
        if self.model.combine not in ("concatenation", "sum"):
            return f"{self.model.combine} stands between the embedding and the logits, and no bound covers it"
        return None

    def _has_bypass(self, form: GatedForm | Absent) -> bool:
        """Whether the gated form is one layer that writes into a residual stream."""
        return not isinstance(form, Absent) and form.direct is not None

    def _why_no_norms(self) -> str:
        """Why blocks below the head without bounds have no per-sample norms, which need no bound, either."""
        if self.model.combine == "attention":
            normed = any(part.block == "norm" for part in self.model.parts)
            through = "attention and norms (LayerNorm, RMSNorm)" if normed else "attention"
            return (
                f"per-sample gradients through {through} are not formed: one backward pass a sample would "
                "cost more than everything else together"
            )
        return "per-sample gradients below the head are formed for networks with gates; this one has none"

    def declare(self, series: SaveSeries, record: Record) -> None:
        """Make room for what is defined, and say why the rest is not."""

        def declare(*names: str, reason: str = "") -> None:
            series.declare(*names, reason=reason)
            self.names |= dict.fromkeys(names)

        for block in self.blocks:
            names = [f"gradients.{block}.{size}" for size in SIZES]
            declare(*names, reason="the block's parameters are all zero")
            decayed = [f"gradients.with_decay.{block}.{size}" for size in SIZES]
            if self.decay is not None and any(self.decay.values()):
                declare(*decayed, reason="the block's parameters are all zero")
            else:
                for name in decayed:
                    record.skip(name, _no_decay(self.decay))
            account = [f"gradients.bound_slack.{block}", f"gradients.cancellation.{block}"]
            if (block == self.head and self.closed_head) or self.no_account is None:
                declare(*account)
                continue
            record.skip(account[0], self.no_account)
            if block == self.bypassed:
                declare(account[1])
            else:
                record.skip(account[1], self.no_norms)
        if self.no_ratio is None:
            declare(*RATIOS.values(), reason="the embedding has no gradient")
            series.declare(*UPDATES, dims=("interval",), reason=DID_NOT_MOVE)
        else:
            for name in (*RATIOS.values(), *UPDATES):
                record.skip(name, self.no_ratio)
        unforced = self.no_ratio or self.no_account
        if unforced is None:
            declare(FORCED)
        else:
            record.skip(FORCED, unforced)

    def gradient(self, params: Params) -> tuple[Params, Tensor]:
        """Gradient of the objective by tensor, and δ (N, C)."""
        outputs, pullback = self.linearised(params)
        delta = self.objective.delta(outputs)
        return pullback(self.objective.weight * delta), delta

    def __call__(self, params: Params) -> Findings:
        """Everything that one save decides."""
        found = Findings(self.names)
        with found.unless_refused(*self.names):
            grads, sides = self._gradient_and_sides(params)
            sizes = gradient_norms(grads, params, self.blocks)
            _put_sizes(found, "gradients", sizes)
            if self.decay is not None and any(self.decay.values()):
                decayed = with_decay(grads, params, self.decay)
                _put_sizes(found, "gradients.with_decay", gradient_norms(decayed, params, self.blocks))
            if self.no_ratio is None:
                ratio = head_over_embedding(sizes[self.head], sizes["embedding"])
                for size, name in RATIOS.items():
                    found.put(name, getattr(ratio, size))
            self._account(found, sizes, sides)
        return found

    def _account(self, found: Findings, sizes: dict[str, BlockGradient], sides: Sides) -> None:
        """Slack of the bounds and cancellation between samples, over all training samples."""
        # the objective may be a sum over samples, the account is of their mean
        to_mean = 1 / (self.objective.weight * len(self.objective.inputs))
        for block, (norms, bounds) in sides.items():
            slack, shrink = f"gradients.bound_slack.{block}", f"gradients.cancellation.{block}"
            if bounds is not None:
                with found.unless_refused(slack):
                    found.put(slack, bound_slack(norms, bounds))
            with found.unless_refused(shrink):
                found.put(shrink, cancellation(sizes[block].norm * to_mean, norms))
        if self.no_account is None and self.no_ratio is None:
            reach = sides["embedding"][1]
            assert reach is not None
            found.put(FORCED, float((sides[self.head][0] > reach).double().mean()))

    def _gradient_and_sides(self, params: Params) -> tuple[Params, Sides]:
        """Gradient of the objective by tensor, and what the account compares."""
        weight = self.objective.weight
        if self.no_account is None:
            both = self.model.gradient_with_norms(
                params, self.objective.inputs, lambda rows, outputs: self.objective.delta(outputs, rows)
            )
            # norms of a loss under the smallest float64 that has all its digits are taken the slow way
            if both is not None and float(both[1].delta.min()) > _DIGITS:
                grads, norms = both
                account = self._account_of(params, norms)
                return {name: weight * grads[name] for name in params}, self._by_block(account)
        grads, delta = self.gradient(params)
        if self.no_account is None:
            return grads, self._by_block(self._chain_rule(params, delta))
        return grads, self._sides_without_bounds(params, delta)

    def _account_of(self, params: Params, norms: SampleNorms) -> Account:
        form, inputs = self.model.gated(params), self.objective.inputs
        assert not isinstance(form, Absent)
        if "embedding" not in self.blocks:
            return account_of(form, norms._replace(embedding=None), None, None)
        same = None if self.model.separate_embeddings else inputs[:, 0] == inputs[:, 1]
        return account_of(form, norms, self.model.combine, same)

    def _by_block(self, account: Account) -> Sides:
        """Block → per-sample norms and their bounds, (N,) each, over all tensors of the block."""
        found = {f"hidden.{number}": layer for number, layer in enumerate(account.layers, start=1)}
        if account.embedding is not None:
            found["embedding"] = account.embedding
        assert all(len(layer.weight) == len(self.objective.inputs) for layer in found.values())
        below: Sides = {block: (side.with_bias, side.bound_with_bias) for block, side in found.items()}
        # a constant on the logits is folded into the form's head, but is no part of the head's own tensors
        scale, head = abs(self.model.output_scale), account.head
        return {self.head: (scale * head.with_bias, scale * head.bound_with_bias), **below}

    def _sides_without_bounds(self, params: Params, delta: Tensor) -> Sides:
        """The head, whose norm is its own bound, and a layer that writes into a stream, which has none."""
        sides: Sides = {}
        write = self.model.stream_write(params)
        if self.bypassed is None or write is None or self.model.output_scale != 1.0:
            if self.closed_head:
                norms = self.head_norms(params, delta)
                sides[self.head] = (norms, norms)
            if self.bypassed is not None:
                sides[self.bypassed] = (self._bypassed_norms(params, delta), None)
            return sides
        form, inputs = self.model.gated(params), self.objective.inputs
        assert not isinstance(form, Absent)
        head, layer = bypassed_and_head_norms(
            form, self.model.first_layer(params, form, inputs), write, delta, head_bias=self.head_has_bias
        )
        return {self.head: (head, head), self.bypassed: (layer, None)}

    def _bypassed_norms(self, params: Params, delta: Tensor) -> Tensor:
        form = self.model.gated(params)
        assert not isinstance(form, Absent)
        biased = any(p.block == self.bypassed and p.kind == "bias" for p in self.model.parts)
        return bypassed_layer_norms(
            form, self.model.combined(params, self.objective.inputs), delta, output_bias=biased
        )

    def _chain_rule(self, params: Params, delta: Tensor) -> Account:
        model, inputs = self.model, self.objective.inputs
        form = model.gated(params)
        assert not isinstance(form, Absent)
        width, combine, same = None, None, None
        if "embedding" in self.blocks:
            width, combine = next(iter(model.embeddings(params).values())).shape[-1], model.combine
            same = None if model.separate_embeddings else inputs[:, 0] == inputs[:, 1]
        return per_sample_account(
            form,
            model.combined(params, inputs),
            None,
            embedding_width=width,
            combine=combine,
            same_operand=same,
            delta=delta,
        )

    def head_norms(self, params: Params, delta: Tensor) -> Tensor:
        """(N,) ‖∇_U ℓ_i‖ by the closed form, with the head's bias where it has one."""
        features = self.model.head_input(params, self.objective.inputs)
        weight, both = head_gradient_norms(features, self.model.output_scale * delta)
        return both if self.head_has_bias else weight

    def check_head(self, params: Params, step: int) -> dict[str, object]:
        """The head's closed form against autograd, one backward pass a sample."""
        found: dict[str, object] = {"step": step, "samples": CHECKED_SAMPLES}
        if not self.closed_head:
            return {**found, "reason": self.no_ratio if self.model.tied else self.no_account}
        try:
            delta = self.gradient(params)[1]
            closed = self.head_norms(params, delta)
        except ValueError as error:
            return {**found, "reason": str(error)}
        if not bool(closed.isfinite().all()):
            return {**found, "reason": "the last save has per-sample gradients that are not finite"}
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


def updates(before: Params, after: Params, head: Sequence[str], embedding: Sequence[str]) -> Findings:
    """The update ratios of two saves from the tensors of head and embedding; no gradient enters."""
    found = Findings(dict.fromkeys(UPDATES))
    with found.unless_refused(*UPDATES):
        moved = update_norms(before, after, {"head": tuple(head), "embedding": tuple(embedding)})
        found.put(UPDATES[0], update_ratio(moved["head"].norm, moved["embedding"].norm))
        relative = moved["head"].relative, moved["embedding"].relative
        if relative[0] is not None and relative[1] is not None:
            found.put(UPDATES[1], update_ratio(relative[0], relative[1]))
    return found


def bypassed_and_head_norms(
    form: GatedForm, first: FirstLayer, write: tuple[Tensor, Tensor | None], delta: Tensor, *, head_bias: bool
) -> tuple[Tensor, Tensor]:
    """(N,) each: ``head_gradient_norms`` and ``bypassed_layer_norms`` of one pass in blocks."""
    assert form.direct is not None
    head, layer = torch.empty(2, len(delta), dtype=torch.float64)
    for rows in block_slices(len(delta), block_rows(form.weights[0].shape[1])):
        z, pre, part = first.z(rows), first.pre(rows), delta[rows]
        hidden = form.activate(pre)
        read = z + (hidden @ write[0] if write[1] is None else torch.addmm(write[1], hidden, write[0]))
        above = part @ form.direct.T
        below = gate_pullback(form, pre, above @ write[0].T)
        sizes = [row_norms(values) for values in (part, read, hidden, above, below, z)]
        delta_norm, read_norm, hidden_norm, above_norm, below_norm, stream_norm = sizes
        one = torch.ones_like(delta_norm)
        head[rows] = delta_norm * (torch.hypot(read_norm, one) if head_bias else read_norm)
        written = above_norm * (hidden_norm if write[1] is None else torch.hypot(hidden_norm, one))
        taken = below_norm * (stream_norm if form.biases[0] is None else torch.hypot(stream_norm, one))
        layer[rows] = torch.hypot(written, taken)
    return head, layer


def why_no_ratio(model: Model) -> str | None:
    """Why head and embedding cannot be compared, ``None`` where they can."""
    if model.tied:
        return "the head is tied to the embedding"
    if "embedding" in model.blocks:
        return None if "head" in model.blocks else NO_HEAD
    if model.combine in ("concatenation", "sum"):
        return "the operands are one-hots: the first layer plays the part of the embedding"
    return f"a {model.family} model has no embedding"


def _no_decay(decay: dict[str, float] | None) -> str:
    if decay is None:
        return "the weight decay of the run is not recorded"
    return "the run has no weight decay: the gradient with it is the gradient"


def _put_sizes(found: Findings, prefix: str, sizes: dict[str, BlockGradient]) -> None:
    for block, size in sizes.items():
        for name in SIZES:
            found.put(f"{prefix}.{block}.{name}", getattr(size, name))
