"""An oracle that is not ours: the same weights in TransformerLens 4's native bridge."""

import pytest
import torch
from torch import Tensor

from grokscope.models import Transformer, TransformerSettings

P = 7
ATTENTION = "blocks.0.attn."


def bridge_weights(params: dict[str, Tensor], layer_norm: bool) -> dict[str, Tensor]:
    """Our tensors under the bridge's names: linear layers stored (out, in), heads flattened."""
    found = {"embed.weight": params["embed.W_E"], "pos_embed.weight": params["pos_embed.W_pos"]}
    for one in "QKV":
        found[f"{ATTENTION}{one.lower()}.weight"] = (
            params[f"{ATTENTION}W_{one}"].permute(0, 2, 1).flatten(0, 1)
        )
        found[f"{ATTENTION}{one.lower()}.bias"] = params[f"{ATTENTION}b_{one}"].flatten()
    found[f"{ATTENTION}o.weight"] = params[f"{ATTENTION}W_O"].flatten(0, 1).T
    found[f"{ATTENTION}o.bias"] = params[f"{ATTENTION}b_O"]
    for one in ("in", "out"):
        found[f"blocks.0.mlp.{one}.weight"] = params[f"blocks.0.mlp.W_{one}"].T
        found[f"blocks.0.mlp.{one}.bias"] = params[f"blocks.0.mlp.b_{one}"]
    found |= {"unembed.weight": params["unembed.W_U"].T, "unembed.bias": params["unembed.b_U"]}
    if layer_norm:
        for place in ("blocks.0.ln1", "blocks.0.ln2", "ln_final"):
            found |= {f"{place}.weight": params[f"{place}.w"], f"{place}.bias": params[f"{place}.b"]}
    return {name: value.contiguous() for name, value in found.items()}


# importing transformer_lens takes most of a quarter of a minute
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer_norm", [False, True])
def test_logits_are_those_of_transformer_lens(layer_norm: bool, random_params, all_pairs) -> None:
    config = pytest.importorskip("transformer_lens.config")
    bridge = pytest.importorskip("transformer_lens.model_bridge")
    settings = TransformerSettings(
        d_model=6, n_heads=2, d_head=3, d_mlp=9, layer_norm=layer_norm, biases=True, d_vocab_out=P + 1
    )
    model, inputs = Transformer(settings, P, P), all_pairs(P)
    params = random_params(model)
    theirs = bridge.TransformerBridge.boot_native(
        config.TransformerBridgeConfig(
            d_model=6,
            n_layers=1,
            n_heads=2,
            d_head=3,
            d_mlp=9,
            n_ctx=3,
            d_vocab=P + 1,
            d_vocab_out=P + 1,
            act_fn="relu",
            normalization_type="LN" if layer_norm else None,
            attention_dir="causal",
            seed=0,
        ),
        dtype=torch.float64,
    )
    theirs.load_state_dict(bridge_weights(params, layer_norm), strict=True)
    tokens = torch.cat([inputs, torch.full((len(inputs), 1), P)], dim=1)
    with torch.no_grad():
        logits = theirs(tokens)[:, -1, :P]
    assert torch.allclose(model.forward(params, inputs), logits, rtol=1e-10, atol=1e-10)
