"""Every public name has a test that holds its value; the table of them is ``public_names.toml``."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from grokscope.probes import registered

ROOT = Path(__file__).parent.parent
TABLE: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_name("public_names.toml").read_text())


def declared() -> dict[str, set[str]]:
    """Probe → the names that it declares; probes of other installed packages are not ours to test."""
    ours = {
        name: probe
        for name, probe in registered().items()
        if probe.measure.__module__.startswith("grokscope.")
    }
    return {name: {quantity.name for quantity in probe.quantities} for name, probe in ours.items()}


def test_every_name_has_an_entry_and_no_entry_is_stale():
    assert {probe: set(entries) for probe, entries in TABLE.items()} == declared()


def test_names_are_declared_once():
    names = [name for found in declared().values() for name in found]
    assert len(names) == len(set(names))


def functions(path: Path) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def checks(name: str, known: dict[str, ast.FunctionDef], through: tuple[str, ...] = ()) -> bool:
    """Whether a function asserts something, by itself or in a function of its file that it calls."""
    for node in ast.walk(known[name]):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if "assert" in called or called == "pytest.raises":
                return True
            if called in known and called not in through and checks(called, known, (*through, name)):
                return True
    return False


@pytest.mark.parametrize("place", sorted({place for entries in TABLE.values() for place in entries.values()}))
def test_every_test_named_exists_and_can_fail(place):
    path, name = place.split("::")
    assert name.startswith("test_")
    found = functions(ROOT / path)
    assert name in found, f"{path} has {sorted(found)}"
    assert checks(name, found)
