"""What the saves of a run, and the numbers recorded about them, say about a candidate split.

Scope: two kinds of evidence. *Separation*: the rank-sum statistic z (Mann and Whitney) of the losses on
training pairs against the others; under a split that has nothing to do with the run it is a standard normal
variable. *Recorded numbers*: how close a candidate's means come to them, against a random split's (``numbers``).

Shape legend: T saves, N operand pairs, K candidate splits, R recorded numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.special import log_ndtr
from scipy.stats import rankdata
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.gathering.facts import Recorded
from grokscope.foreign.splitting.numbers import Number, Numbers, surprise

CLEAR_Z = 8.0
"""A split counts as found from here on: chance reaches it nowhere near the candidates tried."""

TELLING = 6.0
"""A recorded number this many spreads from what random splits give can refute a candidate."""

FAR = 0.5
"""Share of that distance by which a candidate misses what was recorded: refuted above it."""

SAVES_RANKED = 2
NUMBERS_SCREENED = 3


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
        table: ``numbers`` as columns.
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
        self.table = Numbers(self.numbers, self.n)
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
        return (self.losses if number.is_loss else self.right)[number.save]

    @cached_property
    def _rows(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(which numbers, (S, N) losses or answers at their saves, the row of each) for losses and answers."""
        found = []
        for rows, which in ((self.losses, self.table.is_loss[:, 0]), (self.right, ~self.table.is_loss[:, 0])):
            saves, back = np.unique(self.table.save[which], return_inverse=True)
            found.append((which, rows if len(saves) == len(rows) else rows[saves], back))
        return found

    def _sums(self, inside: np.ndarray) -> np.ndarray:
        """(R, K) sums of what was recorded over the pairs ``inside`` (N, K) each candidate, 0 or 1."""
        found = np.empty((len(self.numbers), inside.shape[1]))
        for which, rows, back in self._rows:
            found[which] = (rows @ inside)[back]
        return found

    @cached_property
    def log_losses(self) -> np.ndarray:
        """(N,) at the most telling save."""
        return np.log(np.maximum(self.losses[self.ranked[0]], 1e-16))

    @cached_property
    def tops(self) -> np.ndarray:
        """(len(ranked), N): the largest sum of the scores of 1, 2, … pairs."""
        return np.cumsum(np.sort(self.scores, axis=1)[:, ::-1], axis=1)

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
        away, _, digits = self.table.distances(self.n * 0.4, self.table.value)
        distance = np.minimum(away, 20.0) + 0.01 * np.minimum(digits, 20.0)
        ordered = [self.numbers[k] for k in np.argsort(-distance[:, 0], kind="stable")]
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
        return self.judge_all(mask[None], [inflation])[0]

    def judge_all(self, masks: np.ndarray, inflations: Sequence[float]) -> list[Judgement]:
        """:meth:`judge` of many splits (K, N) at once, in two products of matrices."""
        inside, widen = masks.T.astype(np.float64), np.array(inflations)
        sizes = inside.sum(axis=0)
        z = self.scores @ inside / (widen * np.sqrt(sizes * (self.n - sizes) / (self.n - 1)))
        save = z.argmax(axis=0)
        table = self.table
        # the sum over the others is no difference, which would lose the digits of small losses
        means = table.means(sizes, self._sums(inside), self._sums(1 - inside))
        away, off, digits = table.distances(sizes, means, widen)
        strongest = table.strongest(surprise(away, np.maximum(off, digits)))
        telling = (away >= TELLING) & table.can_refute(sizes)
        lost = (table.is_loss & (table.value > 0))[:, 0]
        room = np.maximum(np.abs(means - table.value) - table.resolution, 0.0)[lost] / table.value[lost]
        judged = []
        for k in range(len(masks)):
            misses = (off[:, k] / np.maximum(away[:, k], 1e-300))[telling[:, k]]
            judged.append(
                Judgement(
                    z=float(z[save[k], k]),
                    save=self.ranked[int(save[k])],
                    surprise=float(strongest[k]),
                    misfit=float(np.median(misses)) if len(misses) else None,
                    error=float(np.median(room[:, k])) if len(room) else None,
                    n_numbers=len(self.numbers),
                )
            )
        return judged

    def best_separation(self, size: int) -> float:
        """The largest z that any split of this size has at the saves looked at."""
        deviation = math.sqrt(size * (self.n - size) / (self.n - 1))
        return float(self.tops[:, size - 1].max()) / deviation

    def training_pairs(self) -> tuple[int, str] | None:
        """How many pairs were trained on, where recorded train and test accuracies say so.

        n·train + (N − n)·test is the number of right answers, which is known.
        """
        found: dict[int, int] = {}
        tables: dict[tuple[int, str], dict[str, Number]] = {}
        for one in self.numbers:
            if not one.is_loss:
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


def _scores(values: np.ndarray) -> np.ndarray:
    ranks = rankdata(values)
    spread = ranks.std()
    return (ranks.mean() - ranks) / spread if spread else np.zeros(len(ranks))
