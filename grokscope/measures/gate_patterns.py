"""Patterns of open gates over samples: how many, which changed, how many are open or dead.

A pattern is given as one (N, d_l) bool tensor per hidden layer, as `regions.gates` returns it.

Shape suffixes: N samples, T saves, d_l width of hidden layer l.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "active_fraction",
    "count_patterns",
    "dead_neurons",
    "flipped_share",
    "frozen_samples",
    "frozen_since",
    "pattern_changed",
    "pattern_ids",
]

_WORD_BITS = 62  # bits packed into one int64, clear of the sign


def pattern_ids(gate_pattern: Sequence[Tensor]) -> Tensor:
    """Group samples by their gate pattern over all layers, exactly (packed bits, no hashing).

    Args:
        gate_pattern: one (N, d_l) bool tensor per layer.

    Returns:
        (N,) int64, the same number for the same pattern, numbered in order of first appearance: the numbering
        does not depend on the order of neurons, and means nothing across checkpoints.

    Raises:
        ValueError: no layer, not bool, or layers with different sample counts.
    """
    bits = torch.cat(_checked_gates("pattern_ids", gate_pattern), dim=1)
    n, width = bits.shape
    if n == 0:
        return torch.zeros(0, dtype=torch.int64, device=bits.device)
    words = []
    for start in range(0, max(width, 1), _WORD_BITS):
        part = bits[:, start : start + _WORD_BITS].to(torch.int64)
        words.append((part << torch.arange(part.shape[1], device=bits.device)).sum(dim=1))
    _, inverse = torch.unique(torch.stack(words, dim=1), dim=0, return_inverse=True)
    samples = torch.arange(n, device=bits.device)
    first = torch.full((int(inverse.max()) + 1,), n, dtype=torch.int64, device=bits.device)
    first = first.scatter_reduce(0, inverse, samples, reduce="amin")
    return first.argsort().argsort()[inverse]


def count_patterns(gate_pattern: Sequence[Tensor]) -> int:
    """Number of distinct gate patterns, the number of linear regions that hold a sample.

    Args:
        gate_pattern: one (N, d_l) bool tensor per layer.

    Returns:
        Between 1 and N (0 without samples).

    Raises:
        ValueError: as `pattern_ids`.
    """
    ids = pattern_ids(gate_pattern)
    return int(ids.max()) + 1 if ids.numel() else 0


def pattern_changed(previous: Sequence[Tensor], now: Sequence[Tensor]) -> Tensor:
    """Whether a sample's whole pattern differs between two saves.

    Args:
        previous, now: one (N, d_l) bool tensor per layer, the same samples in the same order.

    Returns:
        (N,) bool.

    Raises:
        ValueError: no layer, not bool, or shapes that differ.
    """
    return torch.stack([flipped.any(dim=1) for flipped in _flips("pattern_changed", previous, now)]).any(
        dim=0
    )


def flipped_share(previous: Sequence[Tensor], now: Sequence[Tensor]) -> float:
    """Share of (sample, gate) entries that changed between two saves, over all layers together.

    Args:
        previous, now: one (N, d_l) bool tensor per layer, the same samples in the same order.

    Returns:
        In [0, 1].

    Raises:
        ValueError: no layer, not bool, shapes that differ, or no entry at all.
    """
    flips = _flips("flipped_share", previous, now)
    return sum(int(f.sum()) for f in flips) / _total("flipped_share", flips)


def frozen_samples(previous: Sequence[Tensor], now: Sequence[Tensor]) -> float:
    """Share of samples whose whole pattern is the same at two saves.

    Args:
        previous, now: one (N, d_l) bool tensor per layer, the same samples in the same order.

    Returns:
        In [0, 1].

    Raises:
        ValueError: as `pattern_changed`, or no sample.
    """
    changed = pattern_changed(previous, now)
    if changed.numel() == 0:
        raise ValueError("frozen_samples: got 0 samples, expected at least one")
    return 1.0 - int(changed.sum()) / changed.numel()


def frozen_since(changed_TN: Tensor, share: float = 0.99) -> int | None:
    """First save from which a share of the samples keep their final pattern to the end.

    Args:
        changed_TN: (T, N) bool; row t is `pattern_changed(gates at save t − 1, gates at save t)`, so a
            reader need only ever hold two saves. Row 0 has no predecessor and is ignored.
        share: of samples, in (0, 1].

    Returns:
        An index into the saves, or None where it would be the last save: then nothing was seen to hold.

    Raises:
        ValueError: not a bool matrix with a save and a sample, or a share outside (0, 1].
    """
    if changed_TN.ndim != 2 or changed_TN.dtype != torch.bool or changed_TN.numel() == 0:
        raise ValueError(
            f"frozen_since: got {changed_TN.dtype} {tuple(changed_TN.shape)}, expected non-empty bool (T, N)"
        )
    if not 0 < share <= 1:
        raise ValueError(f"frozen_since: got a share of {share}, expected a number in (0, 1]")
    n_saves, n = changed_TN.shape
    numbers = torch.arange(n_saves, device=changed_TN.device).unsqueeze(1)
    last_change = (changed_TN * numbers).amax(dim=0)  # row 0 counts as "never", whatever it holds
    # the smallest save by which enough samples have made their last change is an order statistic; the
    # tolerance keeps 0.99 · 100 at 99 samples
    needed = math.ceil(share * n - 1e-9)
    since = int(last_change.sort().values[needed - 1])
    return None if since == n_saves - 1 else since


def active_fraction(gate_pattern: Sequence[Tensor]) -> float:
    """Share of (sample, gate) entries that are open, over all layers together.

    Args:
        gate_pattern: one (N, d_l) bool tensor per layer.

    Returns:
        In [0, 1].

    Raises:
        ValueError: no layer, not bool, different sample counts, or no entry at all.
    """
    checked = _checked_gates("active_fraction", gate_pattern)
    return sum(int(g.sum()) for g in checked) / _total("active_fraction", checked)


def dead_neurons(gate_pattern: Sequence[Tensor]) -> int:
    """Number of neurons, over all layers, whose gate is open for none of the samples given.

    Args:
        gate_pattern: one (N, d_l) bool tensor per layer.

    Returns:
        Between 0 and Σ_l d_l.

    Raises:
        ValueError: no layer, not bool, different sample counts, or no sample.
    """
    checked = _checked_gates("dead_neurons", gate_pattern)
    if checked[0].shape[0] == 0:
        raise ValueError("dead_neurons: got 0 samples, expected at least one")
    return sum(int((~g.any(dim=0)).sum()) for g in checked)


def _checked_gates(name: str, gate_pattern: Sequence[Tensor]) -> list[Tensor]:
    checked = list(gate_pattern)
    if (
        not checked
        or any(g.dtype != torch.bool or g.ndim != 2 for g in checked)
        or len({g.shape[0] for g in checked}) != 1
    ):
        given = [f"{g.dtype} {tuple(g.shape)}" for g in checked]
        raise ValueError(f"{name}: got gates {given}, expected one bool (N, d_l) per layer with the same N")
    return checked


def _flips(name: str, previous: Sequence[Tensor], now: Sequence[Tensor]) -> list[Tensor]:
    before, after = _checked_gates(name, previous), _checked_gates(name, now)
    if [g.shape for g in before] != [g.shape for g in after]:
        raise ValueError(
            f"{name}: got gates {[tuple(g.shape) for g in before]} and {[tuple(g.shape) for g in after]}, "
            "expected equal shapes"
        )
    return [a ^ b for a, b in zip(before, after, strict=True)]


def _total(name: str, entries: Sequence[Tensor]) -> int:
    total = sum(e.numel() for e in entries)
    if total == 0:
        raise ValueError(f"{name}: got no (sample, gate) entry, expected at least one")
    return total
