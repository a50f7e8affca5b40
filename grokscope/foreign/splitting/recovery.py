"""The training pairs read off checkpoints that had memorised them.

Scope: at a save that answers its training pairs and few others, their losses are low, but so are those of many
test pairs whose mirror image was trained on. The logarithms of a pair's losses at several such saves, beside
those of its mirror image, are modelled as one of four cases: both trained on, either, or neither. Each case has
a multivariate t distribution (heavy tails, so that a pair far from all cases is not decided by the nearest),
fitted by expectation and maximisation. The start is the ranking by the worst loss over the saves. The
posterior probabilities say how many pairs are expected to be on the wrong side.

Shape legend: N operand pairs, S saves looked at, D features (S, or 2 S with the mirror image).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, log_expit
from scipy.stats import hypergeom

from grokscope.foreign.splitting.evidence import Evidence
from grokscope.tasks import Task

FREEDOM = 5.0
"""Degrees of freedom of the t distributions."""

RIDGE = 1e-4
ROUNDS = 60
MOST_SAVES = 6
PAIRS_PER_SAVE = 16
"""Pairs of the smallest case for every save, of which each brings two features."""

MEMORISED = 0.97
"""Share of the training pairs that a memorised save answers at least."""

GENERALISED = 0.8
"""Share of the test pairs that it answers at most."""

SYMMETRIC = 1e-6
"""Largest difference of a pair's log loss from its mirror image's where the function is symmetric."""

SUSPICIOUS = 1e-3
"""Chance, corrected for the number of looks, below which a split is not what a random draw gives."""


@dataclass(frozen=True)
class Recovery:
    """A split read off the losses.

    Attributes:
        mask: (N,) bool.
        expected_wrong: how many training pairs are expected to be test pairs, or test pairs training ones,
            whichever is more.
        unstable: the most training pairs that change when one save is left out, ``None`` for a single save.
        margin: factor between the largest worst loss of a training pair and the least of a test pair where
            the ranking alone gives the same split, else ``None``.
        moved: how many training pairs the ranking by worst loss alone would have missed.
        saves: rows of the evidence that were used.
        odd: where the split differs from a random draw, in words; empty where it does not.
    """

    mask: np.ndarray
    expected_wrong: float
    unstable: int | None
    margin: float | None
    moved: int
    saves: tuple[int, ...]
    odd: str

    @property
    def n_train(self) -> int:
        return int(self.mask.sum())

    def confidence(self) -> float:
        """1 where nothing is expected wrong, 1/e where 5 % is; less where the split is no random draw."""
        wrong = max(self.expected_wrong, 0.5 * (self.unstable or 0))
        found = math.exp(-20 * wrong / self.n_train)
        return min(0.99, found) * (0.3 if self.odd else 1.0)


def memorised_saves(evidence: Evidence, fraction: float | None) -> list[int]:
    """Saves that know their training pairs and few others, by their accuracy and what was recorded."""
    told = {one.save: one.value for one in evidence.numbers if one.quantity == "accuracy.train"}
    found = []
    for save, accuracy in enumerate(evidence.accuracy):
        if fraction is None:
            known = 0.05 < accuracy < 0.95
        else:
            known = accuracy >= MEMORISED * fraction and (accuracy - fraction) / (1 - fraction) < GENERALISED
        if known and told.get(save, 1.0) >= MEMORISED:
            found.append(save)
    if len(found) <= MOST_SAVES:
        return found
    places = np.linspace(0, len(found) - 1, MOST_SAVES).round().astype(int)
    return [found[place] for place in places]


def mirror_of(task: Task) -> np.ndarray:
    """(N,) the index of each pair's mirror image, its own where it has none."""
    own = np.arange(len(task.inputs))
    symmetry = next((one for one in task.symmetries if one.name == "swap"), None)
    if symmetry is None:
        symmetry = next((one for one in task.symmetries if not one.preserves), None)
    if symmetry is None:
        return own
    image = symmetry.image.numpy()
    image = np.where(image < 0, own, image)
    return np.where(image[image] == own, image, own)


def is_symmetric(evidence: Evidence, saves: Sequence[int], mirror: np.ndarray) -> bool:
    """Whether mirror images have the same losses, so that nothing tells a trained pair from its image."""
    if (mirror == np.arange(evidence.n)).all():
        return False
    logs = _logs(evidence, saves)
    return bool(np.abs(logs - logs[mirror]).max() < SYMMETRIC)


def recover(
    evidence: Evidence, saves: Sequence[int], mirror: np.ndarray, n_train: int, task: Task
) -> Recovery:
    """The ``n_train`` pairs most likely trained on."""
    worst = evidence.losses[list(saves)].max(axis=0)
    ranked = _lowest(worst, n_train)
    used = _affordable(evidence, saves, n_train)
    logs = _logs(evidence, used)
    odds = _posterior(logs, mirror, ranked, n_train, ROUNDS)
    mask = _lowest(-odds, n_train)
    # more on one side than on the other says that the number of training pairs is wrong
    inside, outside = np.exp(log_expit(-odds[mask])).sum(), np.exp(log_expit(odds[~mask])).sum()
    expected = float(max(inside, outside))
    unstable = None
    if len(used) > 1:
        changes = []
        for left_out in range(len(used)):
            fewer = np.delete(logs, left_out, axis=1)
            again = _lowest(-_posterior(fewer, mirror, mask, n_train, 6), n_train)
            changes.append(int((mask & ~again).sum()))
        # the save that says most is needed; what matters is whether the others bear it out
        unstable = int(np.median(changes))
    margin = None
    if (ranked == mask).all():
        margin = float(worst[~mask].min() / max(worst[mask].max(), 1e-300))
    moved = int((mask & ~ranked).sum())
    return Recovery(mask, expected, unstable, margin, moved, tuple(used), oddness(mask, mirror, task))


def _affordable(evidence: Evidence, saves: Sequence[int], n_train: int) -> list[int]:
    """As many saves as the smallest case has pairs to fit, those with the widest spread of losses."""
    smallest = min(n_train, evidence.n - n_train) ** 2 / evidence.n
    most = max(1, int(smallest / PAIRS_PER_SAVE))
    spread = np.log(np.maximum(evidence.losses[list(saves)], 1e-16)).std(axis=1)
    widest = sorted(range(len(saves)), key=lambda index: -spread[index])[:most]
    return [saves[index] for index in sorted(widest)]


def guess_count(evidence: Evidence, saves: Sequence[int], mirror: np.ndarray) -> int | None:
    """How many pairs were trained on, by the largest gap in the losses and then by the fit itself."""
    worst = np.log(np.maximum(evidence.losses[list(saves)].max(axis=0), 1e-16))
    ordered = np.sort(worst)
    low, high = int(0.03 * len(worst)), int(0.97 * len(worst))
    # the cut that leaves the least variance on both sides (Otsu's rule)
    count = np.arange(1, len(worst))
    below, total = np.cumsum(ordered)[:-1], ordered.sum()
    between = (below / count - (total - below) / (len(worst) - count)) ** 2 * count * (len(worst) - count)
    if high <= low + 2:
        return None
    start = low + int(between[low:high].argmax()) + 1
    odds = _posterior(_logs(evidence, saves), mirror, _lowest(worst, start), start, ROUNDS, free=True)
    found = int((odds > 0).sum())
    return found if low < found < high else None


def oddness(mask: np.ndarray, mirror: np.ndarray, task: Task) -> str:
    """How the split differs from a random draw of as many pairs, in words; empty where it does not."""
    n, size = len(mask), int(mask.sum())
    looks: list[tuple[float, str]] = []
    groups: list[tuple[str, np.ndarray]] = []
    if task.inputs.ndim == 2 and task.inputs.shape[1] == 2 and task.n_tokens is not None:
        groups = [("with a", task.inputs[:, 0].numpy()), ("with b", task.inputs[:, 1].numpy())]
    if task.kind == "classification":
        groups.append(("with answer", task.targets.numpy()))
    for name, labels in groups:
        width = int(labels.max()) + 1
        total, trained = np.bincount(labels, minlength=width), np.bincount(labels[mask], minlength=width)
        few, many = hypergeom.cdf(trained, n, total, size), hypergeom.sf(trained - 1, n, total, size)
        chance = np.minimum(1.0, 2 * np.minimum(few, many))
        value = int(chance.argmin())
        looks.append(
            (float(chance[value]) * width, f"{trained[value]} of {total[value]} pairs {name} {value}")
        )
    pairs = np.flatnonzero(mirror > np.arange(n))
    if len(pairs):
        both = int((mask[pairs] & mask[mirror[pairs]]).sum())
        q2 = size * (size - 1) / (n * (n - 1))
        q4 = q2 * (size - 2) * (size - 3) / ((n - 2) * (n - 3)) if n > 3 else 0.0
        variance = len(pairs) * q2 * (1 - q2) + len(pairs) * (len(pairs) - 1) * (q4 - q2 * q2)
        away = abs(both - len(pairs) * q2) / math.sqrt(max(variance, 1e-9))
        words = f"{both} pairs of mirror images both trained on, {len(pairs) * q2:.0f} expected"
        looks.append((math.erfc(away / math.sqrt(2)), words))
    if not looks:
        return ""
    least, words = min(looks)
    chance = least * len(looks)
    return f"{words} (chance {max(chance, 1e-99):.0e} in a random draw)" if chance < SUSPICIOUS else ""


def _logs(evidence: Evidence, saves: Sequence[int]) -> np.ndarray:
    """(N, S) log losses, centred and with spread 1 at each save."""
    logs = np.log(np.maximum(evidence.losses[list(saves)], 1e-16)).T
    return (logs - logs.mean(axis=0)) / np.maximum(logs.std(axis=0), 1e-12)


def _lowest(values: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(values, kind="stable")[:count]] = True
    return mask


def _posterior(
    logs: np.ndarray, mirror: np.ndarray, start: np.ndarray, n_train: int, rounds: int, *, free: bool = False
) -> np.ndarray:
    """(N,) log odds that each pair was trained on. ``free``: the share of training pairs is fitted too."""
    n, width = logs.shape
    paired = mirror != np.arange(n)
    both = np.concatenate([logs, logs[mirror]], axis=1)
    exchanged = np.r_[width : 2 * width, 0:width]
    trained, share = start.astype(np.float64), n_train / n
    odds = np.zeros(n)
    for _ in range(rounds):
        p, q = trained, trained[mirror]
        if free:
            share = float(np.clip(p.mean(), 0.01, 0.99))
        yes, no = math.log(share), math.log(1 - share)
        if paired.any():
            mean, spread = _fitted(both, p * (1 - q) * paired)
            first = (mean, spread)
            second = (mean[exchanged], spread[np.ix_(exchanged, exchanged)])
            for_yes = np.logaddexp(
                2 * yes + _log_density(both, *_fitted(both, p * q * paired)),
                yes + no + _log_density(both, *first),
            )
            none = _fitted(both, (1 - p) * (1 - q) * paired)
            for_no = np.logaddexp(yes + no + _log_density(both, *second), 2 * no + _log_density(both, *none))
            odds = for_yes - for_no
        if not paired.all():
            alone = ~paired
            # pairs that are their own image are few where others are not, and share their cases
            weight = np.where(alone, 1.0, 0.0) if alone.mean() > 0.5 else np.ones(n)
            for_yes = yes + _log_density(logs, *_fitted(logs, p * weight))
            for_no = no + _log_density(logs, *_fitted(logs, (1 - p) * weight))
            odds = np.where(alone, for_yes - for_no, odds)
        changed = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
        done = np.abs(changed - trained).max() < 1e-3
        trained = changed
        if done:
            break
    return odds


def _fitted(values: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean (D,) and covariance (D, D), the latter kept away from singular."""
    weight = (weight + 1e-12) / (weight + 1e-12).sum()
    mean = weight @ values
    centred = values - mean
    return mean, (centred * weight[:, None]).T @ centred + RIDGE * np.eye(values.shape[1])


def _log_density(values: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(N,) log density of a multivariate t distribution."""
    width = values.shape[1]
    factor = np.linalg.cholesky(spread)
    squared = np.square(np.linalg.solve(factor, (values - mean).T)).sum(axis=0)
    constant = (
        gammaln((FREEDOM + width) / 2) - gammaln(FREEDOM / 2) - 0.5 * width * math.log(FREEDOM * math.pi)
    )
    constant -= np.log(np.diag(factor)).sum()
    return constant - 0.5 * (FREEDOM + width) * np.log1p(squared / FREEDOM)
