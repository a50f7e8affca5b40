"""Groups of permutations against plain python; tables recognised, renumbered and with wrong entries."""

import itertools
import math
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.errors import Absent, GrokscopeError
from grokscope.tasks import GroupSettings, build_task, cayley_table, group_task, identify_group
from grokscope.tasks.group_tables import natural_orders
from grokscope.tasks.groups import group_elements, lexicographic_elements, order_of
from grokscope.trajectory import read_settings, settings_dict

GROUPS = ["S2", "S3", "S4", "S5", "A3", "A4", "A5", "D3", "D4", "D5", "D12"]


def after(x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    """x∘y: y first."""
    return tuple(x[y[k]] for k in range(len(y)))


def slow_table(settings: GroupSettings) -> list[list[int]]:
    listed = group_elements(settings)
    place = {element: index for index, element in enumerate(listed)}
    left = settings.composition == "left"
    return [[place[after(x, y) if left else after(y, x)] for y in listed] for x in listed]


def renumbered(table: Tensor, seed: int) -> Tensor:
    """The table of the same group with its elements numbered at random."""
    new = torch.randperm(len(table), generator=torch.Generator().manual_seed(seed))
    old = new.argsort()
    return new[table[old][:, old]]


def spoilt(table: Tensor, share: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(table.shape, generator=generator) < share
    return torch.where(wrong, torch.randint(len(table), table.shape, generator=generator), table)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("composition", ["left", "right"])
def test_products_against_plain_python(group: str, composition) -> None:
    settings = GroupSettings(group=group, composition=composition)
    assert cayley_table(settings).tolist() == slow_table(settings)


@pytest.mark.parametrize(("group", "order"), [("S6", 720), ("A6", 360), ("D360", 720), ("A3", 3), ("D7", 14)])
def test_the_number_of_elements(group: str, order: int) -> None:
    assert (
        order_of(group)
        == order
        == len(lexicographic_elements(group))
        == len(set(lexicographic_elements(group)))
    )


def test_the_lexicographic_order() -> None:
    assert lexicographic_elements("S3") == tuple(itertools.permutations(range(3)))
    assert lexicographic_elements("A3") == ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    # (0 1) after (1 2), by hand: 0 → 0 → 1, 1 → 2 → 2, 2 → 1 → 0
    s3 = lexicographic_elements("S3")
    a, b = s3.index((1, 0, 2)), s3.index((0, 2, 1))
    assert s3[int(cayley_table(GroupSettings(group="S3"))[a, b])] == (1, 2, 0)


@pytest.mark.parametrize("group", ["S4", "A3", "D5", "S2"])
def test_the_task(group: str) -> None:
    task = group_task(GroupSettings(group=group, train_fraction=0.5), 3)
    n = order_of(group)
    assert n is not None
    assert task.inputs.tolist() == [[a, b] for a in range(n) for b in range(n)]
    assert task.targets.reshape(n, n).tolist() == slow_table(GroupSettings(group=group))
    assert (task.n_classes, task.n_tokens, task.chance, task.is_grid) == (n, n, 1 / n, True)
    assert isinstance(task.token_axis, Absent)
    assert isinstance(task.class_axis, Absent)
    assert f"elements of {group} are not residues" in task.token_axis.reason
    commutative = group in ("A3", "S2")
    assert task.swap is commutative
    assert (task.mirrored() is not None) is commutative
    assert int(task.train_mask.sum()) == int(0.5 * n * n)


@pytest.mark.parametrize("group", ["S4", "A4", "D5", "A3"])
def test_symmetries_do_to_the_answer_what_they_say(group: str) -> None:
    settings = GroupSettings(group=group)
    task, listed = group_task(settings, 0), group_elements(settings)
    for symmetry in task.symmetries:
        assert sorted(symmetry.image.tolist()) == list(range(len(task.inputs)))
        for y, moved in zip(task.targets.tolist(), task.targets[symmetry.image].tolist(), strict=True):
            if symmetry.preserves:
                assert y == moved
            else:
                assert symmetry.effect == "y⁻¹"
                assert after(listed[y], listed[moved]) == tuple(range(len(listed[y])))
    assert task.image_in_train(preserving=False) is not None


def test_elements_in_another_order_and_of_another_group() -> None:
    backwards = lexicographic_elements("D4")[::-1]
    settings = GroupSettings(group="D4", order="as given", elements=backwards)
    assert cayley_table(settings).tolist() == slow_table(settings)
    # the four-group, under a name of its own
    four = ((0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0))
    task = group_task(GroupSettings(group="V4", order="as given", elements=four), 0)
    assert task.targets.tolist() == [a ^ b for a in range(4) for b in range(4)]
    assert task.swap is True


def test_settings_survive_being_written() -> None:
    settings = GroupSettings(group="S3", order="as given", elements=lexicographic_elements("S3")[::-1])
    assert read_settings(GroupSettings, settings_dict(settings), "a test") == settings
    assert torch.equal(build_task(settings, 1).targets, group_task(settings, 1).targets)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"group": "S7"}, "S2 to S6"),
        ({"group": "S1"}, "S2 to S6"),
        ({"group": "D361"}, "D3 to D360"),
        ({"group": "Z5"}, "'Z5'"),
        ({"elements": ((0, 1), (1, 0))}, "as given"),
        ({"order": "as given"}, "0 permutations"),
        ({"order": "as given", "group": "<b>", "elements": ((0, 1), (1, 0))}, "letters"),
        ({"order": "as given", "group": "S2", "elements": ((0, 1), (1, 1))}, "permutations of the points"),
        ({"order": "as given", "group": "S2", "elements": ((0, 1), (0, 1, 2))}, "permutations of the points"),
        ({"order": "as given", "group": "S2", "elements": ((0, 1), (0, 1))}, "twice"),
        ({"order": "as given", "group": "S3", "elements": ((0, 1), (1, 0))}, "not the elements of S3"),
        ({"order": "as given", "group": "X", "elements": ((0, 1, 2), (1, 2, 0))}, "not among them"),
        ({"order": "as given", "group": "X", "elements": ((1, 0, 2), (0, 2, 1))}, "not among them"),
    ],
)
def test_settings_that_make_no_sense(changes: dict, word: str) -> None:
    with pytest.raises(GrokscopeError) as caught:
        group_task(GroupSettings(**changes), 0)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("group", ["S3", "S4", "S5", "A4", "A5", "D4", "D5", "D59"])
def test_natural_orders_are_orders_of_the_group(group: str) -> None:
    seen = [name for name, _ in natural_orders(group)]
    assert len(set(seen)) == len(seen) >= 4
    for name, listed in natural_orders(group):
        assert len(listed) == order_of(group), name
        assert set(listed) == set(lexicographic_elements(group)), name


def test_orders_of_listing_by_their_definition() -> None:
    listed = dict(natural_orders("S4"))
    for name, steps in (("Steinhaus–Johnson–Trotter order", 1), ("the order of Heap's algorithm", 3)):
        for one, other in itertools.pairwise(listed[name]):
            changed = [k for k in range(4) if one[k] != other[k]]
            assert len(changed) == 2, name
            assert changed[1] - changed[0] <= steps, name
    assert listed["Steinhaus–Johnson–Trotter order"][:4] == (
        (0, 1, 2, 3),
        (0, 1, 3, 2),
        (0, 3, 1, 2),
        (3, 0, 1, 2),
    )
    turns = dict(natural_orders("D5"))["the order of rotations r^k, then r^k s"]
    assert all(turns[k] == tuple((j + k) % 5 for j in range(5)) for k in range(5))
    assert all(turns[5 + k] == after(turns[k], turns[5]) for k in range(5))
    turns = dict(natural_orders("D5"))["the order of rotations r^k, then s r^k"]
    assert all(turns[5 + k] == after(turns[5], turns[k]) for k in range(5))


@pytest.mark.parametrize("group", ["S3", "S4", "S5", "A4", "A5", "D4", "D59"])
@pytest.mark.parametrize("composition", ["left", "right"])
def test_the_lexicographic_order_is_recognised(group: str, composition) -> None:
    settings = GroupSettings(group=group, composition=composition)
    table = cayley_table(settings)
    fit = identify_group(table)
    assert fit is not None
    assert fit.agreement == 1
    assert torch.equal(cayley_table(fit.settings), table)
    if group[0] != "D":
        assert fit.settings == settings
        first = "b" if composition == "left" else "a"
        assert fit.method == f"lexicographic order, {first} applied first"


@pytest.mark.parametrize(
    "name", ["Steinhaus–Johnson–Trotter order", "the order of even, then odd permutations"]
)
def test_another_order_is_recognised_by_name(name: str) -> None:
    elements = dict(natural_orders("S5"))[name]
    settings = GroupSettings(group="S5", order="as given", composition="right", elements=elements)
    fit = identify_group(cayley_table(settings))
    assert fit is not None
    assert (fit.settings, fit.method) == (settings, f"{name}, a applied first")


def test_a_network_that_memorised_some_answers() -> None:
    """40 % of the answers right, the others the same wrong class: too few for an isomorphism."""
    table = cayley_table(GroupSettings(group="S5", composition="right"))
    known = torch.rand(table.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    fit = identify_group(torch.where(known, table, torch.zeros_like(table)))
    assert fit is not None
    assert fit.settings == GroupSettings(group="S5", composition="right")
    assert fit.agreement == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("group", ["S3", "S4", "S5", "A4", "A5", "D4", "D7", "D59", "D60"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3])
def test_a_numbering_of_its_own(group: str, share: float) -> None:
    if share > 0.05 and (order_of(group) or 0) < 12:
        return  # too few entries to outvote that many wrong ones
    table = renumbered(cayley_table(GroupSettings(group=group)), 7)
    fit = identify_group(spoilt(table, share, 1))
    assert fit is not None
    assert fit.settings.group == group
    assert torch.equal(cayley_table(fit.settings), table)
    assert fit.agreement == pytest.approx(1 - share, abs=0.12)
    if fit.settings.order == "as given" and "isomorphism" in fit.method:
        assert fit.settings.composition == "left"
        assert "inverses" in fit.method


@given(st.sampled_from(["S3", "S4", "A4", "D4", "D6", "D9"]), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_the_answer_does_not_depend_on_the_numbering(group: str, seed: int) -> None:
    table = renumbered(cayley_table(GroupSettings(group=group)), seed)
    fit = identify_group(table)
    assert fit is not None
    assert (fit.settings.group, fit.agreement) == (group, 1)
    assert torch.equal(cayley_table(fit.settings), table)


def quaternions() -> Tensor:
    """The table of ±1, ±i, ±j, ±k, of which no known group of 8 elements is a renumbering."""
    units = {(0, 0): (1, 0), **{(0, k): (1, k) for k in range(4)}, **{(k, 0): (1, k) for k in range(4)}}
    units |= {(k, k): (-1, 0) for k in (1, 2, 3)}
    for i, j, k in ((1, 2, 3), (2, 3, 1), (3, 1, 2)):
        units |= {(i, j): (1, k), (j, i): (-1, k)}
    rows = []
    for a in range(8):
        row = []
        for b in range(8):
            sign, unit = units[a % 4, b % 4]
            row.append(unit + 4 * ((a // 4 + b // 4 + (sign < 0)) % 2))
        rows.append(row)
    return torch.tensor(rows)


@pytest.mark.parametrize("n", [2, 3, 6, 7, 24, 113, 118, 120])
def test_tables_that_are_no_known_group(n: int) -> None:
    index = torch.arange(n)
    assert identify_group((index[:, None] + index) % n) is None
    assert identify_group((index[:, None] - index) % n) is None
    if n > 3:
        assert identify_group(torch.randint(n, (n, n), generator=torch.Generator().manual_seed(n))) is None
    assert identify_group(torch.zeros(n, n, dtype=torch.int64)) is None
    assert identify_group(torch.full((n, n), 10**12)) is None


def test_the_quaternions_are_none_of_them() -> None:
    table = quaternions()
    assert sorted(set(table[0].tolist())) == list(range(8))
    assert identify_group(table) is None


@pytest.mark.parametrize(
    "wrong", [torch.zeros(3, 4, dtype=torch.int64), torch.zeros(6, 6), torch.zeros(6).long()]
)
def test_what_is_no_table(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="expected"):
        identify_group(wrong)


@pytest.mark.parametrize("group", ["S6", "D360"])
def test_large_groups(group: str) -> None:
    table = renumbered(cayley_table(GroupSettings(group=group)), 0)
    assert len(table) == math.factorial(6)
    fit = identify_group(table)
    assert fit is not None
    assert fit.agreement == 1


def test_a_published_network_on_s5() -> None:
    """Its elements come in the order in which sympy generates the group, and sympy applies a first."""
    root = os.environ.get("GROKSCOPE_THIRD_PARTY")
    if not root:
        pytest.skip("GROKSCOPE_THIRD_PARTY is not set: no third-party files to read")
    folder = Path(root) / "bilal-chughtai+rep-theory-mech-interp/rep_theory/batch_experiments/S5_MLP_seed2"
    weights = torch.load(folder / "model.pt", weights_only=True, map_location="cpu")
    w = {name: value.double() for name, value in weights.items()}
    a, b = torch.meshgrid(torch.arange(120), torch.arange(120), indexing="ij")
    logits = torch.cat([w["W_x"][a], w["W_y"][b]], dim=-1) @ w["W"]
    table = (logits.relu() @ w["W_U"]).argmax(dim=-1)
    fit = identify_group(table)
    assert fit is not None
    assert (fit.settings.group, fit.agreement) == ("S5", 1)
    assert torch.equal(cayley_table(fit.settings), table)
    if "sympy" in fit.method:
        assert (fit.method, fit.settings.composition) == ("sympy's order (coset), a applied first", "right")
