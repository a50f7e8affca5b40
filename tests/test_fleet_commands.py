"""Many runs by one command: ``train --seeds --vary``, ``probe RUN RUN...``, ``--jobs``, ``--shard``, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from grokscope import cli
from grokscope.claims import claimed
from grokscope.probes import registered, registry
from grokscope.probes.cache import MEASUREMENTS
from grokscope.training import read_recipe, train
from grokscope.trajectory import verify_trajectory

RECIPE = """
name = "little"
seed = 3
[task]
name = "modular"
op = "add"
p = 7
train_fraction = 0.6
[model]
family = "mlp"
d_embed = 6
hidden = [12]
[train]
steps = 20
lr = 1e-2
[save]
schedule = ["0:end:4"]
evaluate = ["0:end:2"]
snapshots = 20
"""

Call = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Run a command on the recipe in its workspace: exit code, lines of stdout, lines of stderr below the bars."""
    (tmp_path / "little.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["grokscope", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        said = [line for line in re.split(r"[\n\r]", captured.err) if line.startswith("grokscope: ")]
        return code, captured.out.splitlines(), said

    return run


def trained(folder: Path) -> dict[str, str | None]:
    return {
        path.parent.name: verify_trajectory(path).checksum
        for path in sorted(folder.glob("checkpoints/*/trajectory.h5"))
    }


def test_seeds_times_values_and_the_same_once_more(call, tmp_path):
    arguments = ("train", "little.toml", "--seeds", "0:2", "--vary", "train.lr=0.01,2e-2", "--device", "cpu")
    code, out, said = call(*arguments, "--jobs", 2)
    assert (code, said) == (0, [])
    names = [f"little-s{seed}.lr-{lr}" for seed in (0, 1) for lr in ("0.01", "0.02")]
    assert out == [f"run     checkpoints/{name}" for name in names]
    found = trained(tmp_path)
    assert sorted(found) == sorted(names)
    # what one of them is when it is trained by itself
    assert call("train", "little.toml", "--seed", 1, "--set", "train.lr=0.02", "--name", "alone")[0] == 0
    assert trained(tmp_path)["alone"] == found["little-s1.lr-0.02"]

    code, out, said = call(*arguments)
    assert code == 2
    assert out == []
    assert "4 of 4 runs exist" in said[0]
    assert len(said) == 1
    assert call(*arguments, "--resume")[:2] == (0, [f"run     checkpoints/{name}" for name in names])
    # more values: what is there is kept, what is missing is added
    code, out, _ = call(
        "train", "little.toml", "--seeds", "0:3", *arguments[4:], "--resume", "--name", "little"
    )
    assert (code, len(out)) == (0, 6)
    assert {name: trained(tmp_path)[name] for name in names} == found


def test_shares_make_the_whole(call, tmp_path):
    arguments = ("train", "little.toml", "--seeds", "0:5", "--set", "train.steps=4", "--jobs", 1)
    printed = [line for share in (1, 2, 3) for line in call(*arguments, "--shard", f"{share}/3")[1]]
    assert sorted(printed) == [f"run     checkpoints/little-s{seed}" for seed in range(5)]
    assert sorted(trained(tmp_path)) == [f"little-s{seed}" for seed in range(5)]
    code, out, said = call(*arguments, "--shard", "6/6")
    assert (code, said) == (0, [])
    assert out == ["nothing to do: 5 runs, and share 6/6 has none of them"]


def test_runs_that_fail_are_a_line_each(call, tmp_path):
    diverging = (
        "--set",
        "train.optimizer=gd",
        "--set",
        "train.loss=squared",
        "--set",
        "train.betas=[0.9, 0.9]",
    )
    code, out, said = call("train", "little.toml", *diverging, "--vary", "train.lr=0.1,1e6,1e7", "--jobs", 1)
    assert code == 2
    assert out == ["run     checkpoints/little-s3.lr-0.1"]
    assert "training little-s3.lr-1000000: the loss is not finite" in said[0].replace("1000000.0", "1000000")
    assert "little-s3.lr-10000000" in said[1].replace("10000000.0", "10000000")
    assert "2 did not end, as said above, and 1 are finished" in said[2]
    assert len(said) == 3


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--seeds", "4:4"), "expected A:B with A below B"),
        (("--seeds", "0:2", "--seed", 1), "--seed and --seeds"),
        (("--vary", "train.lr"), "expected FIELD=V,V"),
        (("--vary", "train.lrr=1,2"), "did you mean 'lr'"),
        (("--vary", "train.lr=1,1.0"), "train.lr"),
        (("--vary", "train.lr=1,2", "--set", "train.lr=3"), "train.lr was given to both"),
        (("--seeds", "0:2", "--jobs", 0), "--jobs 0"),
        (("--seeds", "0:2", "--shard", "0/2"), "expected i/n"),
        (("--seeds", "0:2", "--jobs", 2, "--cluster", "tcp://127.0.0.1:1"), "--jobs and --cluster"),
        (("--seeds", "0:2", "--device", "tpu"), "auto, cpu or cuda"),
        (("--seeds", "0:2", "--name", "../x"), "'../x-s0'"),
    ],
)
def test_what_cannot_be_trained_is_one_line(call, tmp_path, arguments, part):
    code, out, said = call("train", "little.toml", *arguments)
    assert (code, out) == (2, [])
    assert len(said) == 1
    assert part in said[0]
    assert not (tmp_path / "checkpoints").exists()


def test_a_single_run_that_somebody_is_at_is_left_alone(call, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with claimed(tmp_path / "checkpoints" / "little-s3"):
        code, _, said = call("train", "little.toml")
        assert code == 2
        assert f"process {os.getpid()} on" in said[0]
    assert call("train", "little.toml")[0] == 0


@pytest.fixture
def four(tmp_path: Path) -> list[str]:
    """Four trained runs."""
    (tmp_path / "little.toml").write_text(RECIPE)
    names = [f"little-s{seed}" for seed in range(4)]
    for seed, name in enumerate(names):
        train(read_recipe(tmp_path / "little.toml", seed=seed), tmp_path / "checkpoints" / name, device="cpu")
    return names


def test_many_runs_are_measured(call, four, tmp_path):
    only = ("--only", "loss,norms")
    code, out, said = call("probe", *four, "--jobs", 2, *only, "--json", "all.json", "--csv", "tables")
    assert (code, said) == (0, [])
    found = json.loads((tmp_path / "all.json").read_text())
    assert list(found) == ["runs"]
    assert [run["run"] for run in found["runs"]] == four
    for name, run in zip(four, found["runs"], strict=True):
        assert call("probe", name, *only, "--json", "one.json")[0] == 0
        assert json.loads((tmp_path / "one.json").read_text()) == run
        assert list((tmp_path / "tables" / name).glob("*.csv"))
        assert (tmp_path / "checkpoints" / name / MEASUREMENTS).exists()
    assert [line.split(":")[0] for line in out if line.startswith("little")] == four
    assert out[-2:] == ["wrote   all.json", "wrote   tables"]
    assert not list(tmp_path.rglob(".*"))


def test_files_and_folders_are_found_from_where_the_command_is_given(call, four, tmp_path, monkeypatch):
    """Workers that were begun in another folder find the same runs, suites and plug-ins."""
    registered()
    monkeypatch.setattr(registry, "_PROBES", dict(registry._PROBES))
    assert call("probe", *four[:2], "--only", "norms", "--jobs", 2)[0] == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "mine.toml").write_text('probes = ["norms"]')
    (elsewhere / "plug.py").write_text(
        "from grokscope.probes import Quantity, register\n"
        "@register('mine', question='How many?', quantities=[Quantity('mine.count', '1', 'A count.')])\n"
        "def mine(run, record):\n"
        "    record.skip('mine.count', 'nothing to count')\n"
    )
    runs = [f"../checkpoints/{name}" for name in four[2:]]
    code, _, said = call(
        "probe", *runs, "--suite", "mine.toml", "--plugin", "plug.py", "--jobs", 2, "--json", "all.json"
    )
    assert (code, said) == (0, [])
    found = json.loads((elsewhere / "all.json").read_text())["runs"]
    assert [run["run"] for run in found] == four[2:]
    assert all("mine.count" in run["absent"] for run in found)
    assert "neither a file nor a built-in suite" in call("probe", *runs, "--suite", "nowhere.toml")[2][0]


def test_a_run_that_cannot_be_measured_leaves_the_others_alone(call, four, tmp_path):
    (tmp_path / "checkpoints" / "little-s1" / "trajectory.h5").write_bytes(b"broken")
    code, _, said = call("probe", *four[:3], "nowhere", "--only", "norms", "--jobs", 1, "--json", "all.json")
    assert code == 2
    assert "trajectory.h5" in said[0]
    assert "nowhere" in said[1]
    assert "2 failed, as said above, and 2 are measured" in said[2]
    found = json.loads((tmp_path / "all.json").read_text())["runs"]
    assert [run["run"] for run in found] == ["little-s0", "little-s2"]


def test_shares_of_runs_are_measured(call, four, tmp_path):
    for share, mine in ((1, {"little-s0", "little-s3"}), (2, {"little-s1"}), (3, {"little-s2"})):
        assert call("probe", *four, "--only", "norms", "--jobs", 1, "--shard", f"{share}/3")[0] == 0
        measured = {path.parent.name for path in tmp_path.glob(f"checkpoints/*/{MEASUREMENTS}")}
        assert mine <= measured
    assert measured == set(four)


def test_what_cannot_be_probed_is_one_line(call, four):
    assert "expected one run or a folder" in call("probe", *four, "--csv", "-")[2][0]
    assert "did you mean 'norms'" in call("probe", *four, "--only", "normss")[2][0]
    assert "did you mean 'quick'" in call("probe", *four, "--suite", "quik")[2][0]
    assert "--jobs 0" in call("probe", *four, "--jobs", 0)[2][0]


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_in_a_terminal_stops_all_and_resuming_ends_them(call, tmp_path, whole_group):
    """A terminal signals the whole process group; a script the command alone. Both end every run once."""
    (tmp_path / "long.toml").write_text(
        RECIPE.replace("steps = 20", "steps = 1000").replace("0:end:4", "0:end:40")
    )
    command = [
        sys.executable, "-m", "grokscope.cli", "train", "long.toml", "--seeds", "0:3", "--device", "cpu",
        "--jobs", "2",
    ]  # fmt: skip
    folder = tmp_path / "checkpoints"
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*/trajectory.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=120)
    assert "Traceback" not in errors, errors
    assert process.returncode == 2
    last = errors.rstrip().split("\n")[-1].split("\r")[-1]
    assert "--resume goes on" in last
    assert "0 are finished, 2 stopped on the way and 1 not begun" in last
    assert out == ""
    assert not list(folder.glob(".*"))
    code, out, said = call(*command[3:-2], "--jobs", 1, "--resume")
    assert (code, said) == (0, [])
    assert out == [f"run     checkpoints/little-s{seed}" for seed in range(3)]
    train(read_recipe(tmp_path / "long.toml", seed=1), tmp_path / "alone", device="cpu")
    assert trained(tmp_path)["little-s1"] == verify_trajectory(tmp_path / "alone" / "trajectory.h5").checksum
