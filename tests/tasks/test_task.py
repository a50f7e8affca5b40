"""Splits, masks as JSON, and random streams."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grokscope.errors import GrokscopeError
from grokscope.tasks import ModularSettings, modular_task, pack_mask, random_split, random_stream, unpack_mask


@given(st.lists(st.booleans(), min_size=1, max_size=70))
def test_masks_survive_json(bits: list[bool]) -> None:
    mask = torch.tensor(bits)
    assert torch.equal(unpack_mask(json.loads(json.dumps(pack_mask(mask)))), mask)


def test_a_matrix_mask_keeps_its_shape() -> None:
    mask = random_split(30, 0.5, 1).reshape(5, 6)
    assert torch.equal(unpack_mask(pack_mask(mask)), mask)


@pytest.mark.parametrize(
    "packed",
    [
        {},
        {"shape": [9], "bits": ""},
        {"shape": [9], "bits": "!"},
        {"shape": ["x"], "bits": "AA=="},
        {"shape": [3], "bits": 5},
    ],
)
def test_damaged_masks(packed: dict) -> None:
    with pytest.raises(GrokscopeError, match="expected") as caught:
        unpack_mask(packed)
    assert "\n" not in str(caught.value)


@given(st.integers(2, 500), st.floats(0.01, 0.99), st.integers(0, 2**40))
def test_a_split_has_its_size_and_depends_on_the_seed_alone(total: int, fraction: float, seed: int) -> None:
    if int(fraction * total) == 0:
        with pytest.raises(GrokscopeError):
            random_split(total, fraction, seed)
        return
    mask = random_split(total, fraction, seed)
    assert int(mask.sum()) == int(fraction * total)
    assert torch.equal(mask, random_split(total, fraction, seed))


def test_splits_of_growing_fraction_are_nested() -> None:
    small, large = random_split(100, 0.3, 5), random_split(100, 0.6, 5)
    assert bool((large | ~small).all())


def test_streams_differ_by_seed_and_purpose() -> None:
    draws = {
        (seed, purpose): torch.randint(0, 2**62, (1,), generator=random_stream(seed, purpose)).item()
        for seed in range(5)
        for purpose in ("weights", "target")
    }
    assert len(set(draws.values())) == 10
    assert draws[3, "target"] == torch.randint(0, 2**62, (1,), generator=random_stream(3, "target")).item()


def test_another_split_of_the_same_task() -> None:
    task = modular_task(ModularSettings(p=5), 0)
    mask = torch.arange(25) < 10
    assert torch.equal(task.with_split(mask).train_mask, mask)
    assert not torch.equal(task.train_mask, mask)
    with pytest.raises(GrokscopeError, match="expected"):
        task.with_split(torch.ones(24).bool())
