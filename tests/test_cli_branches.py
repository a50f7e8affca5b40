"""``plan``, ``replay`` and ``fork`` as scripts use them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from grokscope.commands.planning import duration, size
from grokscope.trajectory import Trajectory, read_manifest, verify_trajectory, write_manifest


def steps(directory: Path) -> list[int]:
    with Trajectory(directory / "trajectory.h5") as run:
        return run.steps.tolist()


def checksum(directory: Path) -> str | None:
    return verify_trajectory(directory / "trajectory.h5").checksum


# replay


def test_replay_makes_a_run_that_every_command_takes(call, workspace):
    made = call("replay", "little-s3", "--steps", "24:40:1", "--workspace", workspace)
    assert made.code == 0, made.err
    directory = workspace / "checkpoints" / "little-s3.replay-24-40-1"
    first, second = made.out.splitlines()
    assert first == (
        "computed from the snapshot of step 20: 17 saves; 6 saves and 1 snapshots of little-s3 were met on the way, "
        "equal bit for bit"
    )
    assert second == f"run     {directory}"
    assert steps(directory) == list(range(24, 41))
    name = directory.name
    checked = json.loads(call("verify", name, "--workspace", workspace, "--json", "-").out)
    assert (checked["run"], checked["first_step"], checked["last_step"]) == (name, 24, 40)
    probed = call("probe", name, "--workspace", workspace, "--json", "-", "--only", "loss,norms")
    assert probed.code == 0, probed.err
    assert json.loads(probed.out)["steps"] == list(range(24, 41))
    assert call("inspect", name, "--workspace", workspace).code == 0
    again = call("replay", name, "--steps", "30:34:2", "--workspace", workspace, "--name", "closer")
    assert again.code == 0, again.err
    assert steps(workspace / "checkpoints" / "closer") == [30, 32, 34]
    line = call("replay", "little-s3", "--steps", "24:40:1", "--workspace", workspace).error()
    assert "exists, expected a new name (--name)" in line


@pytest.mark.slow
@pytest.mark.parametrize("command", [("replay", "--steps", "24:40:1"), ("fork", "--at", "30")])
def test_what_begins_late_has_a_report(call, workspace, command):
    name, *options = command
    assert call(name, "little-s3", *options, "--name", "late", "--workspace", workspace).code == 0
    shown = call("report", "late", "--workspace", workspace)
    assert shown.code == 0, shown.err
    assert (workspace / "reports" / "late.html").exists()


def test_replay_takes_a_path_and_left_out_ends(call, workspace):
    run = workspace / "checkpoints" / "little-s3"
    made = call("replay", run, "--steps", "57:", "--workspace", workspace)
    assert made.code == 0, made.err
    assert "computed from the snapshot of step 40" in made.out
    assert steps(workspace / "checkpoints" / "little-s3.replay-57-60-1") == [57, 58, 59, 60]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--steps", "a:b"), "expected A:B:K"),
        (("--steps", "50:61:1"), "at most 60"),
        (("--steps", "5:2"), "A <= B"),
        ((), "Missing option '--steps'"),
        (("--steps", "0:4:1", "--name", "../x"), "'../x'"),
        (("--steps", "0:4:1", "--name", "little-s3"), "exists"),
    ],
)
def test_replay_refuses_in_one_line(call, trained, arguments, part):
    assert part in call("replay", "little-s3", *arguments, "--workspace", trained).error()
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"little-s3"}


@pytest.mark.parametrize("command", [("replay", "--steps", "0:4:1"), ("fork", "--at", "4")])
def test_what_is_no_run_of_ours_is_refused(call, workspace, command):
    name, *options = command
    line = call(name, "litle-s3", *options, "--workspace", workspace).error()
    assert "did you mean 'little-s3'" in line
    run = workspace / "checkpoints" / "little-s3"
    write_manifest(run, {**read_manifest(run), "kind": "imported"})
    assert "it is imported" in call(name, "little-s3", *options, "--workspace", workspace).error()
    (run / "run.json").write_text('{"schema": 1, "kind": "trained"}')
    assert (
        "expected a run that grokscope trained"
        in call(name, "little-s3", *options, "--workspace", workspace).error()
    )
    (run / "run.json").write_text("not json")
    assert "run.json" in call(name, "little-s3", *options, "--workspace", workspace).error()


@pytest.mark.parametrize("command", [("replay", "--steps", "0:4:1"), ("fork", "--at", "4")])
def test_a_trajectory_that_cannot_be_read_is_one_line(call, workspace, command):
    name, *options = command
    path = workspace / "checkpoints" / "little-s3" / "trajectory.h5"
    path.write_bytes(path.read_bytes()[:3000])
    assert "trajectory.h5" in call(name, "little-s3", *options, "--workspace", workspace).error()
    path.unlink()
    assert "trajectory.h5" in call(name, "little-s3", *options, "--workspace", workspace).error()


# fork


def test_fork_goes_on_from_a_step(call, workspace):
    made = call("fork", "little-s3", "--at", 30, "--workspace", workspace)
    assert made.code == 0, made.err
    directory = workspace / "checkpoints" / "little-s3.fork-30"
    assert made.out == f"run     {directory}\n"
    assert steps(directory) == [30, *range(32, 61, 4)]
    with (
        Trajectory(directory / "trajectory.h5") as fork,
        Trajectory(workspace / "checkpoints" / "little-s3" / "trajectory.h5") as run,
    ):
        for name in run.names:
            assert fork.read(name)[1:].tobytes() == run.read(name)[8:].tobytes()
    for command in ("verify", "inspect"):
        assert call(command, directory.name, "--workspace", workspace).code == 0
    probed = call(
        "probe", directory.name, "--workspace", workspace, "--json", "-", "--only", "loss,norms,clocks"
    )
    assert probed.code == 0, probed.err
    assert "exists" in call("fork", "little-s3", "--at", 30, "--workspace", workspace).error()


def test_several_forks_are_made_at_once(call, workspace):
    options = (
        "--at",
        20,
        "--vary",
        "train.weight_decay=0,2",
        "--set",
        "train.lr=0.02",
        "--workspace",
        workspace,
    )
    made = call("fork", "little-s3", *options)
    assert made.code == 0, made.err
    names = ["little-s3.fork-20.weight_decay-0", "little-s3.fork-20.weight_decay-2"]
    assert made.out.splitlines() == [f"run     {workspace / 'checkpoints' / name}" for name in names]
    for name, decay in zip(names, (0, 2), strict=True):
        manifest = read_manifest(workspace / "checkpoints" / name)
        assert manifest["config"]["train"]["weight_decay"] == decay
        assert set(manifest["parent"]["changed"]) == {"train.lr", "train.weight_decay"}
        assert manifest["parent"]["at"] == 20
    before = [checksum(workspace / "checkpoints" / name) for name in names]
    assert call("fork", "little-s3", *options, "--resume").code == 0
    assert [checksum(workspace / "checkpoints" / name) for name in names] == before
    named = call("fork", "little-s3", "--at", 20, "--vary", "train.lr=0.1,0.2", "--name", "try", "--jobs", 1,
                 "--workspace", workspace)  # fmt: skip
    assert named.code == 0, named.err
    assert (workspace / "checkpoints" / "try.lr-0.1").is_dir()


def test_a_fork_is_resumed_by_the_same_command_or_as_a_run(call, workspace, monkeypatch):
    from grokscope.training.trainer import Session

    update = Session._update

    def interrupting(self: Session, step: int) -> None:
        if step == 44:
            signal.raise_signal(signal.SIGINT)
        update(self, step)

    options = ("little-s3", "--at", 30, "--set", "train.lr=0.02", "--workspace", workspace)
    whole = call("fork", *options, "--name", "whole")
    assert whole.code == 0, whole.err
    for name, command in (
        ("one", ("fork", *options, "--name", "one", "--resume")),
        ("two", ("train", workspace / "checkpoints" / "two" / "run.json", "--name", "two", "--resume",
                 "--workspace", workspace, "--device", "cpu")),
    ):  # fmt: skip
        with monkeypatch.context() as patched:
            patched.setattr(Session, "_update", interrupting)
            stopped = call("fork", *options, "--name", name)
        assert "the same command with --resume goes on" in stopped.last_line()
        assert steps(workspace / "checkpoints" / name)[-1] == 44
        resumed = call(*command)
        assert resumed.code == 0, resumed.err
        assert checksum(workspace / "checkpoints" / name) == checksum(workspace / "checkpoints" / "whole")
        assert read_manifest(workspace / "checkpoints" / name)["kind"] == "forked"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--at", "20", "--set", "model.hidden=[3]"), "model.hidden was set to [3], expected [12]"),
        (("--at", "20", "--set", "seed=4"), "seed was set to 4, expected 3"),
        (("--at", "20", "--vary", "seed=4,5"), "seed was set to"),
        (("--at", "20", "--set", "train.lrr=3"), "did you mean 'lr'"),
        (("--at", "20", "--set", "train.lr"), "FIELD=VALUE"),
        (("--at", "20", "--vary", "train.lr"), "FIELD=V,V,..."),
        (("--at", "61"), "at most 60"),
        (("--at", "60"), "a step before the last"),
        (("--at", "-1"), "-1 is not in the range"),
        (("--at", "x"), "'x' is not a valid integer"),
        ((), "Missing option '--at'"),
        (("--at", "20", "--name", "a/b"), "'a/b'"),
        (("--at", "20", "--name", "little-s3"), "exists"),
    ],
)
def test_fork_refuses_in_one_line(call, trained, arguments, part):
    assert part in call("fork", "little-s3", *arguments, "--workspace", trained).error()
    assert {p.name for p in (trained / "checkpoints").iterdir()} == {"little-s3"}


# plan


@pytest.fixture
def in_an_instant(monkeypatch: pytest.MonkeyPatch) -> None:
    from grokscope.training import plan

    monkeypatch.setattr(plan, "BUDGET", 0.02)


@pytest.mark.usefixtures("in_an_instant")
def test_plan_says_what_a_run_takes_and_writes_nothing(call, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = call("plan", trained / "little.toml", "--device", "cpu")
    assert (shown.code, shown.err) == (0, "")
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.out.splitlines()}
    assert lines["run"] == "little-s3"
    assert lines["steps"] == "60"
    assert lines["saves"] == "16, evaluations 31, snapshots 3"
    assert lines["disk"].split(":")[0].endswith("kB")
    assert lines["time"].startswith("about ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("in_an_instant")
def test_plan_prints_pure_json_for_many_runs(call, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--seeds", "0:3", "--vary", "train.steps=60,120", "--device", "cpu")
    shown = call("plan", trained / "little.toml", *options, "--json", "-")
    assert shown.code == 0, shown.err
    found = json.loads(shown.out)
    assert [run["name"] for run in found["runs"]][:2] == ["little-s0.steps-60", "little-s0.steps-120"]
    assert [run["steps"] for run in found["runs"]] == [60, 120] * 3
    assert found["all"]["bytes"] == sum(run["bytes"]["all"] for run in found["runs"])
    assert found["all"]["seconds"]["low"] <= found["all"]["seconds"]["estimate"]
    assert found["machine"]["device"] == "cpu"
    assert "all 6" in shown.err
    assert "and 2 more, each:" in shown.err
    written = call("plan", trained / "little.toml", "--json", tmp_path / "plan.json", "--device", "cpu")
    assert written.code == 0, written.err
    assert json.loads((tmp_path / "plan.json").read_text())["runs"][0]["saves"] == 16
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


@pytest.mark.usefixtures("in_an_instant")
def test_plan_says_at_most_where_a_window_waits(call, trained):
    shown = call("plan", trained / "little.toml", "--set", "save.schedule=['onset:9:1']", "--device", "cpu")
    assert "at most 11" in shown.out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("quikstart",), "did you mean 'quickstart'"),
        (("quickstart", "--set", "save.schedule=['onset:9']"), "onset:LENGTH:K"),
        (("quickstart", "--set", "save.onset_fall=2"), "save.onset_fall is 2"),
        (("quickstart", "--seeds", "3"), "A:B"),
        (("quickstart", "--device", "tpu"), "'tpu'"),
    ],
)
def test_plan_refuses_in_one_line(call, tmp_path, arguments, part):
    assert part in call("plan", *arguments, "--workspace", tmp_path).error()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.00042, "0.42 ms"), (0.0124, "12 ms"), (0.4, "400 ms"), (0.99999, "1.0 s"), (1.26, "1.3 s"),
        (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"), (86399, "1 d 0 h"), (97200, "1 d 3 h"),
    ],
)  # fmt: skip
def test_times_in_words(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (47328, "47.3 kB"), (999_600, "1 MB"),
     (163e6, "163 MB"), (2.5e9, "2.5 GB"), (1.2e13, "12 TB")],
)  # fmt: skip
def test_sizes_in_words(count, text):
    assert size(count) == text
