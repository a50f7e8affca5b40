"""A pickle machine that runs nothing: it builds plain data and remembers what it was asked to call.

Scope: the opcodes. What the few known globals become is for ``rebuilt`` to say; every other global is an
inert record that can be called, built, appended to and indexed, and does nothing but keep what it is given.

It is a machine of its own rather than a subclass of ``pickle.Unpickler`` for three reasons. The C unpickler
sizes its memo by the largest index a file names, so five bytes can claim gigabytes. It hashes keys that the
file chose, and hashing a tuple that shares its parts can take for ever. And it asks objects for their methods
(``append``, ``__setstate__``, ``__dict__``); here no attribute of anything is ever looked up by a name that
comes from the file, and nothing that comes from the file is ever called.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from grokscope.foreign.reading.plain import Budget, key_text, printable
from grokscope.foreign.reading.records import Buildable, Finder, Global, Known, Malformed, Met, Record

MAX_NAME = 1000
MAX_MARKS = 1000
MAX_LONG_BYTES = 1024

_LOOK_EVERY = 1 << 16
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
_SCALARS = (str, int, float, bool, type(None))


class Machine:
    """One pickle after another out of ``data``, from ``position`` on; raises Malformed or GrokscopeError."""

    def __init__(
        self,
        data: bytes,
        budget: Budget,
        find: Finder,
        met: Met,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data = data
        self.position = 0
        self.met = met
        self.budget = budget
        self._find = find
        self._persistent = persistent
        self._globals: dict[tuple[str, str], Global | Known] = {}
        # the bytes that the file makes us hold beyond its own
        self._made = 4 * len(data) + (1 << 20)

    def load(self) -> Any:
        """The object of the pickle at ``position``, which is left behind the pickle."""
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._protocol = 0
        operations, data = _OPERATIONS, self.data
        try:
            while True:
                for done in range(_LOOK_EVERY):
                    opcode = data[self.position]
                    self.position += 1
                    if opcode == 0x2E:  # STOP
                        self.budget.instructions(done)
                        return self._stack.pop()
                    operations[opcode](self)
                self._look()
        except (IndexError, struct.error):
            if self.position + 8 >= len(data):
                raise Malformed("it ends before its pickle does") from None
            raise Malformed("its pickle takes from an empty stack") from None

    def make_bytes(self, count: int) -> None:
        """Account for ``count`` bytes made out of what the file holds (a shared text can be made into many)."""
        self._made -= count
        if self._made < 0:
            raise Malformed("its pickle grows without end")

    def _look(self) -> None:
        """Whether the file keeps within bounds; asked now and then, since asking takes time."""
        self.budget.instructions(_LOOK_EVERY)
        held = len(self._stack) + sum(map(len, self._marks))
        allowed = self.budget.limits.max_values
        if held > 2 * allowed + _LOOK_EVERY or len(self._memo) > 2 * allowed:
            self.budget.too_many()

    # Reading the stream

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if count < 0 or end > len(self.data):
            raise Malformed(
                f"its pickle claims {count} bytes where {len(self.data) - self.position} are left"
            )
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def _number(self, form: struct.Struct) -> int:
        value = form.unpack_from(self.data, self.position)[0]
        self.position += form.size
        return value

    def _line(self, limit: int | None = None) -> bytes:
        stop = len(self.data) if limit is None else self.position + limit
        end = self.data.find(b"\n", self.position, stop)
        if end < 0:
            raise Malformed("its pickle holds a line that does not end")
        taken = self.data[self.position : end]
        self.position = end + 1
        return taken

    def _popped_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _unknown(self) -> None:
        opcode = self.data[self.position - 1]
        if opcode in (0x82, 0x83, 0x84):
            raise Malformed("its pickle uses codes of a private registry of classes")
        raise Malformed(f"its pickle holds the unknown instruction {opcode:#04x}")

    # Scalars and text

    def _proto(self) -> None:
        self._protocol = self._take(1)[0]
        if self._protocol > 5:
            raise Malformed(f"its pickle has protocol {self._protocol}, 5 is the newest there is")

    def _frame(self) -> None:
        claimed = self._number(_U8)
        if claimed > len(self.data) - self.position:
            raise Malformed(f"its pickle claims a frame of {claimed} bytes and is shorter")

    def _none(self) -> None:
        self._stack.append(None)

    def _true(self) -> None:
        self._stack.append(True)

    def _false(self) -> None:
        self._stack.append(False)

    def _int(self) -> None:
        line = self._line(MAX_NAME)
        self._stack.append({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line, 0))

    def _binint(self) -> None:
        self._stack.append(self._number(_I4))

    def _binint1(self) -> None:
        self._stack.append(self.data[self.position])
        self.position += 1

    def _binint2(self) -> None:
        self._stack.append(self._number(_U2))

    def _long(self) -> None:
        self._stack.append(int(self._line(MAX_NAME).rstrip(b"L"), 0))

    def _long1(self) -> None:
        self._stack.append(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))

    def _long4(self) -> None:
        count = self._number(_I4)
        if count > MAX_LONG_BYTES:
            raise Malformed(f"its pickle holds an integer of {count} bytes")
        self._stack.append(int.from_bytes(self._take(count), "little", signed=True))

    def _float(self) -> None:
        self._stack.append(float(self._line(MAX_NAME)))

    def _binfloat(self) -> None:
        self._stack.append(_F8.unpack_from(self.data, self.position)[0])
        self.position += 8

    def _old_text(self, taken: bytes) -> str | bytes:
        """Text of Python 2, which may be bytes."""
        try:
            return taken.decode("utf-8")
        except UnicodeDecodeError:
            return taken

    def _string(self) -> None:
        line = self._line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
            raise Malformed("its pickle holds a text without quotes")
        self._stack.append(self._old_text(codecs.escape_decode(line[1:-1])[0]))  # type: ignore[attr-defined]

    def _binstring(self) -> None:
        self._stack.append(self._old_text(self._take(self._number(_I4))))

    def _short_binstring(self) -> None:
        self._stack.append(self._old_text(self._take(self._take(1)[0])))

    def _unicode(self) -> None:
        self._stack.append(self._line().decode("raw-unicode-escape"))

    def _binunicode(self) -> None:
        self._stack.append(self._take(self._number(_U4)).decode("utf-8", "surrogatepass"))

    def _short_binunicode(self) -> None:
        self._stack.append(self._take(self._take(1)[0]).decode("utf-8", "surrogatepass"))

    def _binunicode8(self) -> None:
        self._stack.append(self._take(self._number(_U8)).decode("utf-8", "surrogatepass"))

    def _binbytes(self) -> None:
        self._stack.append(self._take(self._number(_U4)))

    def _short_binbytes(self) -> None:
        self._stack.append(self._take(self._take(1)[0]))

    def _binbytes8(self) -> None:
        self._stack.append(self._take(self._number(_U8)))

    # Containers

    def _empty_tuple(self) -> None:
        self._stack.append(())

    def _tuple(self) -> None:
        items = self._popped_mark()
        self._stack.append(tuple(items))

    def _tuple1(self) -> None:
        self._stack[-1] = (self._stack[-1],)

    def _tuple2(self) -> None:
        self._stack[-2:] = [(self._stack[-2], self._stack[-1])]

    def _tuple3(self) -> None:
        self._stack[-3:] = [(self._stack[-3], self._stack[-2], self._stack[-1])]

    def _empty_list(self) -> None:
        self._stack.append([])

    def _list(self) -> None:
        items = self._popped_mark()
        self.budget.values(len(items))
        self._stack.append(items)

    def _empty_dict(self) -> None:
        self._stack.append({})

    def _dict(self) -> None:
        items = self._popped_mark()
        self._stack.append({})
        self._put(items)

    def _append(self) -> None:
        value = self._stack.pop()
        self._extend([value])

    def _appends(self) -> None:
        self._extend(self._popped_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        self.budget.values(len(items))
        if isinstance(target, Record):
            target.items = [] if target.items is None else target.items
            target = target.items
        if not isinstance(target, list):
            raise Malformed(f"its pickle appends to a {type(target).__name__}")
        target.extend(items)

    def _setitem(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._put([key, value])

    def _setitems(self) -> None:
        self._put(self._popped_mark())

    def _put(self, items: list[Any]) -> None:
        target = self._stack[-1]
        self.budget.values(len(items))
        if isinstance(target, Record):
            target.pairs = {} if target.pairs is None else target.pairs
            target = target.pairs
        if not isinstance(target, dict) or len(items) % 2:
            raise Malformed(f"its pickle sets items of a {type(target).__name__}")
        for index in range(0, len(items), 2):
            target[self.key(items[index], len(target))] = items[index + 1]

    def key(self, key: Any, place: int) -> str:
        """The text that stands for a dict key. ``place`` tells keys without a text apart.

        Text only: Python's dict of texts cannot be made slow, its dicts of chosen integers can.
        """
        if type(key) is str and key.isascii():
            return key
        if type(key) is not str and (type(key) is not int or key.bit_length() > 60):
            self.met.beyond["keys that are no text"] = None
        text = key_text(key)
        if text is None:
            name = key.name if isinstance(key, Record | Global | Known) else type(key).__name__.lower()
            text = f"<{name} {place}>"
        self.make_bytes(len(text))
        return text

    def _frozenset(self) -> None:
        items = self._popped_mark()
        self.budget.values(len(items))
        self._stack.append(items)

    # Stack and memo

    def _mark(self) -> None:
        if len(self._marks) >= MAX_MARKS:
            raise Malformed("its pickle nests too deep")
        self._marks.append(self._stack)
        self._stack = []

    def _pop(self) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._popped_mark()

    def _pop_mark(self) -> None:
        self._popped_mark()

    def _dup(self) -> None:
        self._stack.append(self._stack[-1])

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            raise Malformed(f"its pickle recalls item {index}, which it never kept")
        self._stack.append(self._memo[index])

    def _get(self) -> None:
        self._recall(int(self._line(MAX_NAME)))

    def _binget(self) -> None:
        self._recall(self.data[self.position])
        self.position += 1

    def _long_binget(self) -> None:
        self._recall(self._number(_U4))

    def _put_memo(self) -> None:
        self._memo[int(self._line(MAX_NAME)) & (2**60 - 1)] = self._stack[-1]

    def _binput(self) -> None:
        self._memo[self.data[self.position]] = self._stack[-1]
        self.position += 1

    def _long_binput(self) -> None:
        self._memo[self._number(_U4)] = self._stack[-1]

    def _memoize(self) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    # Globals, and what is done with them

    def _named(self, module: Any, name: Any) -> Global | Known:
        if not isinstance(module, str) or not isinstance(name, str) or len(module) + len(name) > MAX_NAME:
            raise Malformed("its pickle names a global by something that is no name")
        module = _PYTHON_2.get(module, module)
        if (module, name) not in self._globals:
            self.budget.values()
            found = self._find(module, name)
            if isinstance(found, Global):
                self.met.beyond["a class or function"] = None
            self._globals[module, name] = found
        return self._globals[module, name]

    def _global(self) -> None:
        module, name = self._line(MAX_NAME).decode("utf-8"), self._line(MAX_NAME).decode("utf-8")
        self._stack.append(self._named(module, name))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._named(module, name))

    def _inst(self) -> None:
        module, name = self._line(MAX_NAME).decode("utf-8"), self._line(MAX_NAME).decode("utf-8")
        args = tuple(self._popped_mark())
        self._stack.append(self.call(self._named(module, name), args))

    def _obj(self) -> None:
        items = self._popped_mark()
        self._stack.append(self.call(items[0], tuple(items[1:])))

    def _reduce(self) -> None:
        args = self._stack.pop()
        self._stack[-1] = self.call(self._stack[-1], args)

    def _newobj(self) -> None:
        args = self._stack.pop()
        self._stack[-1] = self.call(self._stack[-1], args)

    def _newobj_ex(self) -> None:
        kwargs, args = self._stack.pop(), self._stack.pop()
        self._stack[-1] = self.call(self._stack[-1], args, kwargs)

    def call(self, target: Any, args: Any, kwargs: Any = None) -> Any:
        """What stands for ``target(*args, **kwargs)``: our own value for a known global, else a record."""
        if not isinstance(args, tuple) or not (kwargs is None or isinstance(kwargs, dict)):
            raise Malformed("its pickle calls something with arguments that are none")
        if type(target) is Known:
            if kwargs:
                return self.record(target.name, args, kwargs)
            return target.make(self, *args)
        if isinstance(target, Global):
            return self.record(target.name, args, kwargs)
        if isinstance(target, Record):
            return self.record(f"{target.name.removesuffix('()')}()", args, kwargs)
        raise Malformed(f"its pickle calls a {type(target).__name__}")

    def record(self, name: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Record:
        """An inert record, counted."""
        name = printable(name, 300)
        self.met.replaced[name] += 1
        self.budget.values()
        return Record(name, args, kwargs or None)

    def _build(self) -> None:
        state = self._stack.pop()
        target = self._stack[-1]
        if isinstance(target, Record | Buildable):
            target.build(self, state)
        elif isinstance(target, dict):
            # attributes of an OrderedDict, such as the versions of the modules in a state dict
            pass
        elif isinstance(target, list | tuple | Global | Known | _SCALARS):
            raise Malformed(f"its pickle builds on a {type(target).__name__}")
        else:
            self.met.beyond["a tensor with attributes"] = None

    # Persistent ids

    def _persistent_id(self, identity: Any) -> None:
        if self._persistent is None:
            raise Malformed("its pickle refers to data that are not in the file")
        self._stack.append(self._persistent(identity))

    def _persid(self) -> None:
        self._persistent_id(self._line(MAX_NAME).decode("ascii"))

    def _binpersid(self) -> None:
        self._persistent_id(self._stack.pop())


_I4, _U2, _U4, _U8, _F8 = (struct.Struct(form) for form in ("<i", "<H", "<I", "<Q", ">d"))

_KNOWN_OPERATIONS: dict[str, Callable[[Machine], None]] = {
    "\x80": Machine._proto, "\x95": Machine._frame,
    "N": Machine._none, "\x88": Machine._true, "\x89": Machine._false,
    "I": Machine._int, "J": Machine._binint, "K": Machine._binint1, "M": Machine._binint2,
    "L": Machine._long, "\x8a": Machine._long1, "\x8b": Machine._long4,
    "F": Machine._float, "G": Machine._binfloat,
    "S": Machine._string, "T": Machine._binstring, "U": Machine._short_binstring,
    "V": Machine._unicode, "X": Machine._binunicode, "\x8c": Machine._short_binunicode,
    "\x8d": Machine._binunicode8, "B": Machine._binbytes, "C": Machine._short_binbytes,
    "\x8e": Machine._binbytes8, "\x96": Machine._binbytes8,
    ")": Machine._empty_tuple, "t": Machine._tuple, "\x85": Machine._tuple1, "\x86": Machine._tuple2,
    "\x87": Machine._tuple3, "]": Machine._empty_list, "l": Machine._list, "}": Machine._empty_dict,
    "d": Machine._dict, "a": Machine._append, "e": Machine._appends, "s": Machine._setitem,
    "u": Machine._setitems, "\x8f": Machine._empty_list, "\x90": Machine._appends,
    "\x91": Machine._frozenset, "(": Machine._mark, "0": Machine._pop, "1": Machine._pop_mark,
    "2": Machine._dup, "g": Machine._get, "h": Machine._binget, "j": Machine._long_binget,
    "p": Machine._put_memo, "q": Machine._binput, "r": Machine._long_binput, "\x94": Machine._memoize,
    "c": Machine._global, "\x93": Machine._stack_global, "i": Machine._inst, "o": Machine._obj,
    "R": Machine._reduce, "\x81": Machine._newobj, "\x92": Machine._newobj_ex, "b": Machine._build,
    "P": Machine._persid, "Q": Machine._binpersid,
}  # fmt: skip

_OPERATIONS = [_KNOWN_OPERATIONS.get(chr(opcode), Machine._unknown) for opcode in range(256)]
