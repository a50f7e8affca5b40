"""Packed bits against the patterns that they pack."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grokscope.measures import gate_patterns, packed_gates
from grokscope.measures.packed_gates import pack_layer


def packed(layers: list[torch.Tensor]) -> packed_gates.Bits:
    return np.concatenate([pack_layer(layer) for layer in layers], axis=1)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 300),
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.integers(1, 4),
)
def test_counts_and_flips_are_those_of_the_plain_patterns(seed, n, widths, levels):
    generator = torch.Generator().manual_seed(seed)
    # few levels, so that patterns repeat and pre-activations of zero appear
    sides = [
        [torch.randint(-levels, levels + 1, (n, width), generator=generator).double() for width in widths]
        for _ in range(2)
    ]
    bits = [packed(side) for side in sides]
    plain = [tuple(layer > 0 for layer in side) for side in sides]
    for unpacked, layer in zip(packed_gates.unpack(bits[0], widths), plain[0], strict=True):
        assert torch.equal(unpacked, layer)
    assert packed_gates.distinct(bits[0]) == gate_patterns.count_patterns(plain[0])
    counts = packed_gates.open_counts(bits[0], widths)
    for count, layer in zip(counts, plain[0], strict=True):
        assert torch.equal(count, layer.sum(dim=0))
    assert packed_gates.closed_everywhere(counts) == gate_patterns.dead_neurons(plain[0])
    flipped, changed = packed_gates.flips(*bits)
    assert flipped / (n * sum(widths)) == pytest.approx(gate_patterns.flipped_share(*plain), rel=1e-15)
    assert changed.tolist() == gate_patterns.pattern_changed(*plain).tolist()


def test_bits_of_different_shapes_are_refused():
    one, other = pack_layer(torch.ones(2, 9)), pack_layer(torch.ones(2, 8))
    with pytest.raises(ValueError, match=r"flips: got bits \(2, 2\) and \(2, 1\)"):
        packed_gates.flips(one, other)
