"""Numbers as strangers wrote them: whole ones, finite ones, and how finely they are printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from torch import Tensor

MAX_DECIMALS = 8
"""An unrounded float nearly always prints with more decimals than these."""


def whole(value: Any) -> int | None:
    """A non-negative whole number, from an int, an integral float, or a tensor of one; else ``None``."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            return None
        value = value.item()
    if isinstance(value, float) and value.is_integer() and value < 2**53:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 else None


def number(value: Any) -> float | None:
    """A finite number, from a number, a tensor of one, or the text of one; else ``None``."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            return None
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and abs(found) < 1e300 else None


def resolution(values: Sequence[Any]) -> float:
    """Half the last digit that a column of numbers is printed with, 0 where it is not rounded.

    A column is printed with one number of decimals, which its longest entry shows.
    """
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    if texts:
        exponents = [found for text in texts if (found := exponent_of(text)) is not None]
        return 0.5 * 10.0 ** min(exponents) if exponents else 0.0
    return printed_resolution([value for value in values if isinstance(value, float)])


def printed_resolution(values: Sequence[float]) -> float:
    """As :func:`exponent_of` for numbers whose text is lost: rounded if the longest has few digits."""
    lowest = 0
    longest = 0
    for value in values:
        exponent = exponent_of(repr(value)) if math.isfinite(value) and not value.is_integer() else None
        if exponent is None:
            continue
        lowest = min(lowest, exponent)
        longest = max(longest, len(Decimal(repr(value)).as_tuple().digits))
        if lowest < -MAX_DECIMALS and longest > 6:
            return 0.0
    return 0.5 * 10.0**lowest if lowest < 0 else 0.0


def exponent_of(text: str) -> int | None:
    """The power of ten of a number's last printed digit."""
    try:
        exponent = Decimal(text.strip()).as_tuple().exponent
    except InvalidOperation:
        return None
    return max(exponent, -300) if isinstance(exponent, int) and exponent < 300 else None
