"""Imports point one way: which package may import which at the head of a module.

``errors``, ``claims``, ``work``, ``user_code`` and ``workspace`` serve all but ``measures`` and know none of the others
when they are imported. What a function imports when it is called, and what only a type checker reads, is not counted.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import grokscope

ROOT = Path(grokscope.__file__).parent
SUPPORT = {"errors", "claims", "work", "user_code", "workspace"}
MAY_IMPORT: dict[str, set[str]] = {
    "measures": set(),
    "errors": set(),
    "claims": {"errors"},
    "work": {"errors", "claims"},
    "user_code": {"errors"},
    "workspace": {"errors"},
    "tasks": {"measures", *SUPPORT},
    "models": {"measures", *SUPPORT},
    "trajectory": {*SUPPORT},
    "training": {"models", "tasks", "trajectory", "measures", *SUPPORT},
    "foreign": {"models", "tasks", "trajectory", "measures", *SUPPORT},
    "runs": {"trajectory", "models", "tasks", *SUPPORT},
    "probes": {"runs", "measures", "models", "trajectory", *SUPPORT},
    "report": {"probes", "runs", "measures", "trajectory", *SUPPORT},
    "export": {"probes", "runs", *SUPPORT},
    "studies": {
        "training",
        "report",
        "probes",
        "runs",
        "measures",
        "trajectory",
        "models",
        "tasks",
        *SUPPORT,
    },
    "lens_weights": {"models", *SUPPORT},
    "lens": {"lens_weights", "foreign", "models", "runs", "trajectory", *SUPPORT},
}
"""The command line and the package itself may import everything."""


def imported(path: Path) -> set[str]:
    """First parts, below ``grokscope``, of what is imported at the head of a module."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "grokscope":
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("grokscope.")}
    return found - {"__version__"}


def modules() -> list[tuple[str, Path]]:
    return [
        (path.relative_to(ROOT).parts[0].removesuffix(".py"), path)
        for path in sorted(ROOT.rglob("*.py"))
        if path.name != "__init__.py" or path.parent != ROOT
    ]


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    paths = [path for name, path in modules() if name == package]
    assert paths, f"there is no {package}"
    for path in paths:
        wrong = imported(path) - MAY_IMPORT[package] - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_every_package_has_its_place() -> None:
    assert {name for name, _ in modules()} == {*MAY_IMPORT, "cli", "commands"}


def test_the_order_has_no_cycle() -> None:
    below = {name: set(may) for name, may in MAY_IMPORT.items()}
    while below:
        free = {name for name, may in below.items() if not may & set(below)}
        assert free, f"a cycle among {', '.join(sorted(below))}"
        below = {name: may for name, may in below.items() if name not in free}
