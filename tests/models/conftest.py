"""Random parameters of any model: every bias and gain away from its initial value."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from grokscope.models import Model


@pytest.fixture(scope="session")
def random_params() -> Callable[..., dict[str, Tensor]]:
    def draw(model: Model, seed: int = 0, steps: int | None = None) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        lead = () if steps is None else (steps,)
        found = {}
        for part in model.parts:
            values = torch.randn(*lead, *part.shape, generator=generator, dtype=torch.float64)
            found[part.name] = 1 + 0.5 * values if part.kind == "gain" else 0.7 * values
        return found

    return draw


@pytest.fixture(scope="session")
def all_pairs() -> Callable[[int], Tensor]:
    return lambda p: torch.cartesian_prod(torch.arange(p), torch.arange(p))


@pytest.fixture(scope="session")
def same_gradients() -> Callable[..., None]:
    """Checks that two functions of parameters have equal values and equal gradients in every parameter."""

    def check(params: dict[str, Tensor], ours: Callable, oracle: Callable) -> None:
        results = []
        for function in (ours, oracle):
            leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
            value = function(leaves)
            # a fixed random direction, so that no symmetric error cancels
            weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
            grads = torch.autograd.grad((value * weight).sum(), list(leaves.values()), materialize_grads=True)
            results.append((value, grads))
        (value, grads), (expected, expected_grads) = results
        assert torch.allclose(value, expected, rtol=1e-10, atol=1e-10)
        for name, one, other in zip(params, grads, expected_grads, strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-9), name

    return check
