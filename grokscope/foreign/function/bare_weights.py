"""Runs of which only the weights are known: their tensors under their authors' names, stored as they came.

With a function of the user's own the same weights have logits, and are split, proved and audited like any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.function.layout import Unrecognised, without_aliases
from grokscope.foreign.function.recorded_settings import MODULUS_NAMES, recorded_whole
from grokscope.foreign.function.space import Assignment, Choice, Space, Tokens, Translate
from grokscope.foreign.function.tokens import token_options
from grokscope.foreign.function.vocabulary import buffer_named, meanings
from grokscope.foreign.gathering.containers import ForeignRun
from grokscope.models import Model, Params, WeightsOnly, WeightsOnlySettings
from grokscope.user_code import UserFunction

MAX_AXES = 4


def weights_model(
    source: ForeignRun, reason: str, p: int | None, ignored: Mapping[str, str]
) -> tuple[WeightsOnly | None, tuple[Params, ...], dict[str, str]]:
    """The weights of a run without a function, the saves, and what was left out.

    ``p`` is the number of residues where it is known. ``None`` where no tensor is left.
    """
    plain, dropped = without_aliases(source.snapshots[-1].tensors)
    left_out = dict(ignored) | dropped
    kept: list[str] = []
    for name, value in plain.items():
        why = left_out.get(name) or buffer_named(name, value.ndim, value.dtype.is_floating_point)
        if why is None and value.ndim > MAX_AXES:
            why = f"{value.ndim} axes"
        if why is None:
            kept.append(name)
        else:
            left_out[name] = why
    if not kept:
        return None, (), left_out
    safe = _stored_names(kept)
    settings = WeightsOnlySettings(
        tensors={safe[name]: tuple(plain[name].shape) for name in kept},
        names={safe[name]: name for name in kept if safe[name] != name},
        reason=reason,
        **_embedding(plain, kept, safe, p),
    )
    model = WeightsOnly(settings, None, 0)
    saves = []
    for snapshot in source.snapshots:
        tensors, _ = without_aliases(snapshot.tensors)
        saves.append({safe[name]: _stored(tensors[name]) for name in kept})
    return model, tuple(saves), left_out


def user_space(
    source: ForeignRun, function: UserFunction, task_facts: Mapping[str, Any]
) -> Space | Unrecognised:
    """The functions that a user's own forward may be: its operation and modulus are open.

    Raises:
        GrokscopeError: the function fails on the weights, or does not return logits.
    """
    reason = f"its function is user code that runs only when named: --model FILE:{function.name}"
    model, _, left_out = weights_model(source, reason, None, {})
    if model is None:
        return Unrecognised("no tensor in the file is a weight")
    plain, _ = without_aliases(source.snapshots[-1].tensors)
    names = {name: model.settings.names.get(name, name) for name in model.settings.tensors}
    first = {ours: plain[theirs] for ours, theirs in names.items()}
    c = _classes(function, {theirs: plain[theirs].to(torch.float64) for theirs in names.values()})
    inside = dict(source.snapshots[-1].scalars)
    p = task_facts.get("p") or (recorded_whole(source.facts, inside, MODULUS_NAMES) or (None,))[0]
    options = [
        one
        for one in token_options(c, c, None, p, prompts=False)
        if not (one.residue_offset or one.b_offset or one.out_offset)
    ]
    if task_facts.get("p"):
        options = [one for one in options if one.p == task_facts["p"]]

    def build(assignment: Assignment) -> tuple[Model, Translate]:
        tokens: Tokens = assignment["tokens"]
        bound = WeightsOnly(model.settings, tokens.p, c).with_function(function.call)
        swapped = tokens.prompt[0] == "b"
        if swapped:
            bound = WeightsOnly(model.settings, tokens.p, c).with_function(
                lambda params, inputs: function.call(params, inputs.flip(-1))
            )

        def translate(tensors: Mapping[str, Tensor]) -> Params:
            flat, _ = without_aliases(tensors)
            return {ours: _stored(flat[theirs]) for ours, theirs in names.items()}

        return bound, translate

    if not options:
        return Unrecognised(f"{c} logits were given, expected room for the modulus {task_facts.get('p')}")
    return Space(
        title=f"weights with a function of the user's own, {function.name}",
        dialect="user code",
        known=(f"{c} logits", f"{len(first)} tensors under their authors' names"),
        ignored=left_out,
        choices=(Choice("tokens", tuple(options)),),
        build=build,
        names=tuple(names.values()),
    )


def _classes(function: UserFunction, params: Params) -> int:
    """How many logits the user's function returns, from one pair."""
    pair = torch.zeros(1, 2, dtype=torch.int64)
    try:
        logits = function.call(dict(params), pair)
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise GrokscopeError(
            f"running {function.name} on one pair: {type(error).__name__}: {said}; expected a function of "
            "(params, inputs) that returns (N, C) logits"
        ) from None
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[0] != 1 or logits.shape[1] < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise GrokscopeError(
            f"running {function.name} on one pair: it returned {shape}, expected (1, C) logits"
        )
    return logits.shape[1]


def _embedding(
    plain: Mapping[str, Tensor], kept: list[str], safe: Mapping[str, str], p: int | None
) -> dict[str, Any]:
    """The tensor that is named as an embedding, where the number of residues is known."""
    for name in kept:
        first = next(iter(meanings(name, plain[name].ndim)), None)
        if p and plain[name].ndim == 2 and first is not None and first.roles == ("embedding",):
            rows, columns = plain[name].shape
            if rows >= p or columns >= p:
                side = "rows" if rows >= p else "columns"
                return {"embedding": safe[name], "embedding_rows": side, "n_residues": p}
    return {}


def _stored_names(names: list[str]) -> dict[str, str]:
    """Names as datasets may be called: no slash, nothing that cannot be printed, no two alike."""
    found: dict[str, str] = {}
    for name in names:
        wanted = (
            "".join(c if c.isprintable() and c != "/" else "_" for c in name)[:100].strip(".") or "tensor"
        )
        count, free = 1, wanted
        while free in found.values():
            count += 1
            free = f"{wanted}_{count}"
        found[name] = free
    return found


def _stored(tensor: Tensor) -> Tensor:
    return tensor.contiguous() if tensor.dtype == torch.float64 else tensor.to(torch.float32).contiguous()
