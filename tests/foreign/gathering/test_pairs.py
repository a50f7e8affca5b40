"""Recorded splits: pairs, indices and masks, in files and beside them."""

from typing import Any

import pytest
import torch

from grokscope.foreign.gathering.facts import Facts
from grokscope.foreign.gathering.pairs import recorded_pairs

PAIRS = [[0, 1], [2, 0], [1, 1]]
TENSOR = torch.tensor(PAIRS)


@pytest.mark.parametrize(
    ("inside", "role", "kind", "values"),
    [
        ({"train_data": PAIRS}, "train", "pairs", TENSOR),
        ({"train_pairs": [[[0, 1], 4], [[2, 0], 4], [[1, 1], 4]]}, "train", "pairs",
         torch.tensor([[0, 1, 4], [2, 0, 4], [1, 1, 4]])),
        ({"X_train": TENSOR.float()}, "train", "pairs", TENSOR),
        ({"test_inputs": TENSOR.int()}, "test", "pairs", TENSOR),
        ({"data": {"train": PAIRS}}, "train", "pairs", TENSOR),
        ({"split": {"train_idx": [4, 2, 7]}}, "train", "indices", torch.tensor([4, 2, 7])),
        ({"test_indices": torch.tensor([4, 2, 7])}, "test", "indices", torch.tensor([4, 2, 7])),
        ({"train": [4, 2, 7]}, "train", "indices", torch.tensor([4, 2, 7])),
        ({"is_train": [True, False, True]}, "train", "mask", torch.tensor([True, False, True])),
        ({"train_mask": torch.tensor([1, 0, 1])}, "train", "mask", torch.tensor([True, False, True])),
        ({"is_test": torch.eye(2, dtype=torch.bool)}, "test", "mask", torch.tensor([True, False, False, True])),
        ({"train_set": [torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([1, 1])]}, "train", "pairs", TENSOR),
    ],
    ids=range(12),
)  # fmt: skip
def test_every_way_of_writing_a_split(
    inside: dict[str, Any], role: str, kind: str, values: torch.Tensor
) -> None:
    (found,) = recorded_pairs(Facts(), inside)
    assert (found.role, found.kind) == (role, kind)
    assert torch.equal(found.values, values)
    assert found.values.dtype in (torch.int64, torch.bool)
    assert found.source.endswith("in the file itself")


@pytest.mark.parametrize(
    "inside",
    [
        {"train_losses": [1.0, 2.0], "train_labels": [1, 2], "y_train": [3, 4]},
        {"train_data": [[1, 2], [3]]},
        {"train_data": [[0.5, 1.0], [2.0, 3.0]]},
        {"train_data": "data/train.pt", "train_idx": 5},
        {"train_indices": [-1, 2]},
        {"train_steps": [1, 2, 3]},
        {"train_epochs_list": [1, 2]},
        {"key_freqs": [1, 2, 3]},
        {"train_data": torch.ones(4, 20)},
        {"train_data": []},
        {"train_acc": torch.ones(5)},
    ],
    ids=range(11),
)
def test_what_is_no_split(inside: dict[str, Any]) -> None:
    assert recorded_pairs(Facts(), inside) == []


def test_files_beside_the_weights() -> None:
    facts = Facts(
        {"train_data.pth": PAIRS, "../test_indices.npy": torch.tensor([5, 6]), "split.json": [[1, 2], [3, 4]],
         "train.json": {"pairs": PAIRS}, "config.json": {"p": 3, "seeds": [1, 2]}},
        {"test_pairs.csv": [{"a": "1", "b": "2"}, {"a": "2", "b": "2"}], "metrics.csv": [{"train_acc": "1"}]},
    )  # fmt: skip
    found = recorded_pairs(facts, {})
    assert [(one.role, one.kind, one.source.rpartition(" in ")[2]) for one in found] == [
        ("train", "pairs", "train_data.pth"),
        ("test", "indices", "../test_indices.npy"),
        ("train", "indices", "split.json"),
        ("test", "indices", "split.json"),
        ("train", "pairs", "train.json"),
        ("test", "pairs", "test_pairs.csv"),
    ]
    assert torch.equal(found[-1].values, torch.tensor([[1, 2], [2, 2]]))
