import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grokscope.measures.class_geometry import (
    ClassMoments,
    class_moments,
    class_separation,
    joined,
    separation_of,
    simplex_gap,
    simplex_gap_of,
)


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_separation_by_hand() -> None:
    features = torch.tensor([[0.0], [2.0], [10.0], [10.0]])
    separation = class_separation(features, torch.tensor([0, 0, 1, 1]), 2)
    # within 1 + 1, means 1 and 10, two ordered pairs of distance 81
    assert separation.value == pytest.approx(2 / 162)
    assert separation.normalised == pytest.approx(2 / 162 * 8 / 4)
    assert separation.n_present == 2


def test_separation_of_gaussian_features() -> None:
    n, n_classes = 24, 59
    features, labels = _random(0, n * n_classes, 3000), torch.arange(n * n_classes) % n_classes
    separation = class_separation(features, labels, n_classes)
    # the sampling error is about √(2/(58 · 3000)) = 0.34 %
    assert separation.value == pytest.approx(n * (n - 1) / (2 * (n_classes - 1)), rel=0.012)
    assert n * (n - 1) / (2 * (n_classes - 1)) == pytest.approx(4.759, abs=5e-4)
    assert separation.normalised == pytest.approx(separation.value * 2 * n_classes / n)


def test_separation_against_loops_with_an_absent_class() -> None:
    features, labels = _random(1, 30, 3), torch.arange(30) % 4 * 2  # 7 classes, the odd ones absent
    means = {c: features[labels == c].mean(dim=0) for c in (0, 2, 4, 6)}
    within = sum(float((x - means[int(y)]).square().sum()) for x, y in zip(features, labels, strict=True))
    between = sum(float((a - b).square().sum()) for a in means.values() for b in means.values())
    separation = class_separation(features, labels, 7)
    assert separation.value == pytest.approx(within / between, rel=1e-12)
    assert separation.normalised == pytest.approx(within / between * 2 * 16 / 30, rel=1e-12)
    assert separation.n_present == 4


def _simplex(n_classes: int) -> Tensor:
    return torch.eye(n_classes, dtype=torch.float64) - 1 / n_classes


@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_a_simplex_has_no_gap(n_classes: int) -> None:
    rotation = torch.linalg.qr(_random(0, n_classes, n_classes)).Q
    features = 3.5 * _simplex(n_classes) @ rotation + _random(1, n_classes)
    assert simplex_gap(features, torch.arange(n_classes), n_classes) == pytest.approx(0, abs=1e-12)


def test_gap_of_classes_on_a_circle() -> None:
    # a circle of C points has G/‖G‖ with two eigenvalues 1/√2; against (C−1) of 1/√(C−1)
    n_classes = 9
    angle = 2 * math.pi / n_classes * torch.arange(n_classes, dtype=torch.float64)
    features = torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)
    expected = math.sqrt(2 - 2 * math.sqrt(2 / (n_classes - 1)))
    assert simplex_gap(features, torch.arange(n_classes), n_classes) == pytest.approx(expected, rel=1e-12)


def test_classes_weigh_equally_and_absent_ones_are_left_out() -> None:
    labels = torch.tensor([0, 0, 0, 2, 5])
    features = _simplex(3)[torch.tensor([0, 0, 0, 1, 2])]
    assert simplex_gap(features, labels, 7) == pytest.approx(0, abs=1e-12)


@given(seed=st.integers(0, 2**20), scale=st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_rigid_motions_and_scale_change_nothing(seed: int, scale: float) -> None:
    features, labels = _random(seed, 24, 5), torch.arange(24) % 4
    moved = scale * features @ torch.linalg.qr(_random(seed + 1, 5, 5)).Q + 3
    assert simplex_gap(moved, labels, 4) == pytest.approx(simplex_gap(features, labels, 4), rel=1e-8)
    value = class_separation(features, labels, 4).value
    assert class_separation(moved, labels, 4).value == pytest.approx(value, rel=1e-6)
    relabelled = class_separation(features, 3 - labels, 4).value
    assert relabelled == pytest.approx(value, rel=1e-12)


def test_arguments_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        class_separation(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64), 5)
    with pytest.raises(ValueError, match=r"expected \[0, 2\)"):
        class_separation(torch.zeros(2, 2), torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="integer"):
        simplex_gap(torch.zeros(2, 2), torch.zeros(2), 2)
    with pytest.raises(ValueError, match="non-finite"):
        simplex_gap(torch.full((3, 2), float("inf")), torch.arange(3), 3)
    with pytest.raises(ValueError, match="all coincide"):
        simplex_gap(torch.full((3, 2), 0.1), torch.arange(3), 3)


def test_moments_of_sets_of_whole_classes_join() -> None:
    features, labels = _random(1, 40, 6), torch.arange(40) % 7
    parts = []
    for some in ((0, 3, 6), (1,), (2, 4, 5)):
        chosen = features[torch.isin(labels, torch.tensor(some))]
        if len(some) > 1:
            of = labels[torch.isin(labels, torch.tensor(some))]
            parts.append(class_moments(chosen, of, 7))
        else:  # a single class has no separation, and moments all the same
            within = float((chosen - chosen.mean(0)).square().sum())
            parts.append(ClassMoments(chosen.mean(0, keepdim=True), within, len(chosen)))
    whole = joined(parts)
    assert whole.n_samples == 40
    expected = class_separation(features, labels, 7)
    assert separation_of(whole).value == pytest.approx(expected.value, rel=1e-13)
    assert separation_of(whole).normalised == pytest.approx(expected.normalised, rel=1e-13)
    assert simplex_gap_of(whole.means) == pytest.approx(simplex_gap(features, labels, 7), rel=1e-12)


def test_joined_moments_refuse_one_class_and_numbers_without_end() -> None:
    moments = class_moments(_random(1, 4, 2), torch.tensor([0, 0, 1, 1]), 2)
    with pytest.raises(ValueError, match="got 1 classes with samples"):
        joined([ClassMoments(moments.means[:1], 1.0, 2)])
    with pytest.raises(ValueError, match="non-finite features"):
        joined([moments, ClassMoments(moments.means * math.nan, 1.0, 2)])
