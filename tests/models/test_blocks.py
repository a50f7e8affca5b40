"""What models give block by block against what they give at once."""

from __future__ import annotations

import pytest
import torch

from grokscope.measures import blocks
from grokscope.measures.chain_rule import per_sample_account
from grokscope.measures.regions import GatedForm, gated_forward
from grokscope.models import (
    ComposedSettings,
    MLPSettings,
    ModelSettings,
    Params,
    TransformerSettings,
    build_model,
)
from grokscope.models.anatomy import Model

P = 7
MLPS = {
    "concatenated": MLPSettings(d_embed=4, hidden=(9,)),
    "summed, separate": MLPSettings(d_embed=4, hidden=(9,), combine="sum", embedding="separate"),
    "deep, biased, scaled": MLPSettings(
        d_embed=4, hidden=(9, 6, 5), head_bias=True, output_scale=0.5, d_vocab_out=9, out_offset=1
    ),
    "summed, shared, gelu": MLPSettings(d_embed=4, hidden=(9, 6), combine="sum", activation="gelu"),
    "one-hot": MLPSettings(hidden=(9,), inputs="one-hot", hidden_bias=False),
    "offset rows": MLPSettings(d_embed=4, hidden=(9,), b_offset=8, residue_offset=1),
}
TRANSFORMERS = {
    "plain": TransformerSettings(d_model=8, n_heads=2, d_mlp=12),
    "biased, wide head": TransformerSettings(d_model=8, n_heads=2, d_mlp=12, biases=True, d_vocab_out=9),
    "gelu": TransformerSettings(d_model=8, n_heads=2, d_mlp=12, activation="gelu"),
    "norms": TransformerSettings(d_model=8, n_heads=2, d_mlp=12, layer_norm=True, biases=True),
    "composed": ComposedSettings(d_model=8, n_heads=2, d_mlp=12),
}
EVERY = {**MLPS, **TRANSFORMERS}
PAIRS = torch.cartesian_prod(torch.arange(P), torch.arange(P))


@pytest.fixture(params=[256, 2**11, 2**21])
def small_blocks(request, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_BYTES", request.param)


def built(settings: ModelSettings) -> tuple[Model, Params]:
    model = build_model(settings, n_tokens=P, n_inputs=None, n_classes=P)
    generator = torch.Generator().manual_seed(0)
    params = model.init(generator, torch.float64)
    for part in model.parts:
        if part.kind != "matrix":
            params[part.name] = params[part.name] + 0.3 * torch.randn(
                part.shape, generator=generator, dtype=torch.float64
            )
    return model, params


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("grid", [True, False])
def test_logits_in_blocks_are_the_logits(small_blocks, name, grid):
    model, params = built(EVERY[name])
    inputs = (
        PAIRS if grid else PAIRS[torch.randperm(len(PAIRS), generator=torch.Generator().manual_seed(3))[:30]]
    )
    found, rows = torch.full((len(inputs), P), torch.nan, dtype=torch.float64), []
    for part, logits in model.logit_blocks(params, inputs, grid=grid):
        found[part] = logits
        rows += range(part.start, part.stop)
    assert rows == list(range(len(inputs)))
    torch.testing.assert_close(found, model.forward(params, inputs), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "norms"])
def test_the_first_layer_of_any_rows(name):
    model, params = built(EVERY[name])
    form = model.gated(params)
    if not isinstance(form, GatedForm):
        pytest.skip("no gates")
    z = model.combined(params, PAIRS)
    (pre, *_), _ = gated_forward(form, z)
    first = model.first_layer(params, form, PAIRS)
    for rows in (slice(5, 11), torch.tensor([4, 0, 4])):
        torch.testing.assert_close(first.z(rows), z[rows], rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(first.pre(rows), pre[rows], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["plain", "biased, wide head", "gelu"])
def test_what_the_layer_writes_leads_to_what_the_head_reads(name):
    model, params = built(EVERY[name])
    form, write = model.gated(params), model.stream_write(params)
    assert isinstance(form, GatedForm)
    assert write is not None
    z = model.combined(params, PAIRS)
    (pre,), _ = gated_forward(form, z)
    read = z + form.activate(pre) @ write[0] + (0 if write[1] is None else write[1])
    torch.testing.assert_close(read, model.head_input(params, PAIRS), rtol=1e-12, atol=1e-13)


def test_only_a_layer_in_a_stream_without_norms_writes():
    for name in (*MLPS, "norms"):
        model, params = built(EVERY[name])
        assert model.stream_write(params) is None


@pytest.mark.parametrize("name", MLPS)
def test_gradient_and_norms_of_one_pass(small_blocks, name):
    model, params = built(EVERY[name])
    inputs = PAIRS[torch.randperm(len(PAIRS), generator=torch.Generator().manual_seed(3))[:30]]
    inputs = torch.cat([inputs, torch.tensor([[3, 3], [0, 0]])])
    weights = torch.randn(len(inputs), P, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    both = model.gradient_with_norms(params, inputs, lambda rows, logits: weights[rows] * logits)
    assert both is not None
    grads, norms = both
    logits, pullback = model.linearised(inputs)(params)
    delta = weights * logits
    expected = pullback(delta)
    assert grads.keys() == expected.keys() == params.keys()
    for tensor, value in expected.items():
        torch.testing.assert_close(grads[tensor], value, rtol=1e-11, atol=1e-13, msg=tensor)

    form = model.gated(params)
    assert isinstance(form, GatedForm)
    settings = EVERY[name]
    assert isinstance(settings, MLPSettings)
    embedded = settings.inputs == "embedding"
    same = inputs[:, 0] == inputs[:, 1]
    account = per_sample_account(
        form,
        model.combined(params, inputs),
        None,
        embedding_width=settings.d_embed if embedded else None,
        combine=settings.combine if embedded else None,
        same_operand=None if model.separate_embeddings or not embedded else same,
        delta=delta,
    )
    torch.testing.assert_close(norms.delta, account.delta, rtol=1e-12, atol=0)
    for layer, (below, above) in enumerate(zip(norms.inputs, norms.above, strict=False)):
        torch.testing.assert_close(below * above, account.layers[layer].weight, rtol=1e-11, atol=1e-15)
    assert (norms.embedding is None) == (account.embedding is None)
    if norms.embedding is not None and account.embedding is not None:
        torch.testing.assert_close(norms.embedding, account.embedding.weight, rtol=1e-11, atol=1e-15)


def test_blocks_cover_the_samples():
    assert [(s.start, s.stop) for s in blocks.block_slices(10, 4)] == [(0, 4), (4, 8), (8, 10)]
    assert list(blocks.block_slices(0, 4)) == []
    assert blocks.block_rows(10**9) == 1
