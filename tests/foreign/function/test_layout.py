"""Which tensors are weights, which are copies, buffers or left over; every tensor is accounted for."""

import pytest
import torch
from torch import Tensor

from grokscope.foreign.function.layout import (
    NOT_TRAINED,
    SINUSOIDS,
    Layout,
    Unrecognised,
    lay_out,
    without_aliases,
)
from grokscope.foreign.function.tensors import is_sinusoidal, same
from grokscope.models.composed_layers import sinusoids


def block(prefix: str = "blocks.0.", d: int = 8, m: int = 20) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "attn.q_proj.weight": (d, d),
        "attn.k_proj.weight": (d, d),
        "attn.v_proj.weight": (d, d),
        "attn.o_proj.weight": (d, d),
        "mlp.fc1.weight": (m, d),
        "mlp.fc2.weight": (d, m),
    }
    return {prefix + name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def network(**more: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ends = {
        "tok_emb.weight": torch.randn(12, 8, generator=generator),
        "head.weight": torch.randn(11, 8, generator=generator),
    }
    return {**ends, **block(), **{name.replace("__", "."): value for name, value in more.items()}}


def test_a_table_of_sinusoids_is_seen():
    table = sinusoids(6, 8)
    assert is_sinusoidal(table)
    assert is_sinusoidal(table.float()[None])
    assert not is_sinusoidal(table + 0.01)
    assert not is_sinusoidal(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)))
    assert not is_sinusoidal(torch.zeros(6, 7))
    found = lay_out(network(pos_enc__pe=table))
    assert isinstance(found, Layout)
    assert found.ignored == {"pos_enc.pe": SINUSOIDS}


def test_same_means_every_entry():
    one = torch.arange(6.0).view(2, 3)
    assert same(one, one.clone())
    assert not same(one, one.view(3, 2))
    assert not same(one, one.double())
    assert not same(one, one + 1e-6)


def test_doubled_names_of_wrapped_components():
    value = torch.ones(2, 2)
    plain, dropped = without_aliases(
        {"attn.q.weight": value, "attn.q._original_component.weight": value.clone()}
    )
    assert list(plain) == ["attn.q.weight"]
    assert dropped == {"attn.q._original_component.weight": "a copy of attn.q.weight"}
    other, dropped = without_aliases({"a.w": value, "a._original_component.w": value + 1})
    assert len(other) == 2
    assert not dropped


def test_a_head_that_is_the_embedding_is_tied():
    tensors = network()
    tensors["lm_head.weight"] = tensors["tok_emb.weight"].clone()
    del tensors["head.weight"]
    found = lay_out(tensors)
    assert isinstance(found, Layout)
    assert not found.has("head")
    assert "tied" in found.ignored["lm_head.weight"]


def test_a_copy_is_ignored_but_equal_gains_are_not():
    tensors = network()
    tensors["blocks.0.extra"] = tensors["blocks.0.mlp.fc1.weight"].clone()
    found = lay_out(tensors)
    assert isinstance(found, Layout)
    assert found.ignored == {"blocks.0.extra": "a copy of blocks.0.mlp.fc1.weight"}
    norms = {f"blocks.0.norm{k}.weight": torch.ones(8) for k in (1, 2)}
    found = lay_out({**network(), **norms, "norm.weight": torch.ones(8)})
    assert isinstance(found, Layout)
    assert not found.ignored
    assert found.has("final_norm_gain")


def test_what_is_left_over_is_another_function():
    found = lay_out(network(blocks__0__adapter__weight=torch.randn(8, 8)))
    assert isinstance(found, Unrecognised)
    assert "adapter" in found.why
    found = lay_out(network(scratch=torch.randn(5, 5)), constant=["scratch"])
    assert isinstance(found, Layout)
    assert found.ignored == {"scratch": NOT_TRAINED}


@pytest.mark.parametrize(
    ("drop", "word"),
    [
        ("tok_emb.weight", "embedding"),
        ("blocks.0.attn.k_proj.weight", "key"),
        ("blocks.0.attn.o_proj.weight", "output"),
    ],
)
def test_what_is_missing_is_named(drop: str, word: str):
    tensors = network()
    del tensors[drop]
    found = lay_out(tensors)
    assert isinstance(found, Unrecognised)
    assert word in found.why


def test_layers_must_be_alike_and_few():
    tensors = network()
    second = block("blocks.1.")
    del second["blocks.1.mlp.fc1.weight"]
    found = lay_out({**tensors, **second})
    assert isinstance(found, Unrecognised)
    assert "layer 1" in found.why
    for layer in range(1, 10):
        tensors |= block(f"blocks.{layer}.")
    found = lay_out(tensors)
    assert isinstance(found, Unrecognised)
    assert "10 layers" in found.why


def test_heads_must_be_numbered_from_zero():
    tensors = network()
    for which in "qkv":
        del tensors[f"blocks.0.attn.{which}_proj.weight"]
    for head in (0, 2):
        tensors |= {
            f"blocks.0.attn.heads.{head}.{word}.weight": torch.randn(4, 8)
            for word in ("query", "key", "value")
        }
    found = lay_out(tensors)
    assert isinstance(found, Unrecognised)
    assert "[0, 2]" in found.why


def test_a_body_beside_its_head():
    tensors = network()
    inner = {f"model.{name}" if name != "head.weight" else name: value for name, value in tensors.items()}
    found = lay_out(inner)
    assert isinstance(found, Layout)
    assert len(found.parts) == len(tensors)
