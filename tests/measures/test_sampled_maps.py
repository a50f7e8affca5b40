"""Maps of a sample in blocks against maps formed at once, and what is read off them against the plain way."""

from __future__ import annotations

import itertools

import pytest
import torch

from grokscope.measures import blocks
from grokscope.measures.linear_reduction import affine_maps, reduction_residual, stable_rank_mean
from grokscope.measures.regions import GatedForm, gated_forward, gates
from grokscope.measures.sampled_maps import map_blocks, read_maps


def form_of(
    *widths: int, classes: int, biased: bool = True, direct: bool = False, seed: int = 0
) -> GatedForm:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = tuple(draw(a, b) for a, b in itertools.pairwise(widths))
    biases = tuple(draw(b) if biased else None for b in widths[1:])
    bypass = draw(widths[0], classes) if direct else None
    return GatedForm(weights, biases, draw(widths[-1], classes), draw(classes) if biased else None, bypass)


FORMS = {
    "one layer": form_of(5, 9, classes=4),
    "more classes than inputs": form_of(3, 9, classes=6, biased=False),
    "a bypass": form_of(5, 9, classes=4, direct=True),
    "three layers": form_of(5, 9, 7, 8, classes=4),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("block", [64, 4096, 2**21])
def test_blocks_hold_the_maps(monkeypatch, name, block):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    form = FORMS[name]
    z = torch.randn(17, form.input_width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    maps, offsets = affine_maps(form, z)
    rows = []
    for part, found, offset in map_blocks(form, gates(form, z)):
        torch.testing.assert_close(found, maps[part], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(offset, offsets[part], rtol=1e-12, atol=1e-12)
        rows += range(part.start, part.stop)
    assert rows == list(range(17))


@pytest.mark.parametrize("name", FORMS)
def test_readings_are_those_of_the_plain_way(name):
    form = FORMS[name]
    z = torch.randn(17, form.input_width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def bent(x: torch.Tensor) -> torch.Tensor:
        return gated_forward(form, x)[1] + 0.1 * x[:, :1] ** 2

    expected = reduction_residual(form, z, bent, 17)
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        jacobian = torch.stack(
            [torch.autograd.grad(bent(leaf)[:, c].sum(), leaf)[0] for c in range(form.n_classes)], dim=1
        )
    logits = bent(z)
    found = read_maps(form, z, gates(form, z), logits, dict(enumerate(jacobian)))
    assert found.stable_rank == pytest.approx(stable_rank_mean(form, z), rel=1e-12)
    assert found.forward / float(logits.abs().max()) == pytest.approx(expected.forward, rel=1e-9)
    assert found.jacobian / found.largest == pytest.approx(expected.jacobian, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_ranks_of_maps_whose_squares_leave_the_range(scale):
    form = FORMS["more classes than inputs"]
    moved = GatedForm(form.weights, form.biases, form.head * scale)
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pattern = gates(form, z)
    logits = torch.zeros(6, 6, dtype=torch.float64)
    rank = read_maps(form, z, pattern, logits, {}).stable_rank
    assert read_maps(moved, z, pattern, logits, {}).stable_rank == pytest.approx(rank, rel=1e-12)


def test_maps_that_are_zero_have_no_rank():
    form = FORMS["more classes than inputs"]
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pattern = list(gates(form, z))
    pattern[0] = pattern[0].clone()
    pattern[0][1:3] = False
    logits = torch.zeros(4, 6, dtype=torch.float64)
    one = read_maps(form, z[[0, 3]], [pattern[0][[0, 3]]], logits[:2], {}).stable_rank
    assert read_maps(form, z, pattern, logits, {}).stable_rank == pytest.approx(one, rel=1e-12)
    closed = [torch.zeros_like(pattern[0])]
    assert read_maps(form, z, closed, logits, {}).stable_rank is None
    assert read_maps(form, z, pattern, logits, {}, ranks=False).stable_rank is None


def test_gelu_is_refused():
    form = FORMS["one layer"]
    gelu = GatedForm(form.weights, form.biases, form.head, form.head_bias, activation="gelu")
    with pytest.raises(ValueError, match="map_blocks: got activation 'gelu', expected 'relu'"):
        next(map_blocks(gelu, [torch.ones(1, 9, dtype=torch.bool)]))
