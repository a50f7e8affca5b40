"""The slow phase on modular addition: its rules on made-up readings, and a small real run against the probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grokscope.measures.crossings import Crossing
from grokscope.probes import Suite, probe
from grokscope.runs import open_run
from grokscope.studies.result import Row
from grokscope.studies.riemannian import assemble
from grokscope.studies.riemannian_modular import ModularGrid, ModularReading, modular_grid, read_modular
from grokscope.studies.riemannian_modular_rows import modular_part
from grokscope.studies.riemannian_runs import grid_of
from grokscope.studies.sweep import Log, UnfinishedError
from grokscope.training import train
from grokscope.trajectory import Trajectory

GRID = ModularGrid()


def reading(decay: float, seed: int, power: float = 1.0) -> ModularReading:
    """A run that follows the theory and groks at 3 λ^−power in Σ lr."""
    rate = 0.5
    grok = round(3 * decay**-power / rate)
    looked = np.array([grok // 20, grok // 4, grok // 2, grok - 1, 2 * grok])
    ones = np.ones(5)
    return ModularReading(
        decay=decay, seed=seed, rate=rate, evaluated=np.array([0, grok // 50, grok]), train=np.array([0, 1.0, 1.0]),
        test=np.array([0, 0.1, 1.0]), fit=Crossing(grok // 100, grok // 50, False),
        grok=Crossing(grok - 1, grok, False), junction=Crossing(grok // 6, grok // 5, False), looked=looked,
        cosine=np.array([0.1, 0.99, 0.98, 0.97, 0.2]), speed=np.array([9, 1.01, 1.02, 1.03, 7]), moved_cosine=ones,
        moved_speed=ones, share=np.array([0.6, 0.5, 0.4, 0.3, 0.2]), rank=np.full(5, 40), residuals=40, parameters=100,
        stiffness=0.6,
    )  # fmt: skip


def lawful(power: float = 1.0) -> list[ModularReading]:
    return [reading(decay, seed, power) for decay in GRID.decays for seed in range(3)]


def verdicts(rows: Sequence[Row]) -> dict[str, str]:
    return {row.quantity.removeprefix("modular addition: "): row.verdict for row in rows}


def test_runs_that_follow_the_theory():
    part = modular_part(lawful(), GRID)
    assert set(verdicts(part.rows).values()) == {"agrees"}
    assert "Yes (" in part.sentence
    assert "3 of 3 runs grok" in part.sentence
    drift = {row.quantity: row.ours for row in part.rows}
    # the saves from the junction to the grok alone
    assert drift["modular addition: drift cosine with −P w at decay 0.0001"] == pytest.approx(0.98)
    assert drift["modular addition: drift speed at decay 0.0001"] == pytest.approx(1.02)
    told = {finding.quantity: finding.ours for finding in part.findings}
    assert told["modular addition: drift cosine from the fit to the junction, decay 0.001"] == pytest.approx(
        0.1
    )
    assert told["modular addition: λt of the grok, decay 0.001"] == pytest.approx(3, rel=1e-3)
    assert told["modular addition: test accuracy at the fit, decay 0.001"] == pytest.approx(0.1)


def test_what_does_not_follow_it():
    sideways = [replace(one, cosine=0.5 * one.cosine) for one in lawful()]
    part = modular_part(sideways, GRID)
    assert "? No (" in part.sentence
    assert verdicts(part.rows)["drift cosine with −P w at decay 0.0001"] == "differs"
    # direction and speed hold but the grok is on another clock
    part = modular_part(lawful(0.5), GRID)
    assert verdicts(part.rows)["power of 1/λ in the grok step, decays 0.001 and 0.0001"] == "differs"
    assert "? In part (" in part.sentence
    changed = [replace(one, rank=np.array([40, 40, 40, 39, 40])) for one in lawful()]
    assert verdicts(modular_part(changed, GRID).rows)["rank of the Jacobian, decay 0.001"] == "differs"
    late = [replace(one, junction=Crossing(one.grok.by, 2 * (one.grok.by or 0), False)) for one in lawful()]
    part = modular_part(late, GRID)
    assert verdicts(part.rows)["grok step over the step of the junction, decay 0.001"] == "differs"


def test_runs_that_do_not_grok_give_no_answer():
    never = [replace(one, grok=Crossing(int(one.looked[-1]), None, True)) for one in lawful()]
    part = modular_part(never, GRID)
    assert "It cannot be told" in part.sentence
    assert not [row for row in part.rows if "power" in row.quantity or "grok step" in row.quantity]
    told = {finding.quantity: finding.ours for finding in part.findings}
    assert told["modular addition: λt of the grok, decay 0.001"] == "not within the run"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modular")
    grid = ModularGrid(p=5, hidden=12, decays=(0.02,), seeds=(0,), saves=12, evaluations=30)
    ((name, recipe),) = grid.arm(0.02).runs()
    train(recipe, folder / name, device="cpu")
    with Trajectory(folder / name / "trajectory.h5") as stored:
        return folder / name, Log(name, 0, dict(stored.scalars))


def test_a_real_run_is_read_as_the_probe_reads_it(real: tuple[Path, Log]):
    directory, log = real
    found = read_modular(log, directory)
    run = open_run(directory)
    record = probe(
        run, Suite("test", ("manifold",), options={"manifold": {"method": "exact", "null_samples": 0}})
    )
    places = np.searchsorted(run.steps, found.looked)
    for name, values in (
        ("drift_cosine.instant", found.cosine), ("drift_speed.instant", found.speed),
        ("drift_cosine", found.moved_cosine), ("drift_speed", found.moved_speed),
        ("tangent_fraction", found.share), ("rank", found.rank),
    ):  # fmt: skip
        np.testing.assert_allclose(record[f"manifold.{name}"][places], values, rtol=1e-9)
    assert record.events.get("junction", Crossing(None, None, True)).by == (
        found.junction and found.junction.by
    )
    assert found.stiffness > 0


def test_both_scales():
    assert modular_grid("small").decays == modular_grid("full").decays
    assert len(modular_grid("full").seeds) > len(modular_grid("small").seeds)
    names = [name for arm in modular_grid("full").arms().values() for name, _ in arm.runs()]
    assert len(set(names)) == len(names)


def test_the_part_stands_on_the_page_of_the_study():
    with pytest.raises(UnfinishedError):
        assemble([], grid_of("small"), "small", modular_part(lawful(), GRID))
