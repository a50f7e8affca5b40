"""The training pairs: as recorded, as found among common conventions, or refused."""

import numpy as np
import pytest
import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.facts import Facts
from grokscope.foreign.split import COMMON_FRACTIONS, find_split, separation
from grokscope.tasks import random_split

N = 23 * 23


def losses_of(mask: Tensor, gap: float, seed: int = 0) -> Tensor:
    """(1, N) random losses, lower by ``gap`` on the training pairs."""
    noise = torch.randn(len(mask), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (noise - gap * mask.double()).exp()[None]


def facts_of(**values: object) -> Facts:
    return Facts({"config.json": values})


def test_separation_against_a_slow_rank_sum() -> None:
    losses = torch.tensor([[0.3, 0.1, 0.1, 0.7, 0.5, 0.1, 0.9, 0.2]], dtype=torch.float64)
    mask = torch.tensor([True, True, False, False, True, False, False, True])
    inside, outside = losses[0, mask], losses[0, ~mask]
    u = sum((b > a).double().item() + 0.5 * (b == a).double().item() for a in inside for b in outside)
    values, counts = np.unique(losses.numpy(), return_counts=True)
    n, k = losses.shape[1], len(inside)
    ties = sum(count**3 - count for count in counts) / (n * (n - 1))
    variance = k * (n - k) / 12 * (n + 1 - ties)
    assert len(values) < n
    assert separation(losses, mask[None])[0, 0] == pytest.approx(
        (u - k * (n - k) / 2) / variance**0.5, rel=1e-12
    )


def test_separation_is_standard_normal_for_splits_of_other_runs() -> None:
    losses = losses_of(random_split(N, 0.4, 0), 3.0)
    masks = torch.stack([random_split(N, 0.4, seed) for seed in range(1, 301)])
    z = separation(losses, masks)[0]
    assert abs(z.mean()) < 0.25
    assert 0.85 < z.std() < 1.15
    assert separation(losses, random_split(N, 0.4, 0)[None])[0, 0] > 15


def test_equal_losses_separate_nothing() -> None:
    assert separation(torch.ones(1, N, dtype=torch.float64), random_split(N, 0.4, 0)[None])[0, 0] == 0


def test_the_recorded_split() -> None:
    mask = random_split(N, 0.37, 12345)
    losses = losses_of(mask, 3.0)
    split = find_split(facts_of(seed=12345, frac_train=0.37), {}, losses, mask[None], [70], "x")
    assert torch.equal(split.mask, mask)
    assert (split.source, split.seed, split.fraction, split.step) == ("recorded", 12345, 0.37, 70)
    assert split.separation > 8
    printed = split.as_json()
    assert (printed["n_train"], printed["n_test"]) == (int(mask.sum()), N - int(mask.sum()))


def test_a_recorded_split_that_nothing_confirms_is_kept_and_says_so() -> None:
    losses = losses_of(random_split(N, 0.4, 5), 0.0)
    nothing_right = torch.zeros(1, N, dtype=torch.bool)
    split = find_split(facts_of(seed=7, train_fraction=0.4), {}, losses, nothing_right, [0], "x")
    assert split.source == "recorded"
    assert "no save can confirm it" in split.evidence


@pytest.mark.parametrize("seed", [0, 9, 42, 999])
@pytest.mark.parametrize("fraction", [0.2, 0.3, 0.45, 0.9])
def test_a_split_that_is_not_recorded_is_searched(seed: int, fraction: float) -> None:
    mask = random_split(N, fraction, seed)
    split = find_split(Facts(), {}, losses_of(mask, 6.0), mask[None], [10], "x")
    assert torch.equal(split.mask, mask)
    assert (split.source, split.seed, split.fraction) == ("searched", seed, fraction)
    assert fraction in COMMON_FRACTIONS


def test_a_recorded_split_that_the_weights_contradict(one_line) -> None:
    mask = random_split(N, 0.4, 3)
    losses = losses_of(mask, 6.0)
    split = find_split(facts_of(seed=77, frac_train=0.4), {}, losses, mask[None], [10], "x")
    assert (split.source, split.seed) == ("searched", 3)
    other = random_split(N, 0.4, 123456)
    with pytest.raises(GrokscopeError) as caught:
        find_split(
            facts_of(seed=77, frac_train=0.4), {}, losses_of(other, 6.0), other[None], [10], "their/run"
        )
    one_line(caught.value, "their/run", "recorded seed 77", "do not fit", "tried", "expected")


def test_nothing_recorded_and_nothing_found(one_line) -> None:
    with pytest.raises(GrokscopeError) as caught:
        find_split(
            Facts(), {}, losses_of(random_split(N, 0.4, 5), 0.0), torch.zeros(1, N).bool(), [0], "their/run"
        )
    one_line(caught.value, "no training split was found", "fractions 0.2 to 0.9", "seeds 0 to 9", "expected")


@pytest.mark.parametrize(
    "wrong", [{"seed": -1}, {"seed": 1.5}, {"frac_train": 1.5}, {"frac_train": 1}, {"seed": True}]
)
def test_settings_that_make_no_sense_are_not_used(wrong: dict) -> None:
    mask = random_split(N, 0.4, 3)
    given = {"seed": 3, "frac_train": 0.4, **wrong}
    assert find_split(facts_of(**given), {}, losses_of(mask, 6.0), mask[None], [1], "x").source == "searched"
