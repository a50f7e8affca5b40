"""Interventions against the published procedures written out, and as settings that fork, resume and replay."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from grokscope.errors import GrokscopeError
from grokscope.probes import probe
from grokscope.runs import open_run
from grokscope.tasks import random_stream
from grokscope.training import Recipe, fork_run, open_parent, read_stretch, recipe_from, replay_run, train
from grokscope.trajectory import Trajectory, read_manifest, write_manifest

CLAMP = "intervene.clamp={norm = 4.0, rho = 0.9, start = 20}"
WITH_BIASES = (
    "model.hidden_bias=true",
    "model.head_bias=true",
    "train.dtype=float64",
    "train.betas=[0.9,0.999]",
)


def slow(
    recipe: Recipe,
    clamp: tuple[float, int] | None = None,
    groups: Any = None,
    since: int = 0,
    tau: float = 1.0,
) -> list[dict[str, Any]]:
    """The same training with torch's AdamW and autograd: the parameters after 0, 1, 2, ... updates.

    ``clamp``: target and first step, as the code published with arXiv 2606.13753 does it. ``groups``: tensor →
    (factor on the rate, weight decay). Both these and the temperature ``tau`` from step ``since`` on.
    """
    task, model = recipe.build()
    params = {
        name: value.requires_grad_()
        for name, value in model.init(random_stream(recipe.seed, "initial weights"), torch.float64).items()
    }
    lr, decay = recipe.train.lr, recipe.train.weight_decay
    rules = dict.fromkeys(params, (1.0, decay)) | (groups or {})
    optimizer = torch.optim.AdamW(
        [{"params": [params[name]], "lr": lr, "weight_decay": decay} for name in rules],
        betas=recipe.train.betas, eps=recipe.train.eps,
    )  # fmt: skip
    inputs, targets = task.inputs[task.train_mask], task.targets[task.train_mask]
    states = [{name: value.detach().clone() for name, value in params.items()}]
    for step in range(recipe.train.steps):
        if step == since:
            for group, (rate, wd) in zip(optimizer.param_groups, rules.values(), strict=True):
                group["lr"], group["weight_decay"] = lr * rate, wd
        optimizer.zero_grad()
        logits = model.forward(params, inputs)
        cross_entropy(logits / (tau if step >= since else 1.0), targets).backward()
        optimizer.step()
        if clamp is not None and step + 1 >= clamp[1]:
            matrices = [value for value in params.values() if value.ndim == 2]
            norm = torch.stack([(w.detach() ** 2).sum() for w in matrices]).sum().sqrt()
            with torch.no_grad():
                for w in matrices:
                    w.mul_(clamp[0] / norm)
        states.append({name: value.detach().clone() for name, value in params.items()})
    return states


def assert_same(directory: Path, states: list[dict[str, Any]]) -> None:
    with Trajectory(directory / "trajectory.h5") as run:
        assert len(run.steps) > 5
        for name in run.names:
            expected = np.stack([states[step][name].numpy() for step in run.steps])
            np.testing.assert_allclose(run.read(name), expected, rtol=1e-9, atol=1e-12, err_msg=name)


def stored(directory: Path) -> dict[str, np.ndarray]:
    with Trajectory(directory / "trajectory.h5") as run:
        return {"steps": run.steps, **{name: run.read(name) for name in run.names}}


def norms(directory: Path) -> dict[int, float]:
    held = stored(directory)
    steps = held.pop("steps")
    squares = sum((w**2).sum(axis=(1, 2)) for w in held.values() if w.ndim == 3)
    return dict(zip(steps.tolist(), np.sqrt(squares), strict=True))


def test_the_clamp_is_the_published_one(tiny, tmp_path):
    recipe = tiny(*WITH_BIASES, CLAMP)
    train(recipe, tmp_path / "run", device="cpu")
    assert_same(tmp_path / "run", slow(recipe, (3.6, 20)))


def test_the_clamp_holds_the_norm_from_its_start_and_leaves_what_came_before(tiny, tmp_path):
    train(tiny(CLAMP), tmp_path / "clamped", device="cpu")
    train(tiny(), tmp_path / "free", device="cpu")
    held, free = norms(tmp_path / "clamped"), norms(tmp_path / "free")
    assert all(value == pytest.approx(3.6, rel=1e-6) for step, value in held.items() if step >= 20)
    assert all(abs(value / 3.6 - 1) > 1e-3 for step, value in free.items() if step >= 20)
    before = int((stored(tmp_path / "free")["steps"] < 20).sum())
    assert before == 10
    for name, values in stored(tmp_path / "free").items():
        assert np.array_equal(values[:before], stored(tmp_path / "clamped")[name][:before]), name


def test_a_clamp_of_one_step_lets_the_norm_go_again(tiny, tmp_path):
    train(tiny("intervene.clamp={norm = 4.0, start = 20, once = true}"), tmp_path / "run", device="cpu")
    found = norms(tmp_path / "run")
    assert found[20] == pytest.approx(4.0, rel=1e-6)
    assert found[22] != pytest.approx(4.0, rel=1e-4)


def test_a_clamp_of_one_tensor_leaves_the_others(tiny, tmp_path):
    train(tiny("intervene.clamp={norm = 2.0, start = 1, tensors = ['head']}"), tmp_path / "run", device="cpu")
    held = stored(tmp_path / "run")
    sizes = {
        name: np.sqrt((w**2).sum(axis=tuple(range(1, w.ndim)))) for name, w in held.items() if name != "steps"
    }
    np.testing.assert_allclose(sizes["head.W_U"][1:], 2.0, rtol=1e-6)
    assert np.ptp(sizes["hidden.1.W"][1:]) > 1e-2


def test_decay_of_matrices_alone(tiny, tmp_path):
    recipe = tiny(*WITH_BIASES, "intervene.decay={biases = 0.0}")
    train(recipe, tmp_path / "run", device="cpu")
    groups = {"hidden.1.b": (1.0, 0.0), "head.b_U": (1.0, 0.0)}
    assert_same(tmp_path / "run", slow(recipe, groups=groups))
    decay = open_run(tmp_path / "run").weight_decay
    assert decay == {"embed.W_E": 1.0, "hidden.1.W": 1.0, "hidden.1.b": 0.0, "head.W_U": 1.0, "head.b_U": 0.0}


def test_the_narrowest_name_gives_a_tensor_its_factor(tiny, tmp_path):
    rates = "intervene.lr={all = 0.5, 'hidden.1' = 0.25, 'hidden.1.b' = 2.0}"
    recipe = tiny(*WITH_BIASES, rates, "intervene.decay={head = 0.1}")
    train(recipe, tmp_path / "run", device="cpu")
    groups = {"embed.W_E": (0.5, 1.0), "hidden.1.W": (0.25, 1.0), "hidden.1.b": (2.0, 1.0),
              "head.W_U": (0.5, 0.1), "head.b_U": (0.5, 0.1)}  # fmt: skip
    assert_same(tmp_path / "run", slow(recipe, groups=groups))


def test_a_run_starts_with_its_initial_weights_times_their_factors(tiny, tmp_path):
    for name, settings in (("plain", ()), ("ones", ("intervene.init={all = 1.0}",)),
                           ("scaled", ("intervene.init={all = 0.5, head = 2.0}",))):  # fmt: skip
        train(tiny(*WITH_BIASES, *settings), tmp_path / name, device="cpu")
    plain, ones, scaled = (stored(tmp_path / name) for name in ("plain", "ones", "scaled"))
    for name in plain.keys() - {"steps"}:
        factor = 2.0 if name.startswith("head") else 0.5
        assert (scaled[name][0] == factor * plain[name][0]).all(), name
        assert (ones[name] == plain[name]).all(), name


def test_a_fork_cannot_start_with_other_weights(tiny, tmp_path):
    train(tiny(), tmp_path / "run", device="cpu")
    parent = open_parent(tmp_path / "run", "forking")
    with pytest.raises(GrokscopeError, match=r"intervene\.init.* another meaning"):
        fork_run(parent, 14, tmp_path / "fork", ["intervene.init={head = 2.0}"])
    assert not (tmp_path / "fork").exists()


def test_frozen_tensors_keep_their_bits(tiny, tmp_path):
    train(tiny("intervene.frozen=['embedding']"), tmp_path / "run", device="cpu")
    held = stored(tmp_path / "run")
    assert (held["embed.W_E"] == held["embed.W_E"][:1]).all()
    assert not (held["head.W_U"] == held["head.W_U"][:1]).all()
    decay = open_run(tmp_path / "run").weight_decay
    assert decay is not None
    assert decay["embed.W_E"] == 0.0


def test_a_temperature_divides_the_logits_in_the_loss_and_where_they_are_measured(tiny, tmp_path):
    recipe = tiny(*WITH_BIASES, "intervene.temperature=2.0", "save.also=['logits.norm','norm.total']")
    train(recipe, tmp_path / "run", device="cpu")
    plain = tiny(*WITH_BIASES)
    task, model = plain.build()
    run = open_run(tmp_path / "run")
    params = run.params(10)
    logits = model.forward(params, task.inputs) / 2.0
    torch.testing.assert_close(run.logits(params), logits)
    at = int(run.steps[10])
    place = run.scalars["step"].tolist().index(at)
    inputs = task.train_mask
    assert run.scalars["loss.train"][place] == pytest.approx(
        float(cross_entropy(logits[inputs], task.targets[inputs])), rel=1e-12
    )
    assert run.scalars["logits.norm"][place] == pytest.approx(float(logits.norm(dim=1).mean()), rel=1e-12)
    assert run.scalars["norm.total"][place] == pytest.approx(norms(tmp_path / "run")[at], rel=1e-12)
    # one update of gradient descent is the gradient of that loss
    descent = tiny(*WITH_BIASES, "intervene.temperature=2.0", "train.optimizer=gd", "train.weight_decay=0.0",
                   "train.steps=1")  # fmt: skip
    train(descent, tmp_path / "one", device="cpu")
    before, after = (open_run(tmp_path / "one").params(row) for row in (0, 1))
    leaves = {name: value.requires_grad_() for name, value in before.items()}
    loss = cross_entropy(model.forward(leaves, task.inputs[inputs]) / 2.0, task.targets[inputs])
    for (name, leaf), grad in zip(
        leaves.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True
    ):
        torch.testing.assert_close(after[name], leaf.detach() - 1e-2 * grad, rtol=1e-9, atol=1e-13)


FAMILIES = {
    "transformer": ('model={family="transformer", d_model=8, n_heads=2, d_mlp=12}',),
    "with norms": ('model={family="transformer", d_model=8, n_heads=2, d_mlp=12, layer_norm=true, biases=true}',),
    "composed": ('model={family="composed", d_model=8, n_heads=2, d_mlp=12, norm="rms"}',),
    "feature-mlp": ('task={name="parity", n=8, k=2, train=40, test=30}', 'model={family="feature-mlp", hidden=[9]}'),
    "deep-linear": ('task={name="completion", d=6, rank=2}', 'model={family="deep-linear", depth=3}',
                    "train.loss=squared"),
    "diagonal": ('task={name="regression", d=6, train=4, test=5}', 'model={family="diagonal"}', "train.loss=squared"),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_temperature_is_for_every_family(tiny, tmp_path, family):
    """One step of gradient descent follows the loss of the divided logits, and the stored run says the same."""
    recipe = tiny(*FAMILIES[family], "intervene.temperature=2.5", "train.optimizer=gd", "train.weight_decay=0.0",
                  "train.steps=2", "train.dtype=float64", "save.schedule=['0:end:1']")  # fmt: skip
    plain = tiny(*FAMILIES[family])
    train(recipe, tmp_path / "run", device="cpu")
    run, (task, model) = open_run(tmp_path / "run"), plain.build()
    before, after = (run.params(row) for row in (0, 1))
    torch.testing.assert_close(
        run.model.forward(before, task.inputs), model.forward(before, task.inputs) / 2.5
    )
    leaves = {name: value.clone().requires_grad_() for name, value in before.items()}
    outputs, mask = model.forward(leaves, task.inputs) / 2.5, task.train_mask
    if recipe.train.loss == "squared":
        loss = 0.5 * ((outputs - task.targets)[mask] ** 2).sum()
    else:
        loss = cross_entropy(outputs[mask], task.targets[mask])
    for (name, leaf), grad in zip(
        leaves.items(), torch.autograd.grad(loss, list(leaves.values())), strict=True
    ):
        torch.testing.assert_close(after[name], leaf.detach() - 1e-2 * grad, rtol=1e-8, atol=1e-12)


def test_a_fork_that_clamps_is_the_run_that_was_clamped_from_the_beginning(tiny, tmp_path):
    train(tiny(), tmp_path / "free", device="cpu")
    train(tiny(CLAMP), tmp_path / "clamped", device="cpu")
    fork_run(open_parent(tmp_path / "free", "forking"), 14, tmp_path / "fork", [CLAMP])
    whole, fork = stored(tmp_path / "clamped"), stored(tmp_path / "fork")
    later = whole["steps"] >= 14
    for name, values in whole.items():
        assert np.array_equal(values[later], fork[name]), name


EMBEDDING = "embed.W_E"
FORKS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "temperature": (("intervene.temperature=2.0",), {"tau": 2.0}),
    "frozen embedding": (("intervene.frozen=['embedding']",), {"groups": {EMBEDDING: (0.0, 0.0)}}),
    "rate of a block": (("intervene.lr={embedding = 0.25}",), {"groups": {EMBEDDING: (0.25, 1.0)}}),
    "decay of a block": (("intervene.decay={embedding = 0.0}",), {"groups": {EMBEDDING: (1.0, 0.0)}}),
    "all of them": (
        ("intervene.temperature=0.5", "intervene.lr={embedding = 2.0, head = 0.5}", "intervene.decay={head = 3.0}",
         "intervene.frozen=['hidden.1']"),
        {"tau": 0.5, "groups": {EMBEDDING: (2.0, 1.0), "head.W_U": (0.5, 3.0), "head.b_U": (0.5, 3.0),
                                "hidden.1.W": (0.0, 0.0), "hidden.1.b": (0.0, 0.0)}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORKS)
def test_a_fork_composes_with_every_intervention(tiny, tmp_path, name):
    """From the fork on it is the training that was changed at that step, moments and all."""
    overrides, expected = FORKS[name]
    recipe = tiny(*WITH_BIASES)
    train(recipe, tmp_path / "free", device="cpu")
    fork_run(open_parent(tmp_path / "free", "forking"), 14, tmp_path / "fork", overrides)
    states = slow(recipe, since=14, **expected)
    assert_same(tmp_path / "fork", states)
    free = slow(recipe)
    assert not np.allclose(states[-1][EMBEDDING], free[-1][EMBEDDING], rtol=1e-3)


def test_a_clamped_run_is_resumed_to_the_same_bytes(tiny, tmp_path, checksum):
    train(tiny(CLAMP), tmp_path / "whole", device="cpu")
    with pytest.raises(RuntimeError, match="stop here"):
        train(tiny(CLAMP), tmp_path / "cut", device="cpu", report=_stops_at(33))
    assert train(tiny(CLAMP), tmp_path / "cut", device="cpu", resume=True).finished
    assert checksum(tmp_path / "cut") == checksum(tmp_path / "whole")


def _stops_at(last: int) -> Callable[[int, Any], None]:
    def report(step: int, scalars: Any) -> None:
        if step == last:
            raise RuntimeError("stop here")

    return report


UNTIL = "train.until=accuracy.train >= 0.4"


def reached(directory: Path, hold: int = 1) -> int:
    """The first evaluation at which the condition has held ``hold`` times in a row, from a run without one."""
    scalars = open_run(directory).scalars
    holds = scalars["accuracy.train"] >= 0.4
    at = next(i for i in range(hold - 1, len(holds)) if holds[i - hold + 1 : i + 1].all())
    return int(scalars["step"][at])


@pytest.mark.parametrize("hold", [1, 4])
def test_a_run_ends_at_the_evaluation_at_which_its_condition_has_held(tiny, tmp_path, hold, checksum):
    train(tiny(), tmp_path / "whole", device="cpu")
    last = reached(tmp_path / "whole", hold)
    assert 0 < last < 60
    recipe = tiny(UNTIL, f"train.until_hold={hold}")
    outcome = train(recipe, tmp_path / "run", device="cpu")
    assert (outcome.step, outcome.finished) == (last, True)
    whole, short = stored(tmp_path / "whole"), stored(tmp_path / "run")
    assert short["steps"][-1] == last
    shared = [i for i, step in enumerate(short["steps"]) if step in whole["steps"]]
    for name, values in short.items():
        assert np.array_equal(values[shared], whole[name][: len(shared)]), name
    before = checksum(tmp_path / "run")
    again = train(recipe, tmp_path / "run", device="cpu", resume=True)
    assert (again.step, again.finished, again.seconds) == (last, True, 0.0)
    # killed between its last commit and its last word
    manifest = read_manifest(tmp_path / "run")
    del manifest["ended"], manifest["provenance"]["finished"]
    write_manifest(tmp_path / "run", manifest)
    again = train(recipe, tmp_path / "run", device="cpu", resume=True)
    assert (again.step, again.finished) == (last, True)
    assert checksum(tmp_path / "run") == before
    assert read_manifest(tmp_path / "run")["ended"] == {"step": last, "until": "accuracy.train >= 0.4"}


def test_a_condition_that_never_holds_ends_nothing(tiny, tmp_path):
    outcome = train(tiny("train.until=accuracy.train >= 1.5"), tmp_path / "run", device="cpu")
    assert (outcome.step, outcome.finished) == (60, True)
    assert "ended" not in read_manifest(tmp_path / "run")


def test_counting_goes_on_over_an_interruption(tiny, tmp_path):
    train(tiny(), tmp_path / "whole", device="cpu")
    last = reached(tmp_path / "whole", 9)
    settings = (UNTIL, "train.until_hold=9", "save.snapshots=2")
    with pytest.raises(RuntimeError, match="stop here"):
        train(tiny(*settings), tmp_path / "run", device="cpu", report=_stops_at(last - 2))
    assert train(tiny(*settings), tmp_path / "run", device="cpu", resume=True).step == last


def test_a_run_that_ended_early_is_replayed_and_forked(tiny, tmp_path):
    train(tiny(UNTIL, "train.until_hold=4"), tmp_path / "run", device="cpu")
    parent = open_parent(tmp_path / "run", "replaying")
    last = parent.reached
    stretch = read_stretch(f"2:{last}:1", parent, "replaying")
    assert replay_run(parent, stretch, tmp_path / "replay").same_saves > 3
    assert stored(tmp_path / "replay")["steps"].tolist() == list(range(2, last + 1))
    with pytest.raises(GrokscopeError, match="its last step"):
        read_stretch(f"2:{last + 1}:1", parent, "replaying")
    fork_run(parent, last, tmp_path / "fork", ["train.until=''"])
    assert open_run(tmp_path / "fork").steps[-1] == 60


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("intervene.clamp={rho = 1.0}", "norm"),
        ("intervene.clamp={norm = 0.0}", "intervene.clamp.norm is 0.0, expected above 0"),
        ("intervene.clamp={norm = 1.0, start = 0}", "intervene.clamp.start is 0, expected at least 1"),
        ("intervene.clamp={norm = 1.0, tensors = ['hed']}", "did you mean 'head'"),
        ("intervene.temperature=0", "expected one above 0"),
        ("intervene.frozen=['all']", "expected one that is trained"),
        ("intervene.lr={head = 0.0}", "intervene.frozen keeps"),
        ("intervene.decay={gains = 0.0}", "has no tensors of"),
        ("intervene.init={hed = 2.0}", "intervene.init names 'hed'"),
        ("intervene.init={head = -1.0}", "intervene.init.head is -1.0, expected at least 0"),
        ("train.until=accuracy.tset >= 0.9", "did you mean 'accuracy.test'"),
        ("train.until=accuracy.test > 0.9", "expected SCALAR >= LEVEL"),
        ("train.until=accuracy.test >= high", "expected SCALAR >= LEVEL"),
        ("train.until_hold=0", "at least 1"),
        ("save.also=['norm']", "norm.total"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(tiny, change, said):
    with pytest.raises(GrokscopeError) as error:
        tiny(change)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_run_without_interventions_says_nothing_of_them(tiny):
    assert "intervene" not in tiny().config()
    config = tiny(CLAMP, "intervene.decay={biases = 0.0}").config()
    assert config["intervene"]["clamp"]["rho"] == 0.9
    assert recipe_from(json.loads(json.dumps(config)), "a config").config() == config


def test_the_verdict_says_that_the_condition_ended_the_run(tiny, tmp_path):
    train(tiny(UNTIL), tmp_path / "run", device="cpu")
    record = probe(open_run(tmp_path / "run"), only=["loss", "clocks"])
    texts = {alert.text: alert.command for alert in record.alerts}
    (said,) = [text for text in texts if "accuracy.train >= 0.4" in text]
    assert f"at step {reached_by(tmp_path / 'run')} of 60" in said
    assert "train.until=''" in shlex.split(texts[said])
    assert not any("stopped at step" in text for text in texts)


def reached_by(directory: Path) -> int:
    return int(open_run(directory).steps[-1])
