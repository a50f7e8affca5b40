"""Units that were read put together to runs: which belong to one, the step of each, what is left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from grokscope.foreign.gathering.beside import (
    Beside,
    Group,
    ReadUnit,
    documents_of_step,
    facts_of,
    is_of_step,
)
from grokscope.foreign.gathering.facts import (
    LENGTH_NAMES,
    STEP_NAMES,
    Facts,
    Recorded,
    recorded,
    recorded_curves,
    settings_in,
    whole,
)
from grokscope.foreign.gathering.many_steps import State
from grokscope.foreign.gathering.steps import MARKER_ORDER, Place, core_of, grouped

_MARKER_STEPS = {
    "memorize": ("memorize_step", "memorise_step", "memorization_step", "memorized_step", "memorize_epoch"),
    "grok": ("grok_step", "grokking_step", "grok_epoch", "grokking_epoch", "generalize_step"),
    "best": ("best_step", "best_epoch", "best_iter"),
}

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Skipped:
    """A file that was left out, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Snapshot:
    """The tensors of one step, with what lay beside them in the file.

    Attributes:
        scalars: numbers, settings, histories and splits in the file, as plain data.
        optimizer: the optimiser's state dict, in the file or beside it: ``state``, by the number of the
            parameter, and ``param_groups``; ``None`` where there is none.
        names: of the tensors, in the order of the file, which is that of torch's parameter numbers.
        parts: all files that the tensors came from.
    """

    step: int
    step_from: str
    path: Path
    tensors: Tensors
    scalars: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None = None
    names: tuple[str, ...] = ()
    parts: tuple[Path, ...] = ()


@dataclass(frozen=True)
class ForeignRun:
    """One run as its author left it: snapshots in order of their steps, all of the same shapes."""

    stem: str
    snapshots: tuple[Snapshot, ...]
    facts: Facts
    notes: tuple[str, ...] = ()

    @cached_property
    def numbers(self) -> list[Recorded]:
        """Every recorded loss and accuracy at a saved step."""
        return [one for one in self._recorded if not one.quantity.startswith("norm.")]

    @cached_property
    def norms(self) -> list[Recorded]:
        """Every recorded norm of all weights at a saved step."""
        return [one for one in self._recorded if one.quantity.startswith("norm.")]

    @cached_property
    def _recorded(self) -> list[Recorded]:
        # histories may be long, and are read once for both
        return recorded(self.facts, {one.step: one.scalars for one in self.snapshots})


def groups_of(read: Sequence[ReadUnit]) -> list[Group]:
    """Units put to runs by their names, folder by folder; a file of many steps is a run by itself."""
    buckets: dict[tuple[Path, str], list[ReadUnit]] = defaultdict(list)
    groups: list[Group] = []
    for one in read:
        if one.content.many:
            name = one.unit.name
            groups.append(Group(one.unit.home, core_of(name), ((one, Place(name)),)))
        else:
            buckets[one.unit.home, one.unit.kind].append(one)
    for (home, kind), members in buckets.items():
        if not kind:
            members = [one for one in members if (home, one.unit.path.name) not in buckets]
        by_name: dict[str, list[ReadUnit]] = defaultdict(list)
        for one in members:
            by_name[one.unit.name].append(one)
        for group in grouped([one.unit.name for one in members]):
            placed = tuple((by_name[place.name].pop(0), place) for place in group.places)
            if kind and group.base == "":
                # the weights after training beside the folders of its steps
                final = [one for one in buckets.get((home, ""), ()) if one.unit.path.name == kind]
                placed += tuple((one, Place(one.unit.name)) for one in final)
            groups.append(Group(home, group.base, placed))
    return sorted(groups, key=lambda group: (group.home, group.base, str(group.members[0][0].unit.path)))


def runs_of(group: Group, beside: Beside, alone: bool) -> tuple[list[ForeignRun], list[Skipped]]:
    """The runs of one group: one, or several where files that only share a name differ in shape."""
    numbered = any(place.step is not None for _, place in group.members)
    if len(group.members) > 1 and not numbered:
        shapes: dict[Any, list[tuple[ReadUnit, Place]]] = defaultdict(list)
        for member in group.members:
            shapes[_signature(member[0].content.states[0].tensors)].append(member)
        if len(shapes) > 1:
            made: list[ForeignRun] = []
            left: list[Skipped] = []
            for members in shapes.values():
                runs, skipped = runs_of(replace(group, members=tuple(members)), beside, False)
                made, left = made + runs, left + skipped
            return made, left
    facts = facts_of(group, beside, alone)
    snapshots: list[Snapshot] = []
    skipped: list[Skipped] = []
    unknown: list[tuple[Place, Snapshot]] = []
    use_names = _names_are_steps(group)
    for one, place in group.members:
        for state in one.content.states:
            step, words = _step(one, place, state, facts, use_names)
            snapshot = _snapshot(one, state, place, -1 if step is None else step, words, beside)
            if step is None:
                unknown.append((place, snapshot))
            else:
                snapshots.append(snapshot)
    last = max((one.step for one in snapshots), default=None)
    if unknown:
        kept, left = _without_step(unknown, snapshots, numbered, last)
        snapshots += kept
        skipped += left
    snapshots.sort(key=lambda one: (one.step, one.path.name))
    consistent, left = _consistent(snapshots)
    skipped += left
    if not consistent:
        return [], skipped
    notes = dict.fromkeys(note for one, _ in group.members for note in one.notes)
    return [ForeignRun(_stem(group), tuple(consistent), facts, tuple(notes))], skipped


def _without_step(
    unknown: Sequence[tuple[Place, Snapshot]], placed: Sequence[Snapshot], numbered: bool, last: int | None
) -> tuple[list[Snapshot], list[Skipped]]:
    """What becomes of files whose step nothing says: a run of their own where there is no other, else left out."""
    order = sorted(unknown, key=lambda one: MARKER_ORDER.index(one[0].marker))
    left: list[Skipped] = []
    kept: list[Snapshot] = []
    if not placed:
        kept = [replace(order.pop()[1], step=0)]
    for place, one in order:
        same = next((other for other in (*placed, *kept) if _equal(other.tensors, one.tensors)), None)
        if same is not None:
            step = f"step {same.step} ({same.path.name})" if placed else same.path.name
            left.append(Skipped(one.path, f"it holds the weights of {step} again"))
            continue
        if kept:
            why = f"its step is recorded nowhere, nor is that of {kept[0].path.name}; import it by itself"
        else:
            why = f"its step is recorded nowhere (the last that is known is {last}); import it by itself"
        left.append(
            Skipped(one.path, f"{why}" + (f" (its name says {place.marker})" if place.marker else ""))
        )
    return kept, left


def _names_are_steps(group: Group) -> bool:
    """Whether nameless numbers in names are steps, or a mere count beside steps in the files."""
    told = [
        (_inside_step(one.content.states[0]), place) for one, place in group.members if place.how == "save"
    ]
    inside = [found[0] for found, _ in told if found is not None]
    if not told or len(inside) < len(told) or len(set(inside)) < len(inside):
        return not (len(told) == 1 and inside)
    table = [one.content.states[0].scalars for one, place in group.members if place.how == "save"]
    return all(
        any(whole(scalars.get(name)) == place.step for name in STEP_NAMES)
        for scalars, (_, place) in zip(table, told, strict=True)
    )


def _inside_step(state: State) -> tuple[int, str] | None:
    for name in STEP_NAMES:
        value = state.scalars.get(name)
        if not isinstance(value, bool) and (step := whole(value)) is not None:
            return step, f"{name} in the file itself"
    return None


def _step(one: ReadUnit, place: Place, state: State, facts: Facts, use_names: bool) -> tuple[int | None, str]:
    """The step of one state dict and where it is said; ``None`` where nothing says it."""
    unknown = "no record: the step is not known, 0 stands for it"
    if state.step is not None:
        return state.step, state.step_from
    where = (
        f"the folder name {one.unit.name}" if one.unit.by_folder else f"the file name {one.unit.path.name}"
    )
    if place.step is not None and (place.how != "save" or use_names):
        return place.step, where
    if (inside := _inside_step(state)) is not None:
        return inside
    if place.step is not None:
        return place.step, where
    if place.marker in _MARKER_STEPS:
        return _looked_up(_MARKER_STEPS[place.marker], state, facts) or (None, unknown)
    if place.marker == "init":
        return 0, where
    near = one.unit.path.parent
    found = _looked_up(STEP_NAMES, None, facts, near) or _looked_up(LENGTH_NAMES, state, facts, near)
    if found is None:
        lengths = [len(c.steps) for c in recorded_curves(Facts(), state.scalars) if c.spacing == "assumed"]
        if lengths:
            return max(lengths), "the length of the history in the file itself"
    return found or (None, unknown)


def _looked_up(
    names: Sequence[str], state: State | None, facts: Facts, near: Path | None = None
) -> tuple[int, str] | None:
    """The first of ``names`` that holds a step: in the file, beside it in the folder ``near``, elsewhere."""
    tables = [("the file itself", table) for table in settings_in(state.scalars)] if state else []
    ordered = sorted(
        facts.documents, key=lambda name: name not in facts.paths or facts.paths[name].parent != near
    )
    tables += [(name, table) for name in ordered for table in settings_in(facts.documents[name])]
    for name in names:
        for source, table in tables:
            value = table.get(name)
            if not isinstance(value, bool) and (step := whole(value)) is not None:
                return step, f"{name} in {source}"
    return None


def _snapshot(one: ReadUnit, state: State, place: Place, step: int, words: str, beside: Beside) -> Snapshot:
    scalars = dict(state.scalars)
    if one.content.many:
        # the histories of a file that holds many steps are those of the run
        scalars = {**one.content.beside, **scalars}
    scalars |= documents_of_step(one, place, beside)
    optimizer = one.content.optimizer if not one.content.many else None
    if optimizer is None:
        optimizer = next(
            (state for path, state in beside.optimisers.items() if is_of_step(path, one.unit, place)), None
        )
    return Snapshot(
        step, words, one.unit.path, state.tensors, scalars, optimizer, tuple(state.tensors), one.unit.parts
    )


def _stem(group: Group) -> str:
    """What to call a run: its folder, or its file where the file has a name of its own."""
    home = group.home.resolve().name or "import"
    members = group.members
    if group.base == "":
        return home
    if members[0][0].unit.by_folder or sum(place.step is not None for _, place in members) > 1:
        return f"{home}.{group.base}"
    stems = {one.unit.path.stem for one, _ in members}
    plain = [one.unit.path.stem for one, place in members if not place.marker or len(stems) == 1]
    return (plain or [group.base])[0]


def distinct(runs: list[ForeignRun], skipped: list[Skipped]) -> list[ForeignRun]:
    """Runs without those whose one set of weights another file of the folder holds as well."""
    kept: list[ForeignRun] = []
    for run in runs:
        first = run.snapshots[0]
        twin = next(
            (
                other
                for other in kept
                if len(run.snapshots) == 1
                and other.snapshots[-1].path.parent == first.path.parent
                and other.snapshots[-1].path.stem == first.path.stem
                and _equal(other.snapshots[-1].tensors, first.tensors)
            ),
            None,
        )
        if twin is None:
            kept.append(run)
        else:
            skipped.append(
                Skipped(first.path, f"it holds the weights of {twin.snapshots[-1].path.name} again")
            )
    return kept


def _equal(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(value.equal(b[name]) for name, value in a.items())


def _consistent(snapshots: list[Snapshot]) -> tuple[list[Snapshot], list[Skipped]]:
    """Those of the most common shapes, one a step, with finite numbers; the others with the reason."""
    signatures = [_signature(one.tensors) for one in snapshots]
    usual = Counter(signatures).most_common(1)[0][0]
    kept: list[Snapshot] = []
    left: list[Skipped] = []
    for one, signature in zip(snapshots, signatures, strict=True):
        if signature != usual:
            odd = sorted(set(signature) ^ set(usual))[0]
            why = f"its tensors are not those of the other steps (such as {odd[0]} {odd[1]})"
            left.append(Skipped(one.path, why))
        elif kept and kept[-1].step == one.step:
            same = _equal(kept[-1].tensors, one.tensors)
            what = "with the same tensors" if same else "with other tensors"
            why = f"step {one.step} is already there from {kept[-1].path.name}, {what}"
            left.append(Skipped(one.path, why))
        elif bad := next((name for name, value in one.tensors.items() if not value.isfinite().all()), None):
            left.append(Skipped(one.path, f"{bad} holds values that are not finite"))
        else:
            kept.append(one)
    return kept, left


def _signature(tensors: Tensors) -> tuple[tuple[str, tuple[int, ...], str], ...]:
    return tuple(sorted((name, tuple(value.shape), str(value.dtype)) for name, value in tensors.items()))
