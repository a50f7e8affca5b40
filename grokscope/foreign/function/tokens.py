"""Prompts and moduli that the sizes of a vocabulary and of a head allow, the likeliest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grokscope.foreign.function.space import Tokens
from grokscope.measures.cyclic import is_prime

MAX_MODULUS = 1024
MOST_SPECIALS = 6


def token_options(
    v: int, c: int, n: int | None, recorded_p: int | None = None, *, prompts: bool = True
) -> tuple[Tokens, ...]:
    """Ways in which ``v`` rows, ``c`` logits and ``n`` positions hold residues.

    ``n`` is ``None`` where no table of positions says. Without ``prompts`` (an MLP) the operands alone matter.
    """
    ranked: list[tuple[float, int, Tokens]] = []
    for p in range(min(v, c, MAX_MODULUS), 1, -1):
        for offset, second, specials, cost in _vocabularies(v, p):
            for out, out_cost in _outputs(v, c, p, offset):
                for prompt, prompt_cost in _prompts(specials, n) if prompts else [(("a", "b"), 0.0)]:
                    score = cost + out_cost + prompt_cost + _unlikely(p, v, c, recorded_p)
                    ranked.append((score, len(ranked), Tokens(p, prompt, offset, second, out)))
    ranked.sort(key=lambda one: one[:2])
    return tuple(one for _, _, one in ranked)


def fitting(
    options: tuple[Tokens, ...], fixed: Mapping[str, Any], task: Mapping[str, Any]
) -> tuple[Tokens, ...]:
    """Those of the modulus and the places in the tables that a card says."""
    told = {name: fixed[name] for name in ("residue_offset", "b_offset", "out_offset") if name in fixed}
    if task.get("p"):
        told["p"] = task["p"]
    return tuple(one for one in options if all(getattr(one, name) == value for name, value in told.items()))


def _unlikely(p: int, v: int, c: int, recorded_p: int | None) -> float:
    if recorded_p is not None:
        return 0.0 if p == recorded_p else 6.0
    # a head of its own size, or a prime, is what people choose
    away = min(abs(v - p), abs(c - p), abs(v - 2 * p))
    return (
        (0.0 if c == p != v else 0.5)
        + (0.0 if is_prime(p) else 1.0)
        + (0.2 * away if away <= 6 else 4.0 + 0.05 * away)
    )


def _vocabularies(v: int, p: int) -> Iterator[tuple[int, int, tuple[int, ...], float]]:
    """(row of residue 0, shift of b, special rows, cost)."""
    extra = v - p
    few = tuple(range(p, v))[:MOST_SPECIALS]
    yield 0, 0, few, 0.0
    if 0 < extra <= MOST_SPECIALS:
        yield extra, 0, tuple(range(extra)), 1.5
    if p <= extra <= p + MOST_SPECIALS:
        yield 0, p, tuple(range(2 * p, v)), 0.7


def _outputs(v: int, c: int, p: int, offset: int) -> Iterator[tuple[int, float]]:
    """(logit of class 0, cost)."""
    if offset and c == v:
        yield offset, 0.0
        yield 0, 3.0
        return
    yield 0, 0.0
    if c > p and c - p <= MOST_SPECIALS:
        yield c - p, 3.0


def _prompts(specials: tuple[int, ...], n: int | None) -> Iterator[tuple[tuple[str, ...], float]]:
    """(prompt, cost): the fuller ones first where the table of positions is as long."""
    found: list[tuple[tuple[str, ...], float]] = [(("a", "b"), 0.4 if specials else 0.0)]
    named = [f"token:{one}" for one in specials[:4]]
    few = len(specials) <= 3
    for index, one in enumerate(named):
        found.append((("a", "b", one), 0.3 * index))
        found.append((("a", one, "b"), 1.0 + 0.3 * index))
        found.append(((one, "a", "b"), 1.6 + 0.3 * index))
        for other in (two for two in named if two != one):
            later = 0.2 * (index + named.index(other))
            found.append((("a", one, "b", other), 0.2 + later))
            found.append(((one, "a", "b", other), 1.2 + later))
            for third in (t for t in named if t not in (one, other)):
                found.append(((third, "a", one, "b", other), 2.0 + later))
    if not specials:
        found.append((("a", "b", "zero"), 0.5))
    for prompt, cost in found:
        if n is None:
            # a vocabulary that small has no token without use
            yield prompt, cost + (0.4 * (len(specials) - len(prompt) + 2) if few else 0.0)
        elif len(prompt) <= n:
            yield prompt, cost + 0.6 * (n - len(prompt))
