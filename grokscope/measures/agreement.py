"""Whether a number of ours agrees with a published one, as intervals; *cannot tell* is an answer."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from math import inf, isfinite, isnan
from typing import Literal

__all__ = ["Agreement", "AgreementVerdict", "agreement", "printed_interval"]

AgreementVerdict = Literal["agrees", "differs", "cannot tell"]


@dataclass(frozen=True)
class Agreement:
    """A verdict, the reason for it, and the published interval that was compared."""

    verdict: AgreementVerdict
    reason: str
    published_low: float
    published_high: float


def printed_interval(number: float | str) -> tuple[float, float]:
    """What rounding to the printed digits leaves open: 0.83 or "0.83" is (0.825, 0.835).

    A string keeps the zeros at its end ("7.50" is two decimals), which a float has lost. An exponent counts:
    "1.2e3" is (1150, 1250).

    Raises:
        ValueError: not a finite number.
    """
    try:
        value = Decimal(str(number))
    except InvalidOperation:
        value = Decimal("nan")
    exponent = value.as_tuple().exponent
    if not isinstance(exponent, int):
        raise ValueError(f"printed_interval: got {number!r}, expected a finite number")
    # A float that holds a whole number prints as "5128.0", which is not a digit anybody published.
    if isinstance(number, (int, float)) and value == value.to_integral_value():
        exponent = 0
    half = Decimal(5) * Decimal(10) ** (exponent - 1)
    return float(value - half), float(value + half)


def agreement(
    ours_low: float | None,
    ours_high: float | None,
    published: float | str,
    published_interval: tuple[float, float] | None = None,
    tolerance: float | None = None,
    no_effect: float | None = None,
    factor: float = 2.0,
) -> Agreement:
    """Compare our interval of a quantity with a published value.

    *Differs*: the intervals are disjoint, for which one end of ours is enough, as a bound has only one.
    *Cannot tell*: no interval of ours, one with an open end, one wider than from 1/``factor`` to ``factor``
    times the published value, or one that holds ``no_effect`` (the value where nothing happens) while the
    published interval does not: each would agree with anything. *Agrees*: they overlap or touch.

    Args:
        ours_low, ours_high: the ends of ours; ``None`` or infinite where open, both ``None`` where absent.
        published: the printed value; a string keeps zeros at its end.
        published_interval: its interval, if one was printed. Otherwise the published value is taken with its
            ``tolerance`` (a fraction of it, 0.03 for 3 %) or its rounding, whichever is wider.
        no_effect: what the quantity would be if there were no effect, such as 0 for an exponent.
        factor: above 1.

    Raises:
        ValueError: NaN, ends in the wrong order, a published value or interval that is not finite, a negative
            tolerance or a factor of 1 or less.
    """
    low = -inf if ours_low is None else float(ours_low)
    high = inf if ours_high is None else float(ours_high)
    rounded = printed_interval(published)
    value = float(published)
    if published_interval is not None:
        lowest, highest = (float(end) for end in published_interval)
    else:
        allowed = abs(value) * (tolerance or 0.0)
        lowest, highest = min(rounded[0], value - allowed), max(rounded[1], value + allowed)
    if (
        isnan(low)
        or isnan(high)
        or low > high
        or not (isfinite(lowest) and isfinite(highest) and lowest <= highest)
        or (tolerance is not None and not 0 <= tolerance < inf)
        or not factor > 1
    ):
        raise ValueError(
            f"agreement: got ours [{ours_low}, {ours_high}], published {published} with {published_interval}, "
            f"tolerance={tolerance} and factor={factor}, expected ordered ends, finite published ones, "
            "a tolerance that is not negative and a factor above 1"
        )

    def result(verdict: AgreementVerdict, reason: str) -> Agreement:
        return Agreement(verdict, reason, lowest, highest)

    ours, theirs = _shown(low, high), _shown(lowest, highest)
    if low > highest or high < lowest:
        return result("differs", f"{ours} and {theirs} do not overlap")
    if not (isfinite(low) or isfinite(high)):
        return result("cannot tell", "there is no interval of ours")
    if not (isfinite(low) and isfinite(high)):
        return result("cannot tell", f"{ours} is open on one side and does not exclude {theirs}")
    widest = abs(value) * (factor - 1 / factor)
    if value != 0 and high - low > widest:
        return result(
            "cannot tell",
            f"{ours} is wider than from 1/{factor:g} to {factor:g} times the published {published}",
        )
    if no_effect is not None and low <= no_effect <= high and not lowest <= no_effect <= highest:
        return result("cannot tell", f"{ours} holds {no_effect:g}, no effect, as well as {theirs}")
    return result("agrees", f"{ours} and {theirs} overlap")


def _shown(low: float, high: float) -> str:
    return f"[{low:.5g}, {high:.5g}]"
