"""Pictures of digits: scikit-learn's own 8 by 8 ones, or MNIST from files that the user points at."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.tasks.task import Levels, Task, random_stream

CLASSES = 10
_MOST_BYTES = 2**30
"""Of one file of MNIST's format, unpacked; MNIST's largest has 47 million."""
_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class DigitsSettings:
    """``[task]`` of a recipe: which digit a picture shows.

    Without ``folder``, ``train`` samples of scikit-learn's 1797 pictures of 8 by 8 pixels are drawn, and ``test`` of
    the others; 0 means all others. With ``folder``, which holds MNIST's four files as they are distributed (packed
    by gzip or not), the first ``train`` of its training and the first ``test`` of its test pictures are taken, as in
    arXiv 2506.12284. ``split_seed`` is the seed of the draw where it differs from the run's.
    """

    name: Literal["digits"] = "digits"
    train: int = 1024
    test: int = 0
    folder: str = ""
    split_seed: int | None = None


def digits_task(settings: DigitsSettings, seed: int) -> Task:
    """Inputs (N, pixels), targets (N,), training samples first; N = train + test.

    All pixels are shifted and scaled by one mean and one standard deviation, those of the training samples.
    ``facts`` holds the SHA-256 of pixels and labels as they were read, so that a run knows its data again.

    Raises:
        GrokscopeError: more samples than there are or none, or files that are missing or not of MNIST's format.
    """
    if settings.train < 1 or settings.test < 0:
        raise GrokscopeError(
            f"building a task of digits: task.train = {settings.train} and task.test = {settings.test}, expected at "
            "least 1 and at least 0"
        )
    if settings.folder:
        pixels, labels, count = _from_files(Path(settings.folder).expanduser(), settings)
        words, side = "MNIST's digits", 28
    else:
        pixels, labels, count = _bundled(settings, seed)
        words, side = "scikit-learn's digits", 8
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    inputs = torch.from_numpy(pixels.astype(np.float64))
    known = inputs[:count]
    deviation = float(known.std(correction=0))
    if not deviation > 0:
        raise GrokscopeError("building a task of digits: all training pixels are equal, expected pictures")
    mask = torch.zeros(len(inputs), dtype=torch.bool)
    mask[:count] = True
    return Task(
        name=words,
        kind="classification",
        inputs=(inputs - known.mean()) / deviation,
        targets=torch.from_numpy(labels.astype(np.int64)),
        train_mask=mask,
        n_classes=CLASSES,
        n_tokens=None,
        chance=1 / CLASSES,
        levels=Levels("skill", fit=0.99, grok=0.8),
        description=f"{words}, {side} by {side} pixels, {count} samples in training and {len(inputs) - count} others",
        facts={"sha256": digest},
    )


Samples = tuple[NDArray[np.uint8], NDArray[np.uint8], int]
"""Pixels (N, side²) and labels (N,), training samples first, and how many these are."""


def _bundled(settings: DigitsSettings, seed: int) -> Samples:
    from sklearn.datasets import load_digits

    pixels, labels = (np.asarray(of, np.uint8) for of in load_digits(return_X_y=True))
    total = len(labels)
    test = settings.test or total - settings.train
    if test < 1 or settings.train + test > total:
        raise GrokscopeError(
            f"building a task of digits: task.train = {settings.train} and task.test = {settings.test}, expected at "
            f"most {total} samples together, one of them at least for the test"
        )
    split_seed = seed if settings.split_seed is None else settings.split_seed
    order: Tensor = torch.randperm(total, generator=random_stream(split_seed, "digits"))
    chosen = order[: settings.train + test].numpy()
    return pixels[chosen], labels[chosen], settings.train


def _from_files(folder: Path, settings: DigitsSettings) -> Samples:
    parts = []
    for subset, wanted in (("train", settings.train), ("test", settings.test)):
        pictures, answers = (_idx(folder, name) for name in _FILES[subset])
        if pictures.ndim != 3 or answers.shape != pictures.shape[:1] or pictures.shape[1:] != (28, 28):
            raise GrokscopeError(
                f"reading digits from {folder}: {_FILES[subset][0]} has shape {pictures.shape} and "
                f"{_FILES[subset][1]} {answers.shape}, expected N pictures of 28 by 28 and as many labels"
            )
        if answers.max(initial=0) >= CLASSES:
            raise GrokscopeError(
                f"reading digits from {folder}: {_FILES[subset][1]} has a label {answers.max()}, expected 0 to 9"
            )
        count = wanted or len(answers)
        if count > len(answers):
            raise GrokscopeError(
                f"reading digits from {folder}: task.{subset} = {wanted}, expected at most the {len(answers)} there are"
            )
        parts.append((pictures[:count].reshape(count, -1), answers[:count]))
    pixels, labels = (np.concatenate(of) for of in zip(*parts, strict=True))
    return pixels, labels, len(parts[0][1])


def _idx(folder: Path, name: str) -> NDArray[np.uint8]:
    """A file of unsigned bytes in the IDX format: 0, 0, 8, its number of axes, their lengths, the values."""
    places = (folder / name, folder / f"{name}.gz")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise GrokscopeError(
            f"reading digits from {folder}: neither {name} nor {name}.gz is there, expected one"
        )
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise GrokscopeError(f"reading digits from {path}: {error}, expected a readable file") from None
    axes = data[3] if len(data) > 3 else 0
    lengths = (
        np.frombuffer(data[4 : 4 + 4 * axes], dtype=">u4") if len(data) >= 4 + 4 * axes else np.array([])
    )
    begin = 4 + 4 * axes
    if (
        data[:3] != b"\0\0\x08"
        or not axes
        or not len(lengths)
        or len(data) - begin != np.prod(lengths, dtype=object)
    ):
        raise GrokscopeError(
            f"reading digits from {path}: its {len(data)} bytes are not unsigned bytes in the IDX format, expected a "
            "file of MNIST"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=begin).reshape(lengths.astype(np.int64))
