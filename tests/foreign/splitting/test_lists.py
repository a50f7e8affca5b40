"""Lists of training and test pairs beside the weights: every kind, either order, and what contradicts."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from grokscope.foreign.gathering.facts import Facts
from grokscope.foreign.splitting.find import Split, find_split
from grokscope.foreign.splitting.lists import read_lists
from grokscope.tasks import ModularSettings, modular_task, random_split

P = 13
N = P * P
TASK = modular_task(ModularSettings(op="sub", p=P, train_fraction=0.5), 0)
MASK = random_split(N, 0.4, 10**9)


@dataclass(frozen=True)
class Listing:
    role: str
    kind: str
    values: Any
    name: str = "data"
    source: str = "data.pth"


def pairs_of(mask: Tensor, b_first: bool = False) -> Tensor:
    pairs = TASK.inputs[mask]
    return pairs.flip(1) if b_first else pairs


def losses_of(mask: Tensor, gap: float = 6.0) -> Tensor:
    noise = torch.randn(N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (noise - gap * mask.double()).exp()[None]


def found_with(*lists: Listing, losses: Tensor | None = None, right: Tensor | None = None) -> Split:
    losses = losses_of(MASK) if losses is None else losses
    right = MASK[None] if right is None else right
    found = find_split(TASK, losses, right, [5], Facts(), {}, [], lists, most_drawn=10**6)
    assert isinstance(found, Split), found
    return found


@pytest.mark.parametrize("which", ["train", "test", "both"])
@pytest.mark.parametrize("kind", ["pairs", "triples", "indices", "mask", "table"])
def test_every_kind_of_list(kind: str, which: str) -> None:
    def listed(mask: Tensor) -> Any:
        pairs = pairs_of(mask)
        if kind == "pairs":
            return pairs.tolist()
        if kind == "triples":
            return torch.cat([pairs, torch.full((len(pairs), 1), P)], dim=1)
        if kind == "indices":
            return mask.nonzero()[:, 0].flip(0).to(torch.float32)
        return mask if kind == "mask" else mask.reshape(P, P)

    kind_name = {"triples": "pairs", "table": "mask"}.get(kind, kind)
    lists = [
        Listing(role, kind_name, listed(mask))
        for role, mask in (("train", MASK), ("test", ~MASK))
        if which in (role, "both")
    ]
    split = found_with(*lists)
    assert torch.equal(split.mask, MASK)
    assert (split.source, split.seed) == ("explicit", None)
    assert split.confidence > 0.95
    assert "data.pth" in split.recipe


@pytest.mark.parametrize("kind", ["pairs", "indices", "mask"])
def test_the_losses_tell_which_operand_comes_first(kind: str) -> None:
    flipped = MASK.reshape(P, P).T.reshape(-1)
    values = {
        "pairs": pairs_of(MASK, b_first=True),
        "indices": flipped.nonzero()[:, 0],
        "mask": flipped.clone(),
    }[kind]
    split = found_with(Listing("train", kind, values))
    assert torch.equal(split.mask, MASK)
    assert "the order b, a" in split.recipe or "b·p + a" in split.recipe


def test_where_nothing_tells_the_usual_order_is_taken() -> None:
    values = MASK.nonzero()[:, 0]
    split = found_with(
        Listing("train", "indices", values), losses=torch.ones(1, N), right=torch.zeros(1, N).bool()
    )
    assert torch.equal(split.mask, MASK)
    assert split.confidence == 0.9
    assert "nothing can confirm it" in split.evidence


def test_lists_that_the_weights_contradict_are_named() -> None:
    other = random_split(N, 0.4, 5)
    usual = random_split(N, 0.4, 3)
    lists = [Listing("train", "pairs", pairs_of(other)), Listing("test", "pairs", pairs_of(~other))]
    found = found_with(*lists, losses=losses_of(usual), right=usual[None])
    assert (found.source, found.seed) == ("searched", 3)
    assert "do not fit what the weights know" in found.contradiction


@pytest.mark.parametrize(
    ("lists", "why"),
    [
        ([Listing("train", "indices", torch.arange(50)), Listing("test", "indices", torch.arange(40, N))], "in common"),
        ([Listing("train", "indices", torch.tensor([1, N]))], f"the task has {N} pairs"),
        ([Listing("train", "indices", torch.tensor([1, -1]))], "negative"),
        ([Listing("train", "pairs", torch.tensor([[1, P]]))], "1 pairs outside the task"),
        ([Listing("train", "pairs", torch.tensor([[1, -2]]))], "outside the task"),
        ([Listing("train", "pairs", torch.tensor([1, 2]))], "expected rows of two operands"),
        ([Listing("train", "mask", torch.ones(N - 1).bool())], "no mask"),
        ([Listing("train", "mask", torch.ones(N).bool())], f"leave {N} of {N}"),
        ([Listing("train", "mask", torch.arange(N))], "no mask"),
        ([Listing("train", "indices", torch.tensor([0.5]))], "whole numbers"),
        ([Listing("train", "indices", torch.tensor([float("nan")]))], "whole numbers"),
        ([Listing("train", "indices", torch.tensor([]))], "no list"),
        ([Listing("train", "pairs", [[1, 2], [3]])], "no table of numbers"),
        ([Listing("train", "indices", ["a"])], "no table of numbers"),
        ([Listing("train", "indices", torch.zeros(100 * N).long())], "no list"),
    ],
)  # fmt: skip
def test_lists_that_are_none(lists: list[Listing], why: str) -> None:
    readings, problems = read_lists(TASK, lists)
    assert readings == []
    assert any(why in problem for problem in problems), problems
    usual = random_split(N, 0.4, 3)
    found = found_with(*lists, losses=losses_of(usual), right=usual[None])
    assert torch.equal(found.mask, usual)
    assert why in found.contradiction


def test_pairs_in_neither_list_are_said() -> None:
    held = MASK.clone()
    held[MASK.nonzero()[:3, 0]] = False
    (reading, *_), _ = read_lists(
        TASK, [Listing("train", "pairs", pairs_of(held)), Listing("validation", "pairs", pairs_of(~MASK))]
    )
    assert "3 pairs in neither list" in reading.words
    assert read_lists(TASK, []) == ([], [])
