"""Gaussian classes: where their means lie, how far samples stray, and that a linear map tells them apart."""

from __future__ import annotations

import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.tasks import BlobsSettings, blobs_task, random_split


@pytest.mark.parametrize(("classes", "rank"), [(2, 1), (3, 3), (5, 3), (6, 3)])
def test_without_noise_the_samples_are_the_means(classes: int, rank: int) -> None:
    task = blobs_task(BlobsSettings(d=7, classes=classes, rank=rank, per_class=4, noise=0.0), 1)
    means = task.inputs[:classes]
    assert torch.equal(task.inputs, means[task.targets])
    gram = means @ means.T
    torch.testing.assert_close(gram.diagonal(), torch.ones(classes, dtype=torch.float64))
    off = gram - torch.diag(gram.diagonal())
    assert off.max() < 1e-12
    sigma = torch.linalg.svdvals(means)
    assert int((sigma > 1e-10).sum()) == rank
    margins = gram.diagonal()[:, None] - gram
    assert margins[~torch.eye(classes, dtype=torch.bool)].min() > 1 - 1e-12


def test_samples_stray_by_the_noise() -> None:
    settings = BlobsSettings(d=12, per_class=500, noise=0.8)
    stray = (
        blobs_task(settings, 5).inputs - blobs_task(BlobsSettings(d=12, per_class=500, noise=0.0), 5).inputs
    )
    assert stray.square().sum(1).mean().sqrt().item() == pytest.approx(0.8, rel=0.02)
    assert stray.mean(0).abs().max() < 0.03


@pytest.mark.parametrize("seed", range(5))
def test_the_classes_are_separable_as_they_come(seed: int) -> None:
    task = blobs_task(BlobsSettings(), seed)
    means = torch.stack([task.inputs[task.targets == c].mean(0) for c in range(6)])
    assert torch.equal((task.inputs @ means.T).argmax(1), task.targets)


def test_classes_split_and_levels() -> None:
    task = blobs_task(BlobsSettings(classes=4, rank=2, per_class=10, train_fraction=0.3, split_seed=9), 2)
    assert task.targets.bincount().tolist() == [10] * 4
    assert torch.equal(task.train_mask, random_split(40, 0.3, 9))
    assert (task.kind, task.n_tokens, task.chance, task.n_classes) == ("classification", None, 0.25, 4)
    assert (task.symmetries, task.swap, task.mirrored(), task.rank) == ((), None, None, None)
    assert not task.is_grid
    assert torch.equal(task.inputs, blobs_task(BlobsSettings(classes=4, rank=2, per_class=10), 2).inputs)
    assert not torch.equal(task.inputs, blobs_task(BlobsSettings(classes=4, rank=2, per_class=10), 3).inputs)


@pytest.mark.parametrize(
    "changes",
    [{"rank": 0}, {"rank": 21}, {"classes": 7}, {"classes": 2}, {"classes": 1, "rank": 1}, {"per_class": 0},
     {"noise": -0.1}, {"noise": float("nan")}, {"train_fraction": 1.0}],
)  # fmt: skip
def test_settings_that_make_no_task(changes: dict) -> None:
    with pytest.raises(GrokscopeError, match="expected") as caught:
        blobs_task(BlobsSettings(**changes), 0)
    assert "\n" not in str(caught.value)
