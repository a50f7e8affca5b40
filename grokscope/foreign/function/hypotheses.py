"""What had to be supposed about a function, what each supposition rests on, and what came second.

Scope: words and verdicts over what ``search`` tried. A choice is *recorded* where it is written beside the
weights and nothing better was found, *tested* where the alternatives answer worse or are further from the
recorded losses, *ambiguous* where an alternative does as well, *assumed* where nothing was tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from grokscope.foreign.function.search import Searched
from grokscope.foreign.function.space import Choice, Space
from grokscope.foreign.function.trials import FAR_LOSS, NEAR, Trial, alike, tokens_of

CLEAR_RATIO = 3.0
"""A hypothesis is nearer to the recorded losses where its typical error is this many times smaller."""

Basis = Literal["recorded", "tested", "ambiguous", "assumed"]


@dataclass(frozen=True)
class Hypothesis:
    """One thing that had to be supposed, and what speaks for it."""

    about: str
    value: str
    basis: Basis
    evidence: str

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def of_choices(
    space: Space, searched: Searched, winner: Trial, errors: Mapping[int, float | None]
) -> tuple[Hypothesis, ...]:
    """A hypothesis for every choice of ``space``, with the best that differs in it alone.

    ``errors`` maps ``id`` of a trial to the typical relative error of the recorded losses under it.
    """
    rows = [
        (choice, _of_choice(choice, searched.trials, winner, errors))
        for choice in space.choices
        if len(choice.options) > 1
    ]
    # a head without spare logits leaves nothing to choose here
    return tuple(
        row for choice, row in rows if choice.about != "softmax over" or "the same with" not in row.evidence
    )


def _of_choice(
    choice: Choice, trials: Sequence[Trial], winner: Trial, errors: Mapping[int, float | None]
) -> Hypothesis:
    value = winner.assignment[choice.about]
    name, shown = (
        ("modulus and prompt", str(tokens_of(winner.assignment)))
        if choice.about in ("tokens", "chain")
        else (choice.about, told(value))
    )
    if choice.about == "chain":
        name, shown = "chain and modulus", told(value)
    others = [
        trial
        for trial in trials
        if trial.assignment[choice.about] != value
        and all(
            trial.assignment[about] == one
            for about, one in winner.assignment.items()
            if about != choice.about
        )
    ]
    recorded = choice.recorded if value == choice.options[0] else ""
    written = f"recorded as {recorded}; " if recorded else ""
    if not others:
        untried = "the alternatives make no function or were not tried"
        return Hypothesis(
            name.replace("_", " "), shown, "recorded" if recorded else "assumed", written + untried
        )
    same = [trial for trial in others if alike(trial, winner) and not _told_apart(trial, winner, errors)]
    different = [trial for trial in others if not any(trial is one for one in same)]
    rival = _rival(different, winner, errors)
    if rival is None:
        listed = " or ".join(told(trial.assignment[choice.about]) for trial in same[:3])
        evidence = f"{written}no answer depends on it: the same with {listed}"
        return Hypothesis(name.replace("_", " "), shown, "recorded" if recorded else "ambiguous", evidence)
    evidence = written + _compared(winner, rival, choice.about, errors)
    if same:
        evidence += f"; as good is {told(same[0].assignment[choice.about])}"
        return Hypothesis(name.replace("_", " "), shown, "recorded" if recorded else "ambiguous", evidence)
    basis: Basis = "tested" if _clear(winner, rival, errors) else ("recorded" if recorded else "ambiguous")
    return Hypothesis(name.replace("_", " "), shown, basis, evidence)


def _told_apart(one: Trial, other: Trial, errors: Mapping[int, float | None]) -> bool:
    """Whether the recorded losses distinguish hypotheses that answer alike."""
    its, mine = errors.get(id(one)), errors.get(id(other))
    return its is not None and mine is not None and max(its, mine) >= CLEAR_RATIO * min(its, mine)


def _rival(others: Sequence[Trial], winner: Trial, errors: Mapping[int, float | None]) -> Trial | None:
    """The alternative that comes nearest: to the record where it was compared, else in what it answers."""
    measured = [trial for trial in others if errors.get(id(trial)) is not None]
    if measured and errors.get(id(winner)) is not None:
        return min(measured, key=lambda trial: errors[id(trial)] or 0.0)
    return max(others, key=lambda trial: (trial.nats, -trial.loss), default=None)


def _clear(winner: Trial, rival: Trial, errors: Mapping[int, float | None]) -> bool:
    mine, its = errors.get(id(winner)), errors.get(id(rival))
    if mine is not None and its is not None:
        return its >= CLEAR_RATIO * mine
    if rival.nats < NEAR * winner.nats:
        return True
    return rival.loss > FAR_LOSS * winner.loss


def _compared(winner: Trial, rival: Trial, about: str, errors: Mapping[int, float | None]) -> str:
    what = rival.assignment[about]
    other = told(what)
    mine, its = errors.get(id(winner)), errors.get(id(rival))
    text = (
        f"accuracy {winner.accuracy:.3f} and loss {winner.loss:.3g} over a sample of pairs; next {other} with "
        f"{rival.accuracy:.3f} and {rival.loss:.3g}"
    )
    if mine is not None and its is not None:
        text += f"; typical error of the recorded losses {mine:.2g}, against {its:.2g}"
    return text


def told(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 3 and all(isinstance(one, int) for one in value):
        heads, groups, width = value
        return f"{heads} of width {width}" + (f", {groups} of keys and values" if groups != heads else "")
    if isinstance(value, tuple) and len(value) == 2:
        chain, tokens = value
        return f"{chain}; p = {tokens.p}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
