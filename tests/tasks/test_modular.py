"""Modular arithmetic against plain python: values, symmetries by brute force, splits, errors."""

import itertools
from collections import Counter

import pytest
import torch

from grokscope.errors import Absent, GrokscopeError
from grokscope.tasks import OPERATIONS, ModularSettings, Task, modular_task


def plain(op: str, a: int, b: int, p: int) -> int:
    if op == "div":
        return next(c for c in range(p) if b * c % p == a)
    return {
        "add": a + b,
        "sub": a - b,
        "mul": a * b,
        "x2+y2": a**2 + b**2,
        "x2+xy+y2": a**2 + a * b + b**2,
    }[op] % p


def task_of(op: str, p: int, fraction: float = 0.4, seed: int = 0) -> Task:
    return modular_task(ModularSettings(op=op, p=p, train_fraction=fraction), seed)


CASES = [(op, p) for op in OPERATIONS for p in (2, 3, 7, 12, 13) if op != "div" or p in (3, 7, 13)]


@pytest.mark.parametrize(("op", "p"), CASES)
def test_values_against_plain_python(op: str, p: int) -> None:
    task = task_of(op, p, 0.5)
    pairs = [(a, b) for a in range(p) for b in range(p) if op != "div" or b]
    assert task.inputs.tolist() == [list(pair) for pair in pairs]
    assert task.targets.tolist() == [plain(op, a, b, p) for a, b in pairs]
    assert (task.n_classes, task.n_tokens, task.chance) == (p, p, 1 / p)


CHANGED = {"−y": lambda y, p: -y % p, "y⁻¹": lambda y, p: pow(y, -1, p)}


@pytest.mark.parametrize(("op", "p"), CASES)
def test_symmetries_do_to_the_answer_what_they_say(op: str, p: int) -> None:
    task = task_of(op, p, 0.5)
    for symmetry in task.symmetries:
        seen = []
        for index, image in enumerate(symmetry.image.tolist()):
            if image < 0:
                assert op == "div"
                continue
            y, moved = int(task.targets[index]), int(task.targets[image])
            assert moved == (y if symmetry.preserves else CHANGED[symmetry.effect](y, p)), symmetry.name
            seen.append(image)
        assert len(set(seen)) == len(seen), "a symmetry never sends two pairs to one"


# maps other than the identity at an odd prime large enough for all to differ
ORDERS = {"add": 1, "sub": 1, "mul": 3, "div": 3, "x2+y2": 7, "x2+xy+y2": 11}


@pytest.mark.parametrize("op", list(OPERATIONS))
@pytest.mark.parametrize("p", [7, 13])
def test_the_group_has_its_order_and_is_closed(op: str, p: int) -> None:
    task = task_of(op, p)
    maps = [symmetry.image for symmetry in task.symmetries if symmetry.preserves]
    assert len(maps) == ORDERS[op]
    identity = torch.arange(len(task.inputs))
    known = {image.numpy().tobytes() for image in [identity, *maps]}
    assert len(known) == ORDERS[op] + 1
    if op == "div":
        return  # partial maps compose to the identity only where both are defined
    for one, other in itertools.product(maps, maps):
        assert other[one].numpy().tobytes() in known


def linear_maps_that_preserve(op: str, p: int) -> set[tuple[int, ...]]:
    """Every (a, b) → (ia + jb, ka + lb) with entries in {−1, 0, 1} that keeps the answer, by brute force."""
    found = set()
    for i, j, k, m in itertools.product((-1, 0, 1), repeat=4):
        if (i * m - j * k) % p == 0:
            continue
        if all(
            plain(op, (i * a + j * b) % p, (k * a + m * b) % p, p) == plain(op, a, b, p)
            for a in range(p)
            for b in range(p)
        ):
            found.add(
                tuple(((i * a + j * b) % p) * p + (k * a + m * b) % p for a in range(p) for b in range(p))
            )
    return found


@pytest.mark.parametrize("op", ["x2+y2", "x2+xy+y2"])
def test_the_group_holds_every_small_linear_symmetry(op: str) -> None:
    p = 11
    task = task_of(op, p)
    ours = {tuple(symmetry.image.tolist()) for symmetry in task.symmetries if symmetry.preserves}
    assert ours | {tuple(range(p * p))} == linear_maps_that_preserve(op, p)


def test_orbits_of_the_sum_of_squares_at_59() -> None:
    task = task_of("x2+y2", 59)
    images = torch.stack([torch.arange(59 * 59), *(s.image for s in task.symmetries if s.preserves)])
    sizes = [len(set(column)) for column in images.T.tolist()]
    assert Counter(sizes) == {8: 3248, 4: 232, 1: 1}


@pytest.mark.parametrize(("op", "p"), CASES)
def test_mirrored_pairs_by_brute_force(op: str, p: int) -> None:
    task = task_of(op, p, 0.5, seed=4)
    train = {
        tuple(pair)
        for pair, inside in zip(task.inputs.tolist(), task.train_mask.tolist(), strict=True)
        if inside
    }
    mirrored = task.mirrored()
    if op in ("sub", "div"):
        assert mirrored is None
        return
    assert mirrored is not None
    expected = [a != b and (a, b) not in train and (b, a) in train for a, b in task.inputs.tolist()]
    assert mirrored.tolist() == expected


@pytest.mark.parametrize("op", list(OPERATIONS))
def test_images_in_training_by_brute_force(op: str) -> None:
    task = task_of(op, 7, 0.5, seed=2)
    for preserving in (True, False):
        maps = [symmetry for symmetry in task.symmetries if symmetry.preserves is preserving]
        found = task.image_in_train(preserving=preserving)
        if not maps:
            assert found is None
            continue
        assert found is not None
        for index in range(len(task.inputs)):
            images = {int(symmetry.image[index]) for symmetry in maps} - {-1, index}
            inside = any(bool(task.train_mask[image]) for image in images)
            assert bool(found[index]) == (inside and not bool(task.train_mask[index]))


def test_the_split_is_that_of_published_code() -> None:
    for seed, fraction in ((0, 0.4), (1, 0.3), (999, 0.85)):
        torch.manual_seed(seed)
        order = torch.randperm(53 * 53)
        expected = set(order[: int(fraction * 53 * 53)].tolist())
        task = modular_task(ModularSettings(p=53, train_fraction=fraction), seed)
        assert set(task.train_mask.nonzero().flatten().tolist()) == expected
        named = modular_task(ModularSettings(p=53, train_fraction=fraction, split_seed=seed), seed + 1)
        assert torch.equal(named.train_mask, task.train_mask)


def test_building_a_task_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    task_of("add", 7)
    assert torch.equal(torch.rand(3), expected)


def test_axes() -> None:
    for op, kind in (
        ("add", "additive"),
        ("sub", "additive"),
        ("mul", "multiplicative"),
        ("div", "multiplicative"),
    ):
        task = task_of(op, 7)
        assert not isinstance(task.token_axis, Absent)
        assert not isinstance(task.class_axis, Absent)
        assert task.token_axis.kind == task.class_axis.kind == kind
    rows = task_of("mul", 7).token_axis
    assert not isinstance(rows, Absent)
    assert rows.rows.tolist() == [1, 3, 2, 6, 4, 5]
    squares = task_of("x2+y2", 7)
    assert not isinstance(squares.token_axis, Absent)
    assert squares.token_axis.kind == "square"
    assert not isinstance(squares.class_axis, Absent)
    assert squares.class_axis.kind == "additive"
    for op, p in (("x2+xy+y2", 7), ("mul", 12), ("x2+y2", 12)):
        axis = task_of(op, p).token_axis
        assert isinstance(axis, Absent)
        assert axis.reason


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"p": 0}, "task.p is 0"),
        ({"p": 1}, "task.p is 1"),
        ({"p": -5}, "task.p is -5"),
        ({"op": "div", "p": 12}, "expected a prime"),
        ({"op": "ad"}, "did you mean 'add'"),
        ({"train_fraction": 0.0}, "strictly between 0 and 1"),
        ({"train_fraction": 1.0}, "strictly between 0 and 1"),
        ({"train_fraction": -0.2}, "strictly between 0 and 1"),
        ({"train_fraction": float("nan")}, "strictly between 0 and 1"),
        ({"p": 3, "train_fraction": 0.01}, "leaves 0 training"),
    ],
)
def test_settings_that_make_no_task(changes: dict, words: str) -> None:
    with pytest.raises(GrokscopeError) as caught:
        modular_task(ModularSettings(**changes), 0)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
