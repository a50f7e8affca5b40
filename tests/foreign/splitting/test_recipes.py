"""Every recipe as its authors would write it, found again from losses; and what is one and the same."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from grokscope.foreign.gathering.facts import Facts
from grokscope.foreign.splitting.evidence import Evidence
from grokscope.foreign.splitting.find import Split, find_split
from grokscope.foreign.splitting.recipes import arrangements, counts_of, half
from grokscope.tasks import ModularSettings, modular_task

P = 23
N = P * P
TASK = modular_task(ModularSettings(p=P, train_fraction=0.5), 0)
Draw = Callable[[int, float], list[tuple[int, int]]]


def a_major() -> list[tuple[int, int]]:
    return [(i, j) for i in range(P) for j in range(P)]


def b_major() -> list[tuple[int, int]]:
    return [(i, j) for j in range(P) for i in range(P)]


def torch_default(seed: int, f: float) -> list[tuple[int, int]]:
    torch.manual_seed(seed)
    order = torch.randperm(N)
    return [a_major()[k] for k in order[: round(f * N)].tolist()]


def torch_random_split(seed: int, f: float) -> list[tuple[int, int]]:
    sizes = [int(f * N), N - int(f * N)]
    chosen, _ = torch.utils.data.random_split(
        a_major(),  # type: ignore[arg-type]
        sizes,
        generator=torch.Generator().manual_seed(seed),
    )
    return list(chosen)  # type: ignore[arg-type]


def python_shuffle(seed: int, f: float) -> list[tuple[int, int]]:
    pairs = b_major()
    random.seed(seed)
    random.shuffle(pairs)
    return pairs[: math.ceil(f * N)]


def python_shuffle_test_first(seed: int, f: float) -> list[tuple[int, int]]:
    pairs = a_major()
    random.Random(seed).shuffle(pairs)
    return pairs[int((1 - f) * N) :]


def python_sample(seed: int, f: float) -> list[tuple[int, int]]:
    random.seed(seed)
    return random.sample(a_major(), int(f * N))


def numpy_permutation(seed: int, f: float) -> list[tuple[int, int]]:
    order = np.random.RandomState(seed).permutation(N)
    return [a_major()[k] for k in order[: int(f * N)]]


def numpy_shuffle(seed: int, f: float) -> list[tuple[int, int]]:
    pairs = b_major()
    np.random.RandomState(seed).shuffle(pairs)  # type: ignore[arg-type]
    return pairs[: int(f * N)]


def numpy_choice(seed: int, f: float) -> list[tuple[int, int]]:
    chosen = np.random.RandomState(seed).choice(N, int(f * N), replace=False)
    return [a_major()[k] for k in chosen]


def generator_permutation(seed: int, f: float) -> list[tuple[int, int]]:
    order = np.random.default_rng(seed).permutation(np.array(a_major()))
    return [(int(i), int(j)) for i, j in order[: int(f * N)]]


def generator_choice(seed: int, f: float) -> list[tuple[int, int]]:
    chosen = np.random.default_rng(seed).choice(N, int(f * N), replace=False)
    return [a_major()[k] for k in chosen]


def scikit_learn(seed: int, f: float) -> list[tuple[int, int]]:
    return list(train_test_split(a_major(), train_size=f, random_state=seed)[0])


def scikit_learn_by_test(seed: int, f: float) -> list[tuple[int, int]]:
    return list(train_test_split(a_major(), test_size=1 - f, random_state=seed)[0])


def torch_threshold(seed: int, f: float) -> list[tuple[int, int]]:
    torch.manual_seed(seed)
    kept = torch.rand(N) < f
    return [pair for pair, keep in zip(a_major(), kept.tolist(), strict=True) if keep]


def whole_rows(seed: int, f: float) -> list[tuple[int, int]]:
    rows = torch.randperm(P, generator=torch.Generator().manual_seed(seed))[: int(f * P)].tolist()
    return [pair for pair in a_major() if pair[0] in rows]


def whole_columns(seed: int, f: float) -> list[tuple[int, int]]:
    columns = np.random.RandomState(seed).permutation(P)[: int(f * P)]
    return [pair for pair in a_major() if pair[1] in columns]


def unordered(seed: int, f: float) -> list[tuple[int, int]]:
    pairs = [(i, j) for i in range(P) for j in range(i, P)]
    random.seed(seed)
    random.shuffle(pairs)
    kept = pairs[: int(f * len(pairs))]
    return [*kept, *((j, i) for i, j in kept)]


def only_half(seed: int, f: float) -> list[tuple[int, int]]:
    pairs = [(i, j) for i in range(P) for j in range(i, P)]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))
    return [pairs[k] for k in order[: int(f * len(pairs))].tolist()]


RECIPES = [
    torch_default,
    torch_random_split,
    python_shuffle,
    python_shuffle_test_first,
    python_sample,
    numpy_permutation,
    numpy_shuffle,
    numpy_choice,
    generator_permutation,
    generator_choice,
    scikit_learn,
    scikit_learn_by_test,
    torch_threshold,
    whole_rows,
    whole_columns,
    unordered,
    only_half,
]


def mask_of(pairs: list[tuple[int, int]]) -> Tensor:
    mask = torch.zeros(N, dtype=torch.bool)
    for a, b in pairs:
        mask[a * P + b] = True
    return mask


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("seed", "fraction"), [(5, 0.3), (1234567, 0.4)])
def test_a_recipe_as_its_authors_write_it(recipe: Draw, seed: int, fraction: float) -> None:
    mask = mask_of(recipe(seed, fraction))
    noise = torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    losses = (noise - 6.0 * mask.double()).exp()[None]
    inside = {"seed": seed, "frac_train": fraction} if seed > 100 else {"frac_train": fraction}
    found = find_split(TASK, losses, mask[None], [10], Facts(), inside, [])
    assert isinstance(found, Split), found
    assert torch.equal(found.mask, mask), found.recipe
    assert found.seed == seed
    assert found.fraction == fraction
    assert found.source == ("recorded" if seed > 100 else "searched")
    assert found.contradiction == ""


def test_small_samples_are_drawn_by_another_rule() -> None:
    """``random.sample`` of few among many remembers what it drew instead of exchanging."""
    pairs = [(i, j) for i in range(97) for j in range(97)]
    task = modular_task(ModularSettings(p=97, train_fraction=0.5), 0)
    random.seed(3)
    mask = torch.zeros(len(pairs), dtype=torch.bool)
    for a, b in random.sample(pairs, int(0.1 * len(pairs))):
        mask[a * 97 + b] = True
    noise = torch.randn(len(pairs), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    losses = (noise - 6.0 * mask.double()).exp()[None]
    found = find_split(task, losses, mask[None], [10], Facts(), {"seed": 3, "frac_train": 0.1}, [])
    assert isinstance(found, Split)
    assert torch.equal(found.mask, mask)
    assert found.recipe.startswith("random.sample")


def test_what_is_one_and_the_same() -> None:
    torch.manual_seed(5)
    default = torch.randperm(1000)
    assert torch.equal(default, torch.randperm(1000, generator=torch.Generator().manual_seed(5)))
    listed, array = list(range(1000)), np.arange(1000)
    np.random.RandomState(5).shuffle(listed)
    np.random.RandomState(5).shuffle(array)
    assert listed == array.tolist() == np.random.RandomState(5).permutation(1000).tolist()
    listed = list(range(1000))
    np.random.default_rng(5).shuffle(listed)
    assert listed == np.random.default_rng(5).permutation(1000).tolist()
    shuffled = list(range(1000))
    random.Random(5).shuffle(shuffled)
    assert random.Random(5).sample(range(1000), 1000) == shuffled[::-1]


def test_arrangements_of_pairs() -> None:
    task = modular_task(ModularSettings(p=3, train_fraction=0.5), 0)
    found = {one.name: one for one in arrangements(task.inputs, True)}
    assert found["a-major"].label.tolist() == list(range(9))
    assert found["b-major"].label.tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    assert found["a ≤ b"].label.tolist() == [0, 1, 2, 1, 3, 4, 2, 4, 5]
    inside, alone = half(task.inputs)
    assert inside.tolist() == [True, True, True, False, True, True, False, False, True]
    assert (alone.label.tolist(), alone.size) == (list(range(6)), 6)
    assert found["by a"].label.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert found["by b"].label.tolist() == [0, 1, 2] * 3
    assert {one.name for one in arrangements(task.inputs, False)} == {"a-major", "b-major", "by a", "by b"}
    quotients = modular_task(ModularSettings(op="div", p=5, train_fraction=0.5), 0)
    b_first = next(one for one in arrangements(quotients.inputs, False) if one.name == "b-major")
    assert sorted(b_first.label.tolist()) == list(range(20))
    assert b_first.label[:4].tolist() == [0, 5, 10, 15]
    (own,) = arrangements(torch.randn(6, 4), False)
    assert own.label.tolist() == list(range(6))


def test_counts() -> None:
    assert counts_of(9409, [0.3], None) == {2822: (0.3, "int(0.3 · N)"), 2823: (0.3, "round(0.3 · N)")}
    assert counts_of(10, [0.01, 0.5], 7) == {
        1: (0.01, "ceil(0.01 · N)"),
        5: (0.5, "int(0.5 · N)"),
        7: (0.7, "7"),
    }


def test_draws_of_whole_rows_are_not_taken_for_more_than_they_are() -> None:
    """Losses that depend on a alone separate any draw of rows, which must not count as evidence."""
    generator = torch.Generator().manual_seed(0)
    losses = (
        torch.randn(P, generator=generator, dtype=torch.float64).exp()[:, None].expand(P, P).reshape(1, N)
    )
    right = torch.ones(1, N, dtype=torch.bool)
    assert not isinstance(find_split(TASK, losses, right, [10], Facts(), {}, [], most_drawn=10**6), Split)
    symmetric = torch.randn(P, P, generator=generator, dtype=torch.float64)
    symmetric = (symmetric + symmetric.T).exp().reshape(1, N)
    assert not isinstance(find_split(TASK, symmetric, right, [10], Facts(), {}, [], most_drawn=10**6), Split)
    assert Evidence(losses, right, [10], []).accuracy == 1
