"""Low-rank completion: rank, scale, and what is observed."""

import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.tasks import CompletionSettings, completion_task, random_split


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_rank_and_scale(rank: int) -> None:
    task = completion_task(CompletionSettings(d=60, rank=rank), 3)
    sigma = torch.linalg.svdvals(task.targets)
    assert int((sigma > 1e-10 * sigma[0]).sum()) == rank == task.rank
    assert torch.equal(task.inputs, torch.eye(60, dtype=torch.float64))
    assert (task.kind, task.chance, task.swap, task.mirrored()) == ("regression", None, None, None)


def test_entries_have_variance_one_over_d() -> None:
    targets = torch.stack(
        [completion_task(CompletionSettings(d=20, rank=3), seed).targets for seed in range(200)]
    )
    assert targets.square().mean().item() == pytest.approx(1 / 20, rel=0.05)
    assert abs(targets.mean().item()) < 0.02


def test_observed_entries_are_the_random_split() -> None:
    task = completion_task(CompletionSettings(d=30, train_fraction=0.5), 7)
    assert torch.equal(task.train_mask, random_split(900, 0.5, 7).reshape(30, 30))
    other = completion_task(CompletionSettings(d=30, split_seed=8), 7)
    assert torch.equal(other.targets, task.targets)
    assert not torch.equal(other.train_mask, task.train_mask)


@pytest.mark.parametrize("changes", [{"d": 1}, {"d": 0}, {"rank": 0}, {"rank": 31}, {"train_fraction": 1.0}])
def test_settings_that_make_no_task(changes: dict) -> None:
    with pytest.raises(GrokscopeError, match="expected") as caught:
        completion_task(CompletionSettings(**changes), 0)
    assert "\n" not in str(caught.value)
