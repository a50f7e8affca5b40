"""What lies beside the weights of a run: its documents, files of pairs and histories, optimiser states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.gathering.contents import Content, find_states
from grokscope.foreign.gathering.documents import belongs, documents_named
from grokscope.foreign.gathering.facts import Facts, facts_beside
from grokscope.foreign.gathering.folders import Unit, companion_homes, folders_above
from grokscope.foreign.gathering.pairs import recorded_pairs
from grokscope.foreign.gathering.quantities import words_of
from grokscope.foreign.gathering.state_dicts import optimiser_in
from grokscope.foreign.gathering.steps import Place, core_of, numbers_in
from grokscope.foreign.reading.safe_read import read_file

_PER_STEP_WORDS = {
    "metrics",
    "metric",
    "results",
    "eval",
    "losses",
    "loss",
    "stats",
    "summary",
    "info",
    "meta",
}

_SETTINGS = ("config", "cfg", "args", "hparams", "hyper_parameters", "settings", "hyperparameters")


@dataclass(frozen=True)
class ReadUnit:
    """One unit with its content."""

    unit: Unit
    content: Content
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Group:
    """The units of one run, with what their names say."""

    home: Path
    base: str
    members: tuple[tuple[ReadUnit, Place], ...]


@dataclass
class Beside:
    """What lies beside the weights, read once for all runs of an import."""

    companions: dict[Path, Any] = field(default_factory=dict)
    optimisers: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    documents: dict[Path, Any] = field(default_factory=dict)


def is_home(path: Path, unit: Unit) -> bool:
    """Whether a file that holds no weights may speak of the run that a unit belongs to."""
    return bool(companion_homes(path) & {*folders_above(unit.home), unit.path.parent})


def companion_of(one: ReadUnit) -> Any:
    return one.content.beside if one.content.beside else one.content.whole


def read_companion(path: Path, beside: Beside) -> None:
    """A file that nobody named, read because it lies beside the weights; weights in it are left alone."""
    try:
        found = find_states(read_file(path).content)
    except GrokscopeError:
        return
    if not found.states:
        beside.companions[path] = found.beside if found.beside else found.whole


def read_optimiser(path: Path, beside: Beside, budget: int) -> int:
    if not path.stem.lower().startswith("opt"):
        return budget
    try:
        state = optimiser_in(read_file(path).content)
    except GrokscopeError:
        return budget
    if state is not None and (budget := budget - bytes_of(state)) >= 0:
        beside.optimisers[path] = state
    return budget


def bytes_of(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(bytes_of(one) for one in value.values())
    return sum(bytes_of(one) for one in value) if isinstance(value, list) else 0


def is_of_step(path: Path, unit: Unit, place: Place) -> bool:
    """Whether an optimiser's file belongs to a unit: the same folder of a step, or the same step in its name."""
    if path.parent != unit.path.parent:
        return False
    numbers = [one.value for one in numbers_in(path.stem)]
    return place.step in numbers if numbers else unit.by_folder or place.step is None


def documents_of_step(one: ReadUnit, place: Place, beside: Beside) -> dict[str, Any]:
    """What documents say of this step alone: those of its own folder, or of its very name."""
    if place.step is None:
        return {}
    if one.unit.by_folder:
        found = facts_beside(one.unit.path.parent, (), True, read=beside.documents)
        return {
            name: document
            for name, document in found.documents.items()
            if "/" not in name and set(words_of(Path(name).stem)) & _PER_STEP_WORDS
        }
    return documents_named(one.unit.path.with_suffix(""), beside.documents)


def facts_of(group: Group, beside: Beside, alone: bool) -> Facts:
    """The documents of a run, its companions among them, under names relative to the folder of its weights."""
    units = [one.unit for one, _ in group.members]
    stems = {group.base, *(core_of(unit.name) for unit in units), *(unit.path.stem for unit in units)} - {""}
    several = len(units) > 1 and any(place.step is not None for _, place in group.members)
    own = {unit.path.stem for unit in units} if several else set()
    found = facts_beside(group.home, stems, alone, read=beside.documents, without=own)
    prefix = ""
    if units[0].by_folder:
        prefix = "../"
        last = max(group.members, key=lambda member: member[1].step or 0)[0].unit.path.parent
        near = facts_beside(last, (), True, read=beside.documents)
        found = _joined(_moved(_own_folder(near), f"../{last.name}/"), _moved(found, prefix))
    documents, paths = dict(found.documents), dict(found.paths)
    for path, content in sorted(beside.companions.items()):
        if any(is_home(path, unit) for unit in units) and (alone or belongs(path.stem, stems)):
            home = group.home.resolve()
            inside = path.resolve().parent
            up = prefix + _relative(inside, home)
            documents[f"{up}{path.name}"] = content
            paths[f"{up}{path.name}"] = path
    for one, source in _said_once(group):
        documents.setdefault(prefix + source, one)
    return replace(found, documents=documents, paths=paths)


def _said_once(group: Group) -> list[tuple[dict[str, Any], str]]:
    """Settings and splits that an earlier file of a run holds and the last one does not repeat."""
    if len(group.members) < 2:
        return []
    last = max(group.members, key=lambda member: (member[1].step or 0, member[1].marker == "final"))[0]
    has = set(last.content.beside)
    split = bool(recorded_pairs(Facts(), last.content.beside))
    found: list[tuple[dict[str, Any], str]] = []
    for one, _ in group.members:
        extra = {
            name: one.content.beside[name]
            for name in _SETTINGS
            if name in one.content.beside and name not in has
        }
        if not split:
            listed = {pair.name.partition(".")[0] for pair in recorded_pairs(Facts(), one.content.beside)}
            extra |= {name: one.content.beside[name] for name in listed}
            split = bool(listed)
        if extra:
            has |= set(extra)
            found.append((extra, one.unit.path.name))
    return found


def _relative(folder: Path, home: Path) -> str:
    if folder == home:
        return ""
    if home in folder.parents:
        return folder.relative_to(home).as_posix() + "/"
    up = 1
    for above in home.parents:
        if above == folder or above in folder.parents:
            below = folder.relative_to(above).as_posix()
            return "../" * up + ("" if below == "." else f"{below}/")
        up += 1
    return f"{folder.as_posix()}/"


def _own_folder(facts: Facts) -> Facts:
    return Facts(
        {name: one for name, one in facts.documents.items() if "/" not in name},
        {name: one for name, one in facts.tables.items() if "/" not in name},
        {name: one for name, one in facts.unread.items() if "/" not in name},
        {name: one for name, one in facts.paths.items() if "/" not in name},
    )


def _moved(facts: Facts, prefix: str) -> Facts:
    return Facts(
        {prefix + name: one for name, one in facts.documents.items()},
        {prefix + name: one for name, one in facts.tables.items()},
        {prefix + name: one for name, one in facts.unread.items()},
        {prefix + name: one for name, one in facts.paths.items()},
    )


def _joined(a: Facts, b: Facts) -> Facts:
    return Facts(
        {**a.documents, **b.documents},
        {**a.tables, **b.tables},
        {**a.unread, **b.unread},
        {**a.paths, **b.paths},
    )
