"""Registering probes, suites, plug-ins from a file and from an installed package."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.models import MLP, MLPSettings
from grokscope.probes import (
    Quantity,
    Record,
    builtin_suites,
    probe,
    read_suite,
    register,
    registered,
    registry,
)
from grokscope.tasks import ModularSettings

PLUGIN = Path(__file__).parents[2] / "probes" / "embedding_turn.py"
SUITE = Path(__file__).parents[2] / "probes" / "structure.toml"
MODEL = MLPSettings(d_embed=4, hidden=(6,))
TASK = ModularSettings(p=5, train_fraction=0.5)


@pytest.fixture
def own_registry(monkeypatch):
    """Whatever a test registers is gone after it."""
    monkeypatch.setattr(registry, "_PROBES", dict(registered()))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("grokscope_plugin_"):
            del sys.modules[name]


@pytest.fixture
def run(make_run):
    generator = torch.Generator().manual_seed(0)
    networks = [MLP(MODEL, 5, 5).init(generator, torch.float64) for _ in range(3)]
    return make_run(MODEL, TASK, networks)


@pytest.mark.usefixtures("own_registry")
def test_the_worked_plugin_measures_what_it_says(run):
    record = probe(run, only=["norms"], plugins=[PLUGIN])
    tables = run.stacked(["embed.W_E"])["embed.W_E"].flatten(1).numpy()
    expected = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in pairwise(tables)]
    np.testing.assert_allclose(record["embedding_turn.cosine"], expected, rtol=1e-12)
    assert record.measurements["embedding_turn.cosine"].dims == ("interval",)
    assert registered()["embedding_turn"].figures


def test_the_worked_plugin_is_about_twenty_lines():
    body = PLUGIN.read_text().split('"""', 2)[2].splitlines()
    assert sum(bool(line.strip()) and not line.startswith(("import", "from")) for line in body) <= 22


@pytest.mark.usefixtures("own_registry")
def test_a_plugin_given_twice_is_loaded_once(run):
    assert "embedding_turn" in probe(run, only=["norms"], plugins=[PLUGIN, PLUGIN]).probes


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1", "it registered none"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("def (", "SyntaxError"),
    ],
)
def test_a_plugin_that_fails_is_told_in_one_line(tmp_path, run, text, says):
    path = tmp_path / "plugin.py"
    path.write_text(text)
    with pytest.raises(GrokscopeError, match=says) as failed:
        probe(run, plugins=[path])
    assert "\n" not in str(failed.value)


@pytest.mark.usefixtures("own_registry")
def test_a_name_is_taken_once():
    with pytest.raises(GrokscopeError, match="the name is taken"):
        register("loss", question="again?", quantities=())(lambda run, record: None)


@pytest.mark.usefixtures("own_registry")
def test_a_plugin_that_needs_what_a_run_lacks_is_absent_as_a_whole(tmp_path, run):
    path = tmp_path / "needy.py"
    path.write_text(
        "from grokscope.probes import Quantity, register\n"
        "@register('needy', question='?', needs=['split'], quantities=[\n"
        "    Quantity('needy.<part>', '1', 'A part.'), Quantity('needy.whole', '1', 'All.')])\n"
        "def needy(run, record):\n"
        "    record.add('needy.whole', float(run.task.train_mask.sum()), dims=())\n"
    )
    assert probe(run, only=["norms"], plugins=[path])["needy.whole"] == 12
    blind = replace(run, task=run.task.without_split("nobody wrote it down"))
    record = probe(blind, only=["norms"], plugins=[path])
    assert {n: w for n, w in record.absent.items() if n.startswith("needy")} == {
        "needy.<part>": "nobody wrote it down",
        "needy.whole": "nobody wrote it down",
    }
    assert "needy" in record.probes


@pytest.mark.usefixtures("own_registry")
def test_a_need_that_is_none_is_refused():
    with pytest.raises(
        GrokscopeError, match="expected some of split, function, anatomy; did you mean 'split'"
    ):
        register("new", question="?", quantities=(), needs=["spilt"])(lambda run, record: None)  # pyright: ignore


@pytest.mark.usefixtures("own_registry")
def test_a_probe_of_an_installed_package_is_found(monkeypatch, tmp_path):
    module = tmp_path / "installed_probe.py"
    module.write_text(
        "from grokscope.probes import Quantity, register\n"
        "@register('installed', question='?', quantities=[Quantity('installed.one', '1', 'One.')])\n"
        "def installed(run, record):\n"
        "    record.add('installed.one', 1.0, dims=())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry = EntryPoint("installed", "installed_probe", "grokscope.probes")
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [entry] if group == "grokscope.probes" else []
    )
    assert "installed" in registered()
    broken = EntryPoint("broken", "no_such_module_here", "grokscope.probes")
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    with pytest.raises(GrokscopeError, match="loading probe 'broken'"):
        registered()


def test_every_built_in_probe_is_in_a_built_in_suite():
    named = {probe for suite in builtin_suites() for probe in read_suite(suite).probes}
    ours = {name for name, one in registered().items() if one.measure.__module__.startswith("grokscope.")}
    assert named == ours
    # those of the two that are asked for by name come with what dates their events
    for suite in ("alignment", "manifold"):
        assert {"loss", "clocks", suite} <= set(read_suite(suite).probes)


def test_suites_are_data(tmp_path):
    assert read_suite(SUITE).probes == ("loss", "norms", "fourier", "spectra", "clocks")
    assert set(read_suite("quick").probes) < set(read_suite("default").probes)
    for text, says in [
        ("probes = []", "expected a list of probe names"),
        ("probes = ['loss']\nplugins = ['x.py']", "unknown key 'plugins'"),
        ("probes =", "expected TOML"),
        ("probes = ['loss']\noptions = 3", "expected one table a probe"),
    ]:
        path = tmp_path / "suite.toml"
        path.write_text(text)
        with pytest.raises(GrokscopeError, match=says):
            read_suite(path)
    with pytest.raises(GrokscopeError, match="did you mean 'quick'"):
        read_suite("quik")


def test_mistyped_probes_and_options_name_the_nearest(run, tmp_path):
    with pytest.raises(GrokscopeError, match="did you mean 'fourier'"):
        probe(run, only=["furier"])
    path = tmp_path / "suite.toml"
    path.write_text("probes = ['norms']\n[options.norms]\nwrong = 1")
    with pytest.raises(GrokscopeError, match="option 'wrong' was given"):
        probe(run, path)


def test_probes_run_after_those_they_read(run):
    order = probe(run, only=["clocks", "norms", "loss"]).probes
    assert order.index("clocks") > order.index("loss")


def test_a_record_takes_only_what_was_declared():
    record = Record("r", np.arange(3))
    record.declare([Quantity("a.<map>.b", "1", "x"), Quantity("c", "1", "x")])
    record.add("a.one.two.b", np.zeros(3))
    for name, values, dims, says in [
        ("a.b", np.zeros(3), ("step",), "the probe declares"),
        ("c", np.zeros(2), ("step",), "has length 2, expected 3"),
        ("c", np.zeros(3), ("interval",), "expected 2"),
        ("c", np.zeros((3, 2)), ("step",), "2 axes"),
    ]:
        with pytest.raises(GrokscopeError, match=says):
            record.add(name, values, dims)


def test_a_record_survives_its_file(run, tmp_path):
    from grokscope.probes import load_record

    record = probe(run, only=["loss", "norms", "clocks"])
    record.save(tmp_path / "m.h5", {"key": 1})
    again = load_record(tmp_path / "m.h5", {"key": 1})
    assert again is not None
    assert again.to_json() == record.to_json()
    assert load_record(tmp_path / "m.h5", {"key": 2}) is None
    assert load_record(tmp_path / "none.h5", {"key": 1}) is None
    (tmp_path / "bad.h5").write_bytes(b"not hdf5")
    assert load_record(tmp_path / "bad.h5", {"key": 1}) is None


def test_undefined_entries_are_null_in_json():
    record = Record("r", np.arange(2))
    record.declare([Quantity("c", "1", "x")])
    record.add("c", np.array([np.nan, np.inf]))
    assert record.to_json()["measurements"]["c"]["values"] == [None, None]
