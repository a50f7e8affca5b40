"""The state a run is in: one word, the flags beside it, and every number the word rests on.

The rules are tried in a fixed order and the first that matches gives the state:

1. *not applicable*: the run has neither an accuracy nor levels of its task's own;
2. *not fitted*: the training level was never held; flagged ``generalised_unfitted`` where the test level
holds; 3. *lost*: the test level was held once and does not hold at the end; 4. the test level holds:
*grokked* where the low end of the delay is at least 2, *generalised without delay* where its
   high end is under 2, *inconclusive* where the interval contains 2;
5. *unstable*: two or more tenfold spikes of the training loss after the fit, with training accuracy under
0.99; 6. *memorised*: test skill under 0.5 at every save after the fit; 7. *still moving*: the interval
of the slope of the test skill over the last quarter of the run, in steps, excludes 0; 8. *stalled*: there is
such a slope, and the final test skill is at least 0.5; 9. *inconclusive*. With fewer than four saves in the
last quarter there is no slope: whether such a run still moves is not known.

The rules are ours; the thresholds for fit and grok are those usual in the literature (arXiv 2301.05217,
2606.13753).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grokscope.measures.crossings import Crossing, delay, first_hold, series
from grokscope.measures.lines import block_slope

__all__ = [
    "Claim",
    "State",
    "StateInputs",
    "StateName",
    "Thresholds",
    "block_slope",
    "count_spikes",
    "inputs_from_accuracy",
    "normalised_skill",
    "run_state",
]

StateName = Literal[
    "not applicable",
    "not fitted",
    "lost",
    "grokked",
    "generalised without delay",
    "unstable",
    "memorised",
    "still moving",
    "stalled",
    "inconclusive",
]
Ends = tuple[float | None, float | None]


@dataclass(frozen=True)
class Thresholds:
    """Every number the rules compare with. ``fit``, ``grok``, ``memorised`` and ``stalled`` are levels of the
    skill s.

    ``q`` saves have to hold a level, and the end of a run is its last q saves. ``last_share`` is the part of
    the run, in steps, whose slope is judged; ``spike_accuracy`` is a level of the training skill.
    """

    fit: float = 0.99
    grok: float = 0.95
    delay: float = 2.0
    memorised: float = 0.5
    stalled: float = 0.5
    spike_factor: float = 10.0
    spike_count: int = 2
    spike_accuracy: float = 0.99
    last_share: float = 0.25
    confidence: float = 0.95
    q: int = 3

    def __post_init__(self) -> None:
        if not (
            0 < self.last_share <= 1 and 0 < self.confidence < 1 and self.q >= 1 and self.spike_factor > 1
        ):
            raise ValueError(
                f"Thresholds: got last_share={self.last_share}, confidence={self.confidence}, q={self.q}, "
                f"spike_factor={self.spike_factor}, expected shares in (0, 1), q >= 1 and a factor > 1"
            )


@dataclass(frozen=True, eq=False)
class StateInputs:
    """What the rules look at; everything but ``steps`` may be ``None`` where a run does not have it.

    Args:
        steps: (T,) the saves of the series below.
        fit, grok: the two crossings, ``None`` where the level is not defined for the run.
        delay: low and high end of T_grok / T_fit.
        test_accuracy: (T,) the test accuracy that counts (of unmirrored pairs), NaN where undefined. With
            ``chance`` 0 it is taken as a skill already, which is how a regression or a completion enters.
        train_accuracy: (T,) the training accuracy, on the same scale.
        train_loss: (T,) the training loss.
        chance: the accuracy of guessing.
        grok_at_end: whether the test level holds at the end, where the caller knows; otherwise the median
            skill over the last q defined saves is compared with the level.
    """

    steps: ArrayLike
    fit: Crossing | None
    grok: Crossing | None
    delay: Ends = (None, None)
    test_accuracy: ArrayLike | None = None
    train_accuracy: ArrayLike | None = None
    train_loss: ArrayLike | None = None
    chance: float = 0.0
    grok_at_end: bool | None = None


@dataclass(frozen=True)
class Claim:
    """One statement: its number, the threshold it is compared with, the interval of the number, and whether
    it holds.

    A number that could not be had is ``None``; such a claim does not hold.
    """

    name: str
    value: float | None
    threshold: float | None
    interval: Ends | None
    holds: bool

    def as_json(self) -> dict[str, object]:
        """Plain data without NaN or infinities."""
        return {
            "name": self.name,
            "value": self.value,
            "threshold": self.threshold,
            "interval": None if self.interval is None else list(self.interval),
            "holds": self.holds,
        }


@dataclass(frozen=True)
class State:
    """The state, its flags, and the claims that were decided on the way, in the order of the rules."""

    state: StateName
    flags: tuple[str, ...]
    evidence: tuple[Claim, ...] = field(default=())


def normalised_skill(accuracy: ArrayLike, chance: float) -> NDArray[np.float64]:
    """s = (accuracy - chance) / (1 - chance): 0 for guessing, 1 for perfect, negative below chance; NaN stays
    NaN.

    Raises:
        ValueError: chance outside [0, 1).
    """
    if not 0 <= chance < 1:
        raise ValueError(f"normalised_skill: got chance={chance}, expected 0 <= chance < 1")
    return (np.asarray(accuracy, dtype=np.float64) - chance) / (1 - chance)


def inputs_from_accuracy(
    steps: ArrayLike,
    train_accuracy: ArrayLike,
    test_accuracy: ArrayLike,
    train_loss: ArrayLike | None = None,
    chance: float = 0.0,
    thresholds: Thresholds | None = None,
) -> StateInputs:
    """The inputs of a classification run: both crossings and the delay, found on the normalised skill.

    Raises:
        ValueError: a malformed series or chance outside [0, 1).
    """
    levels = thresholds or Thresholds()
    fit = first_hold(steps, normalised_skill(train_accuracy, chance), levels.fit, "above", levels.q)
    grok = first_hold(steps, normalised_skill(test_accuracy, chance), levels.grok, "above", levels.q)
    return StateInputs(
        steps, fit, grok, delay(fit, grok), test_accuracy, train_accuracy, train_loss, chance=chance
    )


def count_spikes(
    loss: ArrayLike,
    train_skill: ArrayLike,
    factor: float = 10.0,
    accuracy: float = 0.99,
    reference_saves: int = 5,
) -> int:
    """How many times the loss jumped by a factor and took the training accuracy with it.

    A spike begins at a save whose loss is at least ``factor`` times the median of the up to
    ``reference_saves`` last saves outside spikes, and lasts until the loss is under that again; it counts if
    the training accuracy is under ``accuracy`` at one of its saves at least. The reference stands still
    during a spike, so a level that is lost for good counts once, and a slow drift does not count at all.
    Saves with an undefined loss are passed over.

    Args:
        loss: (T,) training loss at the saves after the fit.
        train_skill: (T,) training accuracy or skill at the same saves.
    """
    loss_T = np.asarray(loss, dtype=np.float64)
    skill_T = np.asarray(train_skill, dtype=np.float64)
    calm: list[float] = []
    count, inside, counted = 0, False, False
    for value, skill in zip(loss_T.tolist(), skill_T.tolist(), strict=True):
        if np.isnan(value):
            continue
        reference = float(np.median(calm[-reference_saves:])) if calm else np.inf
        if value > reference and value >= factor * reference:
            counted = counted and inside
            inside = True
            if not counted and skill < accuracy:
                count, counted = count + 1, True
        else:
            inside = False
            calm.append(value)
    return count


def run_state(inputs: StateInputs, thresholds: Thresholds | None = None) -> State:
    """The first rule that matches, with the flags and the claims that led to it.

    ``unstable`` is a flag on any fitted state. A rule whose quantities are missing is passed over: its claim
    carries no value and does not hold; where that leaves the question open, the answer is *inconclusive*.

    Raises:
        ValueError: series that do not match ``steps``, or chance outside [0, 1).
    """
    levels = thresholds or Thresholds()
    fit, grok = inputs.fit, inputs.grok
    if fit is None and grok is None:
        return State("not applicable", (), (Claim("levels_defined", None, None, None, False),))
    skill = _skill("test_accuracy", inputs.steps, inputs.test_accuracy, inputs.chance)
    end = None if skill is None else _end(skill[1], levels.q)
    held = grok is not None and grok.by is not None
    at_end = inputs.grok_at_end
    if at_end is None and end is not None:
        at_end = end >= levels.grok
    evidence: list[Claim] = []

    fitted = fit is not None and fit.by is not None
    if fit is not None:
        evidence.append(Claim("fitted", _number(fit.by), levels.fit, _interval(fit), fitted))
    if not fitted or fit is None or fit.by is None:
        flags = ("generalised_unfitted",) if held and at_end else ()
        if grok is not None:
            evidence.append(
                Claim("test_holds_at_end", end, levels.grok, _interval(grok), bool(held and at_end))
            )
        return State("inconclusive" if fit is None else "not fitted", flags, tuple(evidence))

    spikes = _spikes(inputs, fit.by, levels)
    unstable = spikes is not None and spikes >= levels.spike_count
    flags = ("unstable",) if unstable else ()
    steadiness = Claim("repeated_loss_spikes", _number(spikes), float(levels.spike_count), None, unstable)

    def settled(state: StateName, *claims: Claim) -> State:
        shown = [*evidence, *claims]
        return State(state, flags, tuple(shown if steadiness in shown else [*shown, steadiness]))

    if grok is not None:
        evidence.append(Claim("grok_reached", _number(grok.by), levels.grok, _interval(grok), held))
    if held:
        evidence.append(Claim("test_holds_at_end", end, levels.grok, None, bool(at_end)))
        if at_end is None:
            return settled("inconclusive")
        if not at_end:
            return settled("lost")
        low, high = inputs.delay
        late = Claim("delayed", low, levels.delay, inputs.delay, low is not None and low >= levels.delay)
        if late.holds:
            return settled("grokked", late)
        prompt = Claim(
            "without_delay", high, levels.delay, inputs.delay, high is not None and high < levels.delay
        )
        return settled("generalised without delay" if prompt.holds else "inconclusive", late, prompt)

    evidence.append(steadiness)
    if unstable:
        return settled("unstable")
    if skill is None:
        return settled("inconclusive")
    steps_T, skill_T = skill
    after_fit = skill_T[(steps_T >= fit.by) & ~np.isnan(skill_T)]
    highest = float(after_fit.max()) if after_fit.size else None
    low_throughout = highest is not None and highest < levels.memorised
    evidence.append(Claim("highest_skill_after_fit", highest, levels.memorised, None, low_throughout))
    if low_throughout:
        return settled("memorised")
    slope = _last_slope(steps_T, skill_T, levels)
    moving = slope is not None and (slope[1] > 0 or slope[2] < 0)
    evidence.append(
        Claim("slope_of_last_part", None, 0.0, None, False)
        if slope is None
        else Claim("slope_of_last_part", slope[0], 0.0, slope[1:], moving)
    )
    if moving:
        return settled("still moving")
    # A run with too few late saves to have a slope cannot be said to have stopped.
    high_end = end is not None and end >= levels.stalled
    stalled = slope is not None and high_end
    return settled(
        "stalled" if stalled else "inconclusive", Claim("final_skill", end, levels.stalled, None, high_end)
    )


def _skill(
    what: str, steps: ArrayLike, accuracy: ArrayLike | None, chance: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
    if accuracy is None:
        return None
    return series(f"run_state, {what}", steps, normalised_skill(accuracy, chance))


def _end(values_T: NDArray[np.float64], q: int) -> float | None:
    defined = values_T[~np.isnan(values_T)]
    return float(np.median(defined[-q:])) if defined.size else None


def _spikes(inputs: StateInputs, fit_step: int, levels: Thresholds) -> int | None:
    if inputs.train_loss is None:
        return None
    train = _skill("train_accuracy", inputs.steps, inputs.train_accuracy, inputs.chance)
    if train is None:
        return None
    steps_T, loss_T = series("run_state, train_loss", inputs.steps, inputs.train_loss)
    after = steps_T >= fit_step
    return count_spikes(loss_T[after], train[1][after], levels.spike_factor, levels.spike_accuracy)


def _last_slope(
    steps_T: NDArray[np.int64], skill_T: NDArray[np.float64], levels: Thresholds
) -> tuple[float, float, float] | None:
    """The slope over the saves in the last part of the run, in steps; ``None`` with fewer than four there."""
    if steps_T.size == 0:
        return None
    late = steps_T >= steps_T[-1] - levels.last_share * (steps_T[-1] - steps_T[0])
    return block_slope(steps_T[late], skill_T[late], levels.confidence)


def _interval(crossing: Crossing) -> Ends:
    return _number(crossing.after), _number(crossing.by)


def _number(value: int | None) -> float | None:
    return None if value is None else float(value)
