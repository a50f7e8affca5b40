"""The typed registry of probes: built in, from entry points, and from a file named on the command line."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grokscope.errors import GrokscopeError, nearest
from grokscope.probes.record import Quantity, Record
from grokscope.probes.views import Kind, Make, ViewSpec
from grokscope.runs import NEEDS, Need, Run
from grokscope.user_code import run_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENTRY_POINT_GROUP = "grokscope.probes"

Measure = Callable[..., None]
Draw = Callable[[Record, "Figure"], None]


@dataclass(frozen=True)
class FigureSpec:
    """One drawing of a probe: its title, what it shows in a sentence, and its size in inches."""

    title: str
    caption: str
    draw: Draw
    size: tuple[float, float] = (8.0, 3.6)
    needs: tuple[str, ...] = ()


@dataclass
class Probe:
    """One question to a run: what it measures, and how the answer is drawn.

    Call it with a run and a record to measure. Figures are added by the :meth:`figure` decorator, pictures that
    follow the page's time cursor by :meth:`view`.
    """

    name: str
    question: str
    quantities: tuple[Quantity, ...]
    measure: Measure
    title: str
    caveat: str = ""
    after: tuple[str, ...] = ()
    figures: list[FigureSpec] = field(default_factory=list)
    needs: tuple[Need, ...] = ()
    views: list[ViewSpec] = field(default_factory=list)

    def __call__(self, run: Run, record: Record, **options: Any) -> None:
        known = list(inspect.signature(self.measure).parameters)[2:]
        for option in options:
            if option not in known:
                raise GrokscopeError(
                    f"running probe {self.name}: option {option!r} was given, expected "
                    f"{', '.join(known) or 'none'}{nearest(option, known)}"
                )
        record.declare(self.quantities)
        record.probes.append(self.name)
        lacking = run.lacks(*self.needs)
        if lacking is None:
            self.measure(run, record, **options)
            return
        for quantity in self.quantities:
            record.skip(quantity.name, lacking.reason)

    def figure(
        self,
        title: str,
        caption: str,
        *,
        size: tuple[float, float] = (8.0, 3.6),
        needs: Sequence[str] = (),
    ) -> Callable[[Draw], Draw]:
        """Register ``draw(record, figure)`` for the report; skipped where a needed name is absent.

        ``needs`` lists dotted names or prefixes of which each must have been measured; a name with
        ``<placeholders>`` stands for any of its instances.
        """

        def keep(draw: Draw) -> Draw:
            self.figures.append(FigureSpec(title, caption, draw, size, tuple(needs)))
            return draw

        return keep

    def view(self, name: str, kind: Kind, title: str, caption: str) -> Callable[[Make], Make]:
        """Register ``make(run, record)`` for a picture that follows the time cursor of the report.

        It returns the content that :mod:`grokscope.probes.views` lists for ``kind``, or ``None`` where the run has
        nothing to show.
        """

        def keep(make: Make) -> Make:
            self.views.append(ViewSpec(name, title, caption, kind, make))
            return make

        return keep


_PROBES: dict[str, Probe] = {}


def register(
    name: str,
    *,
    question: str,
    quantities: Sequence[Quantity],
    title: str = "",
    caveat: str = "",
    after: Sequence[str] = (),
    needs: Sequence[Need] = (),
) -> Callable[[Measure], Probe]:
    """Register ``measure(run, record, **options)`` as the probe ``name``.

    Args:
        question: what it answers, as a reader would ask it.
        quantities: every public name it records, with unit, meaning and source.
        title: heading in the report; by default the name.
        caveat: what the numbers do not show.
        after: probes whose measurements it reads, run before it when they run.
        needs: what a run must have for it to run at all: ``split`` (which samples were trained on),
            ``function`` (logits) and ``anatomy`` (gates, neurons, a head). On a run without it every quantity
            is absent with the run's own reason. A probe that can do part of its work asks ``run.lacks``.

    Raises:
        GrokscopeError: a name that is already taken, or a need that is none of the three.
    """

    def wrap(measure: Measure) -> Probe:
        if name in _PROBES:
            raise GrokscopeError(f"registering probe {name!r}: the name is taken, expected a new one")
        for need in needs:
            if need not in NEEDS:
                raise GrokscopeError(
                    f"registering probe {name!r}: needs {need!r}, expected some of {', '.join(NEEDS)}"
                    f"{nearest(str(need), NEEDS)}"
                )
        made = Probe(
            name,
            question,
            tuple(quantities),
            measure,
            title or name.capitalize(),
            caveat,
            tuple(after),
            needs=tuple(needs),
        )
        _PROBES[name] = made
        return made

    return wrap


def registered() -> dict[str, Probe]:
    """Every probe by name: the built-in ones, and those of installed packages."""
    import grokscope.probes.builtin  # noqa: F401  (registers on import)

    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name not in _PROBES:
            try:
                entry.load()
            except Exception as error:  # a foreign package's failure, told in one line
                raise GrokscopeError(
                    f"loading probe {entry.name!r} from the installed package {entry.value!r}: {error}"
                ) from None
    return dict(_PROBES)


def load_plugin(path: str | Path) -> list[str]:
    """Run the Python file at ``path``, which registers probes; returns their names.

    Only for files that the user named on this command line: the file's code runs.
    """
    path = Path(path).resolve()
    registered()  # built-in names are taken first
    module_name = f"grokscope_plugin_{path.stem}_{abs(hash(str(path))):x}"
    if module_name in sys.modules:
        return list(sys.modules[module_name].__dict__["_grokscope_registered"])
    before = set(_PROBES)
    try:
        module, _ = run_file(path, "loading a plug-in probe", module_name)
    except GrokscopeError:
        for name in set(_PROBES) - before:
            del _PROBES[name]
        raise
    added = [name for name in _PROBES if name not in before]
    if not added:
        del sys.modules[module_name]
        raise GrokscopeError(f"loading the plug-in probe {path}: it registered none, expected @register(...)")
    module.__dict__["_grokscope_registered"] = added
    return added
