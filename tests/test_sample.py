"""The tracked sample run: files written by an earlier version stay readable, to the last bit."""

from __future__ import annotations

from pathlib import Path

from grokscope.probes import probe
from grokscope.runs import open_run
from grokscope.trajectory import verify_trajectory

SAMPLE = Path(__file__).parents[1] / "checkpoints" / "sample"
CHECKSUM = "022021099f2b38ec78df536b2fdd7927d8ce68473a549c8ed6da4a3f2762fb31"


def test_the_content_is_what_was_written() -> None:
    report = verify_trajectory(SAMPLE / "trajectory.h5")
    assert report.checksum == CHECKSUM
    assert (report.saves, report.first_step, report.last_step, report.scalar_rows) == (24, 0, 300, 151)


def test_it_still_tells_the_same() -> None:
    """The losses of the log, recomputed in float64 from the stored weights."""
    run = open_run(SAMPLE)
    record = probe(run, "quick")
    logged = dict(zip(run.scalars["step"].tolist(), run.scalars["loss.test"].tolist(), strict=True))
    for step, loss in zip(record.steps.tolist(), record["loss.test"].tolist(), strict=True):
        assert abs(loss - logged[step]) <= 1e-5 * loss
    assert record.verdict is not None
    assert record.verdict.state == "memorised"
    assert (record.events["fit"].after, record.events["fit"].by) == (120, 122)
