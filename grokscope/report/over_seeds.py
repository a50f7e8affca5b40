"""What a setting does beyond the luck of a seed: tables of medians and changes with exact rank intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from grokscope.probes.dense import counted
from grokscope.report.compare_figures import end_to_end
from grokscope.report.comparison import (
    FEWEST,
    Between,
    Interval,
    exponential,
    logarithm,
    median,
    median_interval,
    shift,
    shift_interval,
)
from grokscope.report.formatting import UNDEFINED, number, whole
from grokscope.report.subjects import Group, Subject, delay_between, event_between, final
from grokscope.report.tables import Table

UNBOUNDED = "not bounded"
MOST_GROUPS = 12
"""Settings of which the first is compared with every other."""


@dataclass(frozen=True)
class SeedQuantity:
    """One number of a run that is compared over seeds; ``steps`` are written as whole numbers."""

    label: str
    of: Callable[[Subject], Between | None]
    ratio: bool = True
    steps: bool = False


def fit_of(subject: Subject) -> Between | None:
    """When the run fitted, as the steps that it is known to lie between."""
    return event_between(subject.record.events.get("fit"))


def grok_of(subject: Subject) -> Between | None:
    """When the run generalised, by the pairs its verdict reads."""
    return event_between(subject.record.events.get(counted(subject.record)[0]))


def quantities_of(subjects: Sequence[Subject]) -> list[SeedQuantity]:
    """What is compared over seeds, of what was measured."""
    made = [
        SeedQuantity("fit, step", fit_of, steps=True),
        SeedQuantity("grok, step", grok_of, steps=True),
        SeedQuantity("delay, grok over fit", lambda s: delay_between(s.record)),
        SeedQuantity("test accuracy at the end", lambda s: _dense_end(s, "accuracy.test"), ratio=False),
        SeedQuantity("test loss at the end", lambda s: _dense_end(s, "loss.test")),
        SeedQuantity("weight norm at the end", lambda s: final(s.record, "norm.total")),
        SeedQuantity("weight norm at grok", lambda s: final(s.record, "norm.at_grok")),
    ]
    name = end_to_end(subjects)
    if name is not None:
        plain = name.replace("_", " ")
        made.append(
            SeedQuantity(
                f"effective rank ({plain}) at the end",
                lambda s: final(s.record, f"spectra.{name}.effective_rank"),
            )
        )
    made.append(
        SeedQuantity("Fourier concentration at the end", lambda s: final(s.record, "fourier.embedding.gini"))
    )
    return [quantity for quantity in made if any(quantity.of(s) is not None for s in subjects)]


def _dense_end(subject: Subject, name: str) -> Between | None:
    found = subject.dense.get(name)
    if found is None:
        return None
    finite = found[1][np.isfinite(found[1])]
    return Between(float(finite[-1]), float(finite[-1])) if finite.size else None


def known(group: Group, of: Callable[[Subject], Between | None]) -> list[Between]:
    """What is known of ``of`` over the seeds of a group."""
    found = [of(member) for member in group.seeds]
    return [value for value in found if value is not None]


def group_table(group: Group, quantities: Sequence[SeedQuantity]) -> Table:
    """Median, range and interval of every quantity over the seeds of one setting."""
    rows: list[tuple[str, ...]] = []
    for quantity in quantities:
        values = known(group, quantity.of)
        if values:
            middle = shown(median(values), quantity.steps)
            reach = shown(Between(min(v.low for v in values), max(v.high for v in values)), quantity.steps)
            held = median_interval(values)
            ends = ends_of(held, quantity.steps)
            rows.append((quantity.label, str(len(values)), middle, reach, ends, percent(held)))
    head = ("quantity", "n", "median", "range", "interval of the median", "covers")
    return Table(head, rows, f"{group.label}: {len(group.seeds)} seed{'s' if len(group.seeds) != 1 else ''}")


def difference_tables(groups: Sequence[Group], quantities: Sequence[SeedQuantity]) -> list[Table]:
    """Every further setting against the first that has several seeds."""
    several = [group for group in groups if len(group.seeds) > 1]
    if len(several) < 2:
        return []
    first, made = several[0], []
    for second in several[1:MOST_GROUPS]:
        rows: list[tuple[str, ...]] = []
        for quantity in quantities:
            change = change_between(first, second, quantity)
            if change is not None:
                count = f"{len(known(first, quantity.of))}, {len(known(second, quantity.of))}"
                rows.append((quantity.label, count, *change))
        head = ("quantity", "n", "change", "interval", "covers", "as")
        made.append(Table(head, rows, f"{second.label} against {first.label}"))
    return made


def change_between(first: Group, second: Group, quantity: SeedQuantity) -> tuple[str, str, str, str] | None:
    """(change, interval, coverage, what it is) of one quantity between two groups; ``None`` where one has no value."""
    one, two = known(first, quantity.of), known(second, quantity.of)
    if not one or not two:
        return None
    first_logs, second_logs = (logarithm(one), logarithm(two)) if quantity.ratio else (None, None)
    if first_logs is not None and second_logs is not None:
        middle, held = shift(first_logs, second_logs), shift_interval(first_logs, second_logs)
        middle = Between(*exponential(middle.low, middle.high))
        if held is not None:
            held = Interval(*exponential(held.low, held.high), held.coverage)
        return shown(middle, False, 3), ends_of(held, False, 3), percent(held), "ratio"
    held = shift_interval(one, two)
    return shown(shift(one, two), False, 3), ends_of(held, False, 3), percent(held), "difference"


def shown(value: Between, steps: bool, digits: int = 4) -> str:
    """Text of a value known between two ends."""

    def end(number_: float) -> str:
        return whole(int(number_)) if steps and float(number_).is_integer() else number(number_, digits)

    if math.isinf(value.high):
        nothing = math.isinf(value.low) or (value.low == 0 and not steps)
        return UNBOUNDED if nothing else f"at least {end(value.low)}"
    if math.isinf(value.low):
        return f"at most {end(value.high)}"
    low, high = end(value.low), end(value.high)
    return low if low == high else f"{low} to {high}"


def ends_of(held: Interval | None, steps: bool, digits: int = 4) -> str:
    """Text of an interval, or why there is none."""
    if held is None:
        return f"none: fewer than {FEWEST} seeds"
    return shown(Between(held.low, held.high), steps, digits)


def percent(held: Interval | None) -> str:
    """The coverage of an interval as text."""
    return UNDEFINED if held is None else f"{100 * held.coverage:.3g} %"
