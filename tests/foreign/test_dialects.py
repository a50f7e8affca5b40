"""Tensors under other people's names, and what is refused with a reason."""

import pytest
import torch

from grokscope.foreign.dialects import Recognised, Unrecognised, recognise
from grokscope.models import Params, Transformer


def random_params(settings, p: int, dtype: torch.dtype = torch.float32) -> Params:
    model = Transformer(settings, p, p)
    generator = torch.Generator().manual_seed(1)
    return {part.name: torch.randn(part.shape, generator=generator).to(dtype) for part in model.parts}


def known(tensors: Params) -> Recognised:
    found = recognise(tensors)
    assert isinstance(found, Recognised), found
    return found


def refused(tensors: Params) -> str:
    found = recognise(tensors)
    assert isinstance(found, Unrecognised)
    return found.why


def same(found: Params, wanted: Params) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_bare_parameters(their) -> None:
    params = random_params(their.settings(), 11)
    found = known(their.bare(params))
    assert (found.dialect.name, found.p) == ("bare parameters", 11)
    assert found.settings == their.settings()
    assert not found.settings.causal
    assert same(found.translate(their.bare(params)), params)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("biases", [False, True])
def test_transformer_lens(their, layer_norm: bool, biases: bool) -> None:
    settings = their.settings(layer_norm=layer_norm, biases=biases, causal=True)
    params = random_params(settings, 13)
    found = known(their.lens(params))
    assert (found.dialect.name, found.p, found.settings) == ("transformer-lens ≤3", 13, settings)
    assert set(found.ignored) == {"x_embed", "y_embed", "blocks.0.attn.mask", "blocks.0.attn.IGNORE"}
    assert same(found.translate(their.lens(params)), params)


def test_the_mask_says_whether_attention_is_causal(their) -> None:
    params = random_params(their.settings(), 7)
    lens = their.lens(params)
    assert known(lens).settings.causal
    assert not known({**lens, "blocks.0.attn.mask": torch.ones(3, 3).bool()}).settings.causal
    del lens["blocks.0.attn.mask"]
    found = known(lens)
    assert found.settings.causal
    assert any("causal" in one for one in found.guessed)


def test_a_larger_head_is_kept_whole(their) -> None:
    settings = their.settings(d_vocab_out=8)
    params = random_params(settings, 7)
    found = known(their.bare(params))
    assert found.settings.d_vocab_out == 8
    assert same(found.translate(their.bare(params)), params)


def test_biases_not_in_the_file_are_zero(their) -> None:
    params = random_params(their.settings(biases=True), 7)
    lens = their.lens(params)
    for name in ("b_Q", "b_K", "b_V", "b_O"):
        del lens[f"blocks.0.attn.{name}"]
    found = known(lens)
    assert found.settings.biases
    translated = found.translate(lens)
    assert set(translated) == set(params)
    assert not translated["blocks.0.attn.b_Q"].any()
    assert torch.equal(translated["blocks.0.mlp.b_in"], params["blocks.0.mlp.b_in"])
    assert any("taken as zero" in one and "b_O" in one for one in found.known)


def test_narrow_numbers_widen_and_wide_ones_stay(their) -> None:
    half = random_params(their.settings(), 7, torch.bfloat16)
    translated = known(their.bare(half)).translate(their.bare(half))
    assert {value.dtype for value in translated.values()} == {torch.float32}
    assert torch.equal(translated["embed.W_E"], half["embed.W_E"].float())
    wide = random_params(their.settings(), 7, torch.float64)
    assert known(their.bare(wide)).translate(their.bare(wide))["embed.W_E"].dtype == torch.float64


def test_other_functions_are_not_rebuilt_as_this_one(their) -> None:
    bare, lens = (names(random_params(their.settings(), 7)) for names in (their.bare, their.lens))
    mlp = {
        name: torch.ones(shape)
        for name, shape in {"W_x": (7, 4), "W_y": (7, 4), "W": (8, 3), "W_U": (3, 7)}.items()
    }
    assert refused(mlp) == (
        "tensors W_x (7, 4), W_y (7, 4), W (8, 3), W_U (3, 7): no known dialect, expected transformer-lens "
        "≤3 (embed.W_E, …) or bare parameters (embed, …)"
    )
    cases = {
        "W_O is missing": {name: value for name, value in bare.items() if name != "W_O"},
        "gate (3,) would be left over": {**bare, "gate": torch.ones(3)},
        "x_embed is not the copy of embed.W_E": {**lens, "x_embed": lens["x_embed"] + 1},
        "blocks.1.attn.W_Q (2, 16, 5) would be left over": {
            **lens,
            "blocks.1.attn.W_Q": lens["blocks.0.attn.W_Q"],
        },
        "pos_embed.W_pos has shape (3, 16), and embed.W_E makes d = 8": {
            **{name: value for name, value in lens.items() if name not in ("x_embed", "y_embed")},
            "embed.W_E": lens["embed.W_E"].mT,
        },
        "there are 2 positions": {**bare, "pos": bare["pos"][:2]},
        "4 logits were given": {**bare, "unembed": bare["unembed"][:, :4]},
        "blocks.0.ln1.w is there and blocks.0.ln1.b is not": {**lens, "blocks.0.ln1.w": torch.ones(16)},
        "pos_embed.W_pos is torch.int64": {**lens, "pos_embed.W_pos": lens["pos_embed.W_pos"].long()},
    }
    for words, tensors in cases.items():
        why = refused(tensors)
        assert words in why
        assert "\n" not in why


def test_a_modulus_past_the_limit(their) -> None:
    bare = their.bare(random_params(their.settings(), 7))
    huge = {**bare, "embed": torch.zeros(2000, 16), "unembed": torch.zeros(16, 1999)}
    assert "2000 tokens were given, expected 3 to 1025" in refused(huge)
    tiny = {**bare, "embed": torch.zeros(2, 16), "unembed": torch.zeros(16, 1)}
    assert "2 tokens were given" in refused(tiny)
