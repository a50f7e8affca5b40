"""The training pairs: as recorded, found among known recipes, listed, recovered, or refused."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.foreign.gathering.facts import Facts, Recorded
from grokscope.foreign.splitting.find import (
    CONVENTION,
    NoSplit,
    Split,
    find_split,
    recorded_settings,
    separation,
)
from grokscope.tasks import GroupSettings, ModularSettings, Task, group_task, modular_task, random_split

P = 23
N = P * P


def task_of(op: str = "add", p: int = P) -> Task:
    return modular_task(ModularSettings(op=op, p=p, train_fraction=0.5), 0)


def losses_of(mask: Tensor, gap: float, seed: int = 0) -> Tensor:
    """(1, N) random losses, lower by ``gap`` on the training pairs."""
    noise = torch.randn(len(mask), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (noise - gap * mask.double()).exp()[None]


def facts_of(**values: object) -> Facts:
    return Facts({"config.json": values})


def numbers_of(mask: Tensor, losses: Tensor, right: Tensor, steps=(10,), off: float = 0.0) -> list[Recorded]:
    """Losses and accuracies as an author records them, ``off`` by a relative error."""
    found = []
    for row, step in enumerate(steps):
        for side, chosen in (("train", mask), ("test", ~mask)):
            loss = losses[row, chosen].mean().item() * (1 + off)
            accuracy = right[row, chosen].double().mean().item()
            found.append(Recorded(f"loss.{side}", step, loss, "losses in metrics.csv"))
            found.append(Recorded(f"accuracy.{side}", step, accuracy, "accuracies in metrics.csv"))
    return found


def find(task: Task, losses: Tensor, right: Tensor, steps=(10,), **given: object) -> Split | NoSplit:
    facts = given.pop("facts", Facts())
    inside, recorded = given.pop("inside", {}), given.pop("recorded", [])
    return find_split(task, losses, right, steps, facts, inside, recorded, **given)  # type: ignore[arg-type]


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


@given(st.integers(0, 10**6), st.floats(0.1, 3.0), st.floats(-5.0, 5.0))
@settings(max_examples=30, deadline=None)
def test_separation_only_sees_the_order_of_the_losses(seed: int, power: float, shift: float) -> None:
    losses, mask = losses_of(random_split(N, 0.4, seed), 1.0, seed), random_split(N, 0.3, seed + 1)
    again = losses.log() * power + shift
    assert separation(again, mask[None]) == pytest.approx(separation(losses, mask[None]), abs=1e-9)
    assert separation(losses, ~mask[None]) == pytest.approx(-separation(losses, mask[None]), abs=1e-9)


def test_equal_losses_separate_nothing() -> None:
    assert separation(torch.ones(1, N, dtype=torch.float64), random_split(N, 0.4, 0)[None])[0, 0] == 0


def test_the_recorded_split() -> None:
    mask = random_split(N, 0.37, 12345678)
    losses = losses_of(mask, 3.0)
    split = find(task_of(), losses, mask[None], [70], facts=facts_of(seed=12345678, frac_train=0.37))
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)
    assert (split.source, split.seed, split.fraction, split.step) == ("recorded", 12345678, 0.37, 70)
    assert split.separation > 8
    assert split.confidence > 0.99
    assert split.contradiction == ""
    printed = split.as_json()
    assert (printed["n_train"], printed["n_test"]) == (int(mask.sum()), N - int(mask.sum()))
    assert "torch.randperm(N) after manual_seed(12345678)" in printed["recipe"]
    assert set(printed) >= {"source", "convention", "train_fraction", "seed", "separation", "evidence"}


def shuffled_tuples(seed: int, fraction: float) -> Tensor:
    pairs = [(i, j, P) for i in range(P) for j in range(P)]
    random.seed(seed)
    random.shuffle(pairs)
    mask = torch.zeros(N, dtype=torch.bool)
    for i, j, _ in pairs[: int(fraction * N)]:
        mask[i * P + j] = True
    return mask


def test_a_recorded_seed_under_another_recipe() -> None:
    mask = shuffled_tuples(7, 0.3)
    split = find(task_of(), losses_of(mask, 3.0), mask[None], inside={"seed": 7, "frac_train": 0.3})
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)
    assert (split.source, split.seed) == ("recorded", 7)
    assert split.recipe.startswith("random.shuffle after random.seed(7): the first int(0.3 · N)")


def test_a_recorded_split_that_nothing_confirms_is_kept_and_says_so() -> None:
    losses = losses_of(random_split(N, 0.4, 500), 0.0)
    nothing_right = torch.zeros(1, N, dtype=torch.bool)
    split = find(
        task_of(), losses, nothing_right, [0], facts=facts_of(seed=7, train_fraction=0.4), most_drawn=10**6
    )
    assert isinstance(split, Split)
    assert (split.source, split.recipe) == ("recorded", CONVENTION)
    assert torch.equal(split.mask, random_split(N, 0.4, 7))
    assert "no save can confirm it" in split.evidence
    assert split.confidence < 0.5


@pytest.mark.parametrize("seed", [0, 9, 42, 999])
@pytest.mark.parametrize("fraction", [0.2, 0.3, 0.45, 0.9])
def test_a_split_that_is_not_recorded_is_searched(seed: int, fraction: float) -> None:
    mask = random_split(N, fraction, seed)
    split = find(task_of(), losses_of(mask, 6.0), mask[None])
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)
    assert (split.source, split.seed, split.fraction) == ("searched", seed, fraction)


def test_no_fraction_is_needed_where_the_losses_show_it() -> None:
    mask = torch.zeros(N, dtype=torch.bool)
    mask[torch.randperm(N, generator=torch.Generator().manual_seed(1))[:200]] = True
    split = find(task_of(), losses_of(mask, 8.0), mask[None])
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)
    assert "200, which separates the losses best" in split.recipe


def test_a_recorded_split_that_the_weights_contradict() -> None:
    mask = random_split(N, 0.4, 3)
    split = find(task_of(), losses_of(mask, 6.0), mask[None], facts=facts_of(seed=77777, frac_train=0.3))
    assert isinstance(split, Split)
    assert (split.source, split.seed, split.fraction) == ("searched", 3, 0.4)
    assert "recorded seed 77777" in split.contradiction
    assert "recorded fraction 0.3" in split.contradiction


def test_names_of_files_tell_seed_and_fraction() -> None:
    names = ["runs/p97_frac0.37_wd1_seed34567/p97.pt", "memorize.pt"]
    assert recorded_settings(Facts(), {}, names).seeds == ((34567, "the name p97.pt"),)
    mask = random_split(N, 0.37, 34567)
    split = find(task_of(), losses_of(mask, 3.0), mask[None], names=names)
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)
    assert (split.source, split.seed, split.fraction) == ("recorded", 34567, 0.37)


@pytest.mark.parametrize(
    ("written", "fractions"),
    [
        ({"frac_train": 0.3}, [0.3]),
        ({"frac_train": "0.3"}, [0.3]),
        ({"train_pct": 30}, [0.3]),
        ({"test_size": 0.7}, [0.3]),
        ({"frac_train": 1.0}, []),
        ({"frac_train": True}, []),
        ({"frac_train": "most"}, []),
        ({"frac_train": float("nan")}, []),
        ({"frac_train": -0.2}, []),
    ],
)
def test_fractions_as_people_write_them(written: dict, fractions: list) -> None:
    assert [fraction for fraction, _ in recorded_settings(Facts(), written).fractions] == fractions


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "x", 2**70, None])
def test_seeds_that_make_no_sense_are_not_used(wrong: object) -> None:
    assert recorded_settings(Facts({"config.json": {"seed": wrong}}), {}).seeds == ()
    assert recorded_settings(Facts({"config.json": {"seed": "12"}}), {}).seeds[0][0] == 12


def generalised(mask: Tensor, seed: int = 0, ratio: float = 1.3) -> tuple[Tensor, Tensor]:
    """Losses of a network that solves its task, barely lower on the training pairs."""
    noise = torch.randn(1, len(mask), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    losses = 1e-3 * torch.exp(0.8 * noise) * torch.where(mask, 1.0, ratio)
    return losses, torch.ones(1, len(mask), dtype=torch.bool)


def test_recorded_numbers_decide_where_losses_hardly_separate() -> None:
    mask = random_split(N, 0.4, 3)
    losses, right = generalised(mask)
    assert separation(losses, mask[None])[0, 0] < 6
    assert isinstance(find(task_of(), losses, right, most_drawn=10**6), NoSplit)
    first, other = numbers_of(mask, losses, right), generalised(mask, 1, 1.2)[0]
    both = torch.cat([losses, other])
    recorded = [*first, *numbers_of(mask, other, right, [20])]
    split = find(task_of(), both, right.repeat(2, 1), [10, 20], recorded=recorded)
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)
    assert (split.source, split.seed) == ("searched", 3)


def test_int_or_round_is_told_by_the_recorded_numbers() -> None:
    n = 9409
    task = task_of(p=97)
    for rule, count in ((int, 2822), (round, 2823)):
        mask = torch.zeros(n, dtype=torch.bool)
        assert rule(0.3 * n) == count
        mask[torch.randperm(n, generator=torch.Generator().manual_seed(0))[:count]] = True
        losses = losses_of(mask, 3.0)
        recorded = numbers_of(mask, losses, mask[None])
        split = find(task, losses, mask[None], recorded=recorded, inside={"frac_train": 0.3, "seed": 0})
        assert isinstance(split, Split)
        assert torch.equal(split.mask, mask)
        assert f"{rule.__name__}(0.3 · N)" in split.recipe


def test_numbers_one_step_off_still_decide() -> None:
    mask = random_split(N, 0.4, 3)
    losses = losses_of(mask, 4.0)
    recorded = numbers_of(mask, losses, mask[None], off=0.1)
    split = find(task_of(), losses, mask[None], recorded=recorded)
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)


def test_a_function_that_misses_every_number_does_not_hide_the_split() -> None:
    mask = random_split(N, 0.4, 3)
    losses = losses_of(mask, 8.0)
    wrong = [
        Recorded(f"loss.{side}", 10, losses.mean().item() * factor, "x in y")
        for side, factor in (("train", 3.0), ("test", 0.1))
    ]
    split = find(task_of(), losses, mask[None], recorded=wrong)
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)
    assert "missed" in split.evidence


def test_the_recorded_accuracies_tell_how_many_pairs() -> None:
    mask = random_split(N, 0.4, 123456789)
    generator = torch.Generator().manual_seed(5)
    right = (mask | (torch.rand(N, generator=generator) < 0.1))[None]
    losses = losses_of(mask, 9.0)
    recorded = [one for one in numbers_of(mask, losses, right) if one.quantity.startswith("accuracy")]
    split = find(
        task_of("sub"), losses, right, recorded=recorded, inside={"frac_train": 0.25}, most_drawn=10**6
    )
    assert isinstance(split, Split)
    assert (split.source, split.fraction) == ("recovered", 0.4)
    assert int((split.mask != mask).sum()) <= 2
    assert f"need {int(mask.sum())} training pairs" in split.evidence
    assert "recorded fraction 0.25" in split.contradiction


@pytest.mark.parametrize("op", ["div", "sub"])
def test_tasks_that_are_no_square_or_not_commutative(op: str) -> None:
    task = task_of(op)
    n = len(task.inputs)
    mask = random_split(n, 0.5, 4)
    split = find(task, losses_of(mask, 5.0), mask[None])
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)


def test_a_group() -> None:
    task = group_task(GroupSettings(group="S4"), 0)
    mask = random_split(576, 0.4, 2)
    split = find(task, losses_of(mask, 5.0), mask[None], inside={"seed": 2, "frac_train": 0.4})
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)


def test_nothing_recorded_and_nothing_found() -> None:
    noise = losses_of(random_split(N, 0.4, 5), 0.0)
    for right in (torch.zeros(1, N), torch.ones(1, N)):
        found = find(task_of(), noise, right.bool(), [0], most_drawn=10**6)
        assert isinstance(found, NoSplit)
        assert "no fraction was recorded" in found.why
        assert "candidates under" in found.why
        assert found.as_json() == {"source": "none", "why": found.why}


@pytest.mark.parametrize("p", [2, 3, 5])
@pytest.mark.parametrize("op", ["add", "sub", "x2+xy+y2"])
def test_tiny_tasks_are_answered_one_way_or_the_other(p: int, op: str) -> None:
    task = task_of(op, p)
    mask = random_split(p * p, 0.5, 0)
    for right in (mask, torch.ones_like(mask), torch.zeros_like(mask)):
        found = find(
            task,
            losses_of(mask, 4.0),
            right[None],
            recorded=numbers_of(mask, losses_of(mask, 4.0), right[None]),
        )
        assert isinstance(found, Split | NoSplit)


def test_saves_that_are_not_finite_are_left_out() -> None:
    mask = random_split(N, 0.4, 3)
    broken = torch.full((1, N), float("nan"), dtype=torch.float64)
    losses, right = torch.cat([losses_of(mask, 5.0), broken]), mask.repeat(2, 1)
    split = find(task_of(), losses, right, [1, 2])
    assert isinstance(split, Split)
    assert torch.equal(split.mask, mask)
    nothing = find(task_of(), broken, mask[None], [1])
    assert isinstance(nothing, NoSplit)
    assert "finite" in nothing.why


def test_shapes_that_do_not_fit(one_line) -> None:
    with pytest.raises(GrokscopeError) as caught:
        find(task_of(), torch.ones(1, N - 1), torch.ones(1, N - 1).bool())
    one_line(caught.value, "finding the training split", "expected", str(N))
    with pytest.raises(GrokscopeError) as caught:
        find(task_of(), torch.ones(2, N), torch.ones(2, N).bool())
    one_line(caught.value, "finding the training split", "expected")


def test_the_limit_is_kept_and_said() -> None:
    mask = random_split(N, 0.4, 123456789)
    losses, right = generalised(mask)
    found = find(task_of(), losses, right, most_drawn=0)
    assert isinstance(found, NoSplit)
    assert "under 1 seeds were tried before the search reached its limit" in found.why
