"""What a network is asked to learn: inputs, targets, the split, and the maps that keep the answer.

Shapes: N samples, C classes (or outputs), p residues.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError


@dataclass(frozen=True)
class Symmetry:
    """A map of the inputs whose effect on the answer is known.

    ``image`` (N,) int64 holds the index of each sample's image, −1 where the map is not defined
    (a division by zero, say). ``preserves`` tells whether the answer is unchanged; otherwise it changes
    in the way that ``effect`` says.
    """

    name: str
    image: Tensor
    preserves: bool
    effect: str = "y"


@dataclass(frozen=True)
class ResidueAxis:
    """How the rows of an embedding become a function on a cyclic group.

    ``kind``: *additive* (the residues themselves), *multiplicative* (nonzero residues by discrete
    logarithm to the least primitive root) or *square* (functions of a² mod p). ``rows`` (n,) int64 are
    the residues in axis order.
    """

    kind: Literal["additive", "multiplicative", "square"]
    rows: Tensor


@dataclass(frozen=True)
class Levels:
    """Levels at which a run counts as fitted and as generalised.

    ``skill``: on s = (accuracy − chance)/(1 − chance), reached from below. ``error``: on the relative
    squared error, reached from above.
    """

    quantity: Literal["skill", "error"]
    fit: float
    grok: float
    rank_factor: float | None = None


NO_TOKEN_AXIS = Absent("the inputs are not residues")
NO_CLASS_AXIS = Absent("the classes are not residues")


@dataclass(frozen=True)
class Task:
    """One learning problem with its train split.

    Attributes:
        inputs: (N, 2) int64 operand pairs, or (N, d) features.
        targets: (N,) int64 classes, or (N, C) float64 values.
        train_mask: (N,) bool, or (N, C) bool where single entries are observed.
        n_tokens: number of residues per operand, ``None`` for feature inputs.
        chance: accuracy of a constant guess, ``None`` for regression.
        token_axis, class_axis: the Fourier axes of operands and of answers, or why there is none.
        swap: whether exchanging the operands keeps the answer; ``None`` where there are no operands.
        rank: the target's rank, for completion.
        mean_loss: whether the loss of a regression, ½ Σ (ŷ − y)², is divided by the number of its entries.
        signs: whether the targets of a regression are ±1, so that an answer is right where its sign is.
        no_split: why it is not known which samples were trained on, ``None`` where it is. ``train_mask`` is
            then empty, and nothing that is taken over training or test samples may be measured.
    """

    name: str
    kind: Literal["classification", "regression", "unknown"]
    inputs: Tensor
    targets: Tensor
    train_mask: Tensor
    n_classes: int
    n_tokens: int | None
    chance: float | None
    levels: Levels
    symmetries: tuple[Symmetry, ...] = ()
    token_axis: ResidueAxis | Absent = NO_TOKEN_AXIS
    class_axis: ResidueAxis | Absent = NO_CLASS_AXIS
    swap: bool | None = None
    rank: int | None = None
    operation: str | None = None
    description: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    no_split: Absent | None = None
    mean_loss: bool = False
    signs: bool = False

    @property
    def is_grid(self) -> bool:
        """Whether the inputs are every operand pair, in the order a·p + b."""
        return self.n_tokens is not None and len(self.inputs) == self.n_tokens**2

    @property
    def train_rows(self) -> Tensor:
        """(N,) bool: samples of which anything was trained on, also where single entries are observed."""
        return self.train_mask if self.train_mask.ndim == 1 else self.train_mask.any(dim=1)

    def with_split(self, train_mask: Tensor) -> Task:
        """The same problem under another train split (same shape as ``train_mask``)."""
        if train_mask.shape != self.train_mask.shape:
            raise GrokscopeError(
                f"setting the split of {self.name}: the mask given has shape {tuple(train_mask.shape)}, "
                f"expected {tuple(self.train_mask.shape)}"
            )
        return replace(self, train_mask=train_mask.bool(), no_split=None)

    def without_split(self, reason: str) -> Task:
        """The same problem where nobody knows which samples were trained on, and why."""
        return replace(self, train_mask=torch.zeros_like(self.train_mask), no_split=Absent(reason))

    def image_in_train(self, *, preserving: bool) -> Tensor | None:
        """(N,) bool: test samples with another sample's training image under the known maps.

        ``preserving`` selects the label-preserving maps, else those that change the label in a known
        way. ``None`` when the task has no such map.
        """
        maps = [s for s in self.symmetries if s.preserves is preserving]
        if not maps:
            return None
        found = torch.zeros(len(self.inputs), dtype=torch.bool)
        for symmetry in maps:
            found |= self._has_training_image(symmetry)
        return found

    def mirrored(self) -> Tensor | None:
        """(N,) bool: test pairs (a, b) whose swap (b, a) is another pair, same answer, and in training.

        ``None`` where swapping the operands changes the answer or there are no operands.
        """
        if not self.swap:
            return None
        return self._has_training_image(next(s for s in self.symmetries if s.name == "swap"))

    def _has_training_image(self, symmetry: Symmetry) -> Tensor:
        index = torch.arange(len(self.inputs))
        image = symmetry.image
        usable = (image >= 0) & (image != index)
        return ~self.train_mask & usable & self.train_mask[image.clamp(min=0)]


def random_split(total: int, fraction: float, seed: int) -> Tensor:
    """(total,) bool: the first ``int(fraction·total)`` of ``randperm`` under ``manual_seed(seed)``.

    This is the convention of most published code, always drawn on the CPU.
    """
    if not 0 < fraction < 1:
        raise GrokscopeError(
            f"splitting the data: task.train_fraction is {fraction}, expected a number strictly between 0 and 1"
        )
    count = int(fraction * total)
    if not 0 < count < total:
        raise GrokscopeError(
            f"splitting {total} samples: task.train_fraction = {fraction} leaves {count} training and "
            f"{total - count} test samples, expected at least one of each"
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(total, dtype=torch.bool)
    mask[order[:count]] = True
    return mask


def random_stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose, independent of every other purpose under the same seed."""
    digest = hashlib.sha256(f"grokscope/{purpose}/{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def task_record(task: Task) -> dict[str, Any]:
    """What ``run.json`` keeps of a task beside its settings: the split, and the digest of data read from files."""
    data = {"data": task.facts["sha256"]} if "sha256" in task.facts else {}
    return {"split": pack_mask(task.train_mask), **data}


def check_data(task: Task, manifest: Mapping[str, Any], doing: str) -> None:
    """That a run's data is what it was trained on. Raises GrokscopeError, which ``doing`` begins."""
    held, found = manifest.get("data"), task.facts.get("sha256")
    if held is not None and held != found:
        raise GrokscopeError(
            f"{doing}: its data has the SHA-256 {found!s:.12}, expected {held!s:.12}, what it was trained on"
        )


def pack_mask(mask: Tensor) -> dict[str, Any]:
    """A bool mask as JSON: shape and base64 of its bits, row-major, most significant bit first."""
    bits = np.packbits(mask.numpy().reshape(-1))
    return {"shape": list(mask.shape), "bits": base64.b64encode(bits.tobytes()).decode("ascii")}


def unpack_mask(packed: Mapping[str, Any]) -> Tensor:
    """The inverse of :func:`pack_mask`; one-line error where the bits do not fill the shape."""
    try:
        shape = tuple(int(n) for n in packed["shape"])
        raw = np.frombuffer(base64.b64decode(packed["bits"], validate=True), dtype=np.uint8)
        total = int(np.prod(shape))
        if len(raw) != (total + 7) // 8:
            raise ValueError(f"{len(raw)} bytes for {total} samples")
        return torch.from_numpy(np.unpackbits(raw, count=total).astype(bool).reshape(shape))
    except (KeyError, TypeError, ValueError) as error:
        raise GrokscopeError(
            f"reading the train split of a run: {error}, expected a shape and base64 bits that fill it"
        ) from None
