"""Checkpoints for TransformerLens: the translation, what is refused, the file, and the real bridge's logits."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grokscope import lens
from grokscope.errors import GrokscopeError
from grokscope.foreign import import_paths
from grokscope.lens_weights import ACTIVATIONS, as_composed, translate
from grokscope.models import Composed, Model, Transformer, TransformerSettings
from grokscope.runs import Run, open_run
from grokscope.tasks import pack_mask
from grokscope.trajectory import TrajectoryWriter, settings_dict, write_manifest
from tests.models.plain_composed import BIASES, CASES, SMALL, P, calmed, case, tokens_of

REFUSED = {
    "pre-layer-no-final": "none before the head",
    "post-layer": "post-norm",
    "post-rms-llama": "post-norm",
    "post-final": "post-norm",
    "post-final-rms": "post-norm",
    "attention-only-post": "post-norm",
    "post-attention-norm": "post-norm",
    "post-mlp-norm": "post-norm",
    "attention-norm": "none before the MLP and none before the head",
    "attention-norm-final": "none before the MLP, expected",
    "mlp-norm": "none before attention and none before the head",
    "final-norm-alone": "none before attention and none before the MLP",
    "embed-norm-alone": "none before attention",
    "sinusoidal": "a norm of the embedding",
    "mixed-causal": "activation 'tanh'",
    "no-softmax": "activation 'quadratic'",
}
MORE: dict[str, dict[str, Any]] = {
    "pre-llama": {
        "norm": "rms",
        "n_layers": 2,
        "gated_mlp": True,
        "activation": "silu",
        "positions": "rotary",
        "n_kv_heads": 2,
        "query_key_value_bias": True,
        "norm_epsilon": 1e-6,
    },
    "waves": {"positions": "sinusoidal", "embedding_scale": 8**0.5, "n_positions": 5},
    "uniform": {"attention_share": 0.0, "score_scale": "none", "query_key_value_bias": True},
    "mixed-groups": {"attention_share": 0.3, "n_kv_heads": 2, "n_layers": 2, "attention": "bidirectional"},
    "bare-rms": {"norm": "rms", "norm_gain": False, "tied": True},
    "biased-bare-layer": {"norm": "layer", "norm_gain": False},
    "unscaled-rotation": {"positions": "rotary", "score_scale": "none", "attention_share": 1.5, **BIASES},
    "one-wide-head": {"n_heads": 1, "n_kv_heads": 1, "d_head": 1, "score_scale": "width"},
}
STRUCTURED = {
    "transformer": {},
    "transformer-biased": {"biases": True, "d_vocab_out": P + 1, "activation": "gelu"},
    "transformer-normed": {"layer_norm": True, "causal": False, "activation": "gelu_tanh"},
    "transformer-bare-norms-scaled": {
        "layer_norm": True,
        "norm_gain": False,
        "norm_bias": False,
        "output_scale": 0.5,
    },
}
EXPRESSED = [*(name for name in CASES if name not in REFUSED), *MORE, *STRUCTURED]


def model_of(name: str) -> Model:
    if name in STRUCTURED:
        return Transformer(
            TransformerSettings(**{"d_model": 6, "n_heads": 2, "d_head": 4, "d_mlp": 9, **STRUCTURED[name]}),
            P,
            P,
        )
    return case(name) if name in CASES else Composed(replace(SMALL, **MORE[name]), P, P)


def weights_of(model: Model, seed: int = 0) -> dict[str, Tensor]:
    """Every bias and gain away from its initial value, rounded to float32."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for part in model.parts:
        values = torch.randn(part.shape, generator=generator, dtype=torch.float64)
        found[part.name] = 1 + 0.5 * values if part.kind == "gain" else 0.7 * values
    return {key: value.float().double() for key, value in calmed(found).items()}


def store(directory: Path, model: Model, saves: dict[int, dict[str, Tensor]], **manifest: Any) -> Run:
    config = {
        "task": {"name": "modular", "op": "add", "p": P, "train_fraction": 0.6},
        "model": settings_dict(model.settings),  # pyright: ignore[reportAttributeAccessIssue]
    }
    directory.mkdir(parents=True)
    mask = torch.arange(P * P) % 2 == 0
    write_manifest(
        directory,
        {"name": directory.name, "kind": "trained", "config": config, "split": pack_mask(mask), **manifest},
    )
    columns = {name: (shape, np.float32) for name, shape in model.shapes.items()}
    with TrajectoryWriter(directory / "trajectory.h5", columns, []) as writer:
        for step, params in saves.items():
            writer.save(step, {name: params[name].float().numpy() for name in columns})
    return open_run(directory)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    model = model_of("transformer")
    return store(tmp_path / "little", model, {step: weights_of(model, step) for step in (0, 30, 100)})


def failure(action: Callable[[], object]) -> str:
    with pytest.raises(GrokscopeError) as caught:
        action()
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_expressed_is_refused_by_name(name):
    model = case(name)
    assert REFUSED[name] in failure(lambda: translate(model, weights_of(model)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gated_mlp": True, "mlp_bias": True}, "a gated MLP with biases (blocks.0.mlp.b_"),
        ({"positions": "rotary", "rotary_base": 10.5}, "the rotary base 10.5"),
        ({"attention_share": -0.5, "n_layers": 2}, "the attention share -0.5 under a causal mask"),
        ({"attention_share": 0.5, "read": "mean"}, "the attention share 0.5 under a causal mask"),
        ({"activation": "tanh"}, "the activation 'tanh', expected one of relu, gelu, gelu_tanh, silu"),
    ],
)
def test_parts_without_a_place_are_refused(changes, words):
    model = Composed(replace(SMALL, **changes), P, P)
    assert words in failure(lambda: translate(model, weights_of(model)))


def test_biases_of_a_gate_that_are_zero_are_no_obstacle():
    model = Composed(replace(SMALL, gated_mlp=True, mlp_bias=True), P, P)
    params = weights_of(model)
    params |= {name: torch.zeros_like(value) for name, value in params.items() if ".mlp.b_" in name}
    assert translate(model, params).config["gated_mlp"]


def test_a_model_that_is_no_transformer_is_refused(tmp_path):
    from grokscope.models import MLP, MLPSettings

    model = MLP(MLPSettings(d_embed=3, hidden=(4,)), P, P)
    assert "the family 'mlp', expected a transformer" in failure(lambda: translate(model, {}))
    run = store(tmp_path / "mlp", model, {0: weights_of(model)})
    assert "the family 'mlp'" in failure(lambda: lens.to_lens(run))


def test_a_step_that_is_not_saved_names_its_neighbours(run):
    assert "not saved, expected a saved step; the nearest are 30 and 100" in failure(
        lambda: lens.to_lens(run, 31)
    )
    assert failure(lambda: lens.to_lens(run, 101)).endswith("the nearest is 100")
    assert failure(lambda: lens.to_lens(run.select("0:30"), -4)).endswith("the nearest is 0")
    assert failure(lambda: lens.to_lens(run.select("0:30"), 100)).endswith("the nearest is 30")


def test_a_function_that_is_not_proved_is_refused(tmp_path):
    model = model_of("transformer")
    run = store(tmp_path / "doubtful", model, {0: weights_of(model)}, no_function="two functions fit")
    assert "two functions fit" in failure(lambda: lens.to_lens(run))


@pytest.mark.parametrize("hidden", ["transformer_lens", "transformer_lens.model_bridge"])
def test_without_the_extra_the_error_is_the_install_line(run, monkeypatch, tmp_path, hidden):
    monkeypatch.setitem(sys.modules, hidden, None)
    for name in [one for one in sys.modules if one.startswith(f"{hidden}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "out.pt"
    assert "pip install 'grokscope[lens]'" in failure(lambda: lens.export(run, None, out))
    assert not out.exists()


@pytest.mark.parametrize("name", EXPRESSED)
def test_prompts_settings_and_notes(name, all_pairs):
    model = model_of(name)
    composed = as_composed(model)
    assert composed.shapes == model.shapes
    found = translate(model, weights_of(model))
    s, inputs = composed.settings, all_pairs(P)
    rows, zeroed = tokens_of(s, inputs)
    rows[:, zeroed] = composed.layout.d_vocab
    assert torch.equal(found.tokens(inputs), rows)
    assert not found.weights["embed.weight"][composed.layout.d_vocab :].any()
    assert found.classes == (s.out_offset, s.out_offset + P)
    for setting, words in (
        (s.tied, "tied to the embedding"),
        (s.output_scale != 1.0, "on the logits is in the head"),
        (s.score_scale != "head", "of the scores"),
        (s.embedding_scale != 1, "the embedding scale"),
        (s.attention_share != 1, "queries of zero"),
        (s.positions == "sinusoidal", "sinusoidal positions"),
        (s.positions == "none", "no positions"),
        (bool(zeroed.any()), "a row of zeros"),
        (s.positions == "rotary" and s.rotary_pairs == "halves", "reordered"),
        (not s.query_key_value_bias, "no biases of queries, keys and values"),
        (
            s.query_key_value_bias and s.attention_bias and s.mlp_bias and not s.head_bias,
            "no biases of the head",
        ),
    ):
        assert setting == any(words in note for note in found.notes), words


def test_a_mean_over_positions_and_the_classes_are_cut_from_the_bridges_output():
    found = translate(case("mean", out_offset=2), weights_of(case("mean", out_offset=2)))
    output = torch.randn(4, 3, P + 2)
    assert torch.equal(found.logits(output), output[:, :, 2:].mean(dim=1))
    first = translate(case("first"), weights_of(case("first")))
    assert torch.equal(first.logits(output), output[:, 0, :P])


def test_every_activation_has_its_name():
    for ours, theirs in ACTIVATIONS.items():
        model = Composed(replace(SMALL, activation=ours), P, P)  # pyright: ignore[reportArgumentType]
        assert translate(model, weights_of(model)).config["act_fn"] == theirs
    alone = translate(case("attention-only", activation="tanh"), weights_of(case("attention-only")))
    assert alone.config["attn_only"]


@pytest.fixture
def all_pairs() -> Callable[[int], Tensor]:
    return lambda p: torch.cartesian_prod(torch.arange(p), torch.arange(p))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"embed.weight": torch.zeros(3, 2)}, "no format"),
        ({"format": lens.FORMAT, "config": {}}, "no config and state_dict"),
        ({"format": lens.FORMAT, "config": {}, "state_dict": {"a": 1}}, "other things than tensors"),
        ({"format": lens.FORMAT, "config": {"d_vocab": 10**12}, "state_dict": {}}, "d_vocab = 1000000000000"),
    ],
)
def test_files_that_are_no_lens_files(tmp_path, content, words):
    path = tmp_path / "odd.pt"
    torch.save(content, path)
    assert words in failure(lambda: lens.load_lens(path))
    assert "odd.pt" in failure(lambda: lens.load_lens(path))


def test_files_that_cannot_be_read(tmp_path):
    failure(lambda: lens.load_lens(tmp_path / "none.pt"))
    (tmp_path / "text.pt").write_text("hello")
    failure(lambda: lens.load_lens(tmp_path / "text.pt"))


# importing transformer_lens takes most of a quarter of a minute
@pytest.fixture(scope="module")
def bridges() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("transformer_lens.model_bridge")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPRESSED)
def test_logits_are_those_of_transformer_lens(name, bridges, all_pairs):
    model, inputs = model_of(name), all_pairs(P)
    params = weights_of(model)
    found = translate(model, params)
    bridge = lens.boot(found.config, found.weights, torch.float64)
    with torch.no_grad():
        theirs = found.logits(bridge(found.tokens(inputs)))
    ours = model.forward(params, inputs)
    # its RMS norms, bare norms and rotations are computed in float32 whatever the type of the weights
    rounded = found.config["normalization_type"] not in (None, "LN") or "rotary" in found.config.values()
    scale = float(ours.abs().max())
    assert float((theirs - ours).abs().max()) < (2e-6 if rounded else 1e-12) * scale
    bridge = lens.boot(found.config, found.weights)
    assert next(bridge.parameters()).dtype == torch.float32
    assert lens.compare(bridge, found, model, params, inputs) < lens.TOLERANCE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_saved_file_boots_again_with_and_without_us(run, bridges, tmp_path, all_pairs):
    out = tmp_path / "little-step30.pt"
    state = torch.random.get_rng_state()
    found = lens.export(run, 30, out)
    assert torch.equal(state, torch.random.get_rng_state())
    assert 0 < found.difference < lens.TOLERANCE
    logits = found.bridge(found.tokens)[:, 2, :P]
    expected = run.logits(run.params(1))
    assert float((logits.double() - expected).abs().max() / expected.abs().max()) == found.difference
    assert torch.equal(lens.load_lens(out)(found.tokens)[:, 2, :P], logits)
    assert torch.equal(state, torch.random.get_rng_state())
    # a reader's own two lines
    saved = torch.load(out, weights_only=True)
    bridge = bridges.TransformerBridge.boot_native(saved["config"])
    bridge.load_state_dict(saved["state_dict"])
    a, b = all_pairs(P).unbind(1)
    tokens = torch.stack([{"a": a, "b": b, "": 0 * a}[of] + first for of, first in saved["tokens"]], dim=1)
    first, stop = saved["classes"]
    again = bridge(tokens)[:, saved["read"], first:stop].mean(dim=1)
    assert torch.equal(again, logits)
    assert saved["grokscope"]["run"] == "little"
    assert saved["grokscope"]["step"] == 30
    assert saved["grokscope"]["checksum"] == run.trajectory.checksum()
    assert (saved["notes"], saved["difference"]) == (list(found.notes), found.difference)
    _, cache = found.bridge.run_with_cache(found.tokens)
    assert cache["blocks.0.attn.hook_pattern"].shape == (P * P, 2, 3, 3)
    last = lens.to_lens(run)
    assert not torch.equal(last(found.tokens)[:, 2, :P], logits)


@pytest.mark.slow
def test_what_differs_or_is_not_finite_is_refused(run, bridges, monkeypatch):
    monkeypatch.setattr(lens, "TOLERANCE", 1e-12)
    assert "differ from ours by" in failure(lambda: lens.to_lens(run))
    params = run.params(0)
    found = translate(run.model, params)
    found.weights["unembed.bias"][1] = torch.nan
    bridge = lens.boot(found.config, found.weights)
    inputs = torch.tensor([[0, 1], [2, 3]])
    assert lens.compare(bridge, found, run.model, params, inputs) == float("inf")
    params["unembed.W_U"][0, 0] = torch.inf
    assert "not finite" in failure(lambda: lens.compare(bridge, found, run.model, params, inputs))


@pytest.mark.slow
def test_a_file_whose_tensors_are_not_its_settings(run, bridges, tmp_path):
    out = tmp_path / "out.pt"
    lens.export(run, 0, out)
    saved = torch.load(out, weights_only=True)
    for changes in (
        {"act_fn": "cube"},
        {"normalization_type": "LN"},
        {"d_mlp": 8},
        {"n_heads": 4},
        {"d_head": 0},
    ):
        torch.save({**saved, "config": {**saved["config"], **changes}}, out)
        assert "out.pt" in failure(lambda: lens.load_lens(out))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file", "note"),
    [
        (
            "bilal-chughtai+rep-theory-mech-interp/rep_theory/batch_experiments/C113_T_seed1/model.pt",
            None,
        ),
        ("fjzzq2002+pizza/code/save/model_p99zdpze5l.pt", "heads 4 to 7 have queries of zero"),
    ],
)
def test_weights_that_strangers_published(file, note, bridges, tmp_path):
    """The bridge, asked through its saved file, is right as often as other code found the weights to be."""
    folder = os.environ.get("GROKSCOPE_THIRD_PARTY")
    if not folder:
        pytest.skip("GROKSCOPE_THIRD_PARTY is not set: no third-party files to read")
    source = Path(folder) / file
    recomputed = json.loads((Path(folder) / "expected.json").read_text())[file]["recomputed_float64"]
    (imported,) = import_paths([source.parent if note is None else source], tmp_path).runs
    assert imported.path is not None
    run, out = open_run(imported.path), tmp_path / "out.pt"
    found = lens.export(run, None, out)
    assert found.difference < 2e-6
    assert note is None or any(note in one for one in found.notes)
    p = run.model.n_tokens
    assert p is not None
    with torch.no_grad():
        logits = found.translation.logits(lens.load_lens(out)(found.tokens))
    targets = torch.cartesian_prod(torch.arange(p), torch.arange(p)).sum(dim=1) % p
    assert float((logits.argmax(dim=1) == targets).double().mean()) == recomputed["full_acc"]
