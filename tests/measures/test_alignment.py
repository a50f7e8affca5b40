"""Jacobians against inputs: closed forms, autograd, invariances, and the bias of the estimator."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.measures.alignment import (
    alignment,
    common_row,
    expected_reading,
    gated_jacobian,
    jacobian_norms,
    norm_estimate,
    sphere_directions,
)
from grokscope.measures.regions import GatedForm, gated_forward
from grokscope.measures.spectra import stable_rank


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def form_of(kind: str) -> GatedForm:
    sizes = {"one": (5, 9), "two": (5, 9, 7), "three, gelu": (5, 8, 6, 7), "bypass": (5, 9)}[kind]
    weights = tuple(draw(a, b, seed=i) for i, (a, b) in enumerate(pairwise(sizes)))
    biases = tuple(None if kind == "one" else draw(b, seed=20 + i) for i, b in enumerate(sizes[1:]))
    return GatedForm(
        weights, biases, draw(sizes[-1], 4, seed=40), head_bias=draw(4, seed=41),
        direct=draw(5, 4, seed=42) if kind == "bypass" else None, activation="gelu" if "gelu" in kind else "relu",
    )  # fmt: skip


KINDS = ("one", "two", "three, gelu", "bypass")


def test_rows_along_the_input_have_rank_one():
    x = torch.tensor([[3.0, 4.0]])
    J = torch.tensor([[[3.0, 4.0], [-6.0, -8.0], [0.3, 0.4]]])
    found = alignment(J, x)
    assert found.row_max.item() == pytest.approx(1)
    assert found.row_min.item() == pytest.approx(-1)
    assert found.first_component.item() == pytest.approx(1)
    # the rows are 1, -2 and 0.1 times x
    assert found.centroid.item() == pytest.approx(-1)
    assert found.centroid_inner.item() == pytest.approx((1 - 2 + 0.1) * 25)
    assert found.centroid_norm.item() == pytest.approx(0.9 * 5)
    assert found.norm.item() == pytest.approx(5 * math.sqrt(1 + 4 + 0.01))


def test_orthonormal_rows():
    J, x = torch.eye(4, 6)[None], torch.tensor([[1.0, 2.0, 2.0, 0.0, 0.0, 4.0]])
    found = alignment(J, x)
    assert found.first_component.item() == pytest.approx(1 / 4)
    assert found.common_row.item() == pytest.approx(1 / math.sqrt(4))
    assert (found.row_max.item(), found.row_min.item()) == (pytest.approx(2 / 5), 0)
    assert found.centroid.item() == pytest.approx(5 / (2 * 5))


@pytest.mark.parametrize("shape", [(6, 4, 9), (6, 9, 4), (3, 1, 5)])
def test_the_first_component_is_one_over_the_stable_rank(shape):
    J = draw(*shape)
    found = alignment(J, draw(shape[0], shape[2], seed=1))
    close(found.first_component, 1 / stable_rank(torch.linalg.svdvals(J)))
    close(found.norm, torch.linalg.matrix_norm(J))


def test_against_a_loop_over_samples_and_rows():
    J, x = draw(5, 3, 4), draw(5, 4, seed=1)
    found = alignment(J, x)
    for n in range(5):
        cosines = [float(row @ x[n] / (row.norm() * x[n].norm())) for row in J[n]]
        assert found.row_max[n].item() == pytest.approx(max(cosines))
        assert found.row_min[n].item() == pytest.approx(min(cosines))
        total = torch.stack(list(J[n])).sum(0)
        assert found.centroid[n].item() == pytest.approx(float(total @ x[n] / (total.norm() * x[n].norm())))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.floats(0.01, 100), st.floats(0.01, 100))
def test_turning_the_inputs_and_scaling_change_no_angle(seed, a, b):
    J, x = draw(4, 3, 5, seed=seed), draw(4, 5, seed=seed + 1)
    turn = torch.linalg.qr(draw(5, 5, seed=seed + 2))[0]
    one, other = alignment(J, x), alignment(a * J @ turn, b * x @ turn)
    for name in ("centroid", "row_max", "row_min", "first_component", "common_row"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(a * one.norm, other.norm, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(a * b * one.centroid_inner, other.centroid_inner, rtol=1e-8, atol=1e-9)


@given(st.permutations(range(4)))
def test_relabelling_the_classes_changes_nothing(order):
    J, x = draw(3, 4, 5), draw(3, 5, seed=1)
    one, other = alignment(J, x), alignment(J[:, list(order)], x)
    for name in ("centroid", "row_max", "row_min", "first_component", "common_row", "norm"):
        close(getattr(one, name), getattr(other, name))


def test_a_common_row_is_all_or_nothing():
    rows = draw(4, 6)
    assert common_row(rows[:1].expand(5, 6)).item() == pytest.approx(1)
    assert common_row(rows - rows.mean(0)).item() == pytest.approx(0, abs=1e-15)


def test_what_is_zero_has_no_direction():
    J, x = torch.zeros(3, 2, 4, dtype=torch.float64), torch.ones(3, 4)
    J[1, 0] = 1
    J[2] = draw(2, 4)
    x[2] = 0
    found = alignment(J, x)
    assert found.row_max.isnan().tolist() == [True, False, True]
    assert found.first_component.isnan().tolist() == [True, False, False]
    assert (found.row_max[1].item(), found.row_min[1].item()) == (1, 1)


@pytest.mark.parametrize(
    ("J", "x"),
    [
        (torch.zeros(2, 3, 4), torch.zeros(2, 3)),
        (torch.zeros(3, 4), torch.zeros(4)),
        (torch.zeros(2, 0, 4), torch.zeros(2, 4)),
        (torch.full((1, 2, 2), math.nan), torch.zeros(1, 2)),
    ],
)
def test_what_does_not_fit_is_refused(J, x):
    with pytest.raises(ValueError, match="alignment: got"):
        alignment(J, x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_jacobian_of_a_gated_form_is_autograd_s(kind):
    form, z = form_of(kind), draw(6, 5, seed=7)
    expected = torch.stack(
        [
            torch.autograd.functional.jacobian(lambda row: gated_forward(form, row[None])[1][0], one)
            for one in z
        ]
    )
    close(gated_jacobian(form, z), expected)
    close(jacobian_norms(form, z), torch.linalg.matrix_norm(expected))


def test_without_biases_the_jacobian_is_the_network():
    form, z = form_of("one"), draw(6, 5, seed=7)
    logits = gated_forward(form, z)[1] - draw(4, seed=41)
    close(torch.einsum("ncd,nd->nc", gated_jacobian(form, z), z), logits)


@pytest.mark.parametrize(
    ("outputs", "share"), [(1, 1.0), (2, math.sqrt(2) * 2 / math.pi), (10, 0.818), (113, 0.800)]
)
def test_the_root_of_one_projection_reads_low(outputs, share):
    assert expected_reading(outputs) == pytest.approx(share, abs=5e-4)
    drawn = sphere_directions(4000, outputs, torch.Generator().manual_seed(0))
    along = draw(1, 3, seed=3)
    J = draw(outputs, 1, seed=4) @ along
    single = torch.cat([norm_estimate(lambda v: (v @ J)[None], direction[None]) for direction in drawn])
    ratio = single / J.norm()
    assert float(ratio.mean()) == pytest.approx(share, abs=4 * float(ratio.std()) / math.sqrt(4000) + 1e-12)
    # the square does not
    assert float(ratio.square().mean()) == pytest.approx(
        1, abs=4 * float(ratio.square().std()) / math.sqrt(4000) + 1e-12
    )


def test_orthonormal_rows_are_read_exactly_and_many_projections_read_all():
    J = torch.linalg.qr(draw(6, 4))[0].mT
    drawn = sphere_directions(3, 4, torch.Generator().manual_seed(0))
    assert norm_estimate(lambda v: (v @ J)[None], drawn[:1]).item() == pytest.approx(2)
    K = draw(4, 6, seed=9)
    many = sphere_directions(20_000, 4, torch.Generator().manual_seed(1))
    assert norm_estimate(lambda v: (v @ K)[None], many).item() == pytest.approx(float(K.norm()), rel=0.02)


@pytest.mark.parametrize(
    "wrong", [lambda: sphere_directions(0, 3, torch.Generator()), lambda: expected_reading(0)]
)
def test_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="expected at least one"):
        wrong()
