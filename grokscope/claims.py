"""Claims: who is working on a file or a directory, across the processes and machines that share it.

A claim on ``<target>`` is a file ``.<target>.claim-<n>`` beside it, made in one step that only one process
can win. Its first line names the holder, and its holder lets it grow by a byte every few seconds. The holder
is whoever made the highest n; one that has died is succeeded by making n + 1, which again only one can win.

* A holder on this machine is dead when its process is gone (a process number used again counts as gone).
* A holder elsewhere is dead when its file has not grown for :data:`SILENCE` seconds, by the watcher's own
  clock, so that the clocks of machines need not agree.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import random
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from grokscope.errors import GrokscopeError

BEAT = 5.0
"""Seconds between the signs of life of a holder."""

SILENCE = 60.0
"""Seconds without one after which a holder on another machine is taken for dead."""


class BusyError(GrokscopeError):
    """Somebody else who is alive is working on it."""


@dataclass(frozen=True)
class Holder:
    """The process behind a claim; ``machine`` tells process numbers of different machines apart."""

    host: str
    machine: str
    pid: int
    started: str
    nonce: str

    @classmethod
    def here(cls) -> Holder:
        """This process, with a nonce of its own for every claim."""
        return cls(platform.node(), _machine(), os.getpid(), process_started(os.getpid()), uuid.uuid4().hex)


class Claim:
    """A claim that is held; ``lost`` once somebody has taken this process for dead."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self.lost = False
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let go, whoever holds it by now."""
        self._released.set()
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            try:
                # without O_CREAT: a file that somebody has removed stays removed
                descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
                try:
                    os.write(descriptor, b".")
                finally:
                    os.close(descriptor)
            except FileNotFoundError:
                self.lost = not self._released.is_set()
                return
            except OSError:
                continue  # a full disk or a file server that does not answer: silence says it


@contextmanager
def claimed(target: Path, *, give_up: Callable[[], bool] | None = None) -> Iterator[Claim]:
    """Hold the claim on ``target``, which need not exist; its folder is made where it is missing.

    Taking over from a holder on another machine takes up to :data:`SILENCE` seconds of watching; ``give_up``
    is asked meanwhile.

    Raises:
        BusyError: a living process holds it, or the watching was given up.
        GrokscopeError: no claim can be made there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        claim = _acquire(target, give_up or (lambda: False))
    except OSError as error:
        raise GrokscopeError(
            f"claiming {target}: cannot make a file beside it: {error.strerror}, expected a writable place"
        ) from None
    try:
        yield claim
    finally:
        claim.release()


def _acquire(target: Path, give_up: Callable[[], bool]) -> Claim:
    while True:
        seen = _claims(target)
        if seen:
            last = max(seen, key=_number)
            if _alive(last, seen[last], give_up):
                raise BusyError(_busy(target, _holder(seen[last])))
        number = max((_number(path) for path in seen), default=0) + 1
        path = target.parent / f".{target.name}.claim-{number}"
        holder = Holder.here()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            continue
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            file.write(json.dumps(asdict(holder)).encode() + b"\n")
        # Between the look and the claim the one that was seen may have let go and somebody new have begun.
        others = {other: held for other, held in _claims(target).items() if other != path}
        if all(other in seen and _head(held) == _head(seen[other]) for other, held in others.items()):
            for other in others:
                other.unlink(missing_ok=True)
            return Claim(path, holder)
        path.unlink(missing_ok=True)
        time.sleep(random.uniform(0, 0.05))


def _claims(target: Path) -> dict[Path, bytes]:
    """The claim files on ``target`` and what they hold; opened anew, which is when a file server is asked."""
    pattern = re.compile(re.escape(f".{target.name}.claim-") + r"\d+")
    found = {}
    for entry in os.listdir(target.parent):
        if pattern.fullmatch(entry):
            with contextlib.suppress(FileNotFoundError):
                found[target.parent / entry] = (target.parent / entry).read_bytes()
    return found


def _number(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])


def _head(content: bytes) -> bytes:
    return content.split(b"\n", 1)[0]


def _holder(content: bytes) -> Holder | None:
    try:
        return Holder(**json.loads(_head(content)))
    except (ValueError, TypeError):
        return None  # another program's file, or one that is being written


def _alive(path: Path, content: bytes, give_up: Callable[[], bool]) -> bool:
    holder = _holder(content)
    if holder is not None and holder.machine == _machine():
        return process_runs(holder.pid, holder.started)
    deadline = time.monotonic() + SILENCE
    while time.monotonic() < deadline:
        if give_up():
            return True
        time.sleep(min(0.2, SILENCE / 10))
        try:
            if path.read_bytes() != content:
                return True
        except FileNotFoundError:
            return False
    return False


def process_runs(pid: int, started: str) -> bool:
    """Whether the process of this machine with that number is still the one that began at ``started``."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return process_started(pid) == started


def process_started(pid: int) -> str:
    """When a process began, in a form that is only compared; empty where the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # the name before the last bracket may hold anything; field 22 counts from 1
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]


def _machine() -> str:
    """A name under which process numbers are unique: host, boot and the container's own numbering."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _busy(target: Path, holder: Holder | None) -> str:
    who = f"process {holder.pid} on {holder.host}" if holder else "a process elsewhere"
    return f"working on {target}: {who} is at it, expected one at a time"
