"""Pickles of classes that are not there: readable settings and weights, nothing loaded, nothing run."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import datetime
import enum
import io
import pathlib
import pickle
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from grokscope.errors import GrokscopeError
from grokscope.foreign.reading.inert import Machine
from grokscope.foreign.reading.plain import Budget, Limits
from grokscope.foreign.reading.rebuilt import find
from grokscope.foreign.reading.records import Met, Record
from grokscope.foreign.reading.safe_read import Reading, read_file, state_dict_of_record
from tests.foreign.reading import hostile

ABSENT = "a_strangers_package.training"
"""The module that the classes below are said to come from, and that cannot be imported when they are read."""


class Configuration:
    """As the settings object of TransformerLens: attributes, among them dtypes, devices and functions."""

    def __init__(self) -> None:
        self.d_model, self.n_heads, self.act_fn = 128, 4, "relu"
        self.dtype, self.device = torch.float32, torch.device("cuda", 0)
        self.initialiser = torch.nn.functional.relu
        self.seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Hyper:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)


@dataclasses.dataclass(slots=True)
class Slotted:
    p: int = 113


class Operation(enum.Enum):
    ADD = "add"


class Options(enum.Flag):
    TIED = 1
    BIAS = 2


class Attributes(dict):  # type: ignore[type-arg]
    """A dict whose keys are attributes, as training frameworks keep hyperparameters in."""


class History(list):  # type: ignore[type-arg]
    """A list with a name."""


Pair = collections.namedtuple("Pair", "a b")


class Callback:
    """Objects that point at each other, as those of a trainer do."""

    def __init__(self, trainer: object) -> None:
        self.trainer = trainer
        self.best = torch.tensor(0.25)


class Trainer:
    def __init__(self) -> None:
        self.callbacks = [Callback(self), Callback(self)]
        self.step = 40_000


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W_Q = nn.Parameter(torch.randn(2, 3, 5))
        self.linear = nn.Linear(5, 4)
        self.register_buffer("mask", torch.ones(3, 3).tril())
        self.register_buffer("scratch", torch.zeros(2), persistent=False)
        self.register_parameter("absent", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks[0](self.embed(x))


OURS = (
    Configuration,
    Hyper,
    Slotted,
    Operation,
    Options,
    Attributes,
    History,
    Pair,
    Callback,
    Trainer,
    Block,
    Network,
)


@pytest.fixture
def stranger(monkeypatch: pytest.MonkeyPatch):
    """Writes with the classes of a module that is gone again when the file is read."""

    def write(write_it: Callable[[], None]) -> None:
        package, module = types.ModuleType("a_strangers_package"), types.ModuleType(ABSENT)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "a_strangers_package", package)
            patch.setitem(sys.modules, ABSENT, module)
            for one in OURS:
                patch.setattr(module, one.__name__, one, raising=False)
                patch.setattr(one, "__module__", ABSENT)
            write_it()

    return write


@pytest.fixture
def through(stranger, tmp_path: Path):
    """What is read of an object that was saved in one of the ways there are."""

    def read(content: object, how: str = "torch") -> Reading:
        path = tmp_path / "a.pt"
        if how.startswith("torch"):
            with warnings.catch_warnings():
                # torch looks for the source text of a model's class, which the module hides
                warnings.simplefilter("ignore")
                stranger(lambda: torch.save(content, path, _use_new_zipfile_serialization=how == "torch"))
        else:
            stranger(lambda: path.write_bytes(pickle.dumps(content, protocol=int(how))))
        with pytest.raises((AttributeError, ImportError)):
            __import__(ABSENT)
        return read_file(path)

    return read


WAYS = ("torch", "torch legacy", "0", "1", "2", "3", "4", "5")


@pytest.mark.parametrize("how", WAYS)
def test_settings_of_every_kind(through, how: str) -> None:
    content = {
        "config": Configuration(),
        "args": argparse.Namespace(p=113, frac_train=0.3, device="cuda"),
        "hyper": Hyper(),
        "simple": types.SimpleNamespace(x=1),
        "attributes": Attributes(lr=0.1, nested=Attributes(wd=1.0)),
        "history": History([1, 2]),
        "pair": Pair(3, 4),
        "path": pathlib.PurePosixPath("/home/someone/run"),
        "operation": Operation.ADD,
        "w": torch.arange(6.0).reshape(2, 3),
    }
    found = through(content, how)
    assert "inert record" in found.how
    assert isinstance(found.content, dict)
    config = found.content["config"]
    assert config["__class__"] == f"{ABSENT}.Configuration"
    assert (config["d_model"], config["act_fn"], config["seed"]) == (128, "relu", None)
    assert config["dtype"] == "torch.float32"
    assert config["device"] == "cuda:0"
    assert config["initialiser"] == "torch.nn.functional.relu"
    assert found.content["args"] == {
        "__class__": "argparse.Namespace", "p": 113, "frac_train": 0.3, "device": "cuda",
    }  # fmt: skip
    assert found.content["hyper"] == {"__class__": f"{ABSENT}.Hyper", "lr": 1e-3, "betas": [0.9, 0.98]}
    assert found.content["simple"]["x"] == 1
    assert found.content["attributes"]["lr"] == 0.1
    assert found.content["attributes"]["nested"]["wd"] == 1.0
    assert found.content["history"]["__items__"] == [1, 2]
    assert found.content["pair"]["__args__"] in ([3, 4], [[3, 4]])
    assert found.content["path"] == "/home/someone/run"
    assert found.content["operation"]["__args__"] == ["add"]
    assert torch.equal(found.content["w"], torch.arange(6.0).reshape(2, 3))
    for name in ("Configuration", "argparse.Namespace", "Attributes"):
        assert any(name in note for note in found.notes)


@pytest.mark.parametrize("how", ["2", "4"])
def test_slots_flags_and_what_else_python_has(through, how: str) -> None:
    content = {
        "slotted": Slotted(59),
        "flag": Options.TIED,
        "default": collections.defaultdict(list, a=[1]),
        "counter": collections.Counter("aab"),
        "ordered": collections.OrderedDict(x=1),
        "deque": collections.deque([1, 2], maxlen=5),
        "set": {3},
        "frozen": frozenset([4]),
        "bytes": b"abc",
        "raw": bytes(range(200, 256)),
        "bytearray": bytearray(b"xyz"),
        "complex": 1 + 2j,
        "slice": slice(0, 3),
        "range": range(4),
        "large": 10**2000,
        "when": datetime.date(2024, 2, 3),
        "type": dict,
        "nothing": (),
        "text": "ä\n",
    }
    found = through(content, how).content
    assert isinstance(found, dict)
    assert found["slotted"]["p"] == 59 or found["slotted"]["__state__"] == [59]
    assert found["default"] == {"a": [1]}
    assert found["counter"] == {"a": 2, "b": 1}
    assert found["ordered"] == {"x": 1}
    assert found["deque"] == [1, 2]
    assert (found["set"], found["frozen"]) == ([3], [4])
    assert (found["bytes"], found["raw"], found["bytearray"]) == ("abc", "<bytes>", "xyz")
    assert found["complex"] == "complex(1.0, 2.0)"
    assert found["slice"] == "slice(0, 3, None)"
    assert found["large"] == f"<integer of {(10**2000).bit_length()} bits>"
    assert found["when"]["__class__"] == "datetime.date"
    assert found["type"] == "builtins.dict"
    assert (found["nothing"], found["text"]) == ([], "ä\n")


@pytest.mark.parametrize("how", ["torch", "torch legacy", "2"])
def test_a_whole_model(through, how: str) -> None:
    model = Network()
    found = through({"model": model, "epoch": 3}, how)
    assert "inert record" in found.how
    assert isinstance(found.content, dict)
    record = found.content["model"]
    assert record["__class__"] == f"{ABSENT}.Network"
    state = state_dict_of_record(record)
    assert state is not None
    tensors, buffers = state
    expected = model.state_dict()
    assert sorted(tensors) == sorted(expected)
    for name, value in expected.items():
        assert torch.equal(tensors[name], value), name
        assert not tensors[name].requires_grad
    assert set(buffers) == {name for name, _ in model.named_buffers() if "scratch" not in name}


def test_what_is_no_module() -> None:
    assert state_dict_of_record({"w": torch.ones(2)}) is None
    assert state_dict_of_record({"__class__": "x.Y", "a": 1}) is None
    assert state_dict_of_record([1]) is None
    assert state_dict_of_record(None) is None
    broken = {
        "__class__": "x.Y",
        "_parameters": {"w": 3},
        "_buffers": {},
        "_modules": {"m": "<x.Y, as above>"},
    }
    assert state_dict_of_record(broken) == ({}, ())


def test_a_torchscript_archive(tmp_path: Path) -> None:
    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 2)
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x * self.scale)

    model = Scripted()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, torch.ones(1, 3)), tmp_path / "a.pt")
    found = read_file(tmp_path / "a.pt")
    assert "program not run" in found.how
    state = state_dict_of_record(found.content)
    assert state is not None
    assert {name: value.tolist() for name, value in state[0].items()} == {
        name: value.tolist() for name, value in model.state_dict().items()
    }


def test_objects_that_point_at_each_other(through) -> None:
    found = through({"trainer": Trainer()}).content
    assert isinstance(found, dict)
    trainer = found["trainer"]
    assert trainer["step"] == 40_000
    assert trainer["callbacks"][0]["trainer"] == f"<{ABSENT}.Trainer, of which this is a part>"
    assert trainer["callbacks"][1]["best"].item() == 0.25


def test_records_that_multiply_by_sharing(through) -> None:
    """A chain of objects, each of which holds the next one twice: linear, not exponential."""
    node: object = Hyper()
    for _ in range(18):
        node = Pair(node, node)
    found = through({"x": node}, "2")
    assert isinstance(found.content, dict)
    assert "as above" in str(found.content)


def test_the_demo_of_a_grokking_transformer(through) -> None:
    """The layout of the demo that everybody started from: settings object, many state dicts, recorded losses."""
    states = [{"embed.W_E": torch.full((3, 2), float(step))} for step in range(4)]
    content = {
        "model": states[-1],
        "config": Configuration(),
        "checkpoints": states,
        "checkpoint_epochs": [0, 100, 200, 300],
        "train_losses": [0.5] * 200,
        "test_losses": [torch.tensor(0.25, requires_grad=True) for _ in range(200)],
        "train_indices": torch.arange(5),
        "test_indices": np.arange(5, 9),
    }
    found = through(content)
    assert isinstance(found.content, dict)
    assert found.content["config"]["d_model"] == 128
    assert [one["embed.W_E"][0, 0].item() for one in found.content["checkpoints"]] == [0.0, 1.0, 2.0, 3.0]
    assert found.content["checkpoint_epochs"] == [0, 100, 200, 300]
    assert found.content["test_losses"] == [0.25] * 200
    assert torch.equal(found.content["test_indices"], torch.arange(5, 9))


def test_a_checkpoint_of_a_training_framework(through) -> None:
    content = {
        "epoch": 3, "global_step": 400, "pytorch-lightning_version": "2.2.0",
        "state_dict": collections.OrderedDict({"model.w": torch.ones(2)}),
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": pathlib.PurePosixPath("a/b")}},
        "hyper_parameters": Attributes(lr=0.1, config=Configuration()),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}],
        "loops": {"fit_loop": {"state": {}}},
    }  # fmt: skip
    found = through(content).content
    assert isinstance(found, dict)
    assert found["hyper_parameters"]["lr"] == 0.1
    assert found["hyper_parameters"]["config"]["n_heads"] == 4
    assert torch.equal(found["state_dict"]["model.w"], torch.ones(2))
    assert found["optimizer_states"][0]["state"]["0"]["exp_avg"].tolist() == [0.0, 0.0]


def omegaconf_like() -> bytes:
    """The pickle of a settings node as omegaconf lays it out, without omegaconf."""
    made = {}
    for name in ("DictConfig", "AnyNode", "ListConfig"):
        module = "omegaconf.nodes" if name == "AnyNode" else f"omegaconf.{name.lower()}"
        made[name] = type(name, (), {"__module__": module, "__qualname__": name})
        sys.modules[module] = types.ModuleType(module)
        setattr(sys.modules[module], name, made[name])
    sys.modules["omegaconf"] = types.ModuleType("omegaconf")
    try:
        root, leaf, row = made["DictConfig"](), made["AnyNode"](), made["ListConfig"]()
        leaf.__dict__.update(_val=0.5, _parent=root, _metadata={"key": "lr"})
        row.__dict__.update(_content=[leaf], _parent=root, _metadata={})
        root.__dict__.update(_content={"lr": leaf, "betas": row, "none": None}, _parent=None, _metadata={})
        return pickle.dumps({"cfg": root})
    finally:
        for module in [name for name in sys.modules if name.startswith("omegaconf")]:
            del sys.modules[module]


def test_nodes_of_omegaconf_are_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(omegaconf_like())
    found = read_file(tmp_path / "a.pkl").content
    assert found == {
        "cfg": {"__class__": "omegaconf.dictconfig.DictConfig", "lr": 0.5, "betas": [0.5], "none": None}
    }


def test_an_array_of_jax(tmp_path: Path) -> None:
    """As JAX writes one: a function of its own around what numpy writes."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    function, args, state = array.__reduce__()[:3]

    class Stand:
        def __reduce__(self) -> tuple[Any, ...]:
            return rebuild, (function, args, state, {"weak_type": False})

    def rebuild(*args: object) -> None: ...

    rebuild.__module__, rebuild.__qualname__ = "jax._src.array", "_reconstruct_array"
    names = ["jax", "jax._src", "jax._src.array"]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["jax._src.array"]._reconstruct_array = rebuild  # type: ignore[attr-defined]
    try:
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": Stand()}))
    finally:
        for name in names:
            del sys.modules[name]
    found = read_file(tmp_path / "a.pkl").content
    assert torch.equal(found["w"], torch.from_numpy(array))  # type: ignore[index, call-overload]


ARRAYS = {
    "float": np.arange(6.0).reshape(2, 3), "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "half": np.arange(3, dtype=np.float16), "int": np.arange(4), "bool": np.array([True, False]),
    "big": np.arange(3, dtype=">f4"), "complex": np.array([1 + 2j]), "empty": np.zeros((0, 3)),
    "strided": np.arange(20.0)[::3], "uint16": np.arange(3, dtype=np.uint16),
}  # fmt: skip


@pytest.mark.parametrize("how", WAYS)
def test_numpy_in_pickles(through, how: str) -> None:
    content = {**ARRAYS, "scalar": np.float64(2.5), "count": np.int64(3), "flag": np.bool_(True), "zero": np.array(7.0),
               "text": np.array(["a", "bc"]), "objects": np.array([1, "x", None], dtype=object),
               "record": np.zeros(2, dtype=[("a", "f4")]), "dtype": np.dtype("f4")}  # fmt: skip
    found = through(content, how).content
    assert isinstance(found, dict)
    for name, value in ARRAYS.items():
        assert np.array_equal(found[name].numpy(), value), name
        assert found[name].is_contiguous()
    assert (found["scalar"], found["count"], found["flag"], found["zero"]) == (2.5, 3, True, 7.0)
    assert (found["text"], found["objects"]) == (["a", "bc"], [1, "x", None])
    assert "not read" in found["record"]


def test_numpy_alone_is_read_by_torch(through) -> None:
    found = through(
        {**{name: value for name, value in ARRAYS.items() if value.size}, "scalar": np.float32(2.5)}
    )
    assert found.how == "torch, weights only with numpy arrays allowed"


def dtype_pickle(arguments: bytes, state: bytes) -> bytes:
    """The pickle of a numpy dtype that is made and set up as given."""
    return hostile.archive(b"\x80\x02cnumpy\ndtype\n(" + arguments + b"tR(" + state + b"tb.")


def test_numpy_is_not_set_up_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what numpy itself writes is handed to numpy: its dtypes take flags that corrupt memory."""
    handed: list[object] = []
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: handed.append(args) or real(*args, **options))
    little, text = hostile.text("<"), hostile.text("i8")
    usual = b"K\x03" + little + b"NNN" + b"J\xff\xff\xff\xff" * 2 + b"K\x00"
    cases = {
        "as numpy writes it": (text + b"\x89\x88", usual, True),
        "shared with all arrays": (text + b"\x89\x89", usual, False),
        "flags": (text + b"\x89\x88", usual[:-1] + b"\x3f", False),
        "size": (text + b"\x89\x88", usual.replace(b"J\xff\xff\xff\xff", b"K\x01", 1), False),
        "objects": (hostile.text("O") + b"\x89\x88", usual, False),
        "fields": (hostile.text("V8") + b"\x89\x88", usual, False),
        "several": (hostile.text("i4,O") + b"\x89\x88", usual, False),
    }
    before = np.dtype("i8").__reduce__()
    for name, (arguments, state, wanted) in cases.items():
        handed.clear()
        (tmp_path / "a.pt").write_bytes(dtype_pickle(arguments, state))
        read_file(tmp_path / "a.pt")
        assert bool(handed) == wanted, name
    assert np.dtype("i8").__reduce__() == before
    large = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\x00\x00\x00\x7f\x85C\x01d\x87R."
    )
    handed.clear()
    (tmp_path / "a.pt").write_bytes(hostile.archive(large))
    read_file(tmp_path / "a.pt")
    assert not handed


def test_a_set_of_what_doubles_is_not_made(tmp_path: Path) -> None:
    """torch would make the set, whose one element takes 2^60 steps to hash."""
    content = b"\x80\x02cbuiltins\nset\n])" + b"2\x86" * 60 + b"a\x85R."
    (tmp_path / "a.pt").write_bytes(hostile.archive(content))
    with pytest.raises(GrokscopeError, match="values in the file"):
        read_file(tmp_path / "a.pt")


def test_a_lazily_conjugated_tensor(tmp_path: Path, one_line) -> None:
    torch.save({"w": torch.ones(2, dtype=torch.complex64).conj()}, tmp_path / "a.pt")
    with pytest.raises(GrokscopeError) as caught:
        read_file(tmp_path / "a.pt")
    one_line(caught.value, "conjugated", "expected")


@pytest.mark.parametrize("how", ["2", "4"])
def test_tensors_in_a_plain_pickle(through, how: str) -> None:
    weights = torch.arange(12.0).reshape(3, 4)
    found = through(
        {"w": weights, "part": weights[1:, :2], "p": nn.Parameter(weights), "b": weights.bfloat16()}, how
    )
    assert isinstance(found.content, dict)
    assert torch.equal(found.content["w"], weights)
    assert torch.equal(found.content["part"], weights[1:, :2])
    assert torch.equal(found.content["p"], weights)
    assert found.content["b"].dtype == torch.bfloat16


def test_a_cuda_file_arrives_on_the_cpu(tmp_path: Path) -> None:
    """A file written on a GPU differs from others by the location it names."""
    whole = io.BytesIO()
    torch.save({"w": torch.ones(3), "m": Configuration()}, whole, _use_new_zipfile_serialization=False)
    content = whole.getvalue().replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:1")
    assert b"cuda:1" in content
    (tmp_path / "a.pt").write_bytes(content)
    found = read_file(tmp_path / "a.pt").content
    assert found["w"].device.type == "cpu"  # type: ignore[index, call-overload]


@pytest.mark.parametrize("extra", [{}, {"m": argparse.Namespace(a=1)}])
@pytest.mark.parametrize("kind", ["sparse", "csr", "meta", "quantised", "nested"])
def test_tensors_without_plain_numbers(tmp_path: Path, kind: str, extra: dict[str, object], one_line) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dense = torch.eye(3)
        made = {
            "sparse": dense.to_sparse, "csr": dense.to_sparse_csr, "meta": lambda: dense.to("meta"),
            "quantised": lambda: torch.quantize_per_tensor(dense, 0.1, 0, torch.quint8),
            "nested": lambda: torch.nested.nested_tensor([dense, dense[:2]]),
        }[kind]()  # fmt: skip
        torch.save({"w": made, **extra}, tmp_path / "a.pt")
    with pytest.raises(GrokscopeError) as caught:
        read_file(tmp_path / "a.pt")
    one_line(caught.value, "a.pt", "expected")


# The machine against Python's own, on data that needs no class


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
)
DATA = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=5), inner, max_size=5)
        | st.tuples(inner, inner)
        | st.builds(lambda one: [one, one], inner)
    ),
    max_leaves=30,
)


def run(content: bytes, data: bytes | None = None) -> Any:
    budget = Budget(Path("x"), Limits(10**9, 64, 10**6))
    met = Met()
    machine = Machine(content, budget, lambda module, name: find(budget, module, name), met)
    return machine.load(), met


@settings(max_examples=200, deadline=None)
@given(value=DATA, protocol=st.integers(0, 5))
def test_the_machine_agrees_with_pythons(value: object, protocol: int) -> None:
    found, met = run(pickle.dumps(value, protocol=protocol))
    assert found == value
    assert not met.replaced


@pytest.mark.parametrize("protocol", range(6))
def test_shared_and_recursive_data(protocol: int) -> None:
    shared = [1, 2]
    value: dict[str, Any] = {"a": shared, "b": shared, "t": (shared, "x" * 300), "many": list(range(3000))}
    value["self"] = value
    found, _ = run(pickle.dumps(value, protocol=protocol))
    assert found["a"] is found["b"]
    assert found["t"][0] is found["a"]
    assert found["self"] is found
    assert found["many"] == list(range(3000))


def test_text_of_python_2() -> None:
    found, _ = run(b"\x80\x02}q\x00(U\x01wK\x01U\x03\xff\xfe\xfdT\x02\x00\x00\x00ab" + b"u.")
    assert found == {"w": 1, "<bytes>": "ab"}
    assert run(b"(dp0\nS'w'\np1\nI3\ns.")[0] == {"w": 3}
    assert run(b"I01\n.")[0] is True
    assert run(b"Vc\\u0061t\n.")[0] == "cat"
    assert run(b"\x80\x02c__builtin__\nset\n]K\x01a\x85R.")[0] == [1]


def test_a_record_keeps_what_it_is_given() -> None:
    record, met = run(pickle.dumps(copy.copy(argparse.Namespace(a=1, b=[2]))))
    assert isinstance(record, Record)
    assert (record.name, record.attributes) == ("argparse.Namespace", {"a": 1, "b": [2]})
    assert met.replaced == {"argparse.Namespace": 1}
    made, _ = run(b"\x80\x04ca\nB\nK\x01\x85}" + b"\x8c\x01kK\x02s\x92.")
    assert (made.args, made.kwargs) == ((1,), {"k": 2})
    twice, _ = run(b"\x80\x02ca\nB\n)R}X\x01\x00\x00\x00xK\x01sb}X\x01\x00\x00\x00yK\x02sb.")
    assert twice.attributes == {"x": 1, "y": 2}
    other, _ = run(b"\x80\x02ca\nB\n)RK\x05b.")
    assert other.state == 5
