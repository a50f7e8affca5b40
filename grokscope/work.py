"""Units of work over joblib: on the cores of this machine, on a Dask cluster, or one share of a job array.

A unit is a small picklable value; the function applied to it must be importable and idempotent, since a unit
whose process dies is given out again.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from grokscope.claims import process_runs, process_started
from grokscope.errors import GrokscopeError

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
R = TypeVar("R")

ATTEMPTS = 3
"""How often the units that were left over by dead processes are given out."""

CONNECT_SECONDS = 10
"""How long a cluster's scheduler has to answer."""

_ONE_THREAD = {
    f"{library}_NUM_THREADS": "1"
    for library in ("OMP", "MKL", "OPENBLAS", "BLIS", "NUMEXPR", "VECLIB_MAXIMUM")
}


@dataclass(frozen=True)
class Lost:
    """In place of a result: the processes that worked on the unit died, ``reason`` says what is known."""

    reason: str


@dataclass(frozen=True)
class Workers:
    """Who works: ``jobs`` processes of this machine (``None``: one a core), or the cluster at an address."""

    jobs: int | None = None
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise GrokscopeError(f"choosing workers: --jobs {self.jobs} was given, expected at least 1")
        if self.jobs is not None and self.cluster is not None:
            raise GrokscopeError(
                "choosing workers: --jobs and --cluster were both given, expected at most one: a cluster has "
                "the workers it has"
            )

    def count(self, units: int, threads: int = 1) -> int:
        """Processes for that many units of ``threads`` threads each on this machine."""
        from joblib import cpu_count

        jobs = max(1, cpu_count() // threads) if self.jobs is None else self.jobs
        return max(1, min(jobs, units))


EVERY_CORE = Workers()


def read_shard(text: str) -> tuple[int, int]:
    """``"i/n"`` with 1 ≤ i ≤ n. Raises GrokscopeError for anything else."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    share, shares = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= share <= shares:
        raise GrokscopeError(
            f"sharing work: --shard {text!r} was given, expected i/n with i from 1 to n, for example 1/8"
        )
    return share, shares


def shard(units: Sequence[T], share: tuple[int, int]) -> list[T]:
    """Every n-th unit from the i-th on: disjoint for different i, and complete over all of them."""
    position, shares = share
    return list(units[position - 1 :: shares])


def each(
    function: Callable[[T], R],
    units: Sequence[T],
    workers: Workers = EVERY_CORE,
    *,
    threads: int = 1,
) -> Iterator[tuple[int, R | Lost]]:
    """Apply ``function`` to every unit; yields (index, result) as they come, begun in the order given.

    One job runs in this process, several in processes of their own whose BLAS has one thread, a cluster
    wherever it is. What ``function`` raises ends everything, so expected failures belong in its result. A
    unit whose process dies (killed, out of memory) is given out again, and :class:`Lost` after
    :data:`ATTEMPTS` times.

    Raises:
        GrokscopeError: the cluster cannot be reached, or is gone, or ``distributed`` is not installed.
    """
    if workers.cluster is not None:
        yield from _on_cluster(function, units, workers.cluster)
        return
    jobs = workers.count(len(units), threads)
    if jobs == 1:
        for index, unit in enumerate(units):
            yield index, function(unit)
        return
    yield from _in_processes(function, units, jobs)


def _in_processes(
    function: Callable[[T], R], units: Sequence[T], jobs: int
) -> Iterator[tuple[int, R | Lost]]:
    from joblib import delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    left = dict(enumerate(units))

    def attempt(indices: Sequence[int]) -> Generator[tuple[int, R], None, str]:
        """Results as they come; why it ended before all were there, if it did."""
        with parallel_config(backend="loky", inner_max_num_threads=1):
            parallel = _parallel(
                n_jobs=max(2, min(jobs, len(indices))), initializer=settle_worker, initargs=_process()
            )
            try:
                for index, result in parallel(delayed(_numbered)(function, i, left[i]) for i in indices):
                    del left[index]
                    yield index, result
            except TerminatedWorkerError as error:
                return " ".join(str(error).split())
        return ""

    while left:
        for _ in range(ATTEMPTS - 1):
            yield from attempt(list(left))
            if not left:
                return
        # a process that dies takes down what its neighbours are at: which unit kills it shows when it is alone
        for index in list(left):
            reason = yield from attempt([index])
            if reason:
                del left[index]
                yield index, Lost(f"its process died, {ATTEMPTS} times over: {reason}")
                break


def _parallel(**settings: Any) -> Callable[[Iterator[Any]], Iterator[Any]]:
    """joblib's caller, which hands out one unit at a time and gives results as they come."""
    from joblib import Parallel

    made: Any = Parallel
    return made(batch_size=1, pre_dispatch="all", return_as="generator_unordered", **settings)


def _numbered(function: Callable[[T], R], index: int, unit: T) -> tuple[int, R]:
    with _Busy():
        return index, function(unit)


# Processes


_busy = threading.Semaphore(1)


class _Busy:
    """While a unit is being worked on; one at a time in a process.

    Trainers and probes change settings of their whole process (threads, precision, signals), so a cluster
    worker with several threads takes its units one after the other.
    """

    def __enter__(self) -> None:
        _busy.acquire()

    def __exit__(self, *exception: object) -> None:
        _busy.release()


_giver: tuple[int, str] | None = None


def _process() -> tuple[int, str]:
    return os.getpid(), process_started(os.getpid())


def settle_worker(*giver: Any) -> None:
    """What a worker process does first: Ctrl-C belongs to ``giver``, the process that gives out the work.

    The worker leaves the terminal's process group and ignores SIGINT; it ends with the giver, after the unit
    that it is at.
    """
    global _giver
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    _giver = giver
    threading.Thread(target=_end_with_the_giver, name="orphan", daemon=True).start()


def orphaned() -> bool:
    """Whether this is a worker process whose giver of work is gone."""
    return _giver is not None and not process_runs(*_giver)


def _end_with_the_giver() -> None:
    while not orphaned():
        time.sleep(1)
    _busy.acquire()
    os._exit(1)


def preload(modules: Sequence[str]) -> None:
    """Have worker processes forked from one that has already imported ``modules``, beginning now.

    For a program whose own imports take as long: workers then start at once and share the memory of what they
    imported. Each of them also runs the program's main module once more, as every user of multiprocessing has
    it, so this is for programs that know their own main module, not for library calls.
    """
    try:
        from multiprocessing import forkserver

        from joblib.externals.loky.backend.context import get_start_method, set_start_method
    except ImportError:
        return  # workers import for themselves
    if get_start_method() is not None or "forkserver" not in multiprocessing.get_all_start_methods():
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))
    try:
        with _environment(_ONE_THREAD):
            forkserver.ensure_running()
    except OSError:
        return  # its socket lies in the temporary folder, whose path may be too long for one
    set_start_method("forkserver")


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# Clusters


def _on_cluster(
    function: Callable[[T], R], units: Sequence[T], address: str
) -> Iterator[tuple[int, R | Lost]]:
    from joblib import delayed

    with _quiet("distributed.client"), _connected(address) as client:
        parallel = _parallel(n_jobs=-1, backend=_cluster_backend(client))
        try:
            yield from parallel(delayed(_numbered)(function, i, unit) for i, unit in enumerate(units))
        except TimeoutError:
            raise GrokscopeError(
                f"working on the cluster at {address}: it has no workers, expected some (dask worker {address})"
            ) from None
        except (OSError, _cancelled()) as error:
            raise GrokscopeError(
                f"working on the cluster at {address}: the connection is gone ({type(error).__name__}), expected "
                "one that lasts; the same command with --resume goes on"
            ) from None


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError:
        raise GrokscopeError(
            "working on a cluster: distributed is not installed, expected pip install 'grokscope[cluster]'"
        ) from None
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise GrokscopeError(
            f"working on a cluster: {address!r} was given and cannot be reached ({said}), expected the address "
            "of a Dask scheduler, for example tcp://host:8786"
        ) from None
    with client:
        yield client


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the tracebacks that a logger prints of what is said here in one line."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _cancelled() -> type[BaseException]:
    from distributed import CancelledError

    return CancelledError


def _cluster_backend(client: Client) -> Any:
    """joblib's Dask backend, with an answer for units that Dask gives up on.

    Dask ends a task whose worker has died several times with an exception that joblib's backend keeps to
    itself, and its caller waits for ever. And with one worker joblib would do the work right here.
    """
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))

        def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Any:
            index = func.items[0][1][1]
            future = super().submit(func, callback)

            def answer(done: Any) -> None:
                if (error := done.exception()) is not None and callback is not None:
                    name = type(error).__name__
                    reason = f"its worker died too often for the cluster ({name}); the workers' logs say more"
                    callback([(index, Lost(reason))])

            future.add_done_callback(answer)
            return future

    return Backend(client=client)
