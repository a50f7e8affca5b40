"""What the saves of a run, and the numbers recorded about them, say about a candidate split.

Scope: two kinds of evidence. *Separation*: the rank-sum statistic z (Mann and Whitney) of the losses on
training pairs against the others; under a split that has nothing to do with the run it is a standard normal
variable. *Recorded numbers*: the mean over a random subset of n of N pairs is close to normal with a known
spread, so that a recorded mean lies ``away`` spreads from what a random split gives, and a candidate's own
mean ``off`` spreads from what was recorded. The surprise of a candidate is −log₁₀ of the chance of coming that
close at random.

Shape legend: T saves, N operand pairs, K candidate splits, R recorded numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import log_ndtr
from scipy.stats import rankdata
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.gathering.facts import Recorded

CLEAR_Z = 8.0
"""A split counts as found from here on: chance reaches it nowhere near the candidates tried."""

TELLING = 6.0
"""A recorded number this many spreads from what random splits give can refute a candidate."""

FAR = 0.5
"""Share of that distance by which a candidate misses what was recorded: refuted above it."""

LARGEST_AWAY = 6.0
"""The tails of a mean over pairs are heavier than a normal one's; further out counts as this far."""

ROUNDING = 3e-6
"""Relative error of a loss that was evaluated in float32."""

MOST_OF_A_SECOND = 4.0
FLOOR = 1e-6
"""Losses below this, evaluated in float32, are mostly rounding."""

SAVES_RANKED = 2
NUMBERS_SCREENED = 3


@dataclass(frozen=True)
class Number:
    """A recorded mean over training or test pairs, with what random splits of its save would give.

    ``total`` and ``spread`` are the sum and the standard deviation of the losses or answers over all
    ``n`` pairs at the save in row ``save``.
    """

    quantity: str
    side: str
    save: int
    value: float
    resolution: float
    source: str
    n: int
    total: float
    spread: float


@dataclass(frozen=True)
class Judgement:
    """How one candidate fits.

    Attributes:
        z, save: the largest separation, and the save where it is.
        surprise: −log₁₀ of the chance that a random split comes as close to the recorded numbers.
        misfit: the median over telling numbers of the distance from what was recorded, as a share of the
            distance of a random split; ``None`` where no number tells.
        error: the median relative error of the recorded losses, ``None`` where none was recorded.
        n_numbers: how many recorded numbers could be compared.
    """

    z: float
    save: int
    surprise: float
    misfit: float | None
    error: float | None
    n_numbers: int

    @property
    def refuted(self) -> bool:
        return self.misfit is not None and self.misfit > FAR

    @property
    def strength(self) -> float:
        """The evidence in powers of ten."""
        tail = float(-log_ndtr(-max(self.z, 0.0))) / math.log(10)
        return max(tail, self.surprise)


class Evidence:
    """The outcomes of every pair at the saves worth looking at, ready for judging many candidates.

    Attributes:
        losses, right: (T, N) float64.
        accuracy: (T,) over all pairs.
        numbers: recorded means over training or test pairs at these saves.
        ranked: the saves whose separation is looked at first.
        screened: the recorded numbers that are.
        scores: (len(ranked), N): minus the rank of each loss, centred, with spread 1.
    """

    def __init__(
        self, losses: Tensor, right: Tensor, steps: Sequence[int], recorded: Sequence[Recorded]
    ) -> None:
        if losses.ndim != 2 or losses.shape != right.shape or len(losses) != len(steps):
            raise GrokscopeError(
                f"finding the training split: losses have shape {tuple(losses.shape)}, answers "
                f"{tuple(right.shape)}, at {len(steps)} steps, expected (saves, pairs) of both"
            )
        values, answers = losses.double().numpy(), right.double().numpy()
        usable = [bool(np.isfinite(row).all()) for row in values]
        self.losses, self.right = values[usable], answers[usable]
        self.steps = [int(step) for step, use in zip(steps, usable, strict=True) if use]
        self.n_left_out = len(steps) - len(self.steps)
        self.accuracy = self.right.mean(axis=1)
        self.numbers = self._numbers(recorded)
        self.ranked = self._saves_to_rank()
        self.scores = np.array([_scores(self.losses[save]) for save in self.ranked])
        self.screened = self._numbers_to_screen()

    @property
    def n(self) -> int:
        return self.losses.shape[1]

    def of_pairs(self, inside: np.ndarray) -> Evidence:
        """The same for a data set that holds only the pairs ``inside`` (N,) bool."""
        recorded = [
            Recorded(one.quantity, self.steps[one.save], one.value, one.source, one.resolution)
            for one in self.numbers
        ]
        losses, right = torch.from_numpy(self.losses[:, inside]), torch.from_numpy(self.right[:, inside])
        return Evidence(losses, right, self.steps, recorded)

    def values_of(self, number: Number) -> np.ndarray:
        """(N,) losses or answers whose mean was recorded."""
        rows = self.losses if number.quantity.startswith("loss") else self.right
        return rows[number.save]

    def _numbers(self, recorded: Sequence[Recorded]) -> list[Number]:
        position = {step: index for index, step in enumerate(self.steps)}
        found: dict[tuple[str, int, float], Number] = {}
        for one in recorded:
            kind, _, side = one.quantity.partition(".")
            if kind not in ("loss", "accuracy") or side not in ("train", "test") or one.step not in position:
                continue
            if (
                math.isfinite(one.value)
                and one.value >= 0
                and (one.quantity, one.step, one.value) not in found
            ):
                save = position[one.step]
                row = self.losses[save] if kind == "loss" else self.right[save]
                found[one.quantity, one.step, one.value] = Number(
                    one.quantity, side, save, float(one.value), float(one.resolution), one.source,
                    self.n, float(row.sum()), float(row.std()),
                )  # fmt: skip
        return list(found.values())

    def _saves_to_rank(self) -> list[int]:
        if not self.steps:
            return []
        spread = np.log(np.maximum(self.losses, 1e-16)).std(axis=1)
        undecided = [t for t in range(len(self.steps)) if 0.02 < self.accuracy[t] < 0.995]
        first = sorted(undecided, key=lambda t: -spread[t])[: SAVES_RANKED - 1]
        others = [t for t in range(len(self.steps) - 1, -1, -1) if t not in first]
        return first + others[: SAVES_RANKED - len(first)]

    def _numbers_to_screen(self) -> list[Number]:
        """Those furthest from what random splits give, of different saves first."""
        size = self.n * 0.4

        def distance(one: Number) -> float:
            away, _, digits = _distances(one, size, one.value)
            return min(away, 20.0) + 0.01 * min(digits, 20.0)

        ordered = sorted(self.numbers, key=lambda one: -distance(one))
        kept: list[Number] = []
        for unseen in (True, False):
            for one in ordered:
                new = all(one.save != other.save for other in kept)
                if len(kept) < NUMBERS_SCREENED and one not in kept and (new or not unseen):
                    kept.append(one)
        return kept

    def judge(self, mask: np.ndarray, inflation: float = 1.0) -> Judgement:
        """How the split whose training pairs are ``mask`` (N,) bool fits everything there is.

        ``inflation``: how much wider than over pairs the spread over the items drawn is.
        """
        size = int(mask.sum())
        deviation = inflation * math.sqrt(size * (self.n - size) / (self.n - 1))
        z, save = -math.inf, 0
        for row, index in enumerate(self.ranked):
            here = float(self.scores[row][mask].sum()) / deviation
            if here > z:
                z, save = here, index
        chances: dict[int, list[float]] = {}
        misses, errors = [], []
        for one in self.numbers:
            values = self.values_of(one)
            ours = float(values[mask].mean() if one.side == "train" else values[~mask].mean())
            away, off, digits = _distances(one, size, ours, inflation)
            surprise = float(_surprise(away, max(off, digits)))
            chances.setdefault(one.save, []).append(surprise)
            if away >= TELLING and _can_refute(one, size):
                misses.append(off / away)
            if one.quantity.startswith("loss") and one.value > 0:
                room = max(abs(ours - one.value) - one.resolution, 0.0)
                errors.append(room / one.value)
        by_save = [np.array([max(found)]) for found in chances.values()]
        return Judgement(
            z,
            save,
            float(combined(by_save)[0]) if by_save else 0.0,
            float(np.median(misses)) if misses else None,
            float(np.median(errors)) if errors else None,
            len(self.numbers),
        )

    def best_separation(self, size: int) -> float:
        """The largest z that any split of this size has at the saves looked at."""
        deviation = math.sqrt(size * (self.n - size) / (self.n - 1))
        tops = [float(np.sort(row)[::-1][:size].sum()) for row in self.scores]
        return max(tops, default=0.0) / deviation

    def training_pairs(self) -> tuple[int, str] | None:
        """How many pairs were trained on, where recorded train and test accuracies say so.

        n·train + (N − n)·test is the number of right answers, which is known.
        """
        found: dict[int, int] = {}
        tables: dict[tuple[int, str], dict[str, Number]] = {}
        for one in self.numbers:
            if one.quantity.startswith("accuracy"):
                tables.setdefault((one.save, one.source.rpartition(" in ")[2]), {})[one.side] = one
        for (save, _), table in tables.items():
            if len(table) < 2:
                continue
            train, test = table["train"], table["test"]
            apart = train.value - test.value
            if apart < 0.05:
                continue
            size = self.n * (float(self.accuracy[save]) - test.value) / apart
            unsure = self.n * (train.resolution + test.resolution) / apart
            whole = round(size)
            if 0 < whole < self.n and abs(size - whole) <= 0.02 + unsure and unsure < 0.4:
                found[whole] = found.get(whole, 0) + 1
        if not found:
            return None
        best = max(found, key=lambda size: found[size])
        n_saves = sum(found.values())
        if found[best] < 2 * n_saves / 3:
            return None
        saves = "save" if found[best] == 1 else "saves"
        return best, f"the recorded accuracies of {found[best]} {saves} need {best} training pairs"


def separation(losses: Tensor, masks: Tensor) -> np.ndarray:
    """(T, K) z of the rank sum: positive where the losses (T, N) inside the masks (K, N) are lower."""
    n = losses.shape[1]
    inside = masks.to(losses.dtype).double().numpy()
    size = inside.sum(axis=1)
    # the variance of a sum drawn without replacement
    deviation = np.sqrt(size * (n - size) / (n - 1))
    return np.array([inside @ _scores(values) / deviation for values in losses.double().numpy()])


def surprises(one: Number, sizes: np.ndarray, sums: np.ndarray, inflation: float) -> np.ndarray:
    """(K,) of the recorded number under candidates of ``sizes`` whose training values sum to ``sums``.

    ``inflation`` widens the spread of a random split's mean, for draws of more than single pairs.
    """
    away, off, digits = _distances(one, sizes, _means(one, sizes, sums), inflation)
    return _surprise(away, np.maximum(off, digits))


def combined(by_save: Sequence[np.ndarray]) -> np.ndarray:
    """(K,) of the surprises (K,) at several saves: the largest, and the next as far as digits go.

    Saves of one run err together: two that both come close are not twice the evidence of one.
    """
    ordered = np.sort(np.array(by_save), axis=0)[::-1]
    return ordered[0] + np.minimum(ordered[1], MOST_OF_A_SECOND) if len(ordered) > 1 else ordered[0]


def may_be_close(one: Number, sizes: np.ndarray, sums: np.ndarray, inflation: float) -> np.ndarray:
    """(K,) bool: candidates that can surprise at all, by a cheaper look than :func:`surprises`."""
    away, off, _ = _distances(one, sizes, _means(one, sizes, sums), inflation)
    return ((off < 0.4 * away) & (away > 3)) | (off < 1e-3)


def _means(one: Number, sizes: np.ndarray, sums: np.ndarray) -> np.ndarray:
    return sums / sizes if one.side == "train" else (one.total - sums) / (one.n - sizes)


def _can_refute(one: Number, size: int) -> bool:
    """Whether a miss cannot be the rounding of float32 or the few pairs that one step changes."""
    mean = one.total / one.n
    if one.quantity.startswith("loss"):
        return max(one.value, mean) > FLOOR
    return abs(one.value - mean) * (size if one.side == "train" else one.n - size) > 3


def _scores(values: np.ndarray) -> np.ndarray:
    ranks = rankdata(values)
    spread = ranks.std()
    return (ranks.mean() - ranks) / spread if spread else np.zeros(len(ranks))


def _distances(one: Number, size, ours, inflation: float = 1.0):
    """In spreads of a random split's mean: the recorded number's, the candidate's miss, what digits allow."""
    drawn = size if one.side == "train" else one.n - size
    spread = np.maximum(inflation * one.spread * np.sqrt((one.n - drawn) / (drawn * (one.n - 1))), 1e-300)
    least = ROUNDING * abs(one.value) if one.quantity.startswith("loss") else 1e-9
    away = abs(one.value - one.total / one.n) / spread
    return away, abs(ours - one.value) / spread, max(one.resolution, least) / spread


def _surprise(away, off):
    """−log₁₀ of the chance that a standard normal variable falls within ``off`` of ``away``."""
    scale = np.minimum(1.0, LARGEST_AWAY / np.maximum(away, 1e-300))
    away, off = away * scale, off * scale
    upper, lower = log_ndtr(np.minimum(off - away, 0)), log_ndtr(-off - away)
    inner = np.log(np.maximum(-np.expm1(np.minimum(lower - upper, -1e-300)), 1e-12))
    found = np.where(off >= away, 0.0, -(upper + inner) / math.log(10))
    return np.minimum(found, 30.0)
