"""Multilayer perceptrons, read as chains: operands in, matrices one after another, answers out.

Names of such nets say little (``fc1.weight``, ``W``, ``net.2.weight``), shapes say nearly all: the matrices
must chain from what two operands can be (one-hots or embeddings, summed or side by side) to one logit a class.
Every chain that the shapes allow is an option, those in the order of the file first.

Shape legend: v rows of an embedding, d its width, h neurons, c logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.function import recorded_settings as recorded
from grokscope.foreign.function.card import EVERY_LOGIT, softmax_options
from grokscope.foreign.function.layout import Layout, Unrecognised, not_floating
from grokscope.foreign.function.links import (
    Chain,
    biases_of,
    chains_of,
    declared_biases,
    declared_chains,
    sides_of,
)
from grokscope.foreign.function.space import Assignment, Choice, Space, Tokens, Translate, choice_of
from grokscope.foreign.function.tensors import listing
from grokscope.foreign.function.tokens import fitting, token_options
from grokscope.foreign.function.translation import stored, turned
from grokscope.foreign.gathering.facts import Facts
from grokscope.models import MLP, MLPSettings, Model, Params

MOST_MATRICES = 6
_ACTIVATIONS = ("relu", "gelu", "quadratic", "silu", "tanh", "gelu_tanh")


def chain_space(
    layout: Layout,
    tensors: Mapping[str, Tensor],
    facts: Facts,
    inside: Mapping[str, Any],
    task: Mapping[str, Any],
) -> Space | Unrecognised:
    """Every multilayer perceptron that the free tensors of ``layout``, or its declared parts, may be."""
    free = {name: tensors[name] for name in layout.free}
    if layout.parts:
        free = {name: tensors[name] for part in layout.parts for name in part.names}
    if (odd := not_floating(free)) is not None:
        return odd
    matrices = {name: value for name, value in free.items() if value.ndim == 2}
    vectors = {name: value for name, value in free.items() if value.ndim == 1}
    declared = declared_biases(layout)
    if len(matrices) > MOST_MATRICES or len(matrices) < 2:
        return Unrecognised(f"{listing(free)}: no transformer, and a chain has 2 to {MOST_MATRICES} matrices")
    chains = declared_chains(layout, matrices) if layout.parts else list(dict.fromkeys(chains_of(matrices)))
    placed = [
        (chain, biases)
        for chain in chains
        if (biases := declared if declared is not None else biases_of(chain, matrices, vectors)) is not None
    ]
    if not placed:
        return Unrecognised(f"{listing(free)}: no chain of matrices from two operands to the answers")
    chains = [chain for chain, _ in placed][:8]
    p = recorded.recorded_whole(facts, inside, recorded.MODULUS_NAMES)
    given_p = task.get("p") or (p[0] if p else None)
    options: list[tuple[Chain, Tokens]] = []
    for chain in chains:
        likely = token_options(chain.rows, chain.logits, None, given_p, prompts=False)
        options += [(chain, one) for one in fitting(likely, layout.fixed, task) if _possible(chain, one)]
    if not options:
        return Unrecognised(f"{listing(free)}: no room for at least 2 residues")
    # the likeliest modulus of each chain before the unlikely ones of any
    rank = {chain: index for index, chain in enumerate(chains)}
    counted: dict[Chain, int] = {}
    order = []
    for chain, tokens in options:
        counted[chain] = counted.get(chain, -1) + 1
        order.append((counted[chain] + rank[chain], rank[chain], counted[chain], chain, tokens))
    order.sort(key=lambda one: one[:3])
    word = recorded.recorded_word(facts, inside, recorded.ACTIVATION_NAMES, recorded.ACTIVATION_WORDS)
    fixed = layout.fixed
    choices = (
        Choice("chain", tuple((chain, tokens) for *_, chain, tokens in order)),
        choice_of("activation", _ACTIVATIONS, fixed, word),
    )
    if any(chain.logits > tokens.p for *_, chain, tokens in order):
        choices = (*choices, Choice("softmax over", softmax_options(task)))
    first = chains[0]
    known = [
        f"{len(first.maps)} matrices in a chain"
        + (
            f" behind {len(first.embeddings)} embedding{'s' if len(first.embeddings) > 1 else ''}"
            if first.embeddings
            else ""
        ),
        f"biases: {', '.join(vectors)}" if vectors else "no biases",
    ]
    by_chain = dict(placed)

    def build(assignment: Assignment) -> tuple[Model, Translate]:
        chosen = assignment
        chain, tokens = chosen["chain"]
        everything = chosen.get("softmax over") == EVERY_LOGIT
        return _build(chain, by_chain[chain], tokens, everything, chosen["activation"], free, fixed)

    return Space(
        title=layout.title,
        dialect=layout.dialect,
        known=tuple(known),
        ignored=layout.ignored,
        choices=choices,
        build=build,
        names=tuple(name for name in tensors if name in free),
        declare=lambda assignment: _declare(assignment, by_chain, fixed),
    )


def _declare(
    chosen: Assignment, by_chain: Mapping[Chain, Mapping[str, str]], fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """The card of one assignment: the chain link by link, the activation, how operands are combined."""
    chain, tokens = chosen["chain"]
    tensors: dict[str, str] = {}
    roles = ["embedding"] if len(chain.embeddings) == 1 else ["embedding_a", "embedding_b"]
    for role, (name, flipped) in zip(roles, chain.embeddings, strict=False):
        tensors[name] = f"{role}: {'d v' if flipped else 'v d'}"
    biases = by_chain[chain]
    for layer, (name, flipped) in enumerate(chain.maps, start=1):
        last = layer == len(chain.maps)
        place, axes = (
            ("head", "c i" if flipped else "i c")
            if last
            else (f"hidden.{layer}", "o i" if flipped else "i o")
        )
        tensors[name] = f"{place}: {axes}"
        if name in biases:
            tensors[biases[name]] = "head_bias: c" if last else f"hidden_bias.{layer}: o"
    function = {
        "family": "mlp",
        **fixed,
        "combine": chain.combine,
        "activation": chosen["activation"],
        "residue_offset": tokens.residue_offset,
        "b_offset": tokens.b_offset,
        "out_offset": tokens.out_offset,
    }
    return {"function": function, "tensors": tensors}


def _possible(chain: Chain, tokens: Tokens) -> bool:
    """Whether one-hot inputs of the chain can be these residues: they leave no room for other rows."""
    if chain.embeddings:
        return True
    return not tokens.residue_offset and not tokens.b_offset and tokens.p == chain.rows


def _build(
    chain: Chain,
    biases: Mapping[str, str],
    tokens: Tokens,
    everything: bool,
    activation: Any,
    matrices: Mapping[str, Tensor],
    fixed: Mapping[str, Any],
) -> tuple[Model, Translate]:
    hidden = tuple(sides_of(matrices[name], flipped)[1] for name, flipped in chain.maps[:-1])
    head = chain.maps[-1][0]
    # logits before those of the residues come after them where they count
    classes, first = (chain.logits, tokens.out_offset) if everything else (tokens.p, 0)
    settings = MLPSettings(
        d_embed=sides_of(matrices[chain.embeddings[0][0]], chain.embeddings[0][1])[1]
        if chain.embeddings
        else 1,
        hidden=hidden,
        inputs="embedding" if chain.embeddings else "one-hot",
        embedding="separate" if len(chain.embeddings) == 2 else "shared",
        combine=chain.combine,  # pyright: ignore[reportArgumentType]
        activation=activation,
        hidden_bias=any(name in biases for name, _ in chain.maps[:-1]),
        head_bias=head in biases,
        d_vocab=chain.rows if chain.embeddings and chain.rows != tokens.p else 0,
        residue_offset=tokens.residue_offset,
        b_offset=tokens.b_offset,
        d_vocab_out=chain.logits if chain.logits != classes else 0,
        out_offset=tokens.out_offset - first,
        output_scale=float(fixed.get("output_scale", 1.0)),
    )
    swapped = tokens.prompt[0] == "b"
    model = MLP(settings, tokens.p, classes)

    def translate(tensors: Mapping[str, Tensor]) -> Params:
        params: Params = {}
        ours = ["embed.W_E"] if len(chain.embeddings) == 1 else ["embed_a.W_E", "embed_b.W_E"]
        embeddings = [tensors[name].T if flipped else tensors[name] for name, flipped in chain.embeddings]
        if swapped and len(embeddings) == 2:
            embeddings.reverse()
        for name, value in zip(ours, embeddings, strict=False):
            params[name] = stored(value)
        for layer, (name, flipped) in enumerate(chain.maps, start=1):
            value = tensors[name].T if flipped else tensors[name]
            if swapped and layer == 1 and chain.combine == "concatenation":
                value = torch.cat(tuple(reversed(value.chunk(2))))
            last = layer == len(chain.maps)
            params["head.W_U" if last else f"hidden.{layer}.W"] = stored(value)
            if name in biases:
                params["head.b_U" if last else f"hidden.{layer}.b"] = stored(tensors[biases[name]])
        some = next(iter(params.values()))
        for name, shape in model.shapes.items():
            if name not in params and name.endswith(".b"):
                params[name] = torch.zeros(shape, dtype=some.dtype)
        if {name: tuple(value.shape) for name, value in params.items()} != model.shapes:
            raise GrokscopeError(
                f"translating a chain of matrices: {chain} does not fit its model, expected it to"
            )
        return turned({name: params[name] for name in model.shapes}, first)

    return model, translate
