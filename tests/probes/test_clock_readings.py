"""Both clocks and the laws of the tail, on series whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from grokscope.measures.crossings import Crossing
from grokscope.probes import Quantity, Record
from grokscope.probes.clock_readings import FRACTIONS, QUANTITIES, read_clocks

STEPS = np.arange(0, 2001, 10)
MEASURED = [
    Quantity(name, "1", "Planted.")
    for name in ("spectra.<map>.stable_rank", "spectra.<map>.schatten_two_over_depth", "margin.min")
]


def planted(steps: np.ndarray = STEPS, **series: np.ndarray) -> Record:
    record = Record("planted", steps)
    record.declare(MEASURED)
    for name, values in series.items():
        record.add(name.replace("__", "."), values)
    record.declare(QUANTITIES)
    return record


def dense(**series: np.ndarray) -> dict:
    return {name.replace("__", "."): (STEPS, values) for name, values in series.items()}


def test_the_classifier_clock_of_an_exponential_is_logarithmic() -> None:
    record = planted()
    read_clocks(record, dense(loss__train=np.exp(-STEPS / 100), time__sum_lr=0.5 * STEPS))
    ends, levels = record["clocks.classifier"], np.array(record.coordinates["epsilon"])
    exact = 100 * np.log(1 / levels)
    reached = np.isfinite(ends[:, 1])
    after = np.nan_to_num(ends[reached, 0], nan=-1.0)  # a level that holds from the first save on
    assert np.all((after < exact[reached] + 1e-9) & (exact[reached] <= ends[reached, 1] + 1e-9))
    np.testing.assert_array_equal(record["clocks.classifier.time"], 0.5 * ends)
    slope, low, high, _ = record["clocks.classifier.logarithmic"]
    assert low <= slope <= high
    assert slope == pytest.approx(100, rel=0.01)
    assert record.notes["clocks.classifier"]["preferred"] == "logarithmic"


def test_the_representation_clock_starts_at_the_largest_gap_after_the_fit() -> None:
    """A dip before the fit crosses every level and is not the clock."""
    fall = 5 + 10 * np.exp(-(STEPS - 500) / 100)
    rank = np.where(STEPS < 200, 5.0, np.where(STEPS < 500, 15.0, fall))
    record = planted(spectra__product__stable_rank=rank)
    record.events["fit"] = Crossing(180, 200, False)
    loss = np.exp(-STEPS / 50)
    read_clocks(record, dense(loss__train=loss, time__sum_lr=2.0 * STEPS))
    name = "stable_rank.product"
    found = record[f"clocks.representation.{name}"]
    exact = 500 + 100 * np.log(1 / np.array(FRACTIONS))
    assert np.all(found[:, 0] <= exact)
    assert np.all(exact <= found[:, 1] + 1)
    np.testing.assert_array_equal(record[f"clocks.representation.{name}.time"], 2.0 * found)
    early = [next(step for step in STEPS if np.exp(-step / 50) <= fraction) for fraction in FRACTIONS]
    expected = [found[k, 0] / early[k] for k in range(len(FRACTIONS))]
    np.testing.assert_allclose(record[f"clocks.separation.{name}"][:, 0], expected)


def test_gaps_that_never_rise_are_absent_with_the_reason() -> None:
    record = planted(spectra__product__stable_rank=np.r_[np.full(100, 1.0), np.full(101, 2.0)])
    record.events["fit"] = Crossing(0, 10, False)
    read_clocks(record, dense(loss__train=np.exp(-STEPS / 50)))
    for kind in ("representation", "separation"):
        assert "never above its final median" in record.absent[f"clocks.{kind}.stable_rank.product"]


def test_a_run_that_never_fits_has_no_representation_clock() -> None:
    record = planted(spectra__product__stable_rank=np.linspace(2, 1, len(STEPS)))
    record.events["fit"] = Crossing(2000, None, True)
    read_clocks(record, dense(loss__train=np.full(len(STEPS), 4.0)))
    assert "never held its training level" in record.absent["clocks.representation.<gap>"]
    assert "never held its training level" in record.absent["clocks.tail_contraction"]


def test_gap_growth_and_contraction_are_those_planted() -> None:
    record = planted(margin__min=0.01 * STEPS - 1)
    record.events["fit"] = Crossing(90, 100, False)
    read_clocks(record, dense(loss__train=0.99 ** STEPS.astype(float)))
    slope, low, high, r_squared = record["clocks.gap_growth"]
    assert slope == pytest.approx(0.01, rel=1e-9)
    assert r_squared == pytest.approx(1)
    assert low <= slope * (1 + 1e-9)
    assert high >= slope * (1 - 1e-9)
    assert record["clocks.tail_contraction"][0] == pytest.approx(0.01, rel=1e-9)
    assert record.notes["clocks.gap_growth"]["to_end"]


def test_the_tail_of_a_power_law_has_its_exponent() -> None:
    record = planted()
    record.events["grok"] = Crossing(90, 100, False)
    loss = (np.maximum(STEPS, 1.0) / 50) ** -1.5
    read_clocks(record, dense(loss__train=loss, loss__test=loss))
    tail = dict(zip(record.coordinates["tail"], record["clocks.tail"], strict=True))
    assert tail["beta"] == pytest.approx(1.5, rel=0.02)
    assert tail["theta"] == pytest.approx((1 + 1 / 1.5) / 2, rel=0.02)
    assert record.notes["clocks.tail"]["state"] == "power"


def test_an_exponential_tail_has_no_exponent_or_is_not_called_a_power() -> None:
    record = planted()
    record.events["grok"] = Crossing(90, 100, False)
    loss = np.exp(-STEPS / 200)
    read_clocks(record, dense(loss__train=loss, loss__test=loss))
    assert record.notes["clocks.tail"]["state"] != "power"


def test_one_save_dates_nothing() -> None:
    record = planted(np.array([5]))
    read_clocks(record, {"loss.train": (np.array([5]), np.array([1.0]))})
    assert set(record.absent) == {quantity.name for quantity in QUANTITIES}
    assert all("one save dates nothing" in reason for reason in record.absent.values())
