"""One stranger's run from tensors to a proved function: layout, search, split, proof, audit.

Shape legend: T saves, N operand pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from grokscope.errors import Absent, GrokscopeError
from grokscope.foreign.evidence.audit import AuditContext, Finding, audit
from grokscope.foreign.evidence.proof import (
    Comparison,
    Moments,
    measured,
    moments_of,
    prove,
    recorded_optimiser,
)
from grokscope.foreign.function import recorded_settings as written
from grokscope.foreign.function.bare_weights import user_space, weights_model
from grokscope.foreign.function.card import Card
from grokscope.foreign.function.chains import chain_space
from grokscope.foreign.function.layout import Unrecognised, lay_out, short_names
from grokscope.foreign.function.rebuild import Answered, Function, answered_by, choose_function
from grokscope.foreign.function.search import SOME_NATS, Budget, enough_nats
from grokscope.foreign.function.space import Space
from grokscope.foreign.function.transformers import transformer_space
from grokscope.foreign.gathering.containers import ForeignRun
from grokscope.foreign.gathering.facts import recorded_curves
from grokscope.foreign.splitting.find import NoSplit, Split
from grokscope.models import Model, Params
from grokscope.tasks import Task, unknown_task
from grokscope.user_code import UserFunction

_GROUNDED = ("reproduced", "one step off", "at the printed precision", "at the precision floor")


@dataclass(frozen=True)
class Understood:
    """Everything that was found out about one run.

    Attributes:
        function: the rebuilt function, ``None`` where none was.
        why: why there is no function, or why it may not be used; "" where it may.
        doubt: what speaks against a function that may be used, "" where nothing does.
        split: ``None`` where there is no function to look for it.
        answered: (T, N) losses and right answers of every pair, ``None`` without a function.
    """

    source: ForeignRun
    function: Function | None
    why: str
    model: Model
    task: Task
    split: Split | NoSplit | None
    steps: tuple[int, ...]
    saves: tuple[Params, ...]
    ignored: Mapping[str, str]
    answered: Answered | None = None
    proof: tuple[Comparison, ...] = ()
    audit: tuple[Finding, ...] = ()
    user_function: UserFunction | None = None
    doubt: str = ""

    @property
    def proved(self) -> bool:
        """Whether more recorded numbers speak for the function than against it."""
        good = sum(row.verdict in _GROUNDED for row in self.proof)
        return good > sum(row.verdict == "conflict" for row in self.proof)


@dataclass(frozen=True)
class Reading:
    """How a run is to be read: by a card, by a function of the user's own, within a budget."""

    card: Card | None = None
    function: UserFunction | None = None
    budget: Budget = field(default_factory=Budget)


def understand(
    source: ForeignRun, how: Reading, skipped: Sequence[tuple[str, str]], where: str
) -> Understood:
    """Rebuild, split, prove and audit one run; what cannot be told is said and not guessed.

    Args:
        skipped: files that were left out, and why, for the audit.
        where: the path as given, for the commands in findings.

    Raises:
        GrokscopeError: a card or a function that does not fit the tensors, or no weight among them.
    """
    saves = tuple(replace(one, tensors=short_names(one.tensors)) for one in source.snapshots)
    source = replace(source, snapshots=saves)
    if how.card is not None:
        source = _with_card_facts(source, how.card)
    found = replace(_understood(source, how), user_function=how.function)
    return replace(found, audit=tuple(audit(_audit_context(found, skipped, where))))


def _with_card_facts(source: ForeignRun, card: Card) -> ForeignRun:
    """The run with what the card says of the split and the task recorded first."""
    said = {**card.split, **card.task}
    if not said:
        return source
    facts = replace(source.facts, documents={"the card": said, **source.facts.documents})
    return replace(source, facts=facts)


def _understood(source: ForeignRun, how: Reading) -> Understood:
    last, card = source.snapshots[-1], how.card
    inside = dict(last.scalars)
    task_facts = dict(card.task) if card else {}
    if how.function is not None:
        space: Space | Unrecognised = user_space(source, how.function, task_facts)
        ignored: Mapping[str, str] = {}
    else:
        layout = lay_out(last.tensors, card, _constant(source))
        if isinstance(layout, Unrecognised):
            space, ignored = layout, {}
        else:
            make = transformer_space if layout.family == "transformer" else chain_space
            space, ignored = make(layout, last.tensors, source.facts, inside, task_facts), layout.ignored
    function = (
        space.why
        if isinstance(space, Unrecognised)
        else choose_function(source, space, task_facts, how.budget)
    )
    if isinstance(function, Function):
        return _proved(source, function)
    if card is not None:
        raise GrokscopeError(
            f"importing {last.path} by the card {card.name}: {function}, expected a card that fits the file"
        )
    return _weights_only(source, function, ignored)


def _constant(source: ForeignRun) -> tuple[str, ...]:
    """Names of tensors that are the same at every save of several: no training reached them."""
    first, *others = source.snapshots
    if not others:
        return ()
    return tuple(
        name for name, value in first.tensors.items() if all(value.equal(one.tensors[name]) for one in others)
    )


def _weights_only(source: ForeignRun, why: str, ignored: Mapping[str, str]) -> Understood:
    """A run of which only the weights are known, under their authors' names."""
    inside = dict(source.snapshots[-1].scalars)
    p = written.recorded_whole(source.facts, inside, written.MODULUS_NAMES)
    model, saves, left_out = weights_model(source, why, p[0] if p else None, ignored)
    if model is None:
        raise GrokscopeError(
            f"importing {source.snapshots[-1].path}: no tensor in it is a weight, expected some"
        )
    steps = tuple(one.step for one in source.snapshots)
    return Understood(
        source=source,
        function=None,
        why=why,
        model=model,
        task=unknown_task(),
        split=None,
        steps=steps,
        saves=saves,
        ignored=left_out,
    )


def _proved(source: ForeignRun, function: Function) -> Understood:
    """The split and the proof of a rebuilt function."""
    inside = dict(source.snapshots[-1].scalars)
    steps = tuple(one.step for one in source.snapshots)
    numbers = source.numbers
    answered = function.answered or answered_by(
        source, function.model, function.translate, function.task, numbers, function.loss
    )
    losses, right, split = answered
    ours = measured(function.task, losses, right)
    if isinstance(split, Split):
        task = function.task.with_split(split.mask)
        ours = measured(task, losses, right)
    else:
        task = function.task.without_split(split.why)
        ours = {name: value for name, value in ours.items() if name.endswith(".all")}
    saves = tuple(function.translate(one.tensors) for one in source.snapshots)
    proof = prove(
        numbers,
        ours,
        steps,
        function.model,
        saves,
        task,
        recorded_optimiser(source.facts, inside),
        curves=recorded_curves(source.facts, inside, steps[-1]),
        states=_states(source, function),
        loss=function.loss,
    )
    found = Understood(
        source=source,
        function=function,
        why="",
        model=function.model,
        task=task,
        split=split,
        steps=steps,
        saves=saves,
        ignored=function.space.ignored,
        answered=answered,
        proof=tuple(proof),
    )
    return _weighed(found, function)


def _weighed(found: Understood, function: Function) -> Understood:
    """What the record says against a function: nothing, a doubt, or that it may not be used."""
    if found.proved:
        return found
    n_conflicts = sum(row.verdict == "conflict" for row in found.proof)
    n_recorded = sum(row.verdict != "nothing recorded" for row in found.proof)
    told = f"{n_conflicts} of {n_recorded} recorded numbers conflict with it"
    if function.nats < SOME_NATS:
        why = f"the function is not proved: {function.answers}, and no recorded number is reproduced"
        return replace(found, why=why)
    if not n_conflicts:
        return found
    if function.nats < enough_nats(function.p):
        return replace(found, why=f"the function is not proved: {function.answers}, but {told}")
    return replace(
        found,
        doubt=f"its answers alone speak for the function: {function.answers}, but {told}; another loss, "
        "other inputs or another function may have given them",
    )


def _states(source: ForeignRun, function: Function) -> list[Moments | Absent | None]:
    """The optimiser's moments at each save under our names, where the file has them."""
    names = function.space.names
    shapes = {name: tuple(source.snapshots[-1].tensors[name].shape) for name in names}
    return [
        moments_of(one.optimizer, names, function.translate, shapes) if one.optimizer else None
        for one in source.snapshots
    ]


def _audit_context(found: Understood, skipped: Sequence[tuple[str, str]], where: str) -> AuditContext:
    source, answered = found.source, found.answered
    # what float32 makes of a loss near 0 is a matter of cross-entropy
    squared = found.function is not None and found.function.loss.squared
    last = source.snapshots[-1]
    paths = dict.fromkeys(one.path for one in source.snapshots)
    names = [path.name for path in paths] + [last.path.parent.name]
    return AuditContext(
        task=found.task,
        steps=found.steps,
        losses=None if answered is None or squared else answered.losses,
        right=None if answered is None else answered.right,
        ignored=found.ignored,
        saves=found.saves,
        model=found.model,
        facts=source.facts,
        inside=dict(last.scalars),
        raw=last.tensors,
        optimizer=last.optimizer,
        split=None if found.split is None else found.split.as_json(),
        names=names,
        proof=found.proof,
        norms=source.norms,
        skipped=skipped,
        where=where,
    )
