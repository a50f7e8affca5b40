"""What the standard library's globals become: containers, bytes and paths, as plain data of our own.

Scope: the names of Python itself in pickles of plain data, and those that a file has only to do harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grokscope.foreign.reading.inert import Machine
from grokscope.foreign.reading.plain import Budget, integer, key_text, printable
from grokscope.foreign.reading.records import Global, Known, Malformed, Record

# Names that run code, reach files or processes, or find such names. Nothing of any name is ever called: the
# list is only for saying at once that a file with one of them was made to do harm.
_HARMFUL_MODULES = frozenset({
    "os", "posix", "nt", "sys", "subprocess", "_posixsubprocess", "shutil", "socket", "ctypes",
    "importlib", "runpy", "pty", "commands", "popen2", "webbrowser", "codeop", "pdb", "bdb", "marshal",
    "pickle", "_pickle", "cPickle"
})  # fmt: skip
_HARMFUL_BUILTINS = frozenset({
    "eval", "exec", "compile", "execfile", "__import__", "open", "file", "input", "raw_input",
    "breakpoint", "globals", "locals", "vars", "delattr", "setattr", "apply", "help", "exit", "quit",
    "memoryview"
})  # fmt: skip
_HARMFUL_NAMES = frozenset({
    "torch.load", "torch.serialization.load", "torch.jit.load", "torch.hub.load",
    "torch.package.PackageImporter", "numpy.load", "numpy.fromfile", "numpy.memmap",
    "numpy.testing._private.utils.runstring", "numpy.f2py.compile", "torch.utils.cpp_extension.load",
    "torch.utils.cpp_extension.load_inline"
})  # fmt: skip
_HARMFUL_INSIDE = frozenset({"os", "posix", "nt", "sys", "subprocess", "__builtins__", "__import__"})
_HARMLESS = frozenset({"os.stat_result", "os.terminal_size", "posix.stat_result", "os._Environ"})


def harm(budget: Budget, name: str) -> None:
    """Refuse a file that names what no weights need and what could do harm if it ran."""
    parts = name.split(".")
    builtin = parts[0] in ("builtins", "__builtins__") and not _HARMFUL_BUILTINS.isdisjoint(parts[1:])
    # a dotted name may reach through any module to one that this module imports
    module = parts[0] in _HARMFUL_MODULES or not _HARMFUL_INSIDE.isdisjoint(parts[1:])
    if (builtin or module or name in _HARMFUL_NAMES) and name not in _HARMLESS:
        budget.fail(
            f"the file needs code of its own ({printable(name, 100)}), none of which was run",
            "expected plain tensors and numbers, as torch.save(model.state_dict(), path) writes them",
        )


def _mapping(machine: Machine, *args: Any) -> Any:
    """An OrderedDict, Counter, dict: a dict of ours."""
    if not args:
        return {}
    if isinstance(args[0], dict):
        return args[0]
    if not isinstance(args[0], list | tuple):
        return machine.record("builtins.dict", args)
    made: dict[str, Any] = {}
    machine.budget.values(2 * len(args[0]))
    for pair in args[0]:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Malformed("a dict is made of what are no pairs")
        made[machine.key(pair[0], len(made))] = pair[1]
    machine.met.beyond["a dict made of pairs"] = None
    return made


def _default_mapping(machine: Machine, factory: Any = None, *args: Any) -> Any:
    machine.met.beyond["a defaultdict"] = None
    return _mapping(machine, *args)


def _sequence(machine: Machine, *args: Any) -> Any:
    """A set, list, tuple or deque: what it was made of, shared rather than copied."""
    if not args:
        return []
    if not isinstance(args[0], list | tuple):
        return machine.record("builtins.list", args)
    # to make a real set of what shares its parts can take for ever
    machine.met.beyond["a set"] = None
    return args[0]


def _deque(machine: Machine, *args: Any) -> Any:
    machine.met.beyond["a deque"] = None
    found = _sequence(machine, *args)
    # a deque takes what it holds in a second step, a frozenset has it all
    return found if found != () else []


def _encode(machine: Machine, text: Any = "", encoding: Any = "latin1") -> bytes:
    """Bytes as protocol 2 writes them. Only Latin-1: other codecs compress and expand."""
    known = isinstance(encoding, str) and encoding.lower().replace("-", "").replace("_", "") == "latin1"
    if not known or not isinstance(text, str):
        raise Malformed("bytes are given in an encoding other than Latin-1")
    machine.make_bytes(len(text))
    return text.encode("latin-1")


def _bytes(machine: Machine, content: Any = b"", encoding: Any = "latin1") -> bytes:
    machine.met.beyond["bytes"] = None
    if isinstance(content, str):
        return _encode(machine, content, encoding)
    if not isinstance(content, bytes):
        # a number would claim that many bytes
        raise Malformed("bytes are made of something else than bytes")
    return content


def _scalar(kind: type) -> Callable[..., Any]:
    def make(machine: Machine, *args: Any) -> Any:
        machine.met.beyond["a scalar made by its class"] = None
        value = args[0] if args else kind()
        if type(value) is kind or (type(value) is str and not args):
            return value
        if kind is not str and isinstance(value, bool | int | float) and abs(value) < 2**63:
            return kind(value)
        return machine.record(f"builtins.{kind.__name__}", args)

    return make


def _text_of(form: str) -> Callable[..., Any]:
    """A slice, range or complex number as text."""

    def make(machine: Machine, *args: Any) -> str:
        machine.met.beyond[f"a {form}"] = None
        return f"{form}({', '.join(str(short_text(one)) for one in args[:4])})"

    return make


def short_text(value: Any) -> str:
    """A scalar as short printable text."""
    return printable(integer(value) if isinstance(value, int) else key_text(value), 80)


def _path(machine: Machine, *parts: Any) -> str:
    machine.met.beyond["a path"] = None
    texts = [printable(part, 1000) for part in parts[:64] if isinstance(part, str)]
    return ("/" if texts[:1] == ["/"] else "") + "/".join(texts[1:] if texts[:1] == ["/"] else texts)


def _attribute(machine: Machine, owner: Any = None, name: Any = None, *rest: Any) -> Any:
    """``getattr`` on a class, which is how members of an enumeration are written: the name, nothing more."""
    if isinstance(owner, Global | Known) and isinstance(name, str):
        machine.met.beyond["an attribute of a class"] = None
        full = f"{owner.name[:300]}.{printable(name, 80)}"
        machine.make_bytes(len(full))
        harm(machine.budget, full)
        machine.met.replaced[full] += 1
        return Global(full)
    return machine.record("builtins.getattr", (owner, name, *rest))


def _reconstructor(machine: Machine, kind: Any, base: Any = None, state: Any = None) -> Any:
    """An object as protocols 0 and 1 write it."""
    made = machine.call(kind, ())
    if isinstance(made, Record):
        made.pairs = state if isinstance(state, dict) else None
        made.items = state if isinstance(state, list) else None
        if isinstance(state, tuple | int | float | str):
            made.args = state if isinstance(state, tuple) else (state,)
    return made


def _new_object(machine: Machine, kind: Any = None, *args: Any) -> Any:
    return machine.call(kind, args)


def _new_object_named(machine: Machine, kind: Any = None, args: Any = (), kwargs: Any = None) -> Any:
    return machine.call(kind, args, kwargs)


PYTHON_MAKERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _default_mapping,
    "collections.deque": _deque,
    "builtins.dict": _mapping,
    "builtins.set": _sequence,
    "builtins.frozenset": _deque,
    "builtins.list": _sequence,
    "builtins.tuple": _sequence,
    "builtins.bytearray": _bytes,
    "builtins.bytes": _bytes,
    "builtins.complex": _text_of("complex"),
    "builtins.slice": _text_of("slice"),
    "builtins.range": _text_of("range"),
    "builtins.xrange": _text_of("range"),
    "builtins.getattr": _attribute,
    **{f"builtins.{kind.__name__}": _scalar(kind) for kind in (bool, int, float, str)},
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _reconstructor,
    "copyreg.__newobj__": _new_object,
    "copyreg.__newobj_ex__": _new_object_named,
    **{
        f"{module}.{name}": _path
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    },
}
"""Full name → what is done in place of calling it: ``make(machine, *args)``."""
