"""What a reader finds in one save: numbers, and why a measure refused to give one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grokscope.probes.readings import Values, per_pair, per_save
from grokscope.probes.series import SaveSeries
from grokscope.runs import Params, Run


class Findings:
    """The numbers of one save under names known beforehand: NaN until put, and where a measure refuses.

    Attributes:
        values: name → a scalar, or a vector of the declared width.
        reasons: name → what the measure said that refused.
    """

    def __init__(self, names: Mapping[str, int | None]) -> None:
        """``names``: each with the length of its vector, ``None`` for a scalar."""
        self.values: Values = {
            name: torch.full(() if width is None else (width,), torch.nan, dtype=torch.float64)
            for name, width in names.items()
        }
        self.reasons: dict[str, str] = {}

    def put(self, name: str, value: float | Tensor | Sequence[float] | None) -> None:
        """Set the value of ``name``; ``None`` leaves it undefined."""
        if value is not None:
            self.values[name] = torch.as_tensor(value, dtype=torch.float64)

    @contextmanager
    def unless_refused(self, *names: str) -> Iterator[None]:
        """Keep a refusal in this block as the reason why ``names`` are undefined."""
        try:
            yield
        except ValueError as error:
            for name in names:
                self.reasons[name] = str(error)


def read_findings(
    run: Run,
    name: str,
    read: Callable[..., Findings],
    series: SaveSeries,
    *,
    pairs: bool = False,
    names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    also: Mapping[str, str] | None = None,
) -> Values:
    """What ``read`` finds in every selected save, (T, …) by name; ``series`` gets all that it has declared.

    Reasons are not kept with the numbers: a save that has none is read again for what was said of it, the
    last one for every name.

    Args:
        read: takes the parameters of one save, or with ``pairs`` those of a save and of the next.
        names: the tensors that it needs; by default all.
        also: found name → declared name that the caller computes from it and fills, which is undefined for the
            same reason.
    """
    known_as, wanted = dict(also or {}), list(run.model.shapes if names is None else names)

    def block(*sides: Params) -> Values:
        each = []
        for row in range(len(next(iter(sides[0].values())))):
            each.append(read(*({n: value[row] for n, value in side.items()} for side in sides)).values)
        return {key: torch.stack([one[key] for one in each]) for key in each[0]}

    block.__wrapped__ = read  # pyright: ignore[reportFunctionMemberAccess]  (its source is what counts)
    over = per_pair if pairs else per_save
    values = over(run, name, block, names=wanted, options=options)
    refused: dict[int, list[str]] = {}
    for key, found in values.items():
        shown = known_as.get(key, key)
        if shown not in series:
            continue
        array = found.numpy()
        if shown == key:
            series.fill(key, array)
        undefined = np.flatnonzero(np.isnan(array.reshape(len(array), -1)).all(axis=1))
        if len(undefined):
            refused.setdefault(int(undefined[-1]), []).append(key)
    for row, keys in refused.items():
        sides = (run.params(index) for index in range(row, row + 1 + pairs))
        reasons = read(*({n: side[n] for n in wanted} for side in sides)).reasons
        for key in keys:
            if key in reasons:
                series.refuse(known_as.get(key, key), reasons[key])
    return values
