"""Rows and findings that several studies print."""

from __future__ import annotations

import math
from dataclasses import replace

from grokscope.measures.censored import LogLinearFit, MedianInterval
from grokscope.measures.exponents import SharedExponent
from grokscope.studies.result import Finding, Interval, Row, compared


def median_row(
    quantity: str,
    value: float,
    found: MedianInterval,
    published_interval: tuple[float, float] | None = None,
    tolerance: float | None = None,
    note: str = "",
) -> Row:
    """A median over seeds beside a published one."""
    counted = f"{found.n} seeds, interval of {100 * found.coverage:.0f} %"
    if found.censored:
        counted += f", {found.censored} not there within the budget"
    return compared(
        quantity, value, found.value, (found.low, found.high), published_interval=published_interval,
        tolerance=tolerance, note="; ".join(part for part in (counted, note) if part),
    )  # fmt: skip


def with_norm_told(row: Row, held: float, published_norm: float, alpha: float) -> Row:
    """A grok step that differs, with what the law makes of our norm being another than the published one.

    Args:
        held: the norm at which our runs were held.
        published_norm: that of the published runs of the same ρ.
        alpha: exponent of the law in a norm relative to W_c, times ρ.
    """
    if (
        row.verdict != "differs"
        or not isinstance(row.ours, float)
        or not isinstance(row.published, (int, float))
    ):
        return row
    share = held / published_norm - 1
    said = (
        f"our runs are held at a norm {100 * abs(share):.2g} % {'larger' if share > 0 else 'smaller'}, for which the "
        f"law gives {math.exp(alpha * share):.3g} times the step; ours is {row.ours / row.published:.3g} times theirs"
    )
    return replace(row, note=f"{row.note}; {said}")


def fit_interval(fit: LogLinearFit) -> Interval:
    """Of the exponent: from resampled seeds, or from the likelihood where there are too few of them."""
    return (fit.profile_low, fit.profile_high) if fit.low is None else (fit.low, fit.high)


def ratio_of(later: MedianInterval, sooner: MedianInterval) -> tuple[float | None, Interval]:
    """The ratio of two medians; its ends are those of the two intervals, open where one of them is."""
    value = None if later.value is None or sooner.value is None else later.value / sooner.value
    low = later.low / sooner.high if math.isfinite(sooner.high) else 0.0
    high = later.high / sooner.low if math.isfinite(later.high) and sooner.low > 0 else None
    return value, (low, high)


def shared_findings(found: SharedExponent) -> list[Finding]:
    """One exponent for all moduli, or one for each, and how far they spread."""
    return [
        Finding("one exponent for all moduli, or one for each", found.verdict, None, found.reason),
        Finding("largest less smallest α over the moduli", found.spread, (found.spread_low, found.spread_high),
                f"likelihood ratio p = {found.p_value:.2g}, ΔAIC {found.delta_aic:.1f}, ΔBIC {found.delta_bic:.1f} "
                "(negative: shared is better)", 3),
    ]  # fmt: skip
