"""Training and test pairs that are written down beside the weights.

Scope: a list of pairs, of indices or a mask, for either role; which operand comes first is decided by the
losses. A list that contradicts itself or the task is no list.

Shape legend: N operand pairs, M entries of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from grokscope.tasks import Task


class PairListLike(Protocol):
    """A list of samples found in a file.

    ``role`` is train or test; ``kind`` says what ``values`` holds: *pairs* (M, 2 or more columns), the
    operands first, *indices* (M,) or a *mask* of N entries, flat or as a table.
    """

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def values(self) -> Any: ...
    @property
    def source(self) -> str: ...


@dataclass(frozen=True)
class Listed:
    """Training pairs as listed: ``mask`` (N,) under a reading of the lists in ``words``."""

    mask: np.ndarray
    words: str
    sources: str


def read_lists(task: Task, pairs: Sequence[PairListLike]) -> tuple[list[Listed], list[str]]:
    """Every reading of the lists that is consistent, the usual one first, and why others are not used."""
    readings: list[Listed] = []
    problems: list[str] = []
    trains = [one for one in pairs if _role(one) == "train"]
    tests = [one for one in pairs if _role(one) == "test"]
    both = [(a, b) for a in trains for b in tests if _folder(a) == _folder(b)] or [
        (a, b) for a in trains for b in tests
    ]
    for train, test in [*both, *((one, None) for one in trains), *((None, one) for one in tests)]:
        for reading in ("a first", "b first"):
            found = _reading(task, train, test, reading)
            if isinstance(found, str):
                if found not in problems:
                    problems.append(found)
            elif all((found.mask != other.mask).any() for other in readings):
                readings.append(found)
        # lists of both roles say more than either alone, and one that contradicts the other is none
        if readings or any("in common" in one for one in problems):
            break
    return readings, [] if readings else problems


def _reading(task: Task, train: PairListLike | None, test: PairListLike | None, reading: str) -> Listed | str:
    chosen: dict[str, np.ndarray] = {}
    for role, one in (("train", train), ("test", test)):
        if one is None:
            continue
        index = _indices(task, one, reading)
        if isinstance(index, str):
            return index
        mask = np.zeros(len(task.inputs), dtype=bool)
        mask[index] = True
        chosen[role] = mask
    sources = " and ".join(f"{one.name} in {one.source}" for one in (train, test) if one is not None)
    given = [one for one in (train, test) if one is not None]
    mask = chosen["train"] if "train" in chosen else ~chosen["test"]
    if len(chosen) == 2 and (chosen["train"] & chosen["test"]).any():
        shared = int((chosen["train"] & chosen["test"]).sum())
        return f"{sources} have {shared} pairs in common"
    if not 0 < mask.sum() < len(mask):
        return f"{sources} leave {int(mask.sum())} of {len(mask)} pairs for training"
    words = "as listed"
    if any(_kind(one) == "indices" for one in given):
        words = "indices a·p + b" if reading == "a first" else "indices b·p + a"
    elif reading == "b first":
        words = "operands in the order b, a"
    if len(chosen) == 2:
        neither = int((~chosen["train"] & ~chosen["test"]).sum())
        words += f", {neither} pairs in neither list" if neither else ""
    return Listed(mask, words, sources)


def _indices(task: Task, one: PairListLike, reading: str) -> np.ndarray | str:
    """(M,) places in the task of the samples listed, or why they are none."""
    about, n = f"{one.name} in {one.source}", len(task.inputs)
    try:
        values = one.values if isinstance(one.values, Tensor) else torch.tensor(np.asarray(one.values))
    except (TypeError, ValueError, RuntimeError):
        return f"{about} is no table of numbers"
    if values.is_complex() or values.numel() == 0 or values.numel() > 64 * n + 64:
        return f"{about} has shape {tuple(values.shape)}, which is no list of the task's {n} pairs"
    whole = values.to(torch.int64)
    if values.is_floating_point() and not torch.equal(whole.to(values.dtype), values):
        return f"{about} does not hold whole numbers"
    b_first = reading == "b first"
    operands = task.inputs.ndim == 2 and task.inputs.shape[1] == 2 and not task.inputs.is_floating_point()
    a, b = (task.inputs[:, 0], task.inputs[:, 1]) if operands else (None, None)
    kind = _kind(one)
    if kind == "mask":
        if whole.numel() != n or not bool(((whole == 0) | (whole == 1)).all()):
            return f"{about} is no mask of {n} pairs"
        flags = whole.T if b_first and whole.ndim == 2 else whole
        flat = flags.reshape(-1)
        if b_first and whole.ndim == 1:
            flat = flat[_from_b_major(task)] if operands else flat
        return flat.bool().nonzero()[:, 0].numpy()
    if kind == "pairs":
        if whole.ndim != 2 or whole.shape[1] < 2 or a is None or b is None:
            return f"{about} has shape {tuple(whole.shape)}, expected rows of two operands"
        first, second = (whole[:, 1], whole[:, 0]) if b_first else (whole[:, 0], whole[:, 1])
        width = int(max(int(a.max()), int(b.max()), int(whole[:, :2].max()))) + 1
        if int(whole[:, :2].min()) < 0 or width > 2**20:
            return f"{about} holds operands outside the task"
        place = {key: index for index, key in enumerate((a * width + b).tolist())}
        found = [place.get(key, -1) for key in (first * width + second).tolist()]
        outside = sum(index < 0 for index in found)
        return f"{about} holds {outside} pairs outside the task" if outside else np.array(found)
    flat = whole.reshape(-1)
    if int(flat.min()) < 0:
        return f"{about} holds negative indices"
    if b_first and operands:
        if int(flat.max()) >= n:
            return f"{about} holds indices up to {int(flat.max())}, the task has {n} pairs"
        back = torch.empty(n, dtype=torch.int64)
        back[_from_b_major(task)] = torch.arange(n)
        return back[flat].numpy()
    if int(flat.max()) >= n:
        return f"{about} holds indices up to {int(flat.max())}, the task has {n} pairs"
    return flat.numpy()


def _from_b_major(task: Task) -> Tensor:
    """(N,) the place of each of the task's pairs when they are listed by b and then a."""
    a, b = task.inputs[:, 0], task.inputs[:, 1]
    width = int(a.max()) + 1
    listed = (b * width + a).argsort()
    places = torch.empty(len(a), dtype=torch.int64)
    places[listed] = torch.arange(len(a))
    return places


def _role(one: PairListLike) -> str:
    role = str(one.role).lower()
    if role.startswith("train"):
        return "train"
    return "test" if role.startswith(("test", "val", "eval", "held")) else role


def _kind(one: PairListLike) -> str:
    return str(one.kind).lower()


def _folder(one: PairListLike) -> str:
    return one.source.rpartition("/")[0]
