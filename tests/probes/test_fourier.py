"""Fourier features of planted networks: key frequencies, phases and every axis on which residues can lie."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from grokscope.errors import GrokscopeError
from grokscope.measures.fourier import discrete_log_order
from grokscope.models import (
    DeepLinearSettings,
    MLPSettings,
    Params,
    TransformerSettings,
    build_model,
)
from grokscope.probes.fourier import QUANTITIES, fourier
from grokscope.probes.record import Record
from grokscope.probes.stepwise import random_params
from grokscope.runs import Run
from grokscope.tasks import CompletionSettings, ModularSettings

F64 = torch.float64


def measured(run: Run, **options) -> Record:
    record = Record(run.name, run.steps)
    fourier(run, record, **{"null_samples": 4, **options})
    return record


def value(record: Record, name: str) -> np.ndarray:
    found = record.get(name)
    assert found is not None, record.absent.get(name, name)
    return found


def circles(points: Tensor, frequencies: list[int], n: int) -> Tensor:
    """(len(points), 2K): cosine and sine of every frequency, unit amplitude."""
    angle = 2 * math.pi / n * points[:, None].to(F64) * torch.tensor(frequencies, dtype=F64)
    return torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1)


def random_mlp(p: int, d: int, hidden: int = 6, seed: int = 0, **settings) -> tuple[MLPSettings, Params]:
    chosen = MLPSettings(d_embed=d, hidden=(hidden,), **settings)
    model = build_model(chosen, n_tokens=p, n_inputs=None, n_classes=p)
    return chosen, model.init(torch.Generator().manual_seed(seed), F64)


def clock_network(
    n: int, frequency: list[int], phase_a: Tensor, phase_b: Tensor, output: Tensor, rows: Tensor | None = None
) -> tuple[MLPSettings, Params]:
    """Neurons cos(w_k a + φ_a) + cos(w_k b + φ_b) → cos(w_k c + ψ) on an axis of n points.

    ``rows`` are the residues in axis order (the others get a large, meaningless embedding).
    """
    keys, h = sorted(set(frequency)), len(frequency)
    p = n if rows is None else n + 1
    rows = torch.arange(n) if rows is None else rows
    table = torch.full((p, 2 * len(keys)), 7.0, dtype=F64)
    table[rows] = circles(torch.arange(n), keys, n)
    weight = torch.zeros(2, 2 * len(keys), h, dtype=F64)
    head = torch.full((h, p), 3.0, dtype=F64)
    for neuron, k in enumerate(frequency):
        column = 2 * keys.index(k)
        for slot, phase in enumerate((phase_a[neuron], phase_b[neuron])):
            weight[slot, column, neuron] = phase.cos()
            weight[slot, column + 1, neuron] = -phase.sin()
        head[neuron, rows] = (2 * math.pi * k / n * torch.arange(n).to(F64) + output[neuron]).cos()
    settings = MLPSettings(d_embed=2 * len(keys), hidden=(h,))
    bias = torch.linspace(-0.2, 0.5, h, dtype=F64)
    params = {"embed.W_E": table, "hidden.1.W": weight.flatten(0, 1), "hidden.1.b": bias, "head.W_U": head}
    return settings, params


def phases(h: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = 2 * math.pi * torch.rand(2, h, generator=generator, dtype=F64)
    return drawn[0], drawn[1]


@pytest.mark.parametrize(
    ("keys", "gini", "participation", "circularity"),
    [([5], 0.9655172, 1, 0.5), ([5, 11], 0.9310345, 2, None)],
)
def test_circles_of_an_odd_modulus(make_run, keys, gini, participation, circularity):
    settings, params = random_mlp(59, 8)
    params["embed.W_E"] = torch.nn.functional.pad(circles(torch.arange(59), keys, 59), (0, 8 - 2 * len(keys)))
    record = measured(make_run(settings, ModularSettings(p=59), [params]))
    assert value(record, "fourier.embedding.gini")[0] == pytest.approx(gini, abs=5e-8)
    assert value(record, "fourier.embedding.participation")[0] == pytest.approx(participation)
    if circularity is not None:
        assert value(record, "fourier.embedding.circularity")[0] == pytest.approx(circularity)
    fraction = value(record, "fourier.embedding.fraction")
    assert fraction.shape == (1, 29)
    assert record.measurements["fourier.embedding.fraction"].dims == ("step", "frequency")
    assert record.coordinates["frequency"] == list(range(1, 30))
    np.testing.assert_allclose(fraction[0, [k - 1 for k in keys]], 1 / len(keys))
    found = value(record, "fourier.key_frequencies.by_embedding")
    assert found.dtype == bool
    assert [k + 1 for k in np.flatnonzero(found[0])] == keys


def test_an_even_modulus_has_the_alternating_function_once(make_run):
    settings, params = random_mlp(12, 3)
    alternating = 1.0 - 2.0 * (torch.arange(12) % 2).to(F64)
    params["embed.W_E"] = torch.cat([circles(torch.arange(12), [2], 12), alternating[:, None]], dim=1)
    record = measured(make_run(settings, ModularSettings(p=12), [params]))
    np.testing.assert_allclose(
        value(record, "fourier.embedding.fraction")[0], [0, 0.5, 0, 0, 0, 0.5], atol=1e-15
    )
    assert record.coordinates["frequency"] == [1, 2, 3, 4, 5, 6]


def test_chance_bands_are_those_of_gaussian_embeddings(make_run):
    settings, params = random_mlp(59, 128)
    record = measured(make_run(settings, ModularSettings(p=59), [params]), null_samples=32)
    expected = {"gini": 0.0481, "participation": 28.79, "circularity": 0.134}
    for quantity, mean in expected.items():
        low, median, high = value(record, f"fourier.embedding.{quantity}.null")
        assert low < mean < high
        assert median == pytest.approx(mean, rel=0.03)
        assert low * 0.9 < value(record, f"fourier.embedding.{quantity}")[0] < high * 1.1
    # shares of F frequencies by independent Gaussians are uniform on the simplex: the mean sum of squares is 2/(F + 1)
    assert value(record, "fourier.ipr.null")[1] == pytest.approx(2 / 30, rel=0.1)
    assert record.measurements["fourier.embedding.gini.null"].dims == ("null_quantile",)
    assert record.coordinates["null_quantile"] == [0.05, 0.5, 0.95]


def test_separate_embeddings_have_their_own_spectra(make_run):
    settings, params = random_mlp(11, 2, embedding="separate")
    params["embed_a.W_E"] = circles(torch.arange(11), [2], 11)
    params["embed_b.W_E"] = circles(torch.arange(11), [3], 11)
    record = measured(make_run(settings, ModularSettings(p=11), [params]))
    for which, k in (("a", 2), ("b", 3)):
        fraction = value(record, f"fourier.embedding_{which}.fraction")
        assert fraction[0, k - 1] == pytest.approx(1)
    assert not [name for name in record.measurements if name.startswith("fourier.embedding.")]
    by_embedding = value(record, "fourier.key_frequencies.by_embedding")[0]
    assert (np.flatnonzero(by_embedding) + 1).tolist() == [2, 3]


@pytest.mark.parametrize(("op", "sign"), [("add", 1), ("sub", -1)])
@pytest.mark.parametrize("theta", [0.0, 0.4, -2.5])
def test_phases_of_a_planted_network(make_run, op, sign, theta):
    frequency = [3] * 5 + [7] * 5
    a, b = phases(10)
    settings, params = clock_network(17, frequency, a, b, a + sign * b - theta)
    record = measured(make_run(settings, ModularSettings(op=op, p=17), [params]))
    assert value(record, "fourier.phase_cosine")[0] == pytest.approx(math.cos(theta))
    assert value(record, "fourier.phase_resultant")[0] == pytest.approx(1)
    assert value(record, "fourier.phase_angle")[0] == pytest.approx(theta, abs=1e-12)
    assert value(record, "fourier.phase_chance")[0] == pytest.approx(math.sqrt(math.pi / 40))
    shares = value(record, "fourier.key_frequencies.by_neuron")[0]
    assert shares[2] == shares[6] == pytest.approx(0.5)
    assert shares.sum() == pytest.approx(1)
    assert value(record, "fourier.ipr")[0] == pytest.approx(1)
    # the bias is no input weight: with it the constant would take its part
    assert value(record, "fourier.ipr_complex")[0] == pytest.approx(0.5)
    assert not record.alerts
    assert record.notes["key_frequencies"]["by_embedding"] == [3, 7]


def test_wrong_sign_is_no_agreement(make_run):
    a, b = phases(40)
    settings, params = clock_network(17, [3] * 40, a, b, a - b)
    record = measured(make_run(settings, ModularSettings(op="add", p=17), [params]))
    expected = torch.exp(2j * b).mean()
    assert value(record, "fourier.phase_resultant")[0] == pytest.approx(float(expected.abs()))
    assert value(record, "fourier.phase_cosine")[0] == pytest.approx(float(expected.real))


@pytest.mark.parametrize(("op", "sign"), [("mul", 1), ("div", -1)])
def test_multiplication_is_addition_of_logarithms(make_run, op, sign):
    p, k = 13, 4
    a, b = phases(6)
    settings, params = clock_network(p - 1, [k] * 6, a, b, a + sign * b, rows=discrete_log_order(p))
    record = measured(make_run(settings, ModularSettings(op=op, p=p), [params]))
    for name in ("embedding", "unembedding", "neuron_logit"):
        fraction = value(record, f"fourier.{name}.fraction")
        assert fraction.shape == (1, 6)
        assert fraction[0, k - 1] == pytest.approx(1)
    assert value(record, "fourier.key_frequencies.by_neuron")[0, k - 1] == 1
    assert value(record, "fourier.embedding.circularity")[0] == pytest.approx(0.5)
    assert value(record, "fourier.phase_cosine")[0] == pytest.approx(1)
    assert value(record, "fourier.neuron_explained")[0] > 0.7


def slow_square_fraction(table: np.ndarray) -> np.ndarray:
    """Energy of the least-squares fit of cos and sin of 2πka²/p, less their means, for each k on its own."""
    p, powers = len(table), []
    squares = np.arange(p) ** 2 % p
    for k in range(1, p // 2 + 1):
        angle = 2 * np.pi * k * squares / p
        functions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        functions -= functions.mean(0)
        fitted = functions @ np.linalg.lstsq(functions, table, rcond=1e-9)[0]
        powers.append((fitted**2).sum())
    return np.array(powers) / np.sum(powers)


def test_sums_of_squares_use_frequencies_of_squares(make_run):
    p, k = 23, 5
    settings, params = random_mlp(p, 2)
    params["embed.W_E"] = circles(torch.arange(p).square() % p, [k], p)
    params["head.W_U"] = circles(torch.arange(p), [4, 7, 9], p).mT.contiguous()
    record = measured(make_run(settings, ModularSettings(op="x2+y2", p=p), [params]))
    fraction = value(record, "fourier.embedding.fraction")[0]
    np.testing.assert_allclose(fraction, slow_square_fraction(params["embed.W_E"].numpy()))
    assert fraction[k - 1] > 8 * np.delete(fraction, k - 1).max()
    head = value(record, "fourier.unembedding.fraction")[0]
    np.testing.assert_allclose(head[[3, 6, 8]], 1 / 3)
    for quantity in ("ipr", "key_frequencies.by_neuron", "key_frequencies.by_embedding", "phase_cosine"):
        assert "overlap" in record.absent[f"fourier.{quantity}"]
    assert "fourier.embedding.circularity" in record.absent
    assert value(record, "fourier.embedding.gini.null").shape == (3,)


@pytest.mark.parametrize("generator", [2, 3])
def test_relabelling_by_a_generator_permutes_the_frequencies(make_run, generator):
    p = 19
    a, b = phases(6, seed=1)
    settings, params = clock_network(p, [2, 2, 5, 5, 5, 8], a, b, a + b)
    order = generator * torch.arange(p) % p
    renamed = {
        **params,
        "embed.W_E": params["embed.W_E"][order],
        "head.W_U": params["head.W_U"][:, order].contiguous(),
    }
    task = ModularSettings(p=p)
    before = measured(make_run(settings, task, [params], name="before"))
    after = measured(make_run(settings, task, [renamed], name="after"))
    image = [min(generator * k % p, -generator * k % p) for k in range(1, p // 2 + 1)]
    assert image != list(range(1, p // 2 + 1))
    index = np.array(image) - 1
    for name in (
        "fourier.embedding.fraction",
        "fourier.unembedding.fraction",
        "fourier.key_frequencies.by_neuron",
        "fourier.key_frequencies.by_embedding",
    ):
        np.testing.assert_allclose(value(after, name)[:, index], value(before, name), atol=1e-12)
    for name in ("embedding.gini", "ipr", "neuron_explained", "phase_cosine", "phase_resultant"):
        np.testing.assert_allclose(value(after, f"fourier.{name}"), value(before, f"fourier.{name}"))


def test_disagreement_is_an_alert_that_ends_in_a_command(make_run):
    p = 17
    a, b = phases(4)
    settings, params = clock_network(p, [3] * 4, a, b, a + b)
    wide = MLPSettings(d_embed=4, hidden=(4,))
    unread = 10 * circles(torch.arange(p), [6], p)
    weight = params["hidden.1.W"].unflatten(0, (2, 2))
    params["embed.W_E"] = torch.cat([params["embed.W_E"], unread], dim=1)
    params["hidden.1.W"] = torch.cat([weight, torch.zeros_like(weight)], dim=1).flatten(0, 1)
    run = make_run(wide, ModularSettings(p=p), [params, params], steps=[0, 70], name="odd run")
    record = measured(run)
    (alert,) = record.alerts
    assert "k = 3" in alert.text
    assert "k = 6" in alert.text
    assert alert.command == "grokscope probe 'odd run' --only fourier --steps 70:70:1 --json -"
    assert settings.d_embed == 2


def slow_gini(matrix: np.ndarray) -> float:
    """Gini of the power by a plain discrete transform, summed term by term."""
    n = len(matrix)
    powers = []
    for k in range(1, n // 2 + 1):
        wave = np.exp(-2j * np.pi * k * np.arange(n) / n)
        once = 1.0 if 2 * k == n else 2.0
        powers.append(once * sum(abs(wave @ column) ** 2 for column in matrix.T) / n)
    f, count = np.sort(powers), len(powers)
    return float(sum(abs(x - y) for x in f for y in f) / (2 * count * f.sum()))


@pytest.mark.parametrize("layer_norm", [False, True])
def test_transformer_maps_hold_residues_only(make_run, layer_norm):
    p = 10
    settings = TransformerSettings(d_model=8, n_heads=2, d_mlp=12, d_vocab_out=p + 1, layer_norm=layer_norm)
    model = build_model(settings, n_tokens=p, n_inputs=None, n_classes=p)
    params = model.init(torch.Generator().manual_seed(0), F64)
    params["embed.W_E"][p] = 1e3
    params["unembed.W_U"][:, p] = 1e3
    record = measured(make_run(settings, ModularSettings(p=p), [params]))
    expected = {
        "embedding": params["embed.W_E"][:p],
        "unembedding": params["unembed.W_U"][:, :p].mT,
        "neuron_logit": (params["blocks.0.mlp.W_out"] @ params["unembed.W_U"][:, :p]).mT,
    }
    for name, matrix in expected.items():
        assert value(record, f"fourier.{name}.gini")[0] == pytest.approx(slow_gini(matrix.numpy()))
    assert value(record, "fourier.key_frequencies.by_neuron").shape == (1, 5)


def test_the_chance_of_neurons_is_what_random_weights_measure(make_run):
    settings, params = random_mlp(11, 8)
    record = measured(make_run(settings, ModularSettings(p=11), [params]), null_samples=8)
    model = make_run(settings, ModularSettings(p=11), [params], name="again").model
    drawn = [{k: v[i] for k, v in block.items()} for block in random_params(model, 8) for i in range(8)]
    of_draws = measured(make_run(settings, ModularSettings(p=11), drawn, name="draws"))
    for quantity in ("neuron_explained", "ipr", "ipr_complex", "phase_cosine", "phase_resultant"):
        found = np.quantile(value(of_draws, f"fourier.{quantity}"), [0.05, 0.5, 0.95])
        # the draws of the run went through single precision
        assert value(record, f"fourier.{quantity}.null") == pytest.approx(found, rel=1e-4)
    commonest = value(of_draws, "fourier.key_frequencies.by_neuron").max(-1)
    found = np.quantile(commonest, [0.05, 0.5, 0.95])
    assert value(record, "fourier.key_frequencies.by_neuron.null") == pytest.approx(found)


@pytest.mark.parametrize("embedding", ["shared", "separate"])
def test_the_chance_of_embeddings_is_what_random_weights_measure(make_run, embedding):
    settings, params = random_mlp(23, 6, embedding=embedding)
    record = measured(make_run(settings, ModularSettings(p=23), [params]), null_samples=8)
    model = make_run(settings, ModularSettings(p=23), [params], name="again").model
    drawn = [{k: v[i] for k, v in block.items()} for block in random_params(model, 8) for i in range(8)]
    of_draws = measured(make_run(settings, ModularSettings(p=23), drawn, name="draws"))
    for name in model.embeddings(params):
        found = np.quantile(value(of_draws, f"fourier.{name}.fraction").max(-1), [0.05, 0.5, 0.95])
        assert value(record, f"fourier.{name}.fraction.null") == pytest.approx(found, rel=1e-4)
        assert found[0] > 1 / 11
    number = value(of_draws, "fourier.key_frequencies.by_embedding").sum(-1)
    found = np.quantile(number, [0.05, 0.5, 0.95])
    assert value(record, "fourier.key_frequencies.by_embedding.null") == pytest.approx(found)
    assert found[0] > 6


def test_a_zero_map_at_one_step_is_null_and_at_every_step_absent(make_run):
    a, b = phases(4)
    settings, params = clock_network(11, [3] * 4, a, b, a + b)
    empty = {**params, "embed.W_E": torch.zeros_like(params["embed.W_E"])}
    headless = {**params, "head.W_U": torch.zeros_like(params["head.W_U"])}
    task = ModularSettings(p=11)
    record = measured(make_run(settings, task, [empty, params], name="first"))
    text = json.dumps(record.to_json(), allow_nan=False)
    values = {name: m["values"] for name, m in json.loads(text)["measurements"].items()}
    assert values["fourier.embedding.gini"] == [None, pytest.approx(1 - 1 / 5)]
    assert values["fourier.embedding.fraction"][0] == [None] * 5
    assert values["fourier.key_frequencies.by_neuron"][0] == [None] * 5
    assert values["fourier.key_frequencies.by_embedding"][1] == [0, 0, 1, 0, 0]
    assert values["fourier.phase_cosine"][0] is None
    record = measured(make_run(settings, task, [headless], name="second"))
    assert "does not vary" in record.absent["fourier.unembedding.gini"]
    assert "all three sides" in record.absent["fourier.phase_cosine"]
    assert value(record, "fourier.embedding.gini")[0] == pytest.approx(1 - 1 / 5)


def test_neurons_of_one_pair_are_explained_a_little_and_have_no_frequency(make_run):
    """a and b one-hot, each neuron open for one pair alone: equal energy at every frequency."""
    n, count = 7, 3
    weight = torch.zeros(2 * n, count, dtype=F64)
    for neuron in range(count):
        weight[neuron, neuron] = weight[n + 2 * neuron, neuron] = 1
    params = {
        "embed.W_E": torch.eye(n, dtype=F64),
        "hidden.1.W": weight,
        "hidden.1.b": -torch.ones(count, dtype=F64),
        "head.W_U": circles(torch.arange(n), [1], n)[:, :1].mT.repeat(count, 1),
    }
    record = measured(make_run(MLPSettings(d_embed=n, hidden=(count,)), ModularSettings(p=n), [params]))
    assert value(record, "fourier.neuron_explained")[0] == pytest.approx(1 / 6)
    assert "explains more" in record.absent["fourier.key_frequencies.by_neuron"]
    # a delta in the weights is flat over frequencies, real or signed, whatever the bias adds
    assert value(record, "fourier.ipr")[0] == pytest.approx(1 / 3)
    assert value(record, "fourier.ipr_complex")[0] == pytest.approx(1 / 6)


def test_weights_that_are_not_finite_leave_the_other_saves(make_run):
    a, b = phases(4)
    settings, params = clock_network(11, [3] * 4, a, b, a + b)
    broken = {name: tensor * math.nan for name, tensor in params.items()}
    record = measured(make_run(settings, ModularSettings(p=11), [params, broken]))
    json.dumps(record.to_json(), allow_nan=False)
    for name in ("embedding.gini", "embedding.circularity", "ipr", "phase_cosine"):
        assert np.isfinite(value(record, f"fourier.{name}")).tolist() == [True, False]


def accounted(record: Record) -> set[str]:
    return {*record.measurements, *record.absent}


def public_names(embeddings: tuple[str, ...] = ("embedding",)) -> set[str]:
    of_a_map = ("fraction", "gini", "gini_norm", "participation")
    maps = {f"fourier.{m}.{q}" for m in (*embeddings, "unembedding", "neuron_logit") for q in of_a_map}
    plain = {q.name for q in QUANTITIES if "<" not in q.name}
    return maps | plain | {f"fourier.{m}.circularity" for m in embeddings}


def test_every_name_is_measured_or_absent_with_its_reason(make_run):
    settings, params = random_mlp(7, 3)
    for op in ("add", "sub", "mul", "div", "x2+y2", "x2+xy+y2"):
        record = measured(
            make_run(settings, ModularSettings(op=op, p=7), [params], name=op.replace("+", "p"))
        )
        assert public_names() <= accounted(record)
        assert all(record.absent.values())
    assert "not a sum of functions" in record.absent["fourier.embedding.gini"]
    composite, weights = random_mlp(8, 3)
    record = measured(make_run(composite, ModularSettings(op="mul", p=8), [weights], name="composite"))
    assert "discrete logarithm" in record.absent["fourier.embedding.gini"]
    linear = DeepLinearSettings(depth=2)
    model = build_model(linear, n_tokens=None, n_inputs=4, n_classes=4)
    weights = model.init(torch.Generator().manual_seed(0), F64)
    record = measured(make_run(linear, CompletionSettings(d=4, rank=1), [weights], name="linear"))
    assert public_names() <= set(record.absent)
    assert not record.measurements


@pytest.mark.parametrize("p", [2, 3])
def test_the_smallest_moduli(make_run, p):
    settings, params = random_mlp(p, 3)
    record = measured(make_run(settings, ModularSettings(p=p, train_fraction=0.5), [params]))
    assert value(record, "fourier.embedding.fraction").shape == (1, 1)
    assert ("fourier.embedding.circularity" in record.absent) == (p == 2)
    json.dumps(record.to_json(), allow_nan=False)


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.5}, {"null_samples": 1}])
def test_options_out_of_range_are_one_line(make_run, options):
    settings, params = random_mlp(5, 2)
    run = make_run(settings, ModularSettings(p=5), [params])
    with pytest.raises(GrokscopeError, match=f"{next(iter(options))} = .*expected"):
        measured(run, **options)


def test_figures_are_small(make_run, drawings):
    settings, params = random_mlp(61, 4)
    other = random_mlp(61, 4, seed=1)[1]
    steps = np.unique(np.geomspace(1, 10_000, 150).astype(int))
    saves = [(params, other)[index % 2] for index in range(len(steps))]
    run = make_run(settings, ModularSettings(p=61), saves, steps=steps.tolist())
    found = drawings(fourier, measured(run))
    assert len(found) == 4
    # random weights at every other save are the worst case for the length of a line
    assert max(len(svg) for svg in found.values()) < 60_000, {t: len(svg) for t, svg in found.items()}


def test_figures_of_one_save(make_run, drawings):
    settings, params = random_mlp(11, 4, embedding="separate")
    found = drawings(fourier, measured(make_run(settings, ModularSettings(p=11), [params])))
    assert "Embedding spectra over training" in found
    assert len(found) == 4
