"""Many runs at once: the same bytes as alone, whatever fails, stops or dies on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grokscope import work
from grokscope.claims import Holder, claimed
from grokscope.errors import GrokscopeError
from grokscope.runs import open_run
from grokscope.training import Recipe, fleet_worker, recipe_from, train
from grokscope.training.batch import train_batch
from grokscope.training.board import Board
from grokscope.training.fleet import Progress, _grouped, _longest_first, _Run, is_finished, train_fleet
from grokscope.training.fleet_worker import FleetRun
from grokscope.trajectory import apply_overrides, read_manifest, write_manifest
from grokscope.work import Workers

HERE, TWO = Workers(jobs=1), Workers(jobs=2)


@pytest.fixture(scope="module", autouse=True)
def _quick_workers() -> None:
    """Workers forked from a process that has imported torch once."""
    work.preload(["grokscope.training.fleet"])


@pytest.fixture(scope="module")
def alone(tiny, checksum, tmp_path_factory) -> Callable[[Recipe], str | None]:
    """The checksum of a recipe's run trained by itself in this process."""
    known: dict[str, str | None] = {}

    def find(recipe: Recipe) -> str | None:
        key = json.dumps(recipe.config())
        if key not in known:
            directory = tmp_path_factory.mktemp("alone") / "run"
            train(recipe, directory, device="cpu")
            known[key] = checksum(directory)
        return known[key]

    return find


def several(tiny: Callable[..., Recipe]) -> list[Recipe]:
    """Runs that differ in everything that a sweep varies."""
    changes = ["seed=4", "train.lr=0.02", "train.dtype=float64", "model.hidden=[8]", "train.batch_size=10"]
    return [tiny("train.steps=30"), *(tiny("train.steps=20", change) for change in changes)]


def places(folder: Path, recipes: list[Recipe]) -> list[Path]:
    return [folder / f"run{number}" for number in range(len(recipes))]


def left_over(folder: Path) -> list[str]:
    """Claims, boards and temporary files."""
    return [path.name for path in folder.rglob(".*")]


def states(runs: list[FleetRun]) -> list[str]:
    return [run.state for run in runs]


@pytest.mark.parametrize("workers", [HERE, TWO])
def test_a_fleet_s_runs_are_the_same_runs_alone(tiny, alone, checksum, tmp_path, workers):
    recipes = several(tiny)
    directories = places(tmp_path / "checkpoints", recipes)
    seen: list[Progress] = []
    runs = train_fleet(recipes, directories, device="cpu", workers=workers, progress=seen.append)
    assert runs == [FleetRun(d, "finished", r.train.steps) for d, r in zip(directories, recipes, strict=True)]
    for recipe, directory in zip(recipes, directories, strict=True):
        assert checksum(directory) == alone(recipe)
        assert read_manifest(directory)["config"] == json.loads(json.dumps(recipe.config()))
    assert left_over(tmp_path) == []
    total = sum(recipe.train.steps for recipe in recipes)
    assert seen[-1] == Progress(total, total, len(recipes), 0, len(recipes))
    assert [progress.steps for progress in seen] == sorted(progress.steps for progress in seen)
    assert {progress.all_steps for progress in seen} == {total}


def test_directories_are_those_of_the_process_that_gives_out_the_work(tiny, tmp_path, monkeypatch):
    """Workers stay where they were begun, in another working directory."""
    recipes = [tiny("train.steps=4", f"seed={seed}") for seed in range(2)]
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        directories = places(Path(), recipes)
        runs = train_fleet(recipes, directories, device="cpu", workers=TWO)
        assert runs == [FleetRun(directory, "finished", 4) for directory in directories]
        assert all((tmp_path / name / directory / "trajectory.h5").exists() for directory in directories)


def test_threads_are_the_recipe_s_business(tiny, alone, checksum, tmp_path):
    """Workers' BLAS has one thread, and a recipe that says two still gets two."""
    recipes = [tiny("train.steps=6", "train.threads=2", f"seed={seed}") for seed in range(2)]
    directories = places(tmp_path, recipes)
    assert states(train_fleet(recipes, directories, device="cpu", workers=TWO)) == ["finished"] * 2
    for recipe, directory in zip(recipes, directories, strict=True):
        assert checksum(directory) == alone(recipe)
        assert read_manifest(directory)["provenance"]["threads"] == 2


def test_a_fleet_is_resumed_as_a_whole(tiny, alone, checksum, tmp_path):
    recipes = [tiny(f"seed={seed}") for seed in range(4)]
    finished, stopped, started, missing = directories = places(tmp_path, recipes)
    train(recipes[0], finished, device="cpu")
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    def interrupt(step: int, scalars: object) -> None:
        if step == 33:
            signal.raise_signal(signal.SIGINT)

    assert train(recipes[1], stopped, device="cpu", report=interrupt).step == 33
    started.mkdir()
    write_manifest(started, {"name": "run2", "kind": "trained", "config": recipes[2].config()})
    with pytest.raises(GrokscopeError) as caught:
        train_fleet(recipes, directories, device="cpu", workers=TWO)
    assert "3 of 4 runs exist (run0, run1, run2)" in str(caught.value)
    assert "--resume" in str(caught.value)
    assert not missing.exists()
    runs = train_fleet(recipes, directories, device="cpu", resume=True, workers=TWO)
    assert states(runs) == ["finished"] * 4
    assert [checksum(directory) for directory in directories] == [alone(recipe) for recipe in recipes]
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_finished_runs_are_passed_over_without_a_worker(tiny, tmp_path, monkeypatch):
    recipes = [tiny("train.steps=4", f"seed={seed}") for seed in range(3)]
    directories = places(tmp_path, recipes)
    first = train_fleet(recipes, directories, device="cpu", workers=HERE)
    monkeypatch.setattr("grokscope.training.fleet.each", None)
    assert train_fleet(recipes, directories, device="cpu", resume=True, workers=TWO) == first


def test_finished_is_this_recipe_s_run_trained_to_its_end(tiny, tmp_path):
    recipe = tiny("train.steps=4")
    assert not is_finished(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", device="cpu")
    assert is_finished(recipe, tmp_path / "run")
    assert not is_finished(tiny("train.steps=5"), tmp_path / "run")
    manifest = read_manifest(tmp_path / "run")
    write_manifest(tmp_path / "run", {**manifest, "provenance": {}})
    assert not is_finished(recipe, tmp_path / "run")
    write_manifest(tmp_path / "run", manifest)
    (tmp_path / "run" / "trajectory.h5").unlink()
    assert not is_finished(recipe, tmp_path / "run")


@pytest.mark.parametrize("workers", [HERE, TWO])
def test_a_run_that_fails_leaves_the_others_alone(tiny, alone, checksum, tmp_path, workers):
    diverging = tiny("train.optimizer=gd", "train.lr=1e6", "train.loss=squared")
    recipes = [tiny("seed=1"), diverging, tiny("seed=2"), tiny("train.steps=6")]
    directories = places(tmp_path, recipes)
    # one of them was begun with another recipe
    train(tiny("train.steps=5"), directories[3], device="cpu")
    seen: list[Progress] = []
    runs = train_fleet(recipes, directories, device="cpu", resume=True, workers=workers, progress=seen.append)
    assert states(runs) == ["finished", "failed", "finished", "failed"]
    assert "not finite at step" in runs[1].error
    assert "train.steps is 6 in the recipe and 5 in the run" in runs[3].error
    assert not any("\n" in run.error for run in runs)
    assert (seen[-1].finished, seen[-1].failed) == (2, 2)
    for number in (0, 2):
        assert checksum(directories[number]) == alone(recipes[number])
    assert open_run(directories[1]).steps.size > 0
    assert left_over(tmp_path) == []


def test_a_fault_of_the_program_is_told_once_the_others_are_done(tiny, tmp_path, monkeypatch):
    session = fleet_worker.Session

    def fail(recipe: Recipe, *arguments: Any) -> Any:
        if recipe.seed == 1:
            raise ZeroDivisionError("a bug")
        return session(recipe, *arguments)

    monkeypatch.setattr(fleet_worker, "Session", fail)
    recipes = [tiny("train.steps=4", f"seed={seed}") for seed in range(3)]
    directories = places(tmp_path, recipes)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: a bug"):
        train_fleet(recipes, directories, device="cpu", workers=HERE)
    assert [is_finished(r, d) for r, d in zip(recipes, directories, strict=True)] == [True, False, True]


def test_memory_that_runs_out_is_one_line(tiny, tmp_path, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    monkeypatch.setattr(fleet_worker, "Session", fail)
    (run,) = train_fleet([tiny()], [tmp_path / "run"], device="cpu", workers=HERE)
    assert run.state == "failed"
    assert "training run: out of memory" in run.error


def test_a_run_that_somebody_else_is_at_is_left_alone(tiny, checksum, alone, tmp_path):
    recipes = [tiny(f"seed={seed}") for seed in range(2)]
    directories = places(tmp_path, recipes)
    with claimed(directories[1]):
        runs = train_fleet(recipes, directories, device="cpu", resume=True, workers=TWO)
        assert states(runs) == ["finished", "busy"]
        assert f"process {os.getpid()} on" in runs[1].error
        assert not directories[1].exists()
    runs = train_fleet(recipes, directories, device="cpu", resume=True, workers=TWO)
    assert states(runs) == ["finished"] * 2
    assert checksum(directories[1]) == alone(recipes[1])


def test_two_fleets_over_the_same_runs_share_them(tiny, checksum, alone, tmp_path):
    recipes = [tiny(f"seed={seed}") for seed in range(5)]
    directories = places(tmp_path, recipes)
    ended: list[list[FleetRun]] = []

    def other() -> None:
        ended.append(train_fleet(recipes, directories, device="cpu", resume=True, workers=HERE))

    thread = threading.Thread(target=other)
    thread.start()
    ours = train_fleet(recipes, directories, device="cpu", resume=True, workers=TWO)
    thread.join()
    for run, theirs in zip(ours, ended[0], strict=True):
        assert {run.state, theirs.state} <= {"finished", "busy"}
        assert "finished" in (run.state, theirs.state)
    assert [checksum(directory) for directory in directories] == [alone(recipe) for recipe in recipes]
    assert left_over(tmp_path) == []


def test_a_run_that_was_taken_over_stops(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("grokscope.claims.BEAT", 0.01)

    def steal(progress: Progress) -> None:
        for path in tmp_path.glob(".run.claim-*"):
            path.unlink(missing_ok=True)

    recipe = tiny("train.steps=200000", "save.schedule=['0:end:1000']")
    (run,) = train_fleet([recipe], [tmp_path / "run"], device="cpu", workers=HERE, progress=steal)
    assert run.state == "failed"
    assert "another process has taken it over" in run.error


# Runs that share an axis


def linear(*overrides: str) -> Recipe:
    """A few steps of matrix completion, which is trained on a leading axis of runs."""
    table: dict[str, Any] = {
        "name": "linear",
        "task": {"name": "completion", "d": 6, "rank": 2},
        "model": {"family": "deep-linear", "depth": 2},
        "train": {
            "steps": 40, "optimizer": "gd", "lr": 0.05, "weight_decay": 0.01, "loss": "squared", "dtype": "float64",
        },
        "save": {"schedule": ["0:end:4"], "evaluate": ["0:end:2"], "snapshots": 20},
    }  # fmt: skip
    return recipe_from(apply_overrides(table, overrides), "the linear recipe")


def sweep(tiny: Callable[..., Recipe]) -> list[Recipe]:
    """Two kinds that are trained together, one run that is not, and one that diverges among the others."""
    recipes = [linear(f"seed={seed}", f"train.lr={lr}") for seed in (0, 1) for lr in (0.05, 0.02)]
    deeper = [linear("model.depth=3", f"seed={seed}") for seed in range(3)]
    return [recipes[0], tiny("train.steps=10"), *deeper, *recipes[1:], linear("train.lr=1e9")]


@pytest.mark.parametrize("workers", [HERE, TWO])
def test_runs_trained_together_are_the_same_runs_alone(tiny, alone, checksum, tmp_path, workers):
    recipes = sweep(tiny)
    directories = places(tmp_path, recipes)
    runs = train_fleet(recipes, directories, device="cpu", workers=workers)
    assert states(runs) == ["finished"] * 8 + ["failed"]
    assert "not finite at step" in runs[-1].error
    for recipe, directory in zip(recipes[:-1], directories[:-1], strict=True):
        assert checksum(directory) == alone(recipe)
    assert left_over(tmp_path) == []


def test_runs_of_a_kind_are_spread_over_the_workers(tiny, tmp_path):
    recipes = sweep(tiny)
    runs = [_Run(index, recipe, tmp_path / str(index)) for index, recipe in enumerate(recipes)]

    def groups(device: str, workers: Workers) -> list[list[int]]:
        return [[run.index for run in group] for group in _grouped(runs, device, workers)]

    assert groups("cpu", HERE) == [[0, 5, 6, 7, 8], [1], [2, 3, 4]]
    assert groups("cpu", TWO) == [[0, 5, 6], [7, 8], [1], [2, 3], [4]]
    assert groups("cpu", Workers(cluster="somewhere")) == groups("cpu", HERE)
    # on a GPU everything of one shape is one batch
    assert groups("cuda", TWO) == groups("cpu", HERE)
    many = [_Run(index, linear(f"seed={index}"), tmp_path / str(index)) for index in range(40)]
    assert [len(group) for group in _grouped(many, "cpu", Workers(cluster="somewhere"))] == [16, 16, 8]


def test_a_batch_that_does_not_fit_is_halved(tmp_path, monkeypatch, alone, checksum):
    sizes: list[int] = []

    def small(recipes: list[Recipe], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(recipes))
        if len(recipes) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate more than there is")
        return train_batch(recipes, *arguments, **options)

    monkeypatch.setattr(fleet_worker, "train_batch", small)
    recipes = [linear(f"seed={seed}") for seed in range(5)]
    directories = places(tmp_path, recipes)
    assert states(train_fleet(recipes, directories, device="cpu", workers=HERE)) == ["finished"] * 5
    assert sizes == [5, 2, 3, 2]
    assert [checksum(directory) for directory in directories] == [alone(recipe) for recipe in recipes]


def test_a_run_of_a_batch_that_somebody_else_is_at_is_left_out(tmp_path, alone, checksum):
    recipes = [linear(f"seed={seed}") for seed in range(3)]
    directories = places(tmp_path, recipes)
    with claimed(directories[1]):
        runs = train_fleet(recipes, directories, device="cpu", workers=HERE)
    assert states(runs) == ["finished", "busy", "finished"]
    assert checksum(directories[2]) == alone(recipes[2])


@pytest.mark.parametrize("workers", [HERE, TWO])
def test_ctrl_c_stops_runs_that_are_trained_together(tmp_path, alone, checksum, workers):
    recipes = [linear("train.steps=20000", "save.schedule=['0:end:400']", f"seed={s}") for s in range(4)]
    directories = places(tmp_path, recipes)
    struck: list[int] = []

    def strike(progress: Progress) -> None:
        if progress.steps > 20 and not struck:
            struck.append(progress.steps)
            os.kill(os.getpid(), signal.SIGINT)

    runs = train_fleet(recipes, directories, device="cpu", workers=workers, progress=strike)
    assert set(states(runs)) <= {"stopped", "waiting"}
    stopped = [run for run in runs if run.state == "stopped"]
    assert stopped
    for run in stopped:
        assert open_run(run.directory).scalars["step"][-1] in (run.step, run.step - 1)


# Interrupts


def long_runs(tiny: Callable[..., Recipe]) -> list[Recipe]:
    return [tiny("train.steps=600", "save.evaluate=['0:end:7']", f"seed={seed}") for seed in range(3)]


@pytest.mark.parametrize("workers", [HERE, TWO])
def test_ctrl_c_stops_every_run_with_everything_committed(tiny, alone, checksum, tmp_path, workers):
    recipes = long_runs(tiny)
    directories = places(tmp_path, recipes)
    struck: list[int] = []

    def strike(progress: Progress) -> None:
        if progress.steps > 20 and not struck:
            struck.append(progress.steps)
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    runs = train_fleet(recipes, directories, device="cpu", workers=workers, progress=strike)
    assert signal.getsignal(signal.SIGINT) is handler
    assert struck
    # how many were at work when the signal came is the machine's business; none goes on to its end
    assert states(runs).count("stopped") >= 1
    assert "waiting" in states(runs)
    assert "failed" not in states(runs)
    for run in runs:
        if run.state == "stopped":
            # the partial chunks too, up to the very step
            assert open_run(run.directory).steps[-1] in (run.step, run.step - 1)
        if run.state == "waiting":
            assert not run.directory.exists()
    assert left_over(tmp_path) == []
    runs = train_fleet(recipes, directories, device="cpu", resume=True, workers=TWO)
    assert states(runs) == ["finished"] * 3
    assert [checksum(directory) for directory in directories] == [alone(recipe) for recipe in recipes]


def test_off_the_main_thread_a_fleet_can_be_stopped_through_its_board(tiny, tmp_path, monkeypatch):
    """What a cluster's worker does: its units run in threads, which no signal reaches."""
    made: list[Board] = []
    opened = Board.opened

    def keep(path: Path) -> Board:
        made.append(opened(path))
        return made[-1]

    monkeypatch.setattr(Board, "opened", keep)
    ended: list[list[FleetRun]] = []
    recipes = long_runs(tiny)
    directories = places(tmp_path, recipes)

    def stop(progress: Progress) -> None:
        if progress.steps > 20:
            made[0].stop()

    def fleet() -> None:
        ended.append(train_fleet(recipes, directories, device="cpu", workers=HERE, progress=stop))

    thread = threading.Thread(target=fleet)
    thread.start()
    thread.join()
    assert set(states(ended[0])) == {"stopped", "waiting"}
    assert states(ended[0]).count("stopped") == 1
    runs = train_fleet(recipes[:1], directories[:1], device="cpu", resume=True, workers=HERE)
    assert states(runs) == ["finished"]


PROGRAM = """
import json, sys
from pathlib import Path
from grokscope.training import recipe_from
from grokscope.training.fleet import train_fleet
from grokscope.work import Workers, preload
if __name__ == "__main__":
    preload(["grokscope.training.fleet"])
    recipes = [recipe_from(config, "test") for config in json.loads(sys.argv[1])]
    directories = [Path(sys.argv[2]) / f"run{number}" for number in range(len(recipes))]
    train_fleet(recipes, directories, device="cpu", workers=Workers(jobs=2))
"""


def test_a_fleet_whose_process_is_killed_stops_and_goes_on_later(tiny, alone, checksum, tmp_path):
    """Workers whose giver of work dies end their runs as at Ctrl-C, let go of them, and go."""
    (tmp_path / "program.py").write_text(PROGRAM)
    recipes = [tiny("train.steps=100000", "save.schedule=['0:end:500']", f"seed={s}") for s in range(3)]
    folder = tmp_path / "checkpoints"
    configs = json.dumps([recipe.config() for recipe in recipes])
    # what a killed process cannot put away stays in a temporary folder of its own
    place = Path(tempfile.mkdtemp(prefix="grokscope-"))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), configs, str(folder)], stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(place)},
    )  # fmt: skip
    deadline = time.monotonic() + 400
    try:
        while len(list(folder.glob("*/trajectory.h5"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(list(folder.glob(".run*.claim-1"))) == 2
    finally:
        process.kill()
        process.wait()
    while list(folder.glob(".run*.claim-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(folder.glob(".run*.claim-*"))
    begun = sorted(path.parent.name for path in folder.glob("*/trajectory.h5"))
    assert len(begun) == 2
    assert list(place.glob(".grokscope-fleet-*"))
    shutil.rmtree(place)


# Units


def test_the_longest_runs_begin_first(tiny):
    recipes = [
        tiny("train.steps=10"), tiny("train.steps=1000"), tiny("train.steps=100"),
        tiny("train.steps=100", "model.hidden=[64]"), tiny("train.steps=100", "train.batch_size=5"),
    ]  # fmt: skip
    runs = [_Run(index, recipe, Path(str(index))) for index, recipe in enumerate(recipes)]
    assert [run.index for run in _longest_first(runs)] == [1, 3, 2, 4, 0]


def test_a_claim_left_by_a_killed_run_is_no_hindrance(tiny, tmp_path):
    from dataclasses import asdict, replace

    holder = replace(Holder.here(), started="1")
    (tmp_path / ".run.claim-1").write_text(json.dumps(asdict(holder)) + "\n")
    (run,) = train_fleet([tiny("train.steps=4")], [tmp_path / "run"], device="cpu", workers=HERE)
    assert run.state == "finished"
    assert left_over(tmp_path) == []


def test_what_cannot_be_a_fleet_is_one_line(tiny, tmp_path):
    with pytest.raises(GrokscopeError, match="is given twice"):
        train_fleet([tiny(), tiny("seed=1")], [tmp_path / "run"] * 2, device="cpu")
    with pytest.raises(GrokscopeError, match="expected auto, cpu or cuda"):
        train_fleet([tiny()], [tmp_path / "run"], device="tpu")
    (tmp_path / "file").write_text("in the way")
    (run,) = train_fleet([tiny()], [tmp_path / "file" / "run"], device="cpu", workers=HERE)
    assert "expected a writable place" in run.error
    assert train_fleet([], [], device="cpu") == []
