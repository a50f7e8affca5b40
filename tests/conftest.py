"""Commands called as scripts call them, and a small trained run to call them on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from grokscope import cli
from grokscope.training import recipe_from, train

RECIPE = Path(__file__).with_name("little.toml").read_text()


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def error(self) -> str:
        """The line of a command that failed before it began: the only one on stderr, no bar around it."""
        assert "\r" not in self.err, self.err
        assert self.err.count("\n") == 1, self.err
        return self.last_line()

    def last_line(self) -> str:
        """The line of a command that failed on its way, as a terminal shows it below the bars."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert "Traceback" not in self.err + self.out
        line = self.err.rstrip("\n").rsplit("\n", 1)[-1].rsplit("\r", 1)[-1]
        assert line.startswith("grokscope: "), self.err
        return line


Call = Callable[..., Result]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["grokscope", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def in_its_own_process() -> Call:
    """Run a command in a process of its own; keywords go to ``subprocess.run``."""

    def run(*arguments: object, **options: Any) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "grokscope.cli", *map(str, arguments)],
            capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    return run


# how long one example takes is the machine's business, not the test's
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with one finished run, ``little-s3``; not to be changed."""
    workspace = tmp_path_factory.mktemp("trained")
    (workspace / "little.toml").write_text(RECIPE)
    recipe = recipe_from(tomllib.loads(RECIPE), "little.toml")
    train(recipe, workspace / "checkpoints" / "little-s3", device="cpu")
    return workspace


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Path:
    """A copy of that workspace to work in, its run not measured yet whoever looked at it before."""
    kept = shutil.ignore_patterns("measurements.h5", "readings", "reports")
    return Path(shutil.copytree(trained, tmp_path / "workspace", ignore=kept))
