"""Process settings: set for the duration, given back, and never at the price of a wrong product."""

from __future__ import annotations

import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.training import machine
from grokscope.training.machine import choose_precision, process_settings

CPU = torch.device("cpu")


def test_the_precision_chosen_multiplies_as_exactly_as_the_default():
    generator = torch.Generator().manual_seed(3)
    left, right = torch.randn(64, 700, generator=generator), torch.randn(700, 40, generator=generator)
    exact = left.double() @ right.double()

    def error() -> float:
        return float(((left @ right).double() - exact).abs().max())

    default = error()
    with process_settings(1, CPU):
        assert torch.get_float32_matmul_precision() == choose_precision(CPU)
        assert error() <= 4 * default
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    ("medium", "chosen"), [(1e-7, "medium"), (3e-7, "highest"), (3e-3, "highest"), (float("nan"), "highest")]
)
def test_products_that_round_to_less_than_float32_are_not_used(monkeypatch, medium, chosen):
    monkeypatch.setattr(machine, "_rounding", {"medium": medium, "highest": 1e-7}.__getitem__)
    assert choose_precision(CPU) == chosen


def test_the_self_test_sees_a_product_in_half_precision(monkeypatch):
    honest = machine._rounding("highest")
    assert honest < 1e-5
    product = torch.Tensor.__matmul__

    def rounded(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        if left.dtype == torch.float32:
            left, right = left.bfloat16().float(), right.bfloat16().float()
        return product(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert machine._rounding("highest") > 100 * honest


def test_repeating_products_that_this_machine_cannot_make_is_refused(monkeypatch):
    monkeypatch.setattr(machine, "_rounding", {"medium": 3e-3, "highest": 1e-7}.__getitem__)
    with pytest.raises(GrokscopeError, match="matmul_precision 'medium'"), process_settings(1, CPU, "medium"):
        pass
    assert torch.get_float32_matmul_precision() == "highest"


def test_an_earlier_runs_products_are_used_when_asked_for(monkeypatch):
    monkeypatch.setattr(machine, "_rounding", {"medium": 1e-7, "highest": 1e-7}.__getitem__)
    with process_settings(1, CPU, "highest"):
        assert torch.get_float32_matmul_precision() == "highest"
    with process_settings(1, CPU):
        assert torch.get_float32_matmul_precision() == "medium"


def test_threads_and_precision_are_given_back_after_an_error():
    before = torch.get_num_threads()

    def failing() -> None:
        with process_settings(before + 1, CPU):
            assert torch.get_num_threads() == before + 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert torch.get_num_threads() == before
    assert torch.get_float32_matmul_precision() == "highest"
