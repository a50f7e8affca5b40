"""Scalars for TensorBoard, read back by TensorBoard itself, and for Weights & Biases."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pytest

from grokscope.errors import GrokscopeError
from grokscope.export import libraries, scalar_series, to_tensorboard, to_wandb
from grokscope.probes import Record
from grokscope.runs import Run, open_run


@pytest.fixture(scope="module")
def run(trained: Path) -> Run:
    return open_run(trained / "checkpoints" / "little-s3")


@pytest.fixture(scope="module")
def record(run: Run) -> Record:
    from grokscope.probes import probe
    from grokscope.probes.suite import Suite

    return probe(run, Suite("two", ("loss", "norms")))


def test_series_are_the_log_where_it_is_denser_and_the_measures_beside_it(run: Run, record: Record) -> None:
    found = scalar_series(run, record)
    steps, values = found["loss.test"]
    np.testing.assert_array_equal(steps, run.scalars["step"])
    np.testing.assert_array_equal(values, run.scalars["loss.test"])
    steps, values = found["norm.total"]
    np.testing.assert_array_equal(steps, record.steps)
    np.testing.assert_array_equal(values, record["norm.total"])
    assert "step" not in found
    assert set(scalar_series(run)) == set(run.scalars) - {"step"}
    for steps, values in found.values():
        assert np.isfinite(values).all()
        assert (np.diff(steps) > 0).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_written(run: Run, record: Record, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    path = to_tensorboard(run, record, tmp_path / "deep")
    read = accumulator.EventAccumulator(str(path.parent), size_guidance={"scalars": 0}).Reload()
    series = scalar_series(run, record)
    assert sorted(read.Tags()["scalars"]) == sorted(name.replace(".", "/") for name in series)
    events = read.Scalars("norm/total")
    assert [event.step for event in events] == record.steps.tolist()
    np.testing.assert_array_equal(
        np.array([event.value for event in events], np.float32), record["norm.total"].astype(np.float32)
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_equal_runs_give_equal_event_files_and_a_second_export_replaces_the_first(
    run: Run, record: Record, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    first = to_tensorboard(run, record, tmp_path).read_bytes()
    assert to_tensorboard(run, record, tmp_path).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["events.out.tfevents.0.little-s3"]
    (tmp_path / "file").write_text("")
    with pytest.raises(GrokscopeError, match="expected a writable folder"):
        to_tensorboard(run, record, tmp_path / "file")


class FakeLog:
    """What ``wandb.init`` gives, as far as the export uses it."""

    def __init__(self, folder: Path) -> None:
        self.dir = str(folder / "offline-run" / "files")
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.summary: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))


def test_weights_and_biases_gets_every_scalar_in_order_and_stays_offline(
    run: Run, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, asked = FakeLog(tmp_path), {}

    def init(**options: Any) -> FakeLog:
        asked.update(options)
        return held

    fake = SimpleNamespace(init=init, Settings=lambda **options: options, Error=RuntimeError)
    monkeypatch.setattr(libraries, "import_module", lambda name: fake)
    assert to_wandb(run, record, tmp_path / "w") == tmp_path / "offline-run"
    assert asked["mode"] == "offline"
    assert asked["name"] == "little-s3"
    assert asked["config"]["train"]["steps"] == 60
    steps = [step for step, _ in held.logged]
    assert steps == sorted(set(steps))
    logged = dict(held.logged)
    for name, (at, values) in scalar_series(run, record).items():
        for step, value in zip(at.tolist(), values.tolist(), strict=True):
            assert logged[step][name.replace(".", "/")] == value
    assert held.closed
    first = asked["id"]
    to_wandb(run, None, tmp_path / "w", online=True)
    assert (asked["mode"], asked["id"]) == ("online", first)


def test_what_weights_and_biases_refuses_is_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**options: Any) -> None:
        raise RuntimeError("no key\nand more")

    fake = SimpleNamespace(init=init, Settings=lambda **options: options, Error=RuntimeError)
    monkeypatch.setattr(libraries, "import_module", lambda name: fake)
    with pytest.raises(GrokscopeError, match="to Weights & Biases: no key, expected") as told:
        to_wandb(run, None, tmp_path, online=True)
    assert "\n" not in str(told.value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_real_library_writes_an_offline_run(run: Run, record: Record, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    written = to_wandb(run, record, tmp_path)
    assert written.is_relative_to(tmp_path)
    assert list(written.glob("*.wandb"))


@pytest.mark.parametrize("export", [to_tensorboard, to_wandb])
def test_a_missing_library_is_told_with_what_installs_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, export: Any
) -> None:
    extra = export.__name__.removeprefix("to_")
    real = importlib.import_module

    def fail(name: str) -> Any:
        if name.partition(".")[0] == extra:
            raise ModuleNotFoundError(name=extra)
        return real(name)

    monkeypatch.setattr(libraries, "import_module", fail)
    with pytest.raises(GrokscopeError) as told:
        export(run, None, tmp_path / "w")
    assert str(told.value).endswith(
        f"{extra} is not installed, expected it; run: pip install 'grokscope[{extra}]'"
    )
    assert not (tmp_path / "w").exists()


def test_the_package_offers_its_exports_by_name() -> None:
    import grokscope

    assert grokscope.export.to_wandb is to_wandb
