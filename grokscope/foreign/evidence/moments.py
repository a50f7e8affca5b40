"""The state that torch's optimisers store, under our names.

Scope: Adam, AdamW (with AMSGrad) and SGD with momentum, as ``optimizer.state_dict()`` writes them. Torch
numbers parameters in the order of registration, which is that of the state dict with buffers left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.models import Params

ADAM_EPSILON = 1e-8
_ADAM_STATE = {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


@dataclass(frozen=True)
class Moments:
    """An optimiser's state under our names, all tensors shaped as the parameters, float64.

    Attributes:
        first, second, largest: m, v and (AMSGrad) the largest v so far; for SGD ``first`` is the momentum
            buffer and ``second`` empty. What the file does not cover is zero, and so is its ``rate``.
        rate, decay: η and λ of each entry.
        betas: (β₁, β₂), for SGD (momentum, dampening).
        count: updates made so far.
        decoupled: whether decay is AdamW's; ``None`` where the file does not say.
    """

    kind: str
    first: Params
    second: Params
    largest: Params
    rate: Params
    decay: Params
    betas: tuple[float, float]
    epsilon: float
    count: int
    decoupled: bool | None
    nesterov: bool = False


def moments_of(
    optimizer_state: Mapping[Any, Any],
    names: Sequence[str],
    translate: Callable[[dict[str, Tensor]], Params],
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Moments | Absent:
    """The state of torch's Adam, AdamW or SGD as ``optimizer.state_dict()`` writes it, under our names.

    Args:
        optimizer_state: ``{"state": {index: {...}}, "param_groups": [{"lr": ..., "params": [...]}]}``.
        names: their names of the parameters, buffers left out, in the order of registration.
        translate: a linear re-arrangement of tensors in their names into ours.
        shapes: their shape of each of ``names``, needed where there are several parameter groups.

    Returns:
        The moments, or why there are none to use.
    """
    state, groups = optimizer_state.get("state"), optimizer_state.get("param_groups")
    if not isinstance(state, Mapping) or not isinstance(groups, list) or not groups:
        return Absent("the optimiser state is not torch's, with state and param_groups")
    placed = _placed(state, groups, names, shapes)
    if isinstance(placed, Absent):
        return placed
    entries = [entry for entry, _ in placed.values()]
    group = groups[0]
    adam = all("exp_avg" in entry for entry in entries) and bool(entries)
    if adam:
        known = all(set(entry) <= _ADAM_STATE and "exp_avg_sq" in entry for entry in entries)
        betas = _pair(group.get("betas"))
        if not known or betas is None or not all(0 <= beta < 1 for beta in betas):
            return Absent(f"the optimiser state holds {_keys(entries)}, expected Adam's or SGD's")
    else:
        keys = {key for entry in entries for key in entry}
        if not keys <= {"momentum_buffer"} or "momentum" not in group:
            return Absent(
                f"the optimiser state holds {_keys(entries) or 'nothing'}, expected Adam's or SGD's"
            )
        betas = (_scalar(group["momentum"], 0.0), _scalar(group.get("dampening"), 0.0))
    uneven = [
        key for key in ("betas", "eps", "momentum", "amsgrad") if len({str(g.get(key)) for g in groups}) > 1
    ]
    if uneven or any(g.get("maximize") for g in groups):
        return Absent(f"the parameter groups differ in {', '.join(uneven) or 'sign'}, which is not replayed")
    counts = {int(_scalar(entry.get("step"), 0.0)) for entry in entries} or {0}
    if adam and (len(counts) > 1 or min(counts) < 1):
        return Absent("the parameters have not all been updated equally often, expected one step count")

    def ours(pick: Callable[[Mapping[str, Any], Mapping[str, Any]], Any]) -> Params:
        theirs = {name: _filled(pick(*placed[name]), _template(placed[name][0])) for name in placed}
        still = [name for name in names if name not in placed]
        theirs |= {name: torch.zeros(shapes[name], dtype=torch.float64) for name in still if shapes}
        # what a dialect adds of its own (biases of zero, an identity) cancels
        added = translate({name: torch.zeros_like(value) for name, value in theirs.items()})
        found = translate(theirs)
        return {name: value.to(torch.float64) - added[name] for name, value in found.items()}

    # SGD without momentum stores no tensor whose shape could be used
    if not adam and not all(isinstance(entry.get("momentum_buffer"), Tensor) for entry in entries):
        return Absent("SGD without momentum stores no state to replay from")
    try:
        return Moments(
            kind="adam" if adam else "sgd",
            first=ours(lambda entry, _: entry["exp_avg" if adam else "momentum_buffer"]),
            second=ours(lambda entry, _: entry["exp_avg_sq"]) if adam else {},
            largest=ours(lambda entry, _: entry["max_exp_avg_sq"])
            if adam and all("max_exp_avg_sq" in entry for entry in entries)
            else {},
            rate=ours(lambda _, g: _scalar(g.get("lr"), 0.0)),
            decay=ours(lambda _, g: _scalar(g.get("weight_decay"), 0.0)),
            betas=betas,
            epsilon=_scalar(group.get("eps"), ADAM_EPSILON),
            count=max(counts),
            decoupled=bool(group["decoupled_weight_decay"]) if "decoupled_weight_decay" in group else None,
            nesterov=bool(group.get("nesterov", False)),
        )
    except (GrokscopeError, ValueError, KeyError, TypeError, RuntimeError) as error:
        why = (str(error).splitlines() or ["no reason given"])[0][:160]
        return Absent(f"the optimiser's tensors do not translate like the weights: {why}")


def _placed(
    state: Mapping[Any, Any],
    groups: list[Any],
    names: Sequence[str],
    shapes: Mapping[str, tuple[int, ...]] | None,
) -> dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] | Absent:
    """Their name → (its state, its group), for the parameters that were ever updated."""
    if not all(isinstance(g, Mapping) and isinstance(g.get("params"), list | tuple) for g in groups):
        return Absent("the optimiser's param_groups list no parameters")
    total = sum(len(g["params"]) for g in groups)
    if total != len(names):
        return Absent(f"the optimiser knows {total} parameters and the file holds {len(names)}")
    found: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {}
    left = list(names)
    for group in groups:
        told = group.get("param_names")
        for position, index in enumerate(group["params"]):
            if not isinstance(index, int | str):
                return Absent("the optimiser's param_groups list no parameters")
            entry = state.get(index, state.get(str(index), {}))
            if not isinstance(entry, Mapping):
                return Absent(f"the optimiser state of parameter {index} is no table")
            shape = tuple(_template(entry).shape) if _has_tensor(entry) else None
            if isinstance(told, list | tuple) and position < len(told) and told[position] in left:
                name = told[position]
            elif len(groups) == 1 or shapes is None:
                name = left[0]
            else:
                # groups divide the parameters by kind, and keep their order inside each
                fitting = [one for one in left if shape is None or tuple(shapes.get(one, ())) == shape]
                name = fitting[0] if fitting else ""
            if name not in left or (shapes and shape and tuple(shapes[name]) != shape):
                return Absent(
                    f"the optimiser state of parameter {index} has shape {shape}, not that of {name!r}"
                )
            left.remove(name)
            if entry:
                found[name] = entry, group
    if len(groups) > 1 and shapes is None and not all("param_names" in group for group in groups):
        return Absent("several parameter groups, and no shapes to tell which parameter is in which")
    return found


def _has_tensor(entry: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Tensor) and key != "step" for key, value in entry.items())


def _template(entry: Mapping[str, Any]) -> Tensor:
    for key in ("exp_avg", "momentum_buffer", "exp_avg_sq"):
        if isinstance(entry.get(key), Tensor):
            return entry[key]
    return torch.zeros(())


def _filled(value: Any, template: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        if value.shape != template.shape or not value.dtype.is_floating_point:
            raise ValueError(f"a moment has shape {tuple(value.shape)}, expected {tuple(template.shape)}")
        return value.detach().to("cpu", torch.float64)
    return torch.full(template.shape, float(value), dtype=torch.float64)


def _scalar(value: Any, default: float) -> float:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return default
    return float(value)


def _pair(value: Any) -> tuple[float, float] | None:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    return _scalar(value[0], -1.0), _scalar(value[1], -1.0)


def _keys(entries: Sequence[Mapping[Any, Any]]) -> str:
    return ", ".join(sorted({str(key)[:40] for entry in entries for key in entry})[:8])
