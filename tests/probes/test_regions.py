"""Activation regions: gates counted by hand, planted flips, proof of the reduction, what is absent."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

from grokscope.errors import GrokscopeError
from grokscope.measures import blocks
from grokscope.measures.gate_patterns import flipped_share, frozen_samples
from grokscope.measures.linear_reduction import reduction_residual, stable_rank_mean
from grokscope.measures.packed_gates import unpack
from grokscope.measures.regions import GatedForm, gates
from grokscope.models import (
    DeepLinearSettings,
    MLPSettings,
    ModelSettings,
    Params,
    TransformerSettings,
    build_model,
)
from grokscope.probes import readings
from grokscope.probes.record import Record
from grokscope.probes.region_pass import TrainingPass
from grokscope.probes.region_quantities import WITH_CHANCE
from grokscope.probes.regions import regions
from grokscope.runs import Run
from grokscope.tasks import CompletionSettings, ModularSettings

ADD5 = ModularSettings(op="add", p=5, train_fraction=0.6)
PLANE = MLPSettings(d_embed=1, hidden=(2,), hidden_bias=False)
AFFINE = (
    "regions.reduction_residual",
    "regions.reduction_residual.forward",
    "regions.reduction_residual.jacobian",
    "regions.stable_rank_mean",
    "regions.rule_gap",
)
GATES = (
    "regions.count",
    "regions.flipped",
    "regions.frozen_samples",
    "regions.frozen_since",
    "regions.gate_margin",
    "regions.active_fraction",
    "regions.dead_neurons",
    "regions.local_complexity",
)
CLASSES = (
    "regions.class_separation",
    "regions.class_separation.normalised",
    "regions.class_separation.logits",
    "regions.class_separation.logits.normalised",
    "regions.simplex_gap",
)


def measured(run: Run, **options) -> Record:
    record = Record(run.name, run.steps)
    with torch.no_grad():
        regions(run, record, **options)
    json.dumps(record.to_json(), allow_nan=False)
    return record


def values(record: Record, name: str) -> np.ndarray:
    found = record.get(name)
    assert found is not None, record.absent.get(name)
    return found


def random_saves(settings: ModelSettings, count: int, p: int = 5, biased: bool = True) -> list[Params]:
    model = build_model(settings, n_tokens=p, n_inputs=None, n_classes=p)
    generator = torch.Generator().manual_seed(1)
    saves = []
    for _ in range(count):
        params = model.init(generator, torch.float64)
        for part in model.parts:
            if part.kind == "bias" and biased:
                params[part.name] = 0.3 * torch.randn(part.shape, generator=generator, dtype=torch.float64)
        saves.append(params)
    return saves


def leaning(saves: list[Params]) -> list[Params]:
    """The same with a head that leans to frequency 1, so that not every frequency is key."""
    for params in saves:
        rows, p = params["head.W_U"].shape
        params["head.W_U"] = params["head.W_U"] + 9 * waves(p, 1).expand(rows, p)
    return saves


def plane(*embedding: float, head: torch.Tensor | None = None) -> Params:
    """Two gates, each the sign of one operand's embedding."""
    p = len(embedding)
    columns = torch.arange(2.0 * p, dtype=torch.float64).reshape(2, p).sin() if head is None else head
    return {
        "embed.W_E": torch.tensor(embedding, dtype=torch.float64)[:, None],
        "hidden.1.W": torch.eye(2, dtype=torch.float64),
        "head.W_U": columns,
    }


def all_but_the_last_pair(run: Run) -> Run:
    mask = torch.ones_like(run.task.train_mask)
    mask[-1] = False
    return dataclasses.replace(run, task=run.task.with_split(mask))


def test_gates_of_a_plane_are_counted_by_hand(make_run):
    # pairs of {0, 1, 2} but (2, 2); at first only residue 0 closes a gate, later none does
    task = ModularSettings(op="add", p=3, train_fraction=0.5)
    saves = [plane(-1, 1, 2), plane(1, 1, 2), plane(1, 1, 2)]
    record = measured(all_but_the_last_pair(make_run(PLANE, task, saves)))
    np.testing.assert_array_equal(values(record, "regions.count"), [4, 1, 1])
    assert values(record, "regions.count").dtype == np.int64
    np.testing.assert_allclose(values(record, "regions.active_fraction"), [10 / 16, 1, 1])
    np.testing.assert_allclose(values(record, "regions.flipped"), [6 / 16, 0])
    np.testing.assert_allclose(values(record, "regions.frozen_samples"), [3 / 8, 1])
    assert record.measurements["regions.flipped"].dims == ("interval",)
    assert values(record, "regions.frozen_since") == 10


def test_dead_neurons_and_frozen_since_at_the_last_save(make_run):
    task = ModularSettings(op="add", p=3, train_fraction=0.5)
    record = measured(make_run(PLANE, task, [plane(1, 1, 2), plane(-1, -1, -2)]), null_samples=0)
    np.testing.assert_array_equal(values(record, "regions.dead_neurons"), [0, 2])
    np.testing.assert_array_equal(values(record, "regions.flipped"), [1])
    assert "last save" in record.absent["regions.frozen_since"]
    # with every gate closed all maps are zero, at one save of two
    ranks = values(record, "regions.stable_rank_mean")
    assert 1 <= ranks[0] <= 2
    assert math.isnan(ranks[1])
    assert record.notes["undefined"]["regions.stable_rank_mean"]["steps"] == [10]


def test_gate_margin_by_hand_over_all_training_samples(make_run):
    embedding = np.array([-1.0, 0.5, 2.0])
    task = ModularSettings(op="add", p=3, train_fraction=0.5)
    record = measured(all_but_the_last_pair(make_run(PLANE, task, [plane(*embedding)])), samples=2)
    pairs = np.array([(a, b) for a in embedding for b in embedding])[:-1]
    ratios = np.abs(pairs) / np.linalg.norm(pairs, axis=1, keepdims=True)
    assert record.notes["regions"]["gate_margin_samples"] == len(ratios) == 8
    expected = np.quantile(ratios, [0, 0.01, 0.1, 0.5], method="inverted_cdf")
    np.testing.assert_allclose(values(record, "regions.gate_margin"), [expected], rtol=1e-14)
    assert record.coordinates["margin_quantile"] == [0, 0.01, 0.1, 0.5]


def test_local_complexity_counts_gates_within_the_radius(make_run):
    task = ModularSettings(op="add", p=3, train_fraction=0.5)
    run = make_run(PLANE, task, [plane(-1, 1, 2)])
    assert values(measured(run, radius=1e-3), "regions.local_complexity") == [0]
    # in the plane a frame of two directions moves each coordinate by at least r/√2
    record = measured(run, radius=4.0)
    assert values(record, "regions.local_complexity") == [2]
    assert record.notes["regions"]["local_complexity"] == {"radius": 4.0, "directions": 2}


@pytest.mark.parametrize(
    "settings",
    [
        MLPSettings(d_embed=4, hidden=(9,), head_bias=True),
        MLPSettings(d_embed=4, hidden=(9, 7), embedding="separate"),
        MLPSettings(d_embed=4, hidden=(9, 7, 6), combine="sum", head_bias=True),
        TransformerSettings(d_model=8, n_heads=2, d_mlp=12),
        TransformerSettings(d_model=8, n_heads=2, d_mlp=12, biases=True, d_vocab_out=6),
    ],
)
def test_the_reduction_is_the_network(make_run, settings):
    run = make_run(settings, ADD5, random_saves(settings, 3))
    record = measured(run, samples=8, jacobians=4)
    for name in AFFINE[:3]:
        assert values(record, name).shape == (3,)
        assert values(record, name).max() < 1e-12
    proof = record.notes["reduction_residual_all"]
    assert (proof["samples"], proof["step"]) == (int(run.task.train_mask.sum()), 20)
    assert max(proof["forward"], proof["jacobian"], proof["forward_from_inputs"]) < 1e-12
    chosen = record.notes["regions"]["samples"]
    assert len(chosen) == 8
    assert bool(run.task.train_mask[chosen].all())
    for index in range(3):
        params = run.params(index)
        form, z = run.model.gated(params), run.model.combined(params, run.task.inputs[chosen])
        rank = values(record, "regions.stable_rank_mean")[index]
        assert rank == pytest.approx(stable_rank_mean(form, z), rel=1e-12)


def test_a_network_that_is_not_its_reduction_is_found_out(make_run, monkeypatch):
    settings = MLPSettings(d_embed=4, hidden=(9,))
    run = make_run(settings, ADD5, random_saves(settings, 2))
    ordinary = run.model.from_z
    monkeypatch.setattr(run.model, "from_z", lambda params, z: ordinary(params, z) + 0.1 * z[:, :1] ** 2)
    record = measured(run, samples=8)
    params, chosen = run.params(0), record.notes["regions"]["samples"]
    form, z = run.model.gated(params), run.model.combined(params, run.task.inputs[chosen])
    expected = reduction_residual(form, z, lambda v: run.model.from_z(params, v), 8)
    assert expected.forward > 1e-4
    assert values(record, AFFINE[1])[0] == pytest.approx(expected.forward, rel=1e-9)
    assert values(record, AFFINE[2])[0] == pytest.approx(expected.jacobian, rel=1e-9)
    assert values(record, AFFINE[0])[0] == max(values(record, name)[0] for name in AFFINE[1:3])
    assert record.notes["reduction_residual_all"]["forward"] > 1e-4


def waves(p: int, *frequencies: int) -> torch.Tensor:
    """(len, p) unit cosines."""
    turns = torch.outer(torch.tensor(frequencies), torch.arange(p)).to(torch.float64) / p
    return (2 * math.pi * turns).cos() * math.sqrt(2 / p)


def test_rule_gap_of_a_planted_head(make_run):
    # neuron 1 writes frequency 1, neuron 2 a little of frequency 2: 4 % of the power, so 1 alone is key
    strength = 0.2
    head = waves(5, 1, 2) * torch.tensor([[1.0], [strength]], dtype=torch.float64)
    run = make_run(PLANE, ADD5, [plane(-1, 1, 2, -3, 1, head=head)])
    record = measured(run)
    open_share = (run.task.inputs[run.task.train_mask] % 3 != 0).double().mean(dim=0)
    outside = (strength * open_share[1]) ** 2
    expected = float(outside / (open_share[0] ** 2 + outside))
    np.testing.assert_allclose(values(record, "regions.rule_gap"), [expected], rtol=1e-12)
    assert record.notes["rule_gap"] == {"key_frequencies": [1], "of": 2}
    assert record.get("regions.rule_gap.null") is not None


def test_rule_gap_on_logarithms_for_multiplication(make_run):
    # the powers of 2 modulo 5 are 1, 2, 4, 3
    on_logarithms = waves(4, 1)[0]
    head = torch.zeros(2, 5, dtype=torch.float64)
    head[:, [1, 2, 4, 3]] = torch.stack([on_logarithms, -2 * on_logarithms])
    head[:, 0] = 7.0
    task = ModularSettings(op="mul", p=5, train_fraction=0.6)
    record = measured(make_run(PLANE, task, [plane(-1, 1, 2, 3, 1, head=head)]))
    np.testing.assert_allclose(values(record, "regions.rule_gap"), [0], atol=1e-28)
    assert record.notes["rule_gap"]["key_frequencies"] == [1]


def test_rule_gap_is_absent_without_a_class_axis(make_run):
    task = ModularSettings(op="x2+xy+y2", p=5, train_fraction=0.6)
    record = measured(make_run(PLANE, task, [plane(-1, 1, 2, 3, 1)]))
    assert "not a sum" in record.absent["regions.rule_gap"]
    assert record.absent["regions.rule_gap.null"] == record.absent["regions.rule_gap"]


def test_rule_gap_is_absent_where_every_frequency_is_key(make_run, drawings):
    head = waves(5, 1, 2)  # as much of one as of the other: nothing lies outside the two
    record = measured(make_run(PLANE, ADD5, [plane(-1, 1, 2, -3, 1, head=head)] * 2))
    assert "every one of the 2 frequencies" in record.absent["regions.rule_gap"]
    assert record.absent["regions.rule_gap.null"] == record.absent["regions.rule_gap"]
    assert "rule_gap" not in record.notes
    assert "Linear maps of the regions" in drawings(regions, record)


def test_class_separation_against_loops(make_run):
    settings = MLPSettings(d_embed=3, hidden=(4,))
    run = make_run(settings, ADD5, random_saves(settings, 1))
    record = measured(run)
    params, mask = run.params(0), run.task.train_mask
    inputs, labels = run.task.inputs[mask], run.task.targets[mask].numpy()
    table = params["embed.W_E"]
    hidden = torch.cat([table[inputs[:, 0]], table[inputs[:, 1]]], dim=1) @ params["hidden.1.W"]
    hidden = (hidden + params["hidden.1.b"]).clamp(min=0)
    for name, features in (("", hidden.numpy()), (".logits", (hidden @ params["head.W_U"]).numpy())):
        means = {c: features[labels == c].mean(axis=0) for c in set(labels.tolist())}
        within = sum(np.sum((f - means[c]) ** 2) for f, c in zip(features, labels.tolist(), strict=True))
        between = sum(np.sum((means[c] - means[d]) ** 2) for c in means for d in means)
        found = values(record, f"regions.class_separation{name}")
        np.testing.assert_allclose(found, [within / between], rtol=1e-9)
        scale = 2 * len(means) ** 2 / len(labels)
        np.testing.assert_allclose(
            values(record, f"regions.class_separation{name}.normalised"), found * scale
        )


def test_every_quantity_is_recorded_or_absent_and_figures_draw(make_run, drawings):
    settings = MLPSettings(d_embed=4, hidden=(9,))
    record = measured(make_run(settings, ADD5, leaning(random_saves(settings, 4))))
    for quantity in regions.quantities:
        assert (quantity.name in record.measurements) != (quantity.name in record.absent)
    assert set(record.absent) <= {"regions.frozen_since"}
    assert len(drawings(regions, record)) == len(regions.figures)
    null = values(record, "regions.stable_rank_mean.null")
    assert 1 <= null[0] <= null[1] <= null[2] <= 5


def test_chance_bands_are_those_of_initial_weights(make_run):
    settings = MLPSettings(d_embed=4, hidden=(9,))
    run = make_run(settings, ADD5, random_saves(settings, 1))
    record = measured(run, null_samples=6)
    generator = torch.Generator().manual_seed(0)
    drawn = [run.model.init(generator, torch.float64) for _ in range(6)]
    of_draws = measured(make_run(settings, ADD5, drawn, name="draws"), null_samples=0)
    compared = [name for name in WITH_CHANCE if name != "regions.rule_gap"]  # its frequencies are a run's own
    for name in compared:
        expected = np.quantile(values(of_draws, name), [0.05, 0.5, 0.95], axis=0)
        np.testing.assert_allclose(values(record, f"{name}.null"), expected, rtol=1e-9, err_msg=name)
    assert record.measurements["regions.gate_margin.null"].dims == ("null_quantile", "margin_quantile")
    assert len({values(of_draws, name).tobytes() for name in compared}) == len(compared)


def test_gelu_has_gates_but_no_reduction(make_run):
    settings = MLPSettings(d_embed=4, hidden=(9,), activation="gelu")
    record = measured(make_run(settings, ADD5, random_saves(settings, 2)))
    for name in AFFINE:
        assert "GELU" in record.absent[name]
    for name in (*GATES, *CLASSES):
        assert name in record.measurements or name == "regions.frozen_since"
    assert "reduction_residual_all" not in record.notes


def test_layer_norm_has_classes_but_no_gates(make_run, drawings):
    settings = TransformerSettings(d_model=8, n_heads=2, d_mlp=12, layer_norm=True)
    record = measured(make_run(settings, ADD5, random_saves(settings, 2)))
    for name in (*GATES, *AFFINE):
        assert "LayerNorm" in record.absent[name]
    for name in CLASSES:
        assert name in record.measurements
    assert list(drawings(regions, record)) == ["Separation of classes"]


def test_deep_linear_has_neither(make_run):
    settings = DeepLinearSettings(depth=2)
    model = build_model(settings, n_tokens=None, n_inputs=4, n_classes=4)
    saves = [model.init(torch.Generator().manual_seed(s), torch.float64) for s in range(2)]
    record = measured(make_run(settings, CompletionSettings(d=4, rank=1), saves))
    assert not record.measurements
    for name in (*GATES, *AFFINE):
        assert "no gates" in record.absent[name]
    for name in CLASSES:
        assert "real numbers" in record.absent[name]


@pytest.mark.parametrize("tensor", ["hidden.1.W", "embed.W_E"])
def test_a_diverged_save_is_undefined_and_the_rest_stays(make_run, tensor):
    settings = MLPSettings(d_embed=4, hidden=(9,))
    saves = leaning(random_saves(settings, 3))
    saves[1][tensor][0, 0] = math.nan
    record = measured(make_run(settings, ADD5, saves))
    for name in ("regions.count", *AFFINE, *CLASSES):
        assert np.isnan(values(record, name)).tolist() == [False, True, False], name
        assert record.notes["undefined"][name]["steps"] == [10]
    assert "no gate pattern" in record.absent["regions.flipped"] or "got" in record.absent["regions.flipped"]
    assert "regions.frozen_since" in record.absent


def test_a_single_save_has_no_flips(make_run):
    settings = MLPSettings(d_embed=4, hidden=(9,))
    record = measured(make_run(settings, ADD5, random_saves(settings, 1)))
    for name in ("regions.flipped", "regions.frozen_samples", "regions.frozen_since"):
        assert "one save only" in record.absent[name]


def test_the_choice_of_samples_follows_the_seed(make_run):
    settings = MLPSettings(d_embed=4, hidden=(9,))
    run = make_run(settings, ADD5, random_saves(settings, 1))
    first, again = measured(run, samples=4, seed=3), measured(run, samples=4, seed=3)
    assert first.notes["regions"]["samples"] == again.notes["regions"]["samples"]
    assert first.to_json() == again.to_json()
    assert first.notes["regions"]["samples"] != measured(run, samples=4, seed=4).notes["regions"]["samples"]


@pytest.mark.parametrize("options", [{"samples": 0}, {"radius": 0.0}, {"directions": 0}, {"null_samples": 1}])
def test_refuses_options_that_mean_nothing(make_run, options):
    run = make_run(PLANE, ADD5, [plane(-1, 1, 2, 3, 1)])
    with pytest.raises(GrokscopeError, match="running probe regions"):
        measured(run, **options)


@pytest.mark.parametrize(
    "settings",
    [
        MLPSettings(d_embed=4, hidden=(9, 7), head_bias=True),
        TransformerSettings(d_model=8, n_heads=2, d_mlp=12),
        TransformerSettings(d_model=8, n_heads=2, d_mlp=12, layer_norm=True),
    ],
)
def test_neither_blocks_nor_the_store_change_a_bit(make_run, monkeypatch, settings):
    saves = random_saves(settings, 5)
    alone = measured(make_run(settings, ADD5, saves, name="alone"), samples=8).to_json()
    run = make_run(settings, ADD5, saves, name="few")
    monkeypatch.setattr(readings, "BLOCK_BYTES", 1)  # a save at a time
    first = measured(run, samples=8).to_json()
    again = measured(run, samples=8).to_json()
    assert first["measurements"] == again["measurements"] == alone["measurements"]
    assert first["absent"] == again["absent"] == alone["absent"]
    # and neither does having known some saves before
    longer = make_run(settings, ADD5, saves, name="longer")
    measured(longer.select("0:20:1"), samples=8)
    assert measured(longer, samples=8).to_json()["measurements"] == alone["measurements"]


@pytest.mark.parametrize("block", [64, 1024])
def test_small_blocks_of_samples_change_nothing_but_rounding(make_run, monkeypatch, block):
    settings = MLPSettings(d_embed=4, hidden=(9, 7), head_bias=True)
    saves = random_saves(settings, 2)
    whole = measured(make_run(settings, ADD5, saves, name="whole"), null_samples=0)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
    parts = measured(make_run(settings, ADD5, saves, name="parts"), null_samples=0)
    assert whole.measurements.keys() == parts.measurements.keys()
    for name in whole.measurements:
        if not name.startswith("regions.reduction_residual"):
            np.testing.assert_allclose(values(parts, name), values(whole, name), rtol=1e-11, err_msg=name)


def test_gates_of_the_pass_are_the_gates(make_run):
    settings = MLPSettings(d_embed=4, hidden=(9, 7))
    run = make_run(settings, ADD5, random_saves(settings, 2))
    params, inputs = run.params(1), run.task.inputs[run.task.train_mask]
    form = run.model.gated(params)
    assert isinstance(form, GatedForm)
    through = TrainingPass(run.model, inputs, run.task.targets[run.task.train_mask], form)
    expected = gates(form, run.model.combined(params, inputs))
    for bits in (through.gates(params), through(params).bits):
        for found, layer in zip(unpack(bits[through.place.numpy()], [9, 7]), expected, strict=True):
            assert torch.equal(found, layer)


def test_what_changed_between_saves_is_read_off_pairs(make_run):
    settings = MLPSettings(d_embed=4, hidden=(9,))
    saves = random_saves(settings, 6)
    saves[3] = saves[2]
    run = make_run(settings, ADD5, saves)
    record = measured(run, null_samples=0)
    inputs = run.task.inputs[run.task.train_mask]
    patterns = []
    for index in range(6):
        params = run.params(index)
        form = run.model.gated(params)
        assert isinstance(form, GatedForm)
        patterns.append(gates(form, run.model.combined(params, inputs)))
    flipped = [flipped_share(a, b) for a, b in itertools.pairwise(patterns)]
    np.testing.assert_allclose(values(record, "regions.flipped"), flipped, rtol=1e-15)
    frozen = [frozen_samples(a, b) for a, b in itertools.pairwise(patterns)]
    np.testing.assert_allclose(values(record, "regions.frozen_samples"), frozen, rtol=1e-15)
    assert frozen[2] == 1
