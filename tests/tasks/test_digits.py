"""Digits: scikit-learn's own, and files in MNIST's format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from grokscope.errors import GrokscopeError
from grokscope.tasks import DigitsSettings, build_task, check_data, task_record

NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def idx(values: np.ndarray) -> bytes:
    """The format of MNIST's files."""
    head = bytes([0, 0, 8, values.ndim]) + b"".join(length.to_bytes(4, "big") for length in values.shape)
    return head + values.astype(np.uint8).tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Files like MNIST's, two of them packed."""
    drawn = np.random.default_rng(0)
    for images, labels, count in ((NAMES[0], NAMES[1], 30), (NAMES[2], NAMES[3], 20)):
        (tmp_path / images).write_bytes(idx(drawn.integers(0, 256, (count, 28, 28))))
        (tmp_path / f"{labels}.gz").write_bytes(gzip.compress(idx(np.arange(count) % 10)))
    return tmp_path


def test_bundled_digits_are_those_of_the_library() -> None:
    task = build_task(DigitsSettings(train=1000), 0)
    known_pixels, known_labels = load_digits(return_X_y=True)
    assert task.inputs.shape == (1797, 64)
    assert int(task.train_mask.sum()) == 1000
    assert torch.equal(task.targets.bincount(), torch.from_numpy(np.bincount(known_labels)))
    train = task.inputs[task.train_mask]
    assert abs(float(train.mean())) < 1e-12
    assert float(train.std(correction=0)) == pytest.approx(1.0)
    # one shift and one scale: the pictures come back
    pixels = task.inputs / (task.inputs.max() - task.inputs.min())
    found = {tuple(np.round(row * 16).astype(int)) for row in (pixels - pixels.min()).numpy()}
    assert found == {tuple(row.astype(int)) for row in known_pixels}


def test_the_seed_draws_the_split_and_no_sample_comes_twice() -> None:
    one, two = (build_task(DigitsSettings(train=100, test=50), seed) for seed in (0, 1))
    assert len(one.inputs) == 150
    assert not torch.equal(one.inputs, two.inputs)
    fixed = build_task(DigitsSettings(train=100, test=50, split_seed=1), 7)
    assert torch.equal(fixed.inputs, two.inputs)
    whole = build_task(DigitsSettings(train=1700), 3)
    assert len(whole.inputs) == 1797


def test_files_of_mnist_are_read_from_their_beginning(mnist: Path) -> None:
    task = build_task(DigitsSettings(train=12, test=7, folder=str(mnist)), 5)
    assert task.inputs.shape == (19, 784)
    assert task.targets.tolist() == [i % 10 for i in range(12)] + list(range(7))
    raw = (
        np.frombuffer((mnist / NAMES[0]).read_bytes(), np.uint8, offset=16)
        .reshape(30, 784)[:12]
        .astype(float)
    )
    assert np.allclose(task.inputs[:12].numpy(), (raw - raw.mean()) / raw.std(), rtol=0, atol=1e-12)
    every = build_task(DigitsSettings(train=30, folder=str(mnist)), 0)
    assert len(every.inputs) == 50


def test_a_run_knows_its_data_again(mnist: Path) -> None:
    settings = DigitsSettings(train=12, test=7, folder=str(mnist))
    record = task_record(build_task(settings, 0))
    check_data(build_task(settings, 0), record, "opening a run")
    (mnist / NAMES[0]).write_bytes(idx(np.arange(30 * 784).reshape(30, 28, 28) % 200))
    with pytest.raises(GrokscopeError, match=r"opening a run: its data has the SHA-256 .* expected"):
        check_data(build_task(settings, 0), record, "opening a run")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / NAMES[2]).unlink(), "neither t10k-images-idx3-ubyte nor t10k-images-idx3-ubyte.gz is there"),
        (lambda f: (f / NAMES[0]).write_bytes(b""), "0 bytes are not unsigned bytes in the IDX format"),
        (lambda f: (f / NAMES[0]).write_bytes((f / NAMES[0]).read_bytes()[:-1]), "not unsigned bytes"),
        (lambda f: (f / NAMES[0]).write_bytes(b"\0\0\x0d\3" + bytes(12)), "not unsigned bytes"),
        (lambda f: (f / NAMES[0]).write_bytes(b"\0\0\x08\xff" + bytes(12)), "not unsigned bytes"),
        (lambda f: (f / f"{NAMES[1]}.gz").write_bytes(b"\x1f\x8b\x08nothing"), "expected a readable file"),
        (lambda f: (f / f"{NAMES[1]}.gz").write_bytes(gzip.compress(idx(np.arange(29)))), "as many labels"),
        (lambda f: (f / f"{NAMES[1]}.gz").write_bytes(gzip.compress(idx(np.arange(30)))), "has a label 29"),
    ],
)  # fmt: skip
def test_files_that_are_not_mnist_are_one_line(mnist: Path, damage, expected: str) -> None:
    damage(mnist)
    with pytest.raises(GrokscopeError, match=expected) as caught:
        build_task(DigitsSettings(train=12, test=7, folder=str(mnist)), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (DigitsSettings(train=0), "task.train = 0"),
        (DigitsSettings(train=1797), "at most 1797 samples together"),
        (DigitsSettings(train=1000, test=800), "at most 1797 samples together"),
        (DigitsSettings(train=100, test=-1), "task.test = -1"),
    ],
)
def test_sizes_that_cannot_be_are_one_line(settings: DigitsSettings, expected: str) -> None:
    with pytest.raises(GrokscopeError, match=expected):
        build_task(settings, 0)


def test_more_pictures_than_the_files_hold(mnist: Path) -> None:
    with pytest.raises(GrokscopeError, match=r"task.train = 31, expected at most the 30"):
        build_task(DigitsSettings(train=31, folder=str(mnist)), 0)
