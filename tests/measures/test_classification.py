import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.measures.classification import (
    collapse_is_possible,
    correct,
    cross_entropy,
    logits_norm,
    margin,
    mean_over,
    read_answers,
    softmax_collapsed,
)


def _clock(p: int, frequencies: tuple[int, ...], amplitude: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    a, b, c = torch.meshgrid(*(torch.arange(p, dtype=torch.float64),) * 3, indexing="ij")
    angle = 2 * math.pi / p * (a + b - c)
    logits = amplitude * torch.stack([torch.cos(k * angle) for k in frequencies]).sum(dim=0)
    return logits.reshape(p * p, p), (a[..., 0] + b[..., 0]).reshape(-1).to(torch.int64) % p


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("frequencies", "amplitude", "expected"),
    [((5, 11, 23), 2.0, 0.65902057), ((5,), 2.0, 2.90153099), ((7,), 1.0, 3.31345180)],
)
def test_clock_logits_have_their_closed_form_loss(
    frequencies: tuple[int, ...], amplitude: float, expected: float
) -> None:
    logits, targets = _clock(59, frequencies, amplitude)
    losses = cross_entropy(logits, targets)
    assert losses.shape == (59 * 59,)
    assert float(losses.mean()) == pytest.approx(expected, abs=1e-8)
    assert float(losses.std()) < 1e-12  # every input sees the same logits, shifted
    assert bool(correct(logits, targets).all())


def test_loss_of_equal_logits_is_log_of_the_class_count() -> None:
    losses = cross_entropy(torch.full((3, 59), 7.25), torch.tensor([0, 30, 58]))
    torch.testing.assert_close(losses, torch.full((3,), math.log(59), dtype=torch.float64))


@pytest.mark.parametrize("gap", [5.0, 18.0, 20.0, 40.0, 300.0, 700.0])
def test_confident_losses_keep_full_relative_accuracy(gap: float) -> None:
    logits = torch.zeros(1, 4, dtype=torch.float64)
    logits[0, 2] = gap
    loss = float(cross_entropy(logits, torch.tensor([2])))
    assert loss == pytest.approx(math.log1p(3 * math.exp(-gap)), rel=1e-12)


def test_hopeless_losses_do_not_overflow() -> None:
    logits = torch.tensor([[0.0, 4000.0, 4000.0]])
    assert float(cross_entropy(logits, torch.tensor([0]))) == pytest.approx(4000 + math.log(2), rel=1e-15)


def test_loss_agrees_with_log_softmax_over_leading_axes() -> None:
    logits, targets = _random(0, 3, 2, 7, 5), torch.arange(7) % 5
    expected = -torch.log_softmax(logits, dim=-1)[..., torch.arange(7), targets]
    torch.testing.assert_close(cross_entropy(logits, targets), expected)


def test_float32_logits_are_subtracted_in_float64() -> None:
    logits = torch.tensor([[1e4, 1e4 - 2**-10]], dtype=torch.float32)
    assert float(margin(logits, torch.tensor([0]))) == 2**-10


def test_margin_by_hand() -> None:
    logits = torch.tensor([[[3.0, 1.0, 2.5], [0.0, 4.0, 4.0], [1.0, 2.0, 7.0]]])
    expected = torch.tensor([[0.5, 0.0, -6.0]], dtype=torch.float64)
    assert torch.equal(margin(logits, torch.tensor([0, 2, 0])), expected)


def test_ties_go_to_the_lowest_class() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0], [1.0, 5.0, 5.0]])
    assert correct(logits, torch.tensor([1, 2])).tolist() == [True, False]
    assert margin(logits, torch.tensor([1, 2])).tolist() == [0.0, 0.0]


@given(seed=st.integers(0, 2**20), shift=st.floats(-30, 30))
@settings(max_examples=25, deadline=None)
def test_a_positive_margin_is_a_correct_answer_and_shifts_change_nothing(seed: int, shift: float) -> None:
    logits, targets = 3 * _random(seed, 20, 6), torch.arange(20) % 6
    margins = margin(logits, targets)
    assert torch.equal(margins > 0, correct(logits, targets))
    torch.testing.assert_close(margin(logits + shift, targets), margins)
    losses = cross_entropy(logits, targets)
    torch.testing.assert_close(cross_entropy(logits + shift, targets), losses)
    # one rival at least, at most C − 1: log1p(e^−m) ≤ loss ≤ log1p((C − 1) e^−m)
    assert bool((losses >= torch.log1p(torch.exp(-margins)) - 1e-12).all())
    assert bool((losses <= torch.log1p(5 * torch.exp(-margins)) + 1e-12).all())


def test_logits_norm_by_hand() -> None:
    logits = torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[6.0, 8.0], [0.0, 2.0]]])
    assert logits_norm(logits).tolist() == [3.0, 6.0]
    assert logits_norm(logits, temperature=2.0).tolist() == [1.5, 3.0]


def test_softmax_collapse_is_decided_in_the_training_dtype() -> None:
    gaps = torch.tensor([10.0, 17.0, 18.0, 30.0, 40.0])
    logits = torch.stack([gaps, torch.zeros(5)], dim=1)
    targets, everyone = torch.zeros(5, dtype=torch.int64), torch.ones(5, dtype=torch.bool)
    # in float32 1 + e^−gap rounds to 1 above 24 log 2 = 16.6, in float64 above 53 log 2 = 36.7
    assert float(softmax_collapsed(logits, targets, everyone)) == pytest.approx(4 / 5)
    assert float(softmax_collapsed(logits.double(), targets, everyone)) == pytest.approx(1 / 5)


def test_softmax_collapse_counts_right_answers_in_the_mask_only() -> None:
    logits = torch.tensor([[50.0, 0.0], [50.0, 0.0], [50.0, 0.0], [0.0, 0.0]])
    targets = torch.tensor([0, 1, 0, 0])
    mask = torch.tensor([True, True, False, True])
    assert float(softmax_collapsed(logits, targets, mask)) == pytest.approx(1 / 3)


def test_mean_over_selects_samples_on_the_last_axis() -> None:
    values = torch.tensor([[1.0, 2.0, 6.0], [0.0, 1.0, 0.0]])
    mask = torch.tensor([True, False, True])
    assert mean_over(values, mask).tolist() == [3.5, 0.0]
    assert mean_over(values > 1, mask).tolist() == [0.5, 0.0]


def test_mean_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="selects no sample"):
        mean_over(torch.ones(3), torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="bool mask"):
        mean_over(torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match="bool mask"):
        mean_over(torch.ones(3), torch.ones(2, dtype=torch.bool))


def test_arguments_that_do_not_fit_are_refused() -> None:
    logits = torch.zeros(3, 4)
    with pytest.raises(ValueError, match=r"cross_entropy: got logits \(3, 4\)"):
        cross_entropy(logits, torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="classes in"):
        correct(logits, torch.tensor([0, 1, 4]))
    with pytest.raises(ValueError, match="integer classes"):
        margin(logits, torch.zeros(3))
    with pytest.raises(ValueError, match="at least 2"):
        margin(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="positive"):
        logits_norm(logits, temperature=0.0)
    with pytest.raises(ValueError, match="floating training dtype"):
        softmax_collapsed(
            torch.zeros(1, 2, dtype=torch.int64), torch.tensor([0]), torch.ones(1, dtype=torch.bool)
        )


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 12), st.integers(2, 7), st.sampled_from([1e-3, 1.0, 40.0, 800.0])
)
def test_answers_of_one_pass_are_those_of_the_four_functions(seed, n, classes, scale):
    # whole numbers, so that ties are common
    logits = scale * (3 * _random(seed, n, classes)).round()
    targets = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))
    answers = read_answers(logits, targets)
    torch.testing.assert_close(answers.loss, cross_entropy(logits, targets), rtol=1e-13, atol=0)
    assert torch.equal(answers.margin, margin(logits, targets))
    assert torch.equal(answers.correct, correct(logits, targets).double())
    torch.testing.assert_close(answers.norm.mean(), logits_norm(logits), rtol=1e-14, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e200])
def test_answers_of_logits_that_are_not_finite_or_huge(bad: float) -> None:
    logits = _random(0, 4, 3)
    logits[1, 2], targets = bad, torch.tensor([0, 2, 1, 1])
    answers = read_answers(logits, targets)
    expected = (cross_entropy(logits, targets), margin(logits, targets), correct(logits, targets).double())
    for found, plain in zip(answers, expected, strict=False):
        torch.testing.assert_close(found, plain, rtol=1e-13, atol=0, equal_nan=True)


def test_answers_refuse_one_class_and_wrong_targets() -> None:
    with pytest.raises(ValueError, match="C >= 2"):
        read_answers(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="read_answers: got targets from 0 to 3"):
        read_answers(torch.zeros(2, 3), torch.tensor([0, 3]))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 60))
def test_a_collapse_is_never_called_impossible(seed, gap):
    wide = _random(seed, 40, 5)
    targets = wide.argmax(dim=1)
    wide = wide.scatter_add(1, targets[:, None], torch.full((40, 1), gap, dtype=torch.float64))
    everywhere = torch.ones(40, dtype=torch.bool)
    answers = read_answers(wide, targets)
    for dtype in (torch.float32, torch.float64):
        if float(softmax_collapsed(wide.to(dtype), targets, everywhere)) > 0:
            assert collapse_is_possible(answers.loss, answers.norm, dtype)


def test_a_fit_that_has_only_begun_cannot_have_collapsed() -> None:
    loss, norm = torch.tensor([1e-3, 2.0]), torch.tensor([9.0, 4.0])
    assert not collapse_is_possible(loss, norm, torch.float32)
    assert collapse_is_possible(torch.tensor([1e-8, 2.0]), norm, torch.float32)
    assert not collapse_is_possible(torch.tensor([1e-8, 2.0]), norm, torch.float64)
    # logits so large that float32 does not resolve their differences
    assert collapse_is_possible(loss, norm * 1e7, torch.float32)
