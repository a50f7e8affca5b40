"""Logits before those of the residues, put behind them where they count in the loss."""

from dataclasses import replace

import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.foreign.function.space import Tokens
from grokscope.foreign.function.transformer_models import _turned_rows
from grokscope.foreign.function.translation import stored, turned
from grokscope.models import Composed, ComposedSettings

P, FIRST = 5, 3
TOKENS = Tokens(P, ("token:0", "a", "token:2", "b", "="), residue_offset=FIRST, out_offset=FIRST)
SETTINGS = ComposedSettings(
    d_model=8,
    n_heads=2,
    d_mlp=12,
    prompt=TOKENS.prompt,
    residue_offset=FIRST,
    out_offset=FIRST,
    d_vocab=P + FIRST + 1,
)


@pytest.mark.parametrize("tied", [False, True])
def test_the_same_logits_in_another_order(tied: bool) -> None:
    rows = P + FIRST + 1
    settings = replace(SETTINGS, tied=tied, d_vocab_out=0 if tied else rows)
    plain = Composed(settings, P, P)
    params = plain.init(torch.Generator().manual_seed(0), torch.float64)
    # every logit of the file, in its order
    everything = Composed(replace(settings, out_offset=0), P, rows)
    pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    theirs = everything.forward(params, pairs)
    torch.testing.assert_close(plain.forward(params, pairs), theirs[:, FIRST : FIRST + P])

    changed = replace(settings, d_vocab_out=0, out_offset=0)
    if tied:
        changed = _turned_rows(changed, TOKENS, FIRST, rows)
    ours = Composed(changed, P, rows)
    found = turned(params, FIRST)
    assert {name: tuple(value.shape) for name, value in found.items()} == ours.shapes
    torch.testing.assert_close(ours.forward(found, pairs), theirs.roll(-FIRST, dims=-1))
    assert turned(params, 0) is params


def test_a_tied_head_whose_answers_start_after_the_residues(one_line) -> None:
    with pytest.raises(GrokscopeError) as caught:
        _turned_rows(SETTINGS, replace(TOKENS, residue_offset=1), FIRST, P + FIRST + 1)
    one_line(caught.value, "tied", "from row 1", "expected")


def test_what_is_stored() -> None:
    assert stored(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert stored(torch.zeros(2, dtype=dtype)).dtype == torch.float32
    assert stored(torch.zeros(3, 2).T).is_contiguous()
