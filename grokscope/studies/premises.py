"""Whether a rate lasts: the premises of a logarithmic clock are rates that do not fade."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

KEPT = 0.5
"""A premise holds over the levels where the rate over their second half is at least this share of the first half's."""


def kept_rate(steps: ArrayLike, rising: ArrayLike, first: float, last: float) -> float | None:
    """Mean rate of a rising series over the later half of the steps first..last, over that of the earlier half.

    ``None`` where fewer than three of the steps lie in the span, or the series does not rise over the earlier half.
    """
    steps_T, rising_T = np.asarray(steps, np.float64), np.asarray(rising, np.float64)
    if np.count_nonzero((steps_T >= first) & (steps_T <= last)) < 3:
        return None
    at = np.interp([first, (first + last) / 2, last], steps_T, rising_T)
    return float((at[2] - at[1]) / (at[1] - at[0])) if at[1] > at[0] else None


def logarithmic_verdict(preferred: Sequence[str], runs: int) -> str:
    """The claim of a logarithmic clock, from what each of the runs prefers in which a premise holds.

    *Agrees* where all that can be told are logarithmic, *differs* where all are powers, else *cannot tell*; so too
    where they are fewer than half of the ``runs``.
    """
    known = [kind for kind in preferred if kind != "cannot tell"]
    if not known or 2 * len(known) < runs:
        return "cannot tell"
    kinds = set(known)
    if kinds == {"logarithmic"}:
        return "agrees"
    return "differs" if kinds == {"power"} else "cannot tell"
