"""Python files of the user's: run when named, hashed as run, and told in one line when they fail."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import pytest

from grokscope.errors import GrokscopeError
from grokscope.user_code import load_function

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass

print("loading")
HELD = 3

@dataclass
class Doubler:
    factor: int = 2

def double(x):
    print("called")
    return Doubler().factor * x

def _hidden(x):
    return x
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "their forward.py"
    path.write_text(SOURCE)
    return path


def test_a_function_is_found_with_the_hash_of_what_ran(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call, sha256, name = load_function(f"{file}:double")
    assert (call(21), name) == (42, "double")
    assert call.__name__ == "double"
    assert sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    said = capsys.readouterr()
    assert said.out == ""  # standard output is data
    assert said.err == "loading\ncalled\n"
    assert [p.name for p in file.parent.iterdir()] == [file.name]  # no cache beside a stranger's file


def test_a_changed_file_is_read_anew(file: Path) -> None:
    first = load_function(f"{file}:double")
    file.write_text("def double(x):\n    return 3 * x\n")
    second = load_function(f"{file}:double")
    assert (first.call(2), second.call(2)) == (4, 6)
    assert first.sha256 != second.sha256


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("{file}", "expected FILE:FUNCTION"),
        ("{file}:", "expected FILE:FUNCTION"),
        (":double", "expected FILE:FUNCTION"),
        (
            "{file}:doubel",
            "'doubel' is not in it, expected one of dataclass, Doubler, double; did you mean 'double'?",
        ),
        ("{file}:HELD", "'HELD' is no function"),
        ("{folder}/none.py:double", "is not a file"),
        ("{folder}:double", "is not a file"),
        ("{folder}/\0:double", "expected a Python file"),
    ],
)
def test_what_is_not_there_is_told(file: Path, spec: str, says: str) -> None:
    with pytest.raises(GrokscopeError, match=re.escape(says)) as failed:
        load_function(spec.format(file=file, folder=file.parent))
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def (", "SyntaxError"),
        ("import no_such_module_here", "PYTHONPATH="),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("x = '\0'", "SyntaxError|ValueError"),
    ],
)
def test_a_file_that_fails_is_told_in_one_line_and_leaves_nothing(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "forward.py"
    path.write_text(text)
    before = set(sys.modules)
    with pytest.raises(GrokscopeError, match=says) as failed:
        load_function(f"{path}:forward")
    assert "\n" not in str(failed.value)
    assert not {name for name in set(sys.modules) - before if name.startswith("grokscope_function")}
