"""Tensors of a model by the names that settings use: a tensor's own, its block, or a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grokscope.errors import GrokscopeError, nearest
from grokscope.models.anatomy import Model

_KINDS = {"matrices": "matrix", "biases": "bias", "gains": "gain"}


def named_tensors(model: Model, names: Sequence[str], where: str) -> list[str]:
    """The tensors that ``names`` mean, in the model's order. Raises GrokscopeError, which ``where`` begins."""
    known = {
        "all": [part.name for part in model.parts],
        **{word: [p.name for p in model.parts if p.kind == kind] for word, kind in _KINDS.items()},
        **model.blocks,
        **{part.name: [part.name] for part in model.parts},
    }
    found: set[str] = set()
    for name in names:
        if not known.get(name):
            raise GrokscopeError(
                f"{where} names {name!r}, which this {model.family} model has no tensors of, expected a kind "
                f"({', '.join(['all', *_KINDS])}), a block or a tensor{nearest(name, list(known))}"
            )
        found.update(known[name])
    return [part.name for part in model.parts if part.name in found]


def tensor_factors(model: Model, given: Mapping[str, float], where: str) -> dict[str, float]:
    """Tensor → factor for all that ``given`` names: its own name before its block, its block before its kind."""
    found: dict[str, float] = {}
    tensors = {part.name for part in model.parts}
    widths = {name: 0 if name in tensors else 1 if name in model.blocks else 2 for name in given}
    for name in sorted(given, key=lambda one: (widths[one], one != "all"), reverse=True):
        found |= dict.fromkeys(named_tensors(model, [name], where), given[name])
    return found
