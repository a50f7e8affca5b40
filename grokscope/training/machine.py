"""Settings of the training process: threads, determinism, matrix products and the heap, restored afterwards."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from grokscope.errors import GrokscopeError

Precision = Literal["highest", "medium"]
"""``highest`` is the BLAS that torch was built with, ``medium`` is oneDNN, which may be the faster one."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# glibc refuses a larger threshold for mapped blocks; given none it raises its own to this with use, and trims at
# twice that, so the second pair is what a long-running process has anyway
_KEPT = {_TRIM_THRESHOLD: 1 << 30, _MMAP_THRESHOLD: 32 << 20}
_USUAL = {_TRIM_THRESHOLD: 64 << 20, _MMAP_THRESHOLD: 32 << 20}


@contextmanager
def process_settings(
    threads: int, device: torch.device, precision: Precision | None = None
) -> Iterator[None]:
    """What a run's bytes and speed depend on, for the duration.

    The number of threads; deterministic kernels on a GPU; float32 products by oneDNN where that is as exact as
    the default here (see :func:`choose_precision`), or by ``precision`` to repeat what an earlier run used;
    and a heap that is kept between steps.

    Raises:
        GrokscopeError: ``precision`` asks for products that are less exact on this machine than float32.
    """
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
    )
    torch.set_num_threads(threads)
    # only where it changes something: setting the flag, to anything, imports torch's compiler (two seconds)
    changes = device.type == "cuda" and not before[1]
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if changes:
        torch.use_deterministic_algorithms(True)
    try:
        torch.set_float32_matmul_precision(_usable(precision, device))
        with kept_heap():
            yield
    finally:
        torch.set_num_threads(before[0])
        if changes:
            torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(before[2])


def choose_precision(device: torch.device) -> Precision:
    """``medium`` where a CPU's oneDNN multiplies float32 as exactly as the default, else ``highest``.

    On a CPU with AMX, oneDNN may round the factors to bfloat16 under this name; one product compared with
    float64 tells. On a GPU it would mean TF32, which is no float32.
    """
    if device.type != "cpu":
        return "highest"
    return "medium" if _rounding("medium") <= 2 * _rounding("highest") else "highest"


def _usable(wanted: Precision | None, device: torch.device) -> Precision:
    best = choose_precision(device)
    if wanted == "medium" and best != "medium":
        raise GrokscopeError(
            "repeating float32 products: the run used oneDNN (matmul_precision 'medium'), which rounds to less "
            "than float32 on this machine, expected a machine on which it does not"
        )
    return wanted or best


def _rounding(precision: Precision) -> float:
    """Largest error of one float32 product against float64, relative to the largest entry."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(96, 512, generator=generator)
    right = torch.randn(512, 96, generator=generator)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        product = left @ right
    finally:
        torch.set_float32_matmul_precision(before)
    exact = left.double() @ right.double()
    return float((product.double() - exact).abs().max() / exact.abs().max())


@contextmanager
def kept_heap() -> Iterator[None]:
    """Keep freed memory in the process: glibc otherwise returns it after every step and asks for it again."""
    keep_heap()
    try:
        yield
    finally:
        _mallopt(_USUAL)


def keep_heap() -> bool:
    """:func:`kept_heap` for the rest of the process; ``False`` where the C library is not glibc."""
    return _mallopt(_KEPT)


def _mallopt(settings: dict[int, int]) -> bool:
    try:
        libc = ctypes.CDLL("libc.so.6")
        return all(libc.mallopt(name, value) == 1 for name, value in settings.items())
    except (OSError, AttributeError):
        return False  # another C library: only slower
