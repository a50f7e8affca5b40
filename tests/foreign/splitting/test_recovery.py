"""Training pairs read off memorised losses: found, how sure, and refused where nothing can tell."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.foreign.gathering.facts import Facts
from grokscope.foreign.splitting.evidence import Evidence
from grokscope.foreign.splitting.find import NoSplit, Split, find_split
from grokscope.foreign.splitting.recovery import (
    guess_count,
    is_symmetric,
    memorised_saves,
    mirror_of,
    oddness,
    recover,
)
from grokscope.tasks import GroupSettings, ModularSettings, Task, group_task, modular_task, random_split

P = 31
N = P * P


def task_of(op: str = "add") -> Task:
    return modular_task(ModularSettings(op=op, p=P, train_fraction=0.5), 0)


def memorised(mask: Tensor, saves: int, seed: int, apart: float = 4.0) -> tuple[Tensor, Tensor]:
    """(saves, N) log-normal losses: test pairs whose mirror image was trained on lie between the others."""
    generator = torch.Generator().manual_seed(seed)
    mirrored = mask.reshape(P, P).T.reshape(-1)
    base = torch.where(mask, -2 * apart, torch.where(mirrored, -apart * 0.5, 2.0))
    common = torch.randn(len(mask), generator=generator, dtype=torch.float64)
    own = torch.randn(saves, len(mask), generator=generator, dtype=torch.float64)
    spread = torch.where(mask, 0.6, 1.4)
    losses = (base + spread * (0.7 * common + 0.7 * own)).exp()
    return losses, (mask | (losses < 0.5))


def evidence_of(losses: Tensor, right: Tensor) -> Evidence:
    return Evidence(losses, right, list(range(len(losses))), [])


@pytest.mark.parametrize("fraction", [0.25, 0.4, 0.6])
@pytest.mark.parametrize("saves", [1, 4])
def test_memorised_pairs_are_found(fraction: float, saves: int) -> None:
    mask = random_split(N, fraction, 10**9)
    losses, right = memorised(mask, saves, 0)
    steps = [100 * k for k in range(1, saves + 1)]
    found = find_split(
        task_of(), losses, right, steps, Facts(), {"frac_train": fraction}, [], most_drawn=10**6
    )
    assert isinstance(found, Split), found
    assert (found.source, found.seed, found.fraction) == ("recovered", None, fraction)
    assert int((found.mask & ~mask).sum()) <= 0.01 * N
    assert found.confidence > 0.6
    assert "expected wrong" in found.evidence
    assert found.as_json()["recipe"] == "recovered from the losses of memorised saves"


@pytest.mark.parametrize("apart", [1.5, 2.0, 3.0])
def test_as_many_are_wrong_as_is_expected(apart: float) -> None:
    """Over a few draws, the expected number of wrong pairs is the true one within a factor."""
    expected, true = 0.0, 0
    for seed in range(4):
        mask = random_split(N, 0.4, 10**9 + seed)
        losses, right = memorised(mask, 3, seed, apart)
        found = recover(evidence_of(losses, right), [0, 1, 2], mirror_of(task_of()), int(0.4 * N), task_of())
        expected += found.expected_wrong
        true += int((found.mask & ~mask.numpy()).sum())
    assert true <= 2.5 * expected + 4
    assert expected <= 4 * true + 4


def test_the_mirror_image_helps() -> None:
    """The ranking by worst loss mistakes mirrored test pairs for training pairs; the model does not."""
    mask = random_split(N, 0.4, 10**9)
    losses, right = memorised(mask, 3, 0, 1.2)
    evidence, count = evidence_of(losses, right), int(0.4 * N)
    with_mirror = recover(evidence, [0, 1, 2], mirror_of(task_of()), count, task_of())
    alone = recover(evidence, [0, 1, 2], np.arange(N), count, task_of())
    wrong = [int((one.mask & ~mask.numpy()).sum()) for one in (with_mirror, alone)]
    assert wrong[0] < wrong[1]
    assert with_mirror.moved > 0


def test_less_is_believed_without_a_fraction() -> None:
    mask = random_split(N, 0.4, 10**9)
    losses, right = memorised(mask, 4, 0)
    evidence = evidence_of(losses, right)
    count = guess_count(evidence, memorised_saves(evidence, None), mirror_of(task_of()))
    assert count == pytest.approx(int(mask.sum()), abs=4)
    found = find_split(task_of(), losses, right, [1, 2, 3, 4], Facts(), {}, [], most_drawn=10**6)
    assert isinstance(found, Split)
    assert found.fraction == 0.4
    assert "near what the losses suggest" in found.evidence
    assert found.confidence <= 0.8


def test_a_fraction_that_the_losses_contradict() -> None:
    mask = random_split(N, 0.4, 10**9)
    losses, right = memorised(mask, 4, 0)
    steps = [1, 2, 3, 4]
    found = find_split(task_of(), losses, right, steps, Facts(), {"frac_train": 0.3}, [], most_drawn=10**6)
    assert isinstance(found, Split)
    assert found.fraction == 0.4
    assert "the recorded fraction 0.3" in found.contradiction


def test_a_recorded_seed_that_does_not_fit_is_named() -> None:
    mask = random_split(N, 0.4, 10**9)
    losses, right = memorised(mask, 4, 0)
    inside = {"frac_train": 0.4, "seed": 42}
    found = find_split(task_of(), losses, right, [1, 2, 3, 4], Facts(), inside, [], most_drawn=10**6)
    assert isinstance(found, Split)
    assert found.source == "recovered"
    assert "recorded seed 42" in found.contradiction


def test_a_symmetric_network_is_refused() -> None:
    mask = random_split(N, 0.4, 10**9)
    losses, right = memorised(mask, 3, 0)
    table = losses.reshape(3, P, P)
    losses = torch.minimum(table, table.transpose(1, 2)).reshape(3, N)
    right = right | right.reshape(3, P, P).transpose(1, 2).reshape(3, N)
    assert is_symmetric(evidence_of(losses, right), [0, 1, 2], mirror_of(task_of()))
    assert not is_symmetric(evidence_of(losses, right), [0, 1, 2], np.arange(N))
    found = find_split(
        task_of(), losses, right, [1, 2, 3], Facts(), {"frac_train": 0.4}, [], most_drawn=10**6
    )
    assert isinstance(found, NoSplit)
    assert "(a, b) and (b, a) alike" in found.why


def test_networks_that_generalised_are_refused() -> None:
    losses = torch.rand(2, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-4
    right = torch.ones(2, N, dtype=torch.bool)
    found = find_split(task_of(), losses, right, [1, 2], Facts(), {"frac_train": 0.8}, [], most_drawn=10**6)
    assert isinstance(found, NoSplit)
    assert "no save has memorised its training pairs (79.9% of all) and no more" in found.why


def test_losses_without_two_sides_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    losses = torch.randn(3, N, generator=generator, dtype=torch.float64).exp()
    right = losses < losses.quantile(0.5)
    for inside in ({"frac_train": 0.4}, {}):
        found = find_split(task_of(), losses, right, [1, 2, 3], Facts(), inside, [], most_drawn=10**6)
        assert isinstance(found, NoSplit)
        assert "too unsure" in found.why or "memorised" in found.why


def test_which_saves_are_memorised() -> None:
    share = torch.tensor([0.01, 0.2, 0.41, 0.5, 0.95, 1.0])
    right = (torch.arange(N) / N)[None] < share[:, None]
    evidence = evidence_of(torch.ones(6, N, dtype=torch.float64), right)
    assert memorised_saves(evidence, 0.4) == [2, 3]
    assert memorised_saves(evidence, None) == [1, 2, 3]


def test_mirror_images() -> None:
    assert mirror_of(task_of())[1 * P + 4] == 4 * P + 1
    assert mirror_of(task_of("sub"))[1 * P + 4] == 4 * P + 1
    group = group_task(GroupSettings(group="S4"), 0)
    image = mirror_of(group)
    assert (image[image] == np.arange(576)).all()
    quotients = modular_task(ModularSettings(op="div", p=7, train_fraction=0.5), 0)
    image = mirror_of(quotients)
    assert (image[:6] == np.arange(6)).all()
    assert (image[image] == np.arange(42)).all()


def test_what_is_no_random_draw_is_noticed() -> None:
    task, mirror = task_of(), mirror_of(task_of())
    found = [oddness(random_split(N, 0.4, seed).numpy(), mirror, task) for seed in range(200)]
    assert sum(bool(one) for one in found) <= 2
    mask = random_split(N, 0.4, 0).numpy().copy()
    mask[:P] = True
    assert "pairs with a 0" in oddness(mask, mirror, task)
    table = random_split(N, 0.4, 0).numpy().reshape(P, P)
    both = np.triu(table) | np.triu(table).T
    assert "mirror images" in oddness(both.reshape(-1), mirror, task)


@given(st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_renaming_the_residues_changes_nothing(seed: int) -> None:
    """The recovered pairs move with the rows and columns of the table."""
    mask = random_split(N, 0.4, 10**9)
    losses, right = memorised(mask, 2, 3)
    names = torch.randperm(P, generator=torch.Generator().manual_seed(seed))
    moved = (names[:, None] * P + names[None, :]).reshape(-1)
    one = recover(evidence_of(losses, right), [0, 1], mirror_of(task_of()), int(0.4 * N), task_of())
    other = recover(
        evidence_of(losses[:, moved], right[:, moved]), [0, 1], mirror_of(task_of()), int(0.4 * N), task_of()
    )
    assert (one.mask[moved.numpy()] == other.mask).all()
    assert one.expected_wrong == pytest.approx(other.expected_wrong, rel=1e-3, abs=1e-6)
