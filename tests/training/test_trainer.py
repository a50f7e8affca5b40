"""One recipe, one run: the same arrays every time, however often it was stopped on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.runs import open_run
from grokscope.training import Recipe, choose_device, train
from grokscope.training.trainer import process_settings
from grokscope.trajectory import Trajectory, read_manifest, snapshot_steps, write_manifest

Checksum = Callable[[Path], str | None]


class Stop(Exception):
    """Ends a run from its report, as a failure of the caller would."""


def at(step: int, action: Callable[[], None]) -> Callable[[int, object], None]:
    def report(now: int, scalars: object) -> None:
        if now == step:
            action()

    return report


def stop() -> None:
    raise Stop


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def stored_steps(directory: Path) -> list[int]:
    with Trajectory(directory / "trajectory.h5") as run:
        return run.steps.tolist()


def one_line(caught: pytest.ExceptionInfo[GrokscopeError]) -> str:
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def uninterrupted(tiny, checksum, tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    outcome = train(tiny(), directory, device="cpu")
    assert (outcome.step, outcome.finished, outcome.directory) == (60, True, directory)
    found = checksum(directory)
    assert found is not None
    return found


def test_the_same_recipe_gives_the_same_arrays(tiny, checksum, uninterrupted, tmp_path):
    torch.manual_seed(12345)
    np.random.seed(1)  # noqa: NPY002  (the state that a run must not depend on)
    train(tiny("name=another"), tmp_path / "run", device="cpu")
    assert checksum(tmp_path / "run") == uninterrupted


def test_the_same_recipe_gives_the_same_arrays_in_another_process(tiny, uninterrupted, tmp_path):
    program = (
        "import json, sys; from pathlib import Path; from grokscope.training import recipe_from, train\n"
        "from grokscope.trajectory import verify_trajectory\n"
        "run = Path(sys.argv[2]); train(recipe_from(json.loads(sys.argv[1]), 'x'), run, device='cpu')\n"
        "print(verify_trajectory(run / 'trajectory.h5').checksum)\n"
        # torch's compiler takes longer to import than this takes to train
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(tiny().config()), str(tmp_path / "run")],
        capture_output=True, text=True, check=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert done.stdout.strip() == uninterrupted


@pytest.mark.parametrize(
    "override", ["seed=4", "train.lr=0.011", "task.split_seed=9", "train.decay=after", "train.dtype=float64"]
)
def test_another_recipe_gives_other_arrays(tiny, checksum, uninterrupted, tmp_path, override):
    train(tiny(override), tmp_path / "run", device="cpu")
    assert checksum(tmp_path / "run") != uninterrupted


def test_a_run_stores_what_its_recipe_asks_for(tiny, tmp_path):
    recipe = tiny("save.schedule=['0:20:5', '20:end:20']", "save.evaluate=['0:end:3']", "save.snapshots=25")
    train(recipe, tmp_path / "run", device="cpu")
    run = open_run(tmp_path / "run")
    assert run.steps.tolist() == [0, 5, 10, 15, 20, 40, 60]
    assert run.scalars["step"].tolist() == sorted({*range(0, 61, 3), 5, 10, 15, 20, 40, 60})
    # no snapshot of step 0, which the seed gives
    assert snapshot_steps(tmp_path / "run") == [25, 50, 60]
    manifest = read_manifest(tmp_path / "run")
    assert manifest["config"] == json.loads(json.dumps(recipe.config()))
    assert manifest["kind"] == "trained"
    assert manifest["name"] == "run"
    facts = manifest["provenance"]
    assert facts["device"] == "cpu"
    assert facts["torch"] == torch.__version__
    assert facts["finished"] >= facts["started"]
    task, _ = recipe.build()
    assert torch.equal(run.task.train_mask, task.train_mask)


@pytest.mark.parametrize(
    ("training", "precision", "stored"),
    [("float32", "train", "float32"), ("float64", "train", "float64"), ("float64", "float32", "float32"),
     ("float32", "float64", "float64")],
)  # fmt: skip
def test_weights_are_stored_in_the_precision_asked_for(tiny, tmp_path, training, precision, stored):
    recipe = tiny(f"train.dtype={training}", f"save.precision={precision}", "save.schedule=['0:end:20']")
    train(recipe, tmp_path / "run", device="cpu")
    with Trajectory(tmp_path / "run" / "trajectory.h5") as run:
        assert {str(dtype) for dtype in run.dtypes.values()} == {stored}


def test_an_existing_directory_is_refused_without_resume(tiny, checksum, uninterrupted, tmp_path):
    train(tiny(), tmp_path / "run", device="cpu")
    with pytest.raises(GrokscopeError) as caught:
        train(tiny(), tmp_path / "run", device="cpu")
    message = one_line(caught)
    assert "exists" in message
    assert "--resume" in message
    assert checksum(tmp_path / "run") == uninterrupted


def test_resuming_a_finished_run_changes_nothing(tiny, tmp_path):
    train(tiny(), tmp_path / "run", device="cpu")

    def files() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in sorted((tmp_path / "run").rglob("*")) if p.is_file()}

    before = files()
    steps: list[int] = []
    outcome = train(
        tiny(), tmp_path / "run", device="cpu", resume=True, report=lambda step, _: steps.append(step)
    )
    assert (outcome.step, outcome.finished) == (60, True)
    assert steps == []
    assert files() == before


def test_resuming_a_missing_run_starts_it(tiny, checksum, uninterrupted, tmp_path):
    outcome = train(tiny(), tmp_path / "deep" / "run", device="cpu", resume=True)
    assert outcome.finished
    assert checksum(tmp_path / "deep" / "run") == uninterrupted


@pytest.mark.parametrize("left", ["nothing", "manifest", "empty snapshots"])
def test_resuming_what_was_killed_before_its_first_commit_starts_it(
    tiny, checksum, uninterrupted, tmp_path, left
):
    directory = tmp_path / "run"
    directory.mkdir()
    if left == "manifest":
        write_manifest(directory, {"name": "run", "kind": "trained", "config": tiny().config()})
    if left == "empty snapshots":
        (directory / "snapshots").mkdir()
        (directory / "snapshots" / ".10.safetensors.part").write_bytes(b"half")
    assert train(tiny(), directory, device="cpu", resume=True).finished
    assert checksum(directory) == uninterrupted
    assert torch.equal(open_run(directory).task.train_mask, tiny().build()[0].train_mask)


@pytest.mark.parametrize(
    ("override", "field", "given", "stored"),
    [
        ("seed=4", "seed", "4", "3"),
        ("train.lr=0.02", "train.lr", "0.02", "0.01"),
        ("train.steps=80", "train.steps", "80", "60"),
        ("train.threads=2", "train.threads", "2", "1"),
        ("task.op=mul", "task.op", "'mul'", "'add'"),
        ("task.split_seed=1", "task.split_seed", "1", "None"),
        ("model.hidden=[12, 12]", "model.hidden", "[12, 12]", "[12]"),
        ("save.schedule=['0:end:4']", "save.schedule", "['0:end:4']", "['0:end:2']"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_resuming_with_another_config_names_the_field(
    tiny, checksum, tmp_path, override, field, given, stored, finished
):
    directory = tmp_path / "run"
    if finished:
        train(tiny(), directory, device="cpu")
    else:
        with pytest.raises(Stop):
            train(tiny(), directory, device="cpu", report=at(50, stop))
    before = checksum(directory)
    with pytest.raises(GrokscopeError) as caught:
        train(tiny(override), directory, device="cpu", resume=True)
    assert f"{field} is {given} in the recipe and {stored} in the run" in one_line(caught)
    assert checksum(directory) == before


def test_resuming_with_another_config_is_refused_before_anything_is_committed_too(tiny, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    write_manifest(directory, {"name": "run", "kind": "trained", "config": tiny().config()})
    with pytest.raises(GrokscopeError) as caught:
        train(tiny("train.lr=0.02"), directory, device="cpu", resume=True)
    assert "train.lr is 0.02 in the recipe and 0.01 in the run" in one_line(caught)
    assert read_manifest(directory)["config"]["train"]["lr"] == 0.01


def test_resuming_on_another_device_is_refused(tiny, tmp_path):
    directory = tmp_path / "run"
    train(tiny(), directory, device="cpu")
    manifest = read_manifest(directory)
    manifest["provenance"]["device"] = "cuda"
    write_manifest(directory, manifest)
    with pytest.raises(GrokscopeError) as caught:
        train(tiny(), directory, device="cpu", resume=True)
    assert "trained on cuda" in one_line(caught)


def test_resuming_in_a_directory_that_is_no_run_of_ours_says_so(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "trajectory.h5").write_bytes(b"not a trajectory")
    with pytest.raises(GrokscopeError) as caught:
        train(tiny(), tmp_path / "run", device="cpu", resume=True)
    assert "run.json" in one_line(caught)


def test_resuming_on_a_damaged_trajectory_says_so(tiny, tmp_path):
    directory = tmp_path / "run"
    train(tiny(), directory, device="cpu")
    path = directory / "trajectory.h5"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(GrokscopeError) as caught:
        train(tiny(), directory, device="cpu", resume=True)
    assert "trajectory.h5" in one_line(caught)


@pytest.mark.parametrize("step", [0, 1, 29, 30, 31, 33, 59, 60])
def test_ctrl_c_stops_at_once_keeps_everything_and_resumes(tiny, checksum, uninterrupted, tmp_path, step):
    directory = tmp_path / "run"
    handler = signal.getsignal(signal.SIGINT)
    outcome = train(tiny(), directory, device="cpu", report=at(step, interrupt))
    assert signal.getsignal(signal.SIGINT) is handler
    assert (outcome.step, outcome.finished) == (step, step == 60)
    run = open_run(directory)
    # everything up to the interrupt, the partial blocks included
    assert run.steps.tolist() == list(range(0, step + 1, 2))
    assert run.scalars["step"].tolist() == list(range(step + 1))
    run.trajectory.close()
    resumed = train(tiny(), directory, device="cpu", resume=True)
    assert (resumed.step, resumed.finished) == (60, True)
    assert checksum(directory) == uninterrupted
    assert "finished" in read_manifest(directory)["provenance"]


def test_many_interrupts_in_one_run(tiny, checksum, uninterrupted, tmp_path):
    directory = tmp_path / "run"
    for step in (3, 12, 13, 40, 47):
        assert train(tiny(), directory, device="cpu", resume=True, report=at(step, interrupt)).step == step
    train(tiny(), directory, device="cpu", resume=True)
    assert checksum(directory) == uninterrupted


def test_a_second_ctrl_c_interrupts_the_step(tiny, checksum, uninterrupted, tmp_path):
    def twice() -> None:
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path / "run", device="cpu", report=at(41, twice))
    assert train(tiny(), tmp_path / "run", device="cpu", resume=True).finished
    assert checksum(tmp_path / "run") == uninterrupted


def test_a_run_off_the_main_thread_trains_all_the_same(tiny, checksum, uninterrupted, tmp_path):
    failures: list[BaseException] = []

    def work() -> None:
        try:
            train(tiny(), tmp_path / "run", device="cpu")
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failures == []
    assert checksum(tmp_path / "run") == uninterrupted


def test_a_failure_of_the_caller_leaves_whole_blocks_and_resumes(tiny, checksum, uninterrupted, tmp_path):
    directory = tmp_path / "run"
    with pytest.raises(Stop):
        train(tiny(), directory, device="cpu", report=at(50, stop))
    assert stored_steps(directory) == list(range(0, 32, 2))
    steps: list[int] = []
    train(tiny(), directory, device="cpu", resume=True, report=lambda step, _: steps.append(step))
    # from the last snapshot behind what was committed, not from the beginning
    assert steps[0] == 30
    assert checksum(directory) == uninterrupted


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_snapshot_costs_only_time(tiny, checksum, uninterrupted, tmp_path, damage):
    directory = tmp_path / "run"
    train(tiny(), directory, device="cpu", report=at(45, interrupt))
    assert snapshot_steps(directory) == [10, 20, 30, 40]
    snapshot = directory / "snapshots" / "40.safetensors"
    if damage == "missing":
        snapshot.unlink()
    else:
        snapshot.write_bytes(snapshot.read_bytes()[:100])
    steps: list[int] = []
    train(tiny(), directory, device="cpu", resume=True, report=lambda step, _: steps.append(step))
    assert steps[0] == 30
    assert checksum(directory) == uninterrupted


def test_recomputed_weights_that_differ_are_refused(tiny, checksum, tmp_path):
    """A snapshot of another run: what is passed again no longer agrees with what is stored."""
    directory, other = tmp_path / "run", tmp_path / "other"
    train(tiny(), directory, device="cpu", report=at(45, interrupt))
    train(tiny("seed=4"), other, device="cpu")
    name = Path("snapshots") / "40.safetensors"
    (directory / name).write_bytes((other / name).read_bytes())
    before = checksum(directory)
    with pytest.raises(GrokscopeError) as caught:
        train(tiny(), directory, device="cpu", resume=True)
    message = one_line(caught)
    assert "step 40" in message
    assert "differ from the stored" in message
    assert checksum(directory) == before


@pytest.mark.parametrize("batch_size", [7, 10, 29])
def test_batches_resume_and_repeat(tiny, checksum, tmp_path, batch_size):
    recipe: Recipe = tiny(f"train.batch_size={batch_size}")
    train(recipe, tmp_path / "whole", device="cpu")
    train(recipe, tmp_path / "stopped", device="cpu", report=at(33, interrupt))
    train(recipe, tmp_path / "stopped", device="cpu", resume=True)
    assert checksum(tmp_path / "whole") == checksum(tmp_path / "stopped")
    train(tiny(), tmp_path / "full", device="cpu")
    differs = checksum(tmp_path / "whole") != checksum(tmp_path / "full")
    # 29 training pairs: a batch of all of them is the full batch
    assert differs is (batch_size < 29)


@pytest.mark.parametrize("optimizer", ["sgd", "gd"])
def test_other_optimisers_resume(tiny, checksum, tmp_path, optimizer):
    changes = [f"train.optimizer={optimizer}", "train.lr=0.5", "train.weight_decay=0.01", "train.warmup=40"]
    recipe = tiny(*changes, *(["train.momentum=0.9"] if optimizer == "sgd" else []))
    train(recipe, tmp_path / "whole", device="cpu")
    train(recipe, tmp_path / "stopped", device="cpu", report=at(33, interrupt))
    train(recipe, tmp_path / "stopped", device="cpu", resume=True)
    assert checksum(tmp_path / "whole") == checksum(tmp_path / "stopped")


def test_a_diverging_run_ends_in_one_line_and_stays_readable(tiny, checksum, tmp_path):
    directory = tmp_path / "run"
    recipe = tiny("train.optimizer=gd", "train.lr=1e6", "train.loss=squared")
    with pytest.raises(GrokscopeError) as caught:
        train(recipe, directory, device="cpu")
    message = one_line(caught)
    assert "not finite at step" in message
    assert "1000000" in message
    failed_at = int(message.split("at step ")[1].split(",")[0])
    assert failed_at >= 1
    run = open_run(directory)
    assert run.steps.tolist() == list(range(0, failed_at, 2))
    assert run.scalars["step"].tolist() == list(range(failed_at))
    for series in run.scalars.values():
        assert np.isfinite(series).all()
    for _, params in run.each():
        assert all(torch.isfinite(value).all() for value in params.values())
    run.trajectory.close()
    # asked to go on, it fails in the same place and loses nothing
    before = checksum(directory)
    with pytest.raises(GrokscopeError) as again:
        train(recipe, directory, device="cpu", resume=True)
    assert f"not finite at step {failed_at}" in one_line(again)
    assert checksum(directory) == before


def test_process_settings_are_given_back(tiny, tmp_path):
    before = torch.get_num_threads()
    with process_settings(before + 1, torch.device("cpu")):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    seen: list[int] = []
    train(
        tiny(f"train.threads={before + 1}"), tmp_path / "run", device="cpu",
        report=lambda step, scalars: seen.append(torch.get_num_threads()),
    )  # fmt: skip
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_the_device_is_chosen_or_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(GrokscopeError, match="no GPU"):
        choose_device("cuda")
    with pytest.raises(GrokscopeError, match="'gpu' was given, expected auto, cpu or cuda"):
        choose_device("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


def test_a_place_that_cannot_be_written_is_one_line(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GrokscopeError) as caught:
        train(tiny(), tmp_path / "file" / "run", device="cpu")
    assert "cannot make" in one_line(caught)


def test_a_run_that_is_open_for_reading_can_be_gone_on_with(tiny, checksum, uninterrupted, tmp_path):
    recipe = tiny()
    with pytest.raises(Stop):
        train(recipe, tmp_path / "run", device="cpu", report=at(40, stop))
    half = open_run(tmp_path / "run")
    before = half.params(-1)
    train(recipe, tmp_path / "run", device="cpu", resume=True)
    assert checksum(tmp_path / "run") == uninterrupted
    assert all(torch.equal(value, before[name]) for name, value in half.params(-1).items())
    with h5py.File(tmp_path / "run" / "trajectory.h5") as plain:
        assert len(plain["steps"]) > len(half.steps)  # pyright: ignore[reportArgumentType]
